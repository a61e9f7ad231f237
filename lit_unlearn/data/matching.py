"""Unseen images that are like single images to be forgotten: of the same classes, in the same shares.

Single images are judged by their lead over unseen ones. Where they are mostly of a few classes, and unseen images are
of all, a model that is poor in those classes would seem to have forgotten, and one that is good in them to remember.
"""

import torch
from torch import Tensor

APART, BY_CHANCE = 0.05, 1e-3
"""How far class shares must be apart, in total variation, and how improbable that must be of even draws."""


def matched(forget_labels: Tensor, test_labels: Tensor, unseen: Tensor, seed: int) -> tuple[Tensor, list[int]]:
    """Unseen images in the class shares of the forget set, as many as there are, where those of all unseen ones differ.

    They are drawn from odd positions: attacks fit on those at even ones. Classes without unseen images there do not
    count.

    Args:
        forget_labels: of the images to be forgotten, int64 (Nf,).
        test_labels: of the test set, int64 (M,).
        unseen: test indices of retained classes, sorted, int64.
        seed: of the draw.

    Returns:
        Some of the unseen indices, sorted, none where the shares are alike already; and the classes of the forget set
        that have unseen images, but none at odd positions.
    """
    if not len(forget_labels) or not len(unseen):
        return unseen[:0], []
    classes = int(torch.cat([forget_labels, test_labels]).max()) + 1
    ours, theirs = (labels.bincount(minlength=classes) for labels in (forget_labels, test_labels[unseen]))
    if not _apart(ours, theirs):
        return unseen[:0], []
    pool = unseen[1::2]
    left = test_labels[pool].bincount(minlength=classes)
    counts = _in_shares_of(torch.where(left > 0, ours, 0), left)
    order = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))]
    found = [order[test_labels[order] == label][:count] for label, count in enumerate(counts.tolist())]
    lacking = (ours > 0) & (theirs > 0) & (left == 0)
    return torch.cat(found).sort().values, lacking.nonzero().flatten().tolist()


def _in_shares_of(wanted: Tensor, there: Tensor) -> Tensor:
    """As many of each class (C,) as there are in the shares of the wanted counts."""
    some = wanted > 0
    if not some.any():
        return torch.zeros_like(wanted)
    times = (there[some].double() / wanted[some]).min()
    return (times * wanted + 1e-9).floor().long()


def _apart(ours: Tensor, theirs: Tensor) -> bool:
    """Whether counts of classes (C,) have other shares than those of many others, and more so than chance gives."""
    from scipy.special import chdtrc

    shares = theirs.double() / theirs.sum()
    expected = ours.sum() * shares.clamp(min=1e-12)
    improbable = chdtrc(max(1, len(ours) - 1), float(((ours - expected) ** 2 / expected).sum())) < BY_CHANCE
    return bool(improbable and (ours / ours.sum() - shares).abs().sum() / 2 > APART)
