"""Gradient inversion: rebuild the images to be forgotten from what unlearning did to the weights.

The attacker holds the original and the unlearned weights, knows how many images to look for and, unless they are to be
inferred, their labels. They search for the image whose gradient points along the weights' difference:

    L(x') = 1 − cos(∇θ CE(m(x'), y), g*) + tv · (mean|dx'| + mean|dy'|)        one cosine over all parameters

g* is θo − θ (``delta``), or as the upper bound the image's own gradient (``oracle``), which no attacker has. Unlearning
of many steps leaks far less than one step: read a weak ``delta`` beside its ``cosine`` before calling it a defence.

Source: Hu et al., "Learn what you want to unlearn", S&P 2024 (arXiv 2404.03233), after Geiping et al., "Inverting
gradients", 2020 (arXiv 2003.14053). Deviations: g* is the difference after the whole of unlearning. The published code
(recovery_data.py:195-202) attacks two others: one step of ascent on the image, which is the oracle here, and the
weighted difference of a model fine-tuned with the image and one fine-tuned without it, which needs training that no
method here does. Its search is longer: 10,000 steps of AdamW at .04 from normal noise with five restarts (lines 10-21),
its rate halved three times, where the defaults here are 1,000 steps of Adam at .1 from uniform noise with one, its rate
divided by ten three times; ``steps``, ``lr`` and ``restarts`` give the attacker more. Restarts are chosen by the
distance of the clamped image that is returned; PSNR is of images in [0, 1], each on its own; the gradient is of the log
odds against the label, which has the same direction.
"""

import copy
import hashlib
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_unlearn.artifacts import Artifact, ImageGrid
from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.fingerprint import network_key
from lit_unlearn.attacks.images import draw, sum_over_ranks
from lit_unlearn.attacks.inversion.directions import NamedGradients, infer_features, infer_label, inner, unit
from lit_unlearn.attacks.inversion.gradient_matching import EngineName, GradientMatching
from lit_unlearn.attacks.inversion.reconstruction import mean_colour, psnr, squared_error, ssim
from lit_unlearn.attacks.inversion.search import Found, InversionProblem, InversionSearch
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.gradient_batches import gradient_batches
from lit_unlearn.backbones.saving import tensors_sha256
from lit_unlearn.errors import UsageError, check_at_least, unknown
from lit_unlearn.results import AttackResult

_SHOWN = 16
_WEIGHT, _BIAS = "head.weight", "head.bias"


