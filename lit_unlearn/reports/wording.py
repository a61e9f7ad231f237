"""A verdict in plain words: a title, a headline with the numbers that it rests on, and what qualifies it."""

from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.verdict import DEPTH_TOLERANCE, Finding, Level, Verdict

TITLES: dict[Level, str] = {
    "deep": "Withstood these attacks",
    "part": "Forgotten in part",
    "shallow": "Shallow forgetting",
    "remembers": "Not forgotten",
    "unjudged": "Depth not judged",
    "failed": "No result",
}
WHERE = {"forget_acc": "the forget images", "test_forget_acc": "unseen images of the forgotten classes"}


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _percent(fraction: float | None) -> str:
    return f"{_points(fraction or 0.0)}\N{NO-BREAK SPACE}%"


def title(verdict: Verdict) -> str:
    """The judgement in a few words, without utility."""
    return TITLES[verdict.level] if verdict.level != "deep" or verdict.withstood else "Gives away what was forgotten"


def headline(row: Row, verdict: Verdict) -> str:
    """One sentence: the judgement with the numbers that it rests on."""
    as_is, worst = verdict.as_is, verdict.worst
    if verdict.level == "failed":
        return f"The run was {row.status}." if row.status == "interrupted" else f"The run {row.status}."
    if verdict.level in ("remembers", "part") and as_is:
        degree = "The model has not forgotten" if verdict.level == "remembers" else "The model forgot only in part"
        return (
            f"{degree}: as it is, it still names {_percent(as_is.value)} of {WHERE[as_is.split]}, where a model that "
            f"never saw the data names {_percent(as_is.retrain)}."
        )
    if verdict.level == "shallow" and worst:
        return (
            f"The forgetting is shallow: {worst.attack} brings back {_percent(worst.value)} where a model that never "
            f"saw the data gives {_percent(worst.retrain)}."
        )
    if verdict.level == "deep" and verdict.told:
        return f"Nothing more comes back than from Retrain, but what was forgotten shows: {_telling(verdict.told)}."
    if verdict.level == "deep" and worst:
        return (
            f"No attack of this run brings back more than from a model that never saw the data: the strongest, "
            f"{worst.attack}, gives {_percent(worst.value)}, and {_percent(worst.retrain)} there."
        )
    return "How deep the forgetting goes cannot be judged yet."


def remarks(row: Row, verdict: Verdict) -> list[str]:
    """Sentences that qualify the headline: utility, what an attack adds, what is missing."""
    as_is, worst, said = verdict.as_is, verdict.worst, []
    if row.status != "ok" and row.reason:
        said.append(f"Reason: {row.reason}.")
    if verdict.utility_lost is not None:
        kept = {"kept": "Utility is kept", "reduced": "Utility is reduced", "damaged": "Utility is damaged"}
        change = f"{'down' if verdict.utility_lost >= 0 else 'up'} {_points(abs(verdict.utility_lost))} points"
        said.append(f"{kept[verdict.utility]}: accuracy on the retained test images is {change} from Original.")
    elif row.status == "ok":
        said.append("Utility cannot be judged: the accuracy on retained test images, here or of Original, is unknown.")
    if row.status == "ok":
        said += _depth_remarks(verdict, as_is, worst)
    if verdict.told and verdict.level != "deep":
        said.append(f"It gives away what was forgotten, too: {_telling(verdict.told)}.")
    said += [_left_out(attack, reason) for attack, reason in row.skipped.items()]
    return said


def _telling(told: Finding) -> str:
    return (
        f"{told.attack} tells {WHERE[told.split]} from unseen ones with an AUC of {told.value:.2f}, on a model that "
        f"never saw the data {told.retrain or 0.0:.2f}"
    )


def _left_out(attack: str, reason: str) -> str:
    """An attack that was not run, or numbers of one that was run and could not give them all."""
    names = reason.removeprefix("undefined: ")
    return f"Undefined here: {names}." if names != reason else f"{attack} was not run: {reason}."


def _depth_remarks(verdict: Verdict, as_is: Finding | None, worst: Finding | None) -> list[str]:
    said = []
    if as_is is None:
        said.append("The accuracy on forgotten data was not measured.")
    if verdict.level in ("remembers", "part") and worst and worst.above:
        said.append(f"Under attack ({worst.attack}) it is {_percent(worst.value)}.")
    if verdict.level == "deep":
        said.append(
            "That shows the forgetting to be as deep as these attacks can see, and no deeper: linear recovery from raw "
            "features, for one, is passed by a model that only makes its features small."
        )
    if verdict.level == "shallow" and as_is:
        said.append(f"As it is, the model names {_percent(as_is.value)} of {WHERE[as_is.split]}.")
    if worst is None:
        said.append("No attack that measures recovery was run.")
    elif worst.retrain is None:
        original = "" if worst.original is None else f" (Original: {_percent(worst.original)})"
        said.append(
            f"{worst.attack} recovers {_percent(worst.value)}{original}, but there is no Retrain to compare with: it "
            "may be memory, or what any model would know."
        )
    elif verdict.level == "deep" and worst.tolerance > DEPTH_TOLERANCE:
        said.append(f"The few images can tell differences of {_points(worst.tolerance)} points only.")
    if as_is and as_is.excess is not None and as_is.excess < -as_is.tolerance:
        said.append("As it is, accuracy is below Retrain's: such over-forgetting can itself give the images away.")
    if verdict.constant is not None and verdict.level in ("deep", "shallow", "part"):
        said.append(
            f"Attacks that end near {_percent(verdict.constant)}, the accuracy of a constant answer, show that it is "
            "hidden which forgotten class an image had, not that the image was forgotten."
        )
    if verdict.uncompared and worst and worst.retrain is not None:
        said.append(f"Not judged, for Retrain was not given them: {', '.join(verdict.uncompared)}.")
    return said
