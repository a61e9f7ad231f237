"""Signs in the rows that an evaluation cannot be trusted. Each has a name, and says what was found.

Those that a run sees by itself are in its row (:mod:`lit_unlearn.attacks.plausibility`); these need rows of references.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from lit_unlearn.reports.comparisons import Comparison
from lit_unlearn.reports.numbers import RELEARNING, RETAINED, forgets, numbers, sampling
from lit_unlearn.reports.rows import NO_ATTACK, Row

FADING = 10.0
"""How many times smaller or larger features of forgotten images are, beside retained ones, than in Retrain."""

KNOWN = 0.6
"""AUC of telling the forget images from unseen ones with Retrain, which never saw either."""

_CHANCE = 0.5
_BEYOND_DOUBT = 3.0
"""Standard errors of the images, since one of many numbers is looked for."""

NAMED = 0.05
"""Share of the images of forgotten classes that a Retrain, which never had such a label, may name."""

_OF_CLASSES = ("forget_acc", "test_forget_acc")

FLAT = 0.1
"""Share of images whose gradient is 0, of which a search along the gradient says nothing."""

BROKEN = 0.1
"""How much more accuracy on retained test images relearning takes than on Retrain, as a fraction."""

BROKEN_ALONE = 0.2
"""How much it takes from a network that it breaks, even where Retrain loses as much."""

NORM_RATIO = "representation/stages/features/norm_ratio"
AT_EDGE = "/rate_at_edge"
_TRACES = "detectability/"
"""Attacks that look for traces of unlearning, of which Original has none."""

_SHOWN = 3


def flags(
    models: Sequence[Row],
    retrains: Sequence[Row],
    compared: Sequence[Comparison],
    separated: bool | None,
    broken: Mapping[str, tuple[float, float]],
    skill: Comparison | None = None,
) -> dict[str, str]:
    """The flags of a method: name → sentence, without its stop.

    Args:
        models: rows of its models.
        retrains: rows of Retrains.
        compared: its numbers beside Retrain's.
        separated: whether the attacks together separate Original from Retrain; None where Original is unknown.
        broken: what :func:`broken_by_relearning` finds of them.
        skill: what :func:`~lit_unlearn.reports.comparisons.skill_in_classes` finds of them.
    """
    found = [*_of_runs(models), *_fading(models, retrains), *_at_edge(models), *_broken(broken)]
    found += [*_blind(compared, separated), *_retrain_knows(compared, retrains), *_knows_classes(skill)]
    found += [*_masked_gradients(models), *_weak_inversion(models)]
    return dict(found)


def _of_runs(models: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for row in models:
        yield from row.flags.items()


def _fading(models: Sequence[Row], retrains: Sequence[Row]) -> Iterator[tuple[str, str]]:
    own, theirs = (_mean(rows, NORM_RATIO) for rows in (models, retrains))
    if own is None or theirs is None or own <= 0 or theirs <= 0:
        return
    if (apart := max(own / theirs, theirs / own)) > FADING:
        size = "smaller" if own < theirs else "larger"
        yield (
            "fading features",
            f"features of forget images are {apart:.0f} times {size} beside those of retained images than in Retrain: "
            "an attack that depends on their length may fail for this alone",
        )


def _at_edge(models: Sequence[Row]) -> Iterator[tuple[str, str]]:
    names = {name for row in models for name, value in row.attacks.items() if name.endswith(AT_EDGE) and value > 0}
    if names:
        titles = ", ".join(sorted(name.removesuffix(AT_EDGE) for name in names))
        yield (
            "rate at the edge",
            f"{titles} got most with the smallest or largest learning rate that was tried: widen learning_rates, since "
            "one beyond it may get more",
        )


def broken_by_relearning(models: Sequence[Row], retrains: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Relearning that takes too much accuracy from one of the models to have relearnt anything.

    That is :data:`BROKEN_ALONE`, or :data:`BROKEN` more than from Retrains. A network whose weights are small is broken
    by a learning rate that suits Retrain; other learning rates break all networks.

    Returns:
        attack → what it takes from the accuracy on retained test images: of the model that loses most, and of Retrains
        on average, as fractions.
    """
    suffix, found = f"/{RETAINED}", {}
    for name in sorted({name for row in models for name in row.attacks}):
        if name.startswith(RELEARNING) and name.endswith(suffix):
            ours, theirs = (_lost(rows, name) for rows in (models, retrains))
            if ours and theirs and max(ours) > min(max(fmean(theirs), 0.0) + BROKEN, BROKEN_ALONE):
                found[name.removesuffix(suffix)] = max(ours), fmean(theirs)
    return found


