"""Eigenvectors of symmetric matrices, also where torch's routine does not converge."""

import torch
from torch import Tensor


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., d), ascending, and eigenvectors (..., d, d), in columns, of symmetric matrices (..., d, d).

    On the CPU torch calls LAPACK's ``syevd``, which with some libraries does not converge on some matrices of low rank,
    such as the second moments of features of which most are 0. SciPy's ``syevr`` then takes its place.

    Raises:
        ValueError: if a value is not finite.
    """
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not export it by name
        import scipy.linalg  # seldom needed, and slow to import

        single = matrices.detach().cpu().reshape(-1, *matrices.shape[-2:])
        found = zip(*(map(torch.from_numpy, scipy.linalg.eigh(each.numpy())) for each in single), strict=True)
        values, vectors = (torch.stack(each).to(matrices) for each in found)
        values, vectors = values.view(matrices.shape[:-1]), vectors.view(matrices.shape)
    return values, vectors
