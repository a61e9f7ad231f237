"""A map of the features in the plane, by class: what unlearning did to them, to look at.

Threat model. None: a picture for the auditor, who holds the model and labelled test images. PCA keeps distances, and
all models are drawn on one scale, so contraction shows; t-SNE (van der Maaten and Hinton, JMLR 2008) keeps neighbours
only. Every model's map is of the same images, so Original's is the "before" of all others. Two dimensions do not
show everything: a single point on the map is no proof of forgetting.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lit_unlearn.artifacts import FORGOTTEN, PointMap
from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import check_at_least, unknown
from lit_unlearn.metrics.normal_equations import rounding_level
from lit_unlearn.results import AttackResult

_METHODS = ("pca", "tsne")


class FeatureMap(Attack):
    """Features of test images in two dimensions, as the artifact ``map``.

    Each model has its own axes; a map is then rotated or mirrored, never scaled, to be as close to the original's as
    possible. Where no whole class is forgotten, forget images stand beside the test images as a group of their own. One
    number, for PCA: ``explained``, the share of the variance that the map shows; undefined where there is none.

    Args:
        method: ``pca`` or ``tsne``.
        points: how many images to show, the same number of each class as far as there are so many.
        seed: of the choice of images, and of t-SNE.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown method, or ``points`` below 2.
    """

    family: ClassVar[str] = "representation"

    def __init__(
        self, method: Literal["pca", "tsne"] = "pca", points: int = 500, seed: int = 0, name: str = "map"
    ) -> None:
        super().__init__(name)
        if method not in _METHODS:
            raise unknown("method of the feature map", method, _METHODS)
        check_at_least("points", points, 2)
        self.method, self.points, self.seed = method, points, seed

    def evaluate(self, target: Target) -> AttackResult:
        """Draws the map, and says how much of the variance it shows."""
        features, groups, names = self.choose(target.model)
        points, share = self.flatten(features)
        if target.original is not None and target.original is not target.model:
            before, _ = self.flatten(self.choose(target.original)[0])
            u, _, v = torch.linalg.svd(points.T @ before)
            points = points @ u @ v
        numbers = {"explained": share} if self.method == "pca" else {}
        return AttackResult(numbers, artifacts={"map": PointMap(points.float(), groups, names)})

    def choose(self, net: EncodedData) -> tuple[Tensor, Tensor, list[str]]:
        """Features (N, d) of the chosen images, float64 on the CPU, the group (N,) of each, and the groups' names."""
        of_split = {split: net.data.labels(split).cpu() for split in net.data.split_names if split.startswith("test_")}
        gone = torch.unique(of_split["test_forget"]).tolist() if "test_forget" in of_split else []
        labels = torch.cat(list(of_split.values()))
        classes = torch.unique(labels).tolist()
        members = [(labels == label).nonzero().squeeze(1) for label in classes]
        names = [f"{net.data.class_names[label]}{FORGOTTEN if label in gone else ''}" for label in classes]
        if not gone and "forget" in net.data.split_names:
            of_split["forget"] = net.data.labels("forget").cpu()
            members.append(len(labels) + torch.arange(len(of_split["forget"])))
            names.append(f"forget images{FORGOTTEN}")
        draw = torch.Generator().manual_seed(self.seed)
        share = max(1, self.points // len(members))
        chosen = [group[torch.randperm(len(group), generator=draw)[:share]] for group in members]
        groups = torch.cat([torch.full((len(group),), number) for number, group in enumerate(chosen)])
        return _features(net, {split: len(each) for split, each in of_split.items()}, torch.cat(chosen)), groups, names

    def flatten(self, features: Tensor) -> tuple[Tensor, float]:
        """Features (N, d) as points (N, 2) about 0, and the share of the variance along the first two components."""
        centred = features - features.mean(0)
        floor = rounding_level(features.new_tensor(float(len(features))), features.shape[1]) * features.square().sum()
        if not centred.square().sum() > floor:
            return features.new_zeros(len(features), 2), torch.nan
        if self.method == "tsne":
            return self._neighbours(centred), torch.nan
        u, singular, _ = torch.linalg.svd(centred, full_matrices=False)
        points = features.new_zeros(len(features), 2)
        points[:, : len(singular)] = u[:, :2] * singular[:2]
        return points, float(singular[:2].square().sum() / singular.square().sum())

    def _neighbours(self, features: Tensor) -> Tensor:
        from sklearn.manifold import TSNE  # slow to import

        scaled = features / features.square().mean().sqrt()
        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(perplexity=perplexity, random_state=self.seed).fit_transform(scaled.numpy())
        flat = torch.from_numpy(points).double()
        return flat - flat.mean(0)


def _features(net: EncodedData, counts: Mapping[str, int], chosen: Tensor) -> Tensor:
    """Features (n, d), float64 on the CPU, of images by their place (n,) in all splits, one after the other."""
    found = torch.empty(len(chosen), net.backbone.num_features, dtype=torch.float64)
    start = 0
    for split, count in counts.items():
        here = (chosen >= start) & (chosen < start + count)
        found[here] = net.gather(split, index=chosen[here] - start, what=["features"]).features.double().cpu()
        start += count
    return found
