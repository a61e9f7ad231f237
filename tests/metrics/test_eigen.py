import pytest
import torch

from lit_unlearn.metrics.eigen import eigh


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6), (2, 3, 6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_torch_does_not_converge_the_same_is_found(monkeypatch, shape, dtype):
    root = torch.rand(*shape[:-1], 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrices = root @ root.mT
    torchs, _ = eigh(matrices)

    def diverges(_):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", diverges)
    values, vectors = eigh(matrices)
    assert (values.dtype, vectors.dtype, vectors.shape) == (dtype, dtype, shape)
    torch.testing.assert_close(values, torchs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((vectors * values[..., None, :]) @ vectors.mT, matrices, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="NaNs"):
        eigh(matrices * float("nan"))
