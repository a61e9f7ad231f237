import re
from collections.abc import Callable

import pytest

from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.verdict import Verdict, judge, tolerance_beside
from lit_unlearn.reports.wording import headline, remarks, title

MakeRow = Callable[..., Row]


@pytest.mark.parametrize(
    ("as_is", "recovered", "relearned", "level"),
    [
        (0.0, 0.33, 0.24, "deep"),
        (0.0, 0.37, 0.24, "deep"),
        (0.0, 0.39, 0.24, "shallow"),
        (0.0, 0.33, 0.60, "shallow"),
        (0.2, 0.33, 0.24, "part"),
        (0.2, 0.91, 0.24, "shallow"),
        (0.6, 0.33, 0.24, "remembers"),
        (0.9, 0.91, 0.90, "remembers"),
    ],
)
def test_levels(
    make_row: MakeRow, original: Row, retrain: Row, as_is: float, recovered: float, relearned: float, level: str
) -> None:
    attacks = {"recovery/worst": (recovered, 0.9, recovered, 0.9), "relearn": (relearned, 0.9, relearned, 0.9)}
    row = make_row("GA", (as_is, 0.93, as_is, 0.92), attacks)
    assert judge(row, [original, retrain, row]).level == level


def test_an_attack_below_retrains_strongest_still_counts_if_above_its_own(make_row: MakeRow) -> None:
    retrain = make_row("Retrain", (0, 1, 0, 1), {"probe": (0.8, 1, 0.8, 1), "relearn": (0.24, 1, 0.24, 1)})
    row = make_row("OPC", (0, 1, 0, 1), {"probe": (0.65, 1, 0.65, 1), "relearn": (0.49, 1, 0.49, 1)})
    found = judge(row, [retrain, row])
    assert found.level == "shallow"
    assert found.worst is not None
    assert (found.worst.attack, found.worst.value, found.worst.retrain) == ("relearn", 0.49, 0.24)


def test_memory_of_the_forget_images_alone_counts(make_row: MakeRow, original: Row, retrain: Row) -> None:
    row = make_row("GA", (0.0, 0.93, 0.0, 0.92), {"recovery/worst": (0.6, 0.9, 0.33, 0.9)})
    found = judge(row, [original, retrain, row])
    assert found.level == "shallow"
    assert found.worst is not None
    assert found.worst.split == "forget_acc"


def test_headline_and_remarks_state_the_numbers(original: Row, retrain: Row, shallow: Row) -> None:
    found = judge(shallow, [original, retrain, shallow])
    text = headline(shallow, found).replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        "The strongest attack (recovery/worst) names 91.0 % of unseen images of the forgotten classes; a model "
        "retrained without them, 33.0 %."
    )
    assert remarks(shallow, found)[0] == (
        "Utility is kept: accuracy on the retained test images is 0.6 points below Original."
    )


def test_without_retrain_depth_is_not_judged(original: Row, shallow: Row) -> None:
    found = judge(shallow, [original, shallow])
    assert found.level == "unjudged"
    assert found.utility == "kept"
    assert "not enough evidence" in headline(shallow, found)
    assert any("no Retrain row" in text for text in remarks(shallow, found))


def test_without_attacks_depth_is_not_judged(make_row: MakeRow, original: Row, retrain: Row) -> None:
    row = make_row("GA", (0.0, 0.93, 0.0, 0.92))
    found = judge(row, [original, retrain, row])
    assert found.level == "unjudged"
    assert "No attack that measures recovery was run." in remarks(row, found)


def test_an_attack_that_was_not_run_on_retrain_is_a_remark(make_row: MakeRow, original: Row, retrain: Row) -> None:
    attacks = {"recovery/worst": (0.33, 0.9, 0.33, 0.9), "quantise": (0.9, 0.9, 0.9, 0.9)}
    row = make_row("GA", (0.0, 0.93, 0.0, 0.92), attacks, skipped={"inversion": "it needs the original model"})
    found = judge(row, [original, retrain, row])
    assert (found.level, found.uncompared) == ("deep", ("quantise",))
    text = " ".join(remarks(row, found))
    assert "Not compared, because Retrain was not attacked with them: quantise." in text
    assert "inversion was not run: it needs the original model." in text


@pytest.mark.parametrize(("accuracy", "utility"), [(0.93, "kept"), (0.91, "kept"), (0.89, "reduced"), (0.8, "damaged")])
def test_utility(make_row: MakeRow, original: Row, retrain: Row, accuracy: float, utility: str) -> None:
    row = make_row("GA", (0.0, 0.9, 0.0, accuracy), {"recovery/worst": (0.33, 0.9, 0.33, 0.9)})
    found = judge(row, [original, retrain, row])
    assert found.utility == utility
    assert found.good == (utility == "kept")