class GradientInversion(Attack):
    """Reconstructs images of the forget set, many at once.

    Args:
        gradient: ``delta``, θo − θ in float64, both signs tried; or ``oracle``, each image's own gradient.
        at: the weights at which gradients are taken, ``original`` or ``unlearned``. The oracle of the original is the
            same for every model of a run, and searched for once; an Evaluation with a ``cache`` keeps it for the runs
            after this one.
        images: how many forget images, drawn by ``seed``; fewer where there are not as many.
        steps: of the search.
        lr: its learning rate, in units of the pixels.
        tv: weight of the total variation, ≥ 0.
        restarts: searches an image from different noise, of which the smallest distance counts.
        seed: of the draw of images and of the noise.
        labels: ``known``, or ``inferred`` from the gradient of the head.
        warm_start: begin with a search, a quarter as long, for an image of the features that the head's gradient gives
            away: exactly if it is of a single image. The head needs a bias.
        chunk: images × restarts × signs in memory at once; None fits them to 2 GiB.
        engine: ``loop``, ``vmap`` or ``two_pass``, see :mod:`~lit_unlearn.attacks.inversion.gradient_matching`;
            ``auto`` measures all three. They agree up to rounding: name one where two runs must give the same digits.
        compile: compile ``vmap``, which takes minutes for deep networks.
        name: metric name prefix; None is ``gradient``.

    Raises:
        UsageError: if an option is unknown or out of range, or ``compile`` is set for another engine than ``vmap`` or
            ``auto``; during the attack, for ``warm_start`` and a head without bias.

    Example:
        >>> Trainer(callbacks=[GradientInversion("oracle"), GradientInversion("delta")])  # doctest: +SKIP
    """

    family: ClassVar[str] = "inversion"
    needs_forget = True

    def __init__(
        self,
        gradient: Literal["oracle", "delta"] = "delta",
        at: Literal["original", "unlearned"] = "original",
        images: int = 16,
        steps: int = 1000,
        lr: float = 0.1,
        tv: float = 1e-2,
        restarts: int = 1,
        seed: int = 0,
        labels: Literal["known", "inferred"] = "known",
        warm_start: bool = False,
        chunk: int | None = None,
        engine: EngineName = "auto",
        compile: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(gradient if name is None else name)
        for what, value, allowed in (
            ("gradient", gradient, ("oracle", "delta")),
            ("place of the gradient", at, ("original", "unlearned")),
            ("kind of labels", labels, ("known", "inferred")),
            ("engine", engine, ("auto", "loop", "vmap", "two_pass")),
        ):
            if value not in allowed:
                raise unknown(what, value, allowed)
        for what, number in (("images", images), ("steps", steps), ("restarts", restarts), ("chunk", chunk)):
            if number is not None:
                check_at_least(what, number, 1)
        if not 0 < lr <= 1:
            raise UsageError(f"lr is {lr}, but must lie above 0 and at most at 1, the range of a pixel")
        check_at_least("tv", tv, 0)
        if compile and engine not in ("auto", "vmap"):
            raise UsageError(f"compile is for engine vmap or auto, but engine is {engine}")
        self.gradient, self.at, self.images, self.seed = gradient, at, images, seed
        self.labels, self.warm_start, self.engine, self.compile = labels, warm_start, engine, compile
        self.search = InversionSearch(steps, lr, tv, restarts, seed, chunk, drop=not compile)
        self.needs_original = gradient == "delta" or at == "original"

    def evaluate(self, target: Target) -> AttackResult:
        """How near the reconstructions come, on average over the images.

        Returns:
            ``mse``, ``psnr`` in dB, ``ssim``, ``psnr_floor`` of each image's mean colour, ``distance`` reached,
            ``gradient_norm``, ``cosine`` of θo − θ to the forget set's gradient (delta), ``label_acc`` (inferred).
            All but the norm are NaN where nothing can be matched: θo − θ is 0, or the head has not moved and the labels
            are to be inferred or ``warm_start`` is set.
        """
        place = target.original if self.at == "original" and target.original is not None else target.model
        if self.gradient == "delta":
            return self._from_delta(target, place)
        return self._from_oracle(target, place)

    def _from_oracle(self, target: Target, place: EncodedData) -> AttackResult:
        images, labels = draw(target, "forget", self.images, self.seed)
        matching = self._matching(place)
        heads: dict[str, list[Tensor]] = {}
        lengths = []
        for one in range(len(images)):
            direction, length = matching.gradients(images[one : one + 1], labels[one : one + 1])
            lengths.append(length)
            for name in direction.keys() & {_WEIGHT, _BIAS}:
                heads.setdefault(name, []).append(direction[name])
        guessed, features = self._read({name: torch.cat(head) for name, head in heads.items()})
        guessed = labels if self.labels == "known" else guessed

        def directions(index: Tensor) -> NamedGradients:
            return matching.gradients(images[index], labels[index])[0]

        problem = InversionProblem(guessed[:, None], images.new_ones(1), directions, features)
        norms = torch.cat(lengths)
        options = (self.search, self.labels, self.warm_start, self.engine, self.compile)
        where = (str(images.device), torch.get_float32_matmul_precision())
        parts = network_key(target, place), tensors_sha256({"images": images, "labels": labels}), options, where
        key = f"inversion-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"
        bound = target.shared.tensors(
            key, lambda: self.search(matching, problem, images.shape[1:])._asdict(), images.device
        )
        found = Found(**bound)
        numbers = self._score(images, labels, found.images, found.distances, guessed)
        numbers |= {"gradient_norm": float(norms.mean())}
        return AttackResult(numbers, artifacts=_grid(target, images, labels, found.images))

    def _from_delta(self, target: Target, place: EncodedData) -> AttackResult:
        assert target.original is not None
        direction, length = unit(removed(target.original.backbone, target.model.backbone))
        # Either sign of the head's part, as two single images.
        heads = {n: torch.stack([direction[n], -direction[n]]) for n in (_WEIGHT, _BIAS) if n in direction}
        head = heads.get(_BIAS, heads.get(_WEIGHT))
        silent = head is None or not head.any()
        if length == 0 or (silent and (self.warm_start or self.labels == "inferred")):
            return AttackResult(dict.fromkeys(self._numbers(), math.nan) | {"gradient_norm": float(length)})
        matching = self._matching(place, direction)
        cosine = float(inner(unit(self._forget_gradient(target, matching))[0], direction))
        images, labels = draw(target, "forget", self.images, self.seed)
        unknowns, features = self._read(heads) if not silent else (labels, None)
        if self.labels == "known":
            # One direction does not distinguish two images of a label: one search serves both.
            classes, which = torch.unique(labels, return_inverse=True)
            guesses = classes[:, None].expand(-1, 2)
        else:
            guesses, which = unknowns[None], torch.zeros_like(labels)
        shared = {name: value.to(images.dtype) for name, value in direction.items()}

        def directions(index: Tensor) -> NamedGradients:
            return {name: value.expand(len(index), *value.shape) for name, value in shared.items()}

        begin = None if features is None else features[:1].expand(len(guesses), -1)
        problem = InversionProblem(guesses, images.new_tensor([1.0, -1.0]), directions, begin)
        found = self.search(matching, problem, images.shape[1:])
        guessed = guesses.gather(1, found.sign_index[:, None])[which, 0]
        numbers = self._score(images, labels, found.images[which], found.distances[which], guessed)
        numbers |= {"gradient_norm": float(length), "cosine": cosine}
        return AttackResult(numbers, artifacts=_grid(target, images, labels, found.images[which]))

    def _matching(self, place: EncodedData, names: Mapping[str, Tensor] | None = None) -> GradientMatching:
        return GradientMatching(copy.deepcopy(place.backbone).float(), names, self.engine, self.compile)

    def _read(self, heads: NamedGradients) -> tuple[Tensor, Tensor | None]:
        """Labels (B,) and, for a warm start, features (B, d), from gradients (B, …) of the head."""
        if self.warm_start and _BIAS not in heads:
            raise UsageError("warm_start needs a head with a bias, and this backbone's has none: set it to false")
        labels = infer_label(heads[_WEIGHT], heads.get(_BIAS))
        return labels, infer_features(heads[_WEIGHT], heads[_BIAS]).float() if self.warm_start else None

    def _forget_gradient(self, target: Target, matching: GradientMatching) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in matching.parameters.items()}
        for images, labels in gradient_batches(target.data.evaluation_batches("forget", target.device)):
            for name, value in matching.total_gradient(images, labels).items():
                total[name] += value
        return {name: sum_over_ranks(value) for name, value in total.items()}

    def _numbers(self) -> list[str]:
        names = ["mse", "psnr", "ssim", "psnr_floor", "distance"]
        names += ["cosine"] if self.gradient == "delta" else []
        return names + (["label_acc"] if self.labels == "inferred" else [])

    def _score(
        self, images: Tensor, labels: Tensor, found: Tensor, distances: Tensor, guessed: Tensor
    ) -> dict[str, float]:
        numbers = {
            "mse": squared_error(found, images),
            "psnr": psnr(found, images),
            "ssim": ssim(found, images),
            "psnr_floor": psnr(mean_colour(images), images),
            "distance": distances,
        }
        if self.labels == "inferred":
            numbers["label_acc"] = (guessed == labels).double()
        return {name: float(value.mean()) for name, value in numbers.items()}


def _grid(target: Target, images: Tensor, labels: Tensor, found: Tensor) -> dict[str, Artifact]:
    """The first images and their reconstructions, where they have the channels of a picture."""
    if images.shape[1] not in (1, 3):
        return {}
    pairs = torch.stack([images, found])[:, :_SHOWN].cpu()
    captions = [
        [target.data.class_names[label] for label in labels.tolist()],
        [f"{ratio:.1f} dB" for ratio in psnr(found, images).tolist()],
    ]
    return {"images": ImageGrid(pairs, ("image", "reconstruction"), [row[:_SHOWN] for row in captions])}


def removed(original: nn.Module, unlearned: nn.Module) -> dict[str, Tensor]:
    """θo − θ in float64 by parameter.

    Buffers, integers, and parameters that only one has or in another shape are left out.
    """
    left = dict(unlearned.named_parameters())
    return {
        name: value.detach().double() - left[name].detach().double()
        for name, value in original.named_parameters()
        if name in left and left[name].shape == value.shape and value.is_floating_point()
    }