def _broken(broken: Mapping[str, tuple[float, float]]) -> Iterator[tuple[str, str]]:
    if broken:
        attack, (own, theirs) = max(broken.items(), key=lambda each: each[1][0])
        yield (
            "broken by relearning",
            f"{attack} costs a model {100 * own:.0f} points of accuracy on retained test images, and Retrain "
            f"{100 * theirs:.0f}: its learning_rates are too high for this network; lower ones may get more",
        )


def _lost(rows: Sequence[Row], name: str) -> list[float]:
    """How much accuracy on retained test images an attack takes from each."""
    return [
        row.metrics[RETAINED] - row.attacks[name] for row in rows if name in row.attacks and RETAINED in row.metrics
    ]


def _blind(compared: Sequence[Comparison], separated: bool | None) -> Iterator[tuple[str, str]]:
    attacks = [each for each in compared if not each.attack.startswith((NO_ATTACK, _TRACES))]
    if attacks and separated is False:
        yield (
            "no power",
            "no attack that sees more than answers tells Original from Retrain: Original with other answers would pass",
        )
        return
    blind = sorted(each.attack for each in attacks if each.blind)
    if blind:
        more = f" and {len(blind) - _SHOWN} more" if len(blind) > _SHOWN else ""
        yield (
            "blind attacks",
            f"{', '.join(blind[:_SHOWN])}{more} found no more in Original than in Retrain, and so say nothing here",
        )


def _retrain_knows(compared: Sequence[Comparison], retrains: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Of the mean over Retrains, and of each alone: one of several that has seen the images widens all bounds."""
    named = [row.metrics.get(name, 0.0) for row in retrains if forgets(row) != "images" for name in _OF_CLASSES]
    if max(named, default=0.0) > NAMED:
        yield (
            "retrain knows",
            f"a Retrain classifies {100 * max(named):.0f} % of the images of forgotten classes correctly, though it "
            "was not to be trained on them: has it seen them?",
        )
        return
    membership = [each for each in compared if each.attack.startswith("membership/") and each.unit == "AUC"]
    sure = [each for each in membership if each.retrain_forward > KNOWN and each.retrain_low > _CHANCE]
    known = [(each.retrain_forward, each.attack) for each in sure]
    alone = [
        (found.value, key.attack)
        for row in retrains
        for key, (found,) in numbers([row]).items()
        if key.attack.startswith("membership/") and key.unit == "AUC" and found.value > KNOWN
        if found.value - _CHANCE > _BEYOND_DOUBT * sampling(key, found.value, None, row) ** 0.5
    ]
    if known or alone:
        most, attack = max(known or alone)
        which = "Retrain" if known else "one Retrain"
        yield (
            "retrain knows",
            f"{attack} tells the forget images from unseen ones on {which} as well, with an AUC of {most:.2f}: has it "
            "seen them?",
        )


def _knows_classes(skill: Comparison | None) -> Iterator[tuple[str, str]]:
    if skill is not None and skill.differs and skill.unseen is not None:
        ours, theirs, all_ours, all_theirs = (
            f"{100 * value:.0f} %" for value in (skill.value, skill.retrain, skill.unseen.value, skill.unseen.retrain)
        )
        yield (
            "knows the classes",
            f"the model classifies {ours} of unseen images of the forget images' classes correctly, and {all_ours} of "
            f"all unseen ones; Retrain, {theirs} and {all_theirs}. It may have kept what the forget images taught of "
            "their classes, which a lead over unseen images of the same classes does not show",
        )


def _masked_gradients(models: Sequence[Row]) -> Iterator[tuple[str, str]]:
    shares = [
        (value, name.rpartition("/")[0])
        for row in models
        for name, value in row.attacks.items()
        if name.startswith("perturbation/") and name.endswith("/flat")
    ]
    if shares and max(shares)[0] > FLAT:
        share, attack = max(shares)
        yield (
            "masked gradients",
            f"the gradient of {100 * share:.0f} % of the images is 0, so that {attack} moves nothing there and says "
            "nothing: something in the network, such as a rounding of the pixels, hides the slope",
        )


def _weak_inversion(models: Sequence[Row]) -> Iterator[tuple[str, str]]:
    found = [
        (psnr - row.attacks[f"{name}_floor"], psnr, row.attacks[f"{name}_floor"])
        for row in models
        for name, psnr in row.attacks.items()
        if name.startswith("inversion/") and name.endswith("/psnr") and f"{name}_floor" in row.attacks
    ]
    if found and max(found)[0] <= 0:
        _, psnr, floor = max(found)
        yield (
            "weak inversion",
            f"gradient inversion rebuilds images no better than their mean colour does ({psnr:.1f} and {floor:.1f} dB),"
            " and so says nothing here",
        )


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row.attacks[name] for row in rows if name in row.attacks]
    return fmean(values) if values else None