def test_few_images_widen_the_tolerance(make_row: MakeRow, original: Row, retrain: Row) -> None:
    few = retrain.split | {"counts": {"forget": 6000, "test_forget": 40}}
    attacks = {"recovery/worst": (0.33, 0.9, 0.45, 0.9)}
    rows = [make_row("Retrain", (0, 1, 0, 1), {"recovery/worst": (0.33, 1, 0.33, 1)}, split=few)]
    row = make_row("GA", (0.0, 0.9, 0.0, 0.9), attacks, split=few)
    found = judge(row, [*rows, row])
    assert found.level == "deep"
    assert any(re.search(r"differences below 2\d\.\d points cannot be resolved", text) for text in remarks(row, found))
    full = make_row("GA", (0.0, 0.9, 0.0, 0.9), attacks)
    assert judge(full, [original, retrain, full]).level == "shallow"


def test_chance_level_is_no_proof_of_forgetting(make_row: MakeRow, original: Row, retrain: Row) -> None:
    row = make_row("GA", (0.0, 0.9, 0.0, 0.92), {"recovery/worst": (0.334, 0.9, 0.334, 0.9)})
    assert any(
        "33.3\N{NO-BREAK SPACE}% are at chance level" in t for t in remarks(row, judge(row, [original, retrain, row]))
    )


def test_over_forgetting_is_a_remark(make_row: MakeRow) -> None:
    split = {"hash": "x", "forgotten_classes": []}
    retrain = make_row("Retrain", (0.9, 1.0), {"recovery/worst": (0.9, 1.0)}, split=split)
    row = make_row("GA", (0.5, 1.0), {"recovery/worst": (0.9, 1.0)}, split=split)
    assert any("below Retrain" in text for text in remarks(row, judge(row, [retrain, row])))


@pytest.mark.parametrize("status", ["diverged", "interrupted"])
def test_a_failed_run_has_no_verdict_but_a_reason(make_row: MakeRow, original: Row, retrain: Row, status: str) -> None:
    row = make_row("GA", (0.0, 0.9, 0.0, 0.9), status=status, reason="loss was nan")
    found = judge(row, [original, retrain, row])
    assert found.level == "failed"
    assert status in headline(row, found)
    assert remarks(row, found)[0] == "Reason: loss was nan."


@pytest.mark.parametrize(("accuracy", "level"), [(0.902, "deep"), (0.929, "deep"), (0.945, "remembers")])
def test_single_images_are_judged_by_what_retrain_and_original_are_apart(
    make_row: MakeRow, accuracy: float, level: str
) -> None:
    split = {"hash": "x", "forgotten_classes": [], "counts": {"forget": 20_000}}
    original = make_row("Original", (0.96, 1.0), {"recovery/worst": (0.96, 1.0)}, split=split)
    retrain = make_row("Retrain", (0.9, 1.0), {"recovery/worst": (0.9, 1.0)}, split=split)
    row = make_row("GA", (accuracy - 0.001, 1.0), {"recovery/worst": (accuracy, 1.0)}, split=split)
    assert judge(row, [original, retrain, row]).level == level  # half of the way is three points
    assert judge(row, [retrain, row]).level == "deep", "without Original it is five points"


def test_references_that_are_alike_still_leave_two_points() -> None:
    assert [tolerance_beside(0.9, value) for value in (None, 0.8, 0.91, 0.96, 1.0)] == pytest.approx(
        [0.05, 0.02, 0.02, 0.03, 0.05]
    )


@pytest.mark.parametrize(
    ("attacks", "level"),
    [
        (("recovery/hr", "recovery/fm"), "untested"),
        (("recovery/hr", "relearn/few"), "untested"),
        (("recovery/worst/stages", "recovery/worstcase"), "untested"),
        (("recovery/hr", "recovery/worst"), "deep"),
    ],
)
def test_a_model_withstands_only_with_the_worst_case_measured(
    make_row: MakeRow, attacks: tuple[str, ...], level: str
) -> None:
    """Head recovery and feature mapping are passed by the control Rescale."""
    withstood = dict.fromkeys(attacks, (0.3, 0.9, 0.3, 0.9))
    rows = {name: make_row(name, (0.0, 0.9, 0.0, 0.92), withstood) for name in ("Retrain", "GA")}
    rows["Original"] = make_row("Original", (0.0, 0.9, 0.0, 0.92), dict.fromkeys(attacks, (0.9, 0.9, 0.9, 0.9)))
    row, found = rows["GA"], judge(rows["GA"], list(rows.values()))
    assert found.level == level
    assert found.good == found.withstood == (level == "deep")
    assert any("quick" in text and attacks[0] in text for text in remarks(row, found)) == (level == "untested")
    assert (title(found) == "Not attacked enough") == (level == "untested")
    assert f"({attacks[0]})" in headline(row, found)
    rows["Retrain"].attacks = {k: v for k, v in rows["Retrain"].attacks.items() if "worst" not in k}
    if level == "deep":
        assert judge(row, list(rows.values())).level == "untested", "the worst case of Retrain is needed as well"
    row.attacks["relearn/forget_acc"], rows["Retrain"].attacks["relearn/forget_acc"] = 0.9, 0.3
    assert judge(row, list(rows.values())).level == "shallow", "one attack above Retrain is enough"


