"""A verdict in words: a title, a headline with its numbers, and remarks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_unlearn.errors import RAISED
from lit_unlearn.reports.comparisons import MARGINS, Comparison
from lit_unlearn.reports.minimum import RETRAINS_NEEDED
from lit_unlearn.reports.numbers import ACCURACIES, READ, forgets, images, unseen_split
from lit_unlearn.reports.rows import NO_ATTACK, ORIGINAL, RETRAIN, Row, chance
from lit_unlearn.reports.verdict import Level, Verdict

TITLES: dict[Level, str] = {
    "failed": "No result",
    "not judged": "Not judged",
    "ruined": "Ruined",
    "not forgotten": "Not forgotten",
    "leaks": "Leaks",
    "cannot tell": "Cannot tell",
    "not attacked enough": "Not attacked enough",
    "as Retrain": "As Retrain",
    "inconclusive": "Inconclusive",
}
IMAGES = {
    "forget_acc": "the forget images",
    "test_forget_acc": "unseen images of the forgotten classes",
    "forgotten_before_acc": "the images that earlier requests forgot",
    "images_before_acc": "the single images that earlier requests forgot",
    "test_forgotten_before_acc": "unseen images of classes that earlier requests forgot",
}
_NEAR_CHANCE = 0.05
_UNDEFINED = "undefined: "
"""How the reason of an attack begins that was run, and of which only some numbers are undefined."""

_NAMES = 3
"""How many undefined numbers of an attack are named."""

_SPACE, _MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * (fraction or 0.0):.1f}{_SPACE}%"


def bounds(found: Comparison) -> str:
    """The excess over Retrain with its bounds, such as ``+7.0 (5.1 to 9.2)``: in points, of an AUC as it is."""
    return interval(found.excess, found.low, found.high, found.unit)


def interval(excess: float, low: float, high: float, unit: str = "") -> str:
    """The same of numbers."""
    digits, factor = (2, 1.0) if unit == "AUC" else (1, 100.0)
    least, most = (_signed(factor * value, digits).removeprefix("+") for value in (low, high))
    return f"{_signed(factor * excess, digits)} ({least} to {most})"


def title(verdict: Verdict) -> str:
    """The verdict in a few words, without utility."""
    return TITLES[verdict.level] + (f" ({verdict.alone} of {verdict.single} models)" if verdict.gravest else "")


def title_with_utility(verdict: Verdict) -> str:
    """The verdict in a few words, with utility where it suffered."""
    suffered = verdict.utility in ("reduced", "damaged")
    return f"{title(verdict)}, utility {verdict.utility}" if suffered else title(verdict)


def headline(row: Row, verdict: Verdict) -> str:
    """The verdict with the numbers that it is based on, in one to three sentences."""
    return " ".join(filter(None, statement(row, verdict)))


def statement(row: Row, verdict: Verdict) -> tuple[str, str]:
    """The verdict as a sentence, and the numbers that it is based on, if there are some."""
    if verdict.gravest is not None:
        one = "one" if verdict.alone == 1 else f"the gravest of {verdict.alone}"
        said, grounds = statement(row, verdict.gravest)
        return f"Judged alone, {one} of {_count(verdict.single, 'model')}: {said[0].lower()}{said[1:]}", grounds
    worst, no_attack = verdict.worst, verdict.no_attack
    if verdict.level == "failed":
        return f"The run {row.status}." if row.status == "diverged" else f"The run was {row.status}.", ""
    if verdict.level == "not judged" or no_attack is None:
        lacking = "the accuracy on forgotten data" if verdict.retrains else "a Retrain"
        return f"Without {lacking} there is no verdict.", ""
    if verdict.level == "ruined":
        return "The network is ruined.", f"Accuracy on the retained test images is {_lost(verdict)}."
    if verdict.level == "not forgotten":
        return "The model has not forgotten.", evidence(no_attack)
    if verdict.level == "cannot tell":
        return (
            "These attacks cannot show whether the model forgot.",
            "None of them that sees more than answers tells the untouched Original from Retrain: Original with other "
            "answers would pass, too. Attack more, or forget more images.",
        )
    if verdict.level == "not attacked enough":
        return (
            "The model was not attacked enough.",
            "No attack of this run gets more from it than from Retrain beyond doubt, but the suite lacks: "
            f"{'; '.join(verdict.missing)}.",
        )
    if worst is None:
        return "There is not enough evidence for a verdict.", ""
    if verdict.level == "as Retrain":
        said = "For every attack, the upper bound of the excess over Retrain is below the margin."
        return said, f"The least certain: {evidence(worst)}"
    if verdict.level == "leaks":
        return "The model still shows what it was to forget.", evidence(worst)
    return "It is undecided whether the model forgot.", f"{evidence(worst)}{_undecided(verdict)}"


def choice(verdict: Verdict) -> str:
    """How the attack of the statement is chosen, beside the figure of all; empty where the statement names none."""
    if verdict.gravest is not None:
        return "The verdict is on one model alone; the bars are of the mean over all models."
    if verdict.level == "leaks":
        return "The verdict names the attack with the largest lower bound."
    if (
        verdict.worst is None
        or verdict.worst is verdict.no_attack
        or verdict.level not in ("as Retrain", "inconclusive")
    ):
        return ""
    return (
        "Bars are in the order of their lower bounds. The verdict names the attack that is least surely as Retrain: "
        "its bar ends farthest to the right."
    )


def evidence(found: Comparison) -> str:
    """One comparison with Retrain as a sentence."""
    images, by = IMAGES[found.split], found.attack
    if found.unit == "AUC":
        side = ", on which the model is less sure than Retrain," if found.turned else ""
        return (
            f"{by} separates {images}{side} from other images with an AUC of {found.value:.2f}; on Retrain, "
            f"{found.retrain:.2f}. Excess over Retrain: {bounds(found)}."
        )
    if found.unit == "informedness":
        return (
            f"{by} tells {images} apart by class with an informedness of {percent(found.value)} (right minus "
            f"wrong answers; 0 is chance); on Retrain, {percent(found.retrain)}. Excess over Retrain: {bounds(found)} "
            "points."
        )
    if found.unit == "IDI":
        return (
            f"{by}: the stages of the network hold {100 * found.excess:.0f}{_SPACE}% of the information on the forget "
            f"set that Original's hold beyond Retrain's: {bounds(found)}."
        )
    name = "Without any attack, the model" if by == NO_ATTACK else by
    fewer = found.falls_short and by == NO_ATTACK
    more = " This is so much less than Retrain's that the answers alone show what was forgotten." if fewer else ""
    ours, theirs, unseen = percent(found.value), percent(found.retrain), found.unseen
    name += ", on average over its steps," if found.unit == "mean accuracy" else ""
    if unseen is None:
        return (
            f"{name} classifies {ours} of {images} correctly; Retrain, {theirs}. Excess over Retrain: {bounds(found)} "
            f"points.{more}"
        )
    return (
        f"{name} classifies {ours} of {images} and {percent(unseen.value)} of unseen ones correctly; Retrain, "
        f"{theirs} and {percent(unseen.retrain)}. Excess of this lead over Retrain's: {bounds(found)} points.{more}"
    )


def remarks(row: Row, verdict: Verdict) -> list[str]:
    """Sentences that qualify the headline: utility, the evidence, what is missing."""
    found = [f"Reason: {row.reason}."] if row.status != "ok" and row.reason else []
    if verdict.lost:
        found.append(f"Utility is {verdict.utility}: accuracy on the retained test images is {_lost(verdict)}.")
    elif row.status == "ok":
        found.append("Utility is unknown: accuracy on the retained test images is missing, here or for the references.")
    if row.status == "ok":
        found += [*_about_evidence(verdict), *_about_numbers(row, verdict)]
    return found + left_out(row)


def left_out(row: Row) -> list[str]:
    """A sentence for each attack of a row that was not run, or that lacks a number which the verdict reads, or all.

    Others may be undefined by design, such as the rate at a thousandth of false alarms on a hundred images.
    """
    found = []
    for attack, why in row.skipped.items():
        if not why.startswith(_UNDEFINED):
            found.append(f"{attack} was not run: {why}.")
            continue
        names = [name.removeprefix(f"{attack}/") for name in why.removeprefix(_UNDEFINED).split(", ")]
        if any(name.startswith(f"{attack}/") for name in row.attacks):
            names = [name for name in names if name.rpartition("/")[2] in READ]
        if names:
            more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
            found.append(f"{attack} has undefined numbers: {', '.join(names[:_NAMES])}{more}.")
    return found


def raised_on_references(rows: Sequence[Row]) -> list[str]:
    """A sentence for each attack that raised an error on Original or a Retrain."""
    found = [
        f"{row.method}: {attack} was not run: {why}."
        for row in rows
        if row.method in (ORIGINAL, RETRAIN)
        for attack, why in row.skipped.items()
        if why.startswith(RAISED)
    ]
    return list(dict.fromkeys(found))


def flag_lines(row: Row, verdict: Verdict | None) -> list[str]:
    """A sentence for each sign that the evaluation of a row cannot be trusted."""
    return flag_sentences({**row.flags, **(verdict.flags if verdict is not None else {})})


def flag_sentences(flags: Mapping[str, str]) -> list[str]:
    """A sentence for each flag, by its name."""
    return [f"Flag, {name}: {text}{'' if text.endswith('?') else '.'}" for name, text in flags.items()]


def as_json(row: Row, verdict: Verdict) -> dict[str, Any]:
    """What the row keeps of its verdict."""
    return verdict.as_json(headline(row, verdict).replace(_SPACE, " "))


def _lost(verdict: Verdict) -> str:
    """``1.2 points below Original's (0.4 to 2.0) and 0.3 points above Retrain's (−0.9 to 1.5)``."""
    alpha = next((each.margins.alpha for each in verdict.comparisons), MARGINS.alpha)
    texts = []
    for name, found in verdict.lost.items():
        side, sign = ("below", 1) if found.mean >= 0 else ("above", -1)
        ends = sorted(sign * 100 * end for end in (found.lowest(alpha), found.highest(alpha)))
        low, high = (_signed(end, 1).removeprefix("+") for end in ends)
        texts.append(f"{100 * abs(found.mean):.1f} points {side} {name}'s ({low} to {high})")
    return " and ".join(texts)


def _undecided(verdict: Verdict) -> str:
    """What would probably decide."""
    if verdict.retrains < RETRAINS_NEEDED:
        return (
            f" To say that a model is as Retrain takes at least {RETRAINS_NEEDED} Retrains; there "
            f"{'is' if verdict.retrains == 1 else 'are'} {verdict.retrains}."
        )
    if verdict.separated is None:
        return " Without Original it is unknown whether these attacks show anything."
    if verdict.unfinished:
        return f" {_count(verdict.unfinished, 'run')} of the method did not end: no claim is made on those that did."
    if verdict.unmeasured:
        return f" Not measured in all runs, or on {RETRAINS_NEEDED} Retrains: {', '.join(verdict.unmeasured)}."
    if verdict.uncompared:
        return f" Not measured on Retrain: {', '.join(verdict.uncompared)}."
    if verdict.knows_classes:
        flag = " (see the flag)" if "knows the classes" in verdict.flags else ", by more than the larger margin"
        return f" The model may have kept what the forget images taught of their classes{flag}."
    if verdict.apart:
        each = "which by itself would be" if verdict.apart == 1 else "each of which by itself would be"
        return f" The mean hides {_count(verdict.apart, 'model')} of one original, {each} condemned."
    open_ones = [each for each in verdict.comparisons if not each.as_retrain]
    if not verdict.telling:
        return (
            " No attack that sees more than answers puts the untouched Original above Retrain by more than the larger "
            "margin, beyond doubt. So it says little that this model is near Retrain."
        )
    leaking = [seeds for each in verdict.comparisons if (seeds := each.seeds_to_leak()) is not None]
    agreeing = [(each.attack, each.seeds_to_agree()) for each in open_ones]
    if verdict.too_few is not None:
        agreeing.append((NO_ATTACK, verdict.too_few.seeds_to_reach()))
    few = next((attack for attack, seeds in agreeing if seeds is None), None)
    needed = [*leaking, *([] if few else [max((seeds or 0 for _, seeds in agreeing), default=0)])]
    if not needed:
        return f" More seeds alone would not decide: {few} lies between the two margins, or there are too few images."
    return f" Unlearning about {_count(min(needed), 'original')}, beside as many Retrains, would probably decide."


def _about_evidence(verdict: Verdict) -> Iterator[str]:
    """What the attacks of this run can show, and what is missing."""
    if not verdict.retrains:
        yield "There is no Retrain to compare with. What an attack gets from Retrain as well is no memory."
        return
    if verdict.no_attack is None:
        yield "The accuracy on forgotten data was not measured, here or for Retrain."
    counts = f"{_count(verdict.models, 'model')} of the method with {_count(verdict.retrains, 'Retrain')}"
    numbers = _count(len(verdict.comparisons), "number")
    if verdict.separating is not None:
        numbers += f", of which {verdict.separating or 'none'} can tell Original from Retrain"
    yield f"Compared: {counts}, in {numbers}. In brackets: bounds of the excess."
    if verdict.level == "leaks" and verdict.retrains < RETRAINS_NEEDED:
        yield (
            f"With {_count(verdict.retrains, 'Retrain')} it is hardly known how much Retrains vary here: the "
            "bounds assume that they vary as on Fashion-MNIST."
        )
    if verdict.level != "not attacked enough" and verdict.missing:
        yield f"The suite of this run lacks: {'; '.join(verdict.missing)}. No model is as Retrain without them."
    if verdict.level == "not attacked enough":
        yield "The quick suite (configs/attack/quick.yaml) has every attack of the minimum."
    if verdict.level == "as Retrain":
        yield "The verdict covers only the attacks of this run. A stronger attack may recover more."
    if verdict.separated is None:
        yield f"There is no {ORIGINAL} to compare with: it is unknown whether these attacks show anything."
    if verdict.uncompared:
        yield f"Not compared, because Retrain was not attacked with them: {', '.join(verdict.uncompared)}."


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _about_numbers(row: Row, verdict: Verdict) -> Iterator[str]:
    """How to read the accuracies on forgotten data."""
    no_attack = verdict.no_attack
    leaking = [each for each in verdict.comparisons if each.leaks and each is not verdict.worst]
    if verdict.level in ("leaks", "not forgotten") and (others := [c.attack for c in leaking if c is not no_attack]):
        yield f"These attacks, too, get more than from Retrain, beyond doubt: {', '.join(others)}."
    if verdict.level in ("leaks", "inconclusive") and no_attack and verdict.worst is not no_attack:
        yield evidence(no_attack)
    level = chance(row)
    at_chance = [c.attack for c in verdict.comparisons if c.unit in ACCURACIES and c.attack != NO_ATTACK]
    near = [c for c in verdict.comparisons if c.attack in at_chance and level and abs(c.value - level) <= _NEAR_CHANCE]
    if near:
        yield (
            f"Attacks that end near {percent(level)} are at chance level: they cannot recover which forgotten class an "
            "image has. This does not prove that the image is forgotten."
        )
    if forgets(row) == "images" and (split := unseen_split(row)) != "test_retain":
        count = _count(images(row).get(split, 0), "test image")
        yield f"Unseen images are {count} of the forget images' classes, in the same shares."
    if forgets(row) == "one class":
        yield (
            "One class was forgotten, so its name is known without the model. Recovery attacks do not count here. All "
            "other attacks do, and the accuracy without an attack."
        )


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", _MINUS)
