"""A verdict in words: a title, a headline with its numbers, and remarks."""

from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.verdict import DEPTH_TOLERANCE, Finding, Level, Verdict

TITLES: dict[Level, str] = {
    "deep": "Withstood these attacks",
    "part": "Forgotten in part",
    "shallow": "Shallow forgetting",
    "remembers": "Not forgotten",
    "untested": "Not attacked enough",
    "inconclusive": "Inconclusive",
    "unjudged": "Not judged",
    "failed": "No result",
}
IMAGES = {
    "forget_acc": "the forget images",
    "test_forget_acc": "unseen images of the forgotten classes",
    "forgotten_before_acc": "the images that earlier requests forgot",
    "test_forgotten_before_acc": "unseen images of classes that earlier requests forgot",
}
_UTILITY = {"kept": "Utility is kept", "reduced": "Utility is reduced", "damaged": "Utility is damaged"}


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _percent(fraction: float | None) -> str:
    return f"{_points(fraction or 0.0)}\N{NO-BREAK SPACE}%"


def title(verdict: Verdict) -> str:
    """The verdict in a few words, without utility."""
    return TITLES[verdict.level] if verdict.level != "deep" or verdict.withstood else "Detectable"


def headline(row: Row, verdict: Verdict) -> str:
    """The verdict with the numbers that it is based on, in one or two sentences."""
    no_attack, worst = verdict.no_attack, verdict.worst
    if verdict.level == "failed":
        return f"The run {row.status}." if row.status == "diverged" else f"The run was {row.status}."
    if verdict.level in ("remembers", "part") and no_attack:
        degree = "has not forgotten" if verdict.level == "remembers" else "has forgotten only in part"
        return f"The model {degree}. Without any attack it names {_beside_retrain(no_attack)}."
    if verdict.level == "deep" and verdict.leakage:
        return f"The forgotten images are detectable. {_detection(verdict.leakage)}."
    if verdict.level in ("deep", "shallow", "untested", "inconclusive") and worst:
        return f"The strongest attack ({worst.attack}) names {_beside_retrain(worst)}."
    return "There is not enough evidence for a verdict."


def _beside_retrain(found: Finding) -> str:
    images = IMAGES[found.split]
    return f"{_percent(found.value)} of {images}; a model retrained without them, {_percent(found.retrain)}"


def _detection(leakage: Finding) -> str:
    return (
        f"{leakage.attack} separates {IMAGES[leakage.split]} from other images with an AUC of {leakage.value:.2f}; "
        f"on a model retrained without them, {leakage.retrain or 0.0:.2f}"
    )


def remarks(row: Row, verdict: Verdict) -> list[str]:
    """Sentences that qualify the headline: utility, the effect of attacks, what is missing."""
    found = [f"Reason: {row.reason}."] if row.status != "ok" and row.reason else []
    if verdict.utility_lost is not None:
        lost = _points(abs(verdict.utility_lost))
        change = f"{lost} points {'below' if verdict.utility_lost > 0 else 'above'} Original"
        change = "that of Original" if lost == "0.0" else change
        found.append(f"{_UTILITY[verdict.utility]}: accuracy on the retained test images is {change}.")
    elif row.status == "ok":
        found.append("Utility is unknown: accuracy on the retained test images is missing, here or for Original.")
    if row.status == "ok":
        found += [*_about_evidence(verdict), *_about_numbers(verdict)]
    if verdict.leakage and verdict.level != "deep":
        found.append(f"The forgotten images are also detectable. {_detection(verdict.leakage)}.")
    return found + [_left_out(attack, reason) for attack, reason in row.skipped.items()]


def _left_out(attack: str, reason: str) -> str:
    """An attack that was not run, or one that could not measure all its numbers."""
    names = reason.removeprefix("undefined: ")
    return f"Undefined here: {names}." if names != reason else f"{attack} was not run: {reason}."


def _about_evidence(verdict: Verdict) -> list[str]:
    """What the attacks of this run can show, and what is missing."""
    worst, found = verdict.worst, []
    if verdict.no_attack is None:
        found.append("The accuracy on forgotten data was not measured.")
    if verdict.level == "untested":
        found.append(
            f"These attacks are too few for a verdict ({', '.join(verdict.attacks)}). A model that only makes its "
            "features small passes linear readouts of raw features. Run at least the quick suite of attacks "
            "(configs/attack/quick.yaml), which has the worst case over many readouts (WorstRecovery)."
        )
    if verdict.level == "inconclusive":
        found.append(
            "These attacks cannot separate Original from Retrain on these images. So they cannot show whether the "
            "model forgot: Original itself would pass them."
        )
    if verdict.level == "deep":
        found.append("The verdict covers only the attacks of this run. A stronger attack may recover more.")
    if worst is None:
        found.append("No attack that measures recovery was run.")
    elif worst.retrain is None:
        original = "" if worst.original is None else f" (Original: {_percent(worst.original)})"
        found.append(
            f"{worst.attack} names {_percent(worst.value)} of {IMAGES[worst.split]}{original}, but there is no Retrain "
            "row to compare with. Retrain may reach the same accuracy."
        )
    elif verdict.uncompared:
        found.append(f"Not compared, because Retrain was not attacked with them: {', '.join(verdict.uncompared)}.")
    return found


def _about_numbers(verdict: Verdict) -> list[str]:
    """How to read the accuracies on forgotten data."""
    no_attack, worst, found = verdict.no_attack, verdict.worst, []
    if verdict.level in ("remembers", "part") and worst and worst.above:
        found.append(f"The strongest attack ({worst.attack}) names {_beside_retrain(worst)}.")
    if verdict.level == "shallow" and no_attack:
        found.append(f"Without any attack, the model names {_percent(no_attack.value)} of {IMAGES[no_attack.split]}.")
    if verdict.level in ("deep", "untested", "inconclusive") and worst and worst.tolerance > DEPTH_TOLERANCE:
        resolved = _points(worst.tolerance)
        found.append(f"With this few images, differences below {resolved} points cannot be resolved.")
    if no_attack and no_attack.excess is not None and no_attack.excess < -no_attack.tolerance:
        found.append(
            "Without any attack, accuracy on forgotten data is below Retrain's. Such over-forgetting can itself make "
            "the images detectable."
        )
    if verdict.constant is not None and verdict.level in ("deep", "shallow", "part", "untested"):
        found.append(
            f"Attacks that end near {_percent(verdict.constant)} are at chance level: they cannot recover which "
            "forgotten class an image has. This does not prove that the image is forgotten."
        )
    return found