AUC = "detectability/samples/forget_auc"


def detected(make_row: MakeRow, found: float, retrain: float = 0.52, key: str = AUC, **fields: object) -> Verdict:
    """The verdict on a row that withstands recovery, and in which forgotten images are detected with that AUC."""
    withstood = {"recovery/worst": (0.33, 0.9, 0.33, 0.9)}
    rows = {name: make_row(name, (0.0, 0.9, 0.0, 0.92), withstood, **fields) for name in ("Original", "Retrain", "GA")}
    rows["Original"].attacks["recovery/worst/forget_acc"] = 0.9
    rows["Retrain"].attacks[key], rows["GA"].attacks[key] = retrain, found
    return judge(rows["GA"], list(rows.values()))


@pytest.mark.parametrize(
    ("found", "retrain", "kept"),
    [(0.56, 0.52, True), (0.58, 0.52, False), (0.80, 0.78, True), (0.54, 0.40, True), (0.3, 0.52, True)],
)
def test_a_model_whose_forgotten_images_are_detectable_has_not_withstood(
    make_row: MakeRow, found: float, retrain: float, kept: bool
) -> None:
    verdict = detected(make_row, found, retrain)
    assert verdict.level == "deep"
    assert verdict.utility == "kept"
    assert verdict.good == verdict.withstood == (verdict.leakage is None) == kept
    assert title(verdict) == ("Withstood these attacks" if kept else "Detectable")


def test_an_auc_of_retrain_below_one_half_counts_as_one_half_and_is_named(make_row: MakeRow) -> None:
    assert detected(make_row, 0.54, retrain=0.40).leakage is None
    found = detected(make_row, 0.60, retrain=0.40)
    assert "an AUC of 0.60; on a model retrained without them, 0.40." in headline(Row("GA", "ok"), found)


def test_how_forgotten_images_are_detected_is_in_the_headline(
    make_row: MakeRow, original: Row, retrain: Row, shallow: Row
) -> None:
    for key in (AUC, "membership/margin/auc"):
        row, verdict = Row("GA", "ok"), detected(make_row, 0.9, key=key)
        assert headline(row, verdict) == (
            f"The forgotten images are detectable. {key.rpartition('/')[0]} separates the forget images from other "
            "images with an AUC of 0.90; on a model retrained without them, 0.52."
        )
        assert not any("AUC" in text for text in remarks(row, verdict))
    test = detected(make_row, 0.9, key=AUC.replace("forget", "test_forget"))
    assert "separates unseen images of the forgotten classes from" in headline(Row("GA", "ok"), test)
    shallow.attacks[AUC], retrain.attacks[AUC] = 0.9, 0.5
    found = judge(shallow, [original, retrain, shallow])
    assert headline(shallow, found).startswith("The strongest attack")
    assert any("The forgotten images are also detectable" in text for text in remarks(shallow, found))


@pytest.mark.parametrize(
    "key", ["relearn/few/auc", "detectability/samples/forget_entropy_auc", "detectability/classes/x_auc"]
)
def test_other_numbers_are_no_leakage(make_row: MakeRow, key: str) -> None:
    assert detected(make_row, 0.99, key=key).leakage is None


def test_an_auc_without_retrains_is_no_leakage(make_row: MakeRow, retrain: Row) -> None:
    row = make_row("GA", (0.0, 0.9, 0.0, 0.92), {"recovery/worst": (0.33, 0.9, 0.33, 0.9)})
    row.attacks[AUC] = 0.99
    assert judge(row, [retrain, row]).leakage is None
    assert judge(row, [row]).leakage is None


def test_few_images_widen_the_tolerance_of_an_auc(make_row: MakeRow) -> None:
    few = {"hash": "x", "forgotten_classes": [0, 1, 2], "counts": {"forget": 60, "test_retain": 60}}
    assert detected(make_row, 0.70, split=few).leakage is None
    assert detected(make_row, 0.95, split=few).leakage is not None


@pytest.mark.parametrize(("lead", "level"), [(0.0, "inconclusive"), (0.015, "inconclusive"), (0.2, "deep")])
def test_where_no_attack_separates_the_references_nothing_is_shown(make_row: MakeRow, lead: float, level: str) -> None:
    """Original keeps everything and would pass; so would the control HeadOnly."""
    retrained = {"recovery/worst": (0.75, 0.9, 0.75, 0.9)}
    leading = {"recovery/worst": (0.75 + lead, 0.9, 0.75 + lead, 0.9)}
    original = make_row("Original", (0.9, 0.9, 0.9, 0.92), leading)
    retrain = make_row("Retrain", (0.0, 0.9, 0.0, 0.92), retrained)
    row = make_row("HeadOnly", (0.0, 0.9, 0.0, 0.92), retrained)
    found = judge(row, [original, retrain, row])
    assert (found.level, found.withstood) == (level, level == "deep")
    assert any("Original" in text and "cannot" in text for text in remarks(row, found)) == (level == "inconclusive")
    assert judge(row, [retrain, row]).level == "deep", "without Original its lead is unknown"
