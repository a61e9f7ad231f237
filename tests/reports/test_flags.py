"""Flags that rows of references show: each raised by what it is for, and by nothing else."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_unlearn.reports import Row
from lit_unlearn.reports.flags import AT_EDGE, NORM_RATIO, flags
from lit_unlearn.reports.table import verdict_lines
from lit_unlearn.reports.verdict import judge

PAGE = Path(__file__).parents[2] / "docs/verdict.md"
NAMES = (
    *("random answers", "fading features", "blind attacks", "no power", "rate at the edge", "broken by relearning"),
    *(
        "retrain knows",
        "knows the classes",
        "masked gradients",
        "large weights",
        "weak inversion",
        "poor original",
        "forgotten original",
        "poor retrain",
        "small change",
        "few steps",
        "cut short",
    ),
)
Numbers = dict[str, float]


@pytest.fixture
def flagged(original: Row, retrain: Row, shallow: Row) -> Callable[..., dict[str, str]]:
    """The flags of a model whose attacks, and those of Original and Retrain, have some numbers more."""

    def found(
        model: Numbers | None = None,
        of_retrain: Numbers | None = None,
        of_original: Numbers | None = None,
        split: dict[str, Any] | None = None,
        **fields: Any,
    ) -> dict[str, str]:
        rows = [
            replace(row, attacks={**row.attacks, **(more or {})}, **(fields if row is shallow else {}))
            for row, more in ((original, of_original), (retrain, of_retrain), (shallow, model))
        ]
        rows = [replace(row, split=split or row.split) for row in rows]
        judged = judge(rows[-1], rows)
        assert judged.as_json("").get("flags", {}) == judged.flags
        lines = [line for line in verdict_lines(rows) if "Flag, " in line]
        said = [f"{n}: {t}{'' if t.endswith('?') else '.'}" for n, t in judged.flags.items()]
        assert [line.partition("Flag, ")[2] for line in lines] == said
        return dict(judged.flags)

    return found


def test_an_honest_row_has_none(flagged: Callable[..., dict[str, str]]) -> None:
    ratio = {NORM_RATIO: 0.8}
    assert flagged(ratio, ratio) == {}


def test_inversion_that_is_no_better_than_the_mean_colour_says_nothing(flagged: Callable[..., dict[str, str]]) -> None:
    delta = {"inversion/delta/psnr": 6.0, "inversion/delta/psnr_floor": 9.6}
    oracle = {"inversion/oracle/psnr": 7.1, "inversion/oracle/psnr_floor": 9.6}
    assert flagged({**delta, **oracle}) == {
        "weak inversion": "gradient inversion rebuilds images no better than their mean colour does (7.1 and 9.6 dB), "
        "and so says nothing here"
    }
    assert flagged({**delta, **oracle, "inversion/oracle/psnr": 20.0}) == {}


@pytest.mark.parametrize(("own", "word"), [(0.05, "smaller"), (12.0, "larger")])
def test_features_that_fade_are_named(flagged: Callable[..., dict[str, str]], own: float, word: str) -> None:
    found = flagged({NORM_RATIO: own}, {NORM_RATIO: 0.9})
    assert list(found) == ["fading features"]
    assert word in found["fading features"]
    assert flagged({NORM_RATIO: 0.2}, {NORM_RATIO: 0.9}) == {}
    assert flagged({NORM_RATIO: own}) == {}, "without Retrain's there is nothing to compare with"


def test_a_search_that_ends_at_its_edge_is_named(flagged: Callable[..., dict[str, str]]) -> None:
    found = flagged({f"relearn/adaptive{AT_EDGE}": 1.0, f"relearn/few{AT_EDGE}": 0.0})
    assert list(found) == ["rate at the edge"]
    assert found["rate at the edge"].startswith("relearn/adaptive got most")


def test_relearning_that_breaks_the_network_is_named(
    flagged: Callable[..., dict[str, str]], retrain: Row, shallow: Row
) -> None:
    name = "relearn/few/test_retain_acc"
    kept, lost = (row.metrics["test_retain_acc"] for row in (retrain, shallow))
    found = flagged({name: lost - 0.2}, {name: kept - 0.05})
    assert list(found) == ["broken by relearning"]
    assert found["broken by relearning"].startswith(
        "relearn/few costs a model 20 points of accuracy on retained test images"
    )
    assert "and Retrain 5: " in found["broken by relearning"]
    assert flagged({name: lost - 0.14}, {name: kept - 0.05}) == {}
    assert flagged({name: lost}, {name: kept + 0.3}) == {}, "where Retrain gains, the model has lost nothing"
    assert flagged({name: lost - 0.2}) == {}, "without Retrain's there is nothing to compare with"


def test_an_attack_that_fails_on_original_is_named(flagged: Callable[..., dict[str, str]]) -> None:
    name = "recovery/blind/test_forget_acc"
    found = flagged({name: 0.3}, {name: 0.3}, {name: 0.2})
    assert list(found) == ["blind attacks"]
    assert found["blind attacks"].startswith("recovery/blind found no more in Original")
    assert flagged({name: 0.3}, {name: 0.3}, {name: 0.9}) == {}


def test_a_retrain_that_has_seen_forgotten_images_is_named(flagged: Callable[..., dict[str, str]]) -> None:
    name = "membership/margin/auc"
    found = flagged({name: 0.9}, {name: 0.8}, {name: 0.9})
    assert list(found) == ["retrain knows"]
    assert "membership/margin" in found["retrain knows"]
    assert "0.80" in found["retrain knows"]
    assert flagged({name: 0.9}, {name: 0.52}, {name: 0.9}) == {}
    few = {"hash": "x", "forgotten_classes": [], "counts": {"forget": 20, "retain": 80, "test_retain": 20}}
    assert "retrain knows" in flagged({name: 0.9}, {name: 0.98}, {name: 0.9}, split=few)
    assert "retrain knows" not in flagged({name: 0.9}, {name: 0.65}, {name: 0.9}, split=few), "chance may be as much"


def test_one_retrain_of_several_that_has_seen_forgotten_images_is_named(original: Row, retrain: Row) -> None:
    name = "membership/margin/auc"
    images = {"split": {"hash": "x", "counts": {"forget": 300, "retain": 2700, "test_retain": 10000}}}
    several = [replace(retrain, attacks={name: value}, seed=seed, **images) for seed, value in enumerate([0.5] * 4)]
    one = replace(retrain, attacks={name: 0.7}, seed=9, **images)
    assert "retrain knows" not in flags([original], several, [], None, {})
    assert (
        "on one Retrain as well, with an AUC of 0.70"
        in flags([original], [*several, one], [], None, {})["retrain knows"]
    )
    for metric in ("forget_acc", "test_forget_acc"):
        classes = [replace(retrain, seed=seed, metrics={**retrain.metrics, metric: 0.0}) for seed in range(4)]
        seen = replace(classes[0], seed=9, metrics={**retrain.metrics, metric: 0.97})
        assert "retrain knows" not in flags([original], classes, [], None, {})
        said = flags([original], [*classes, seen], [], None, {})["retrain knows"]
        assert said.startswith("a Retrain classifies 97 % of the images of forgotten classes correctly")


def test_attacks_without_power_are_named(original: Row, retrain: Row, shallow: Row) -> None:
    same = replace(original, metrics=retrain.metrics, attacks=retrain.attacks)
    judged = judge(shallow, [same, retrain, shallow])
    assert list(judged.flags) == ["no power"]
    nothing = [replace(row, attacks={}) for row in (same, retrain, shallow)]
    assert judge(nothing[-1], nothing).flags == {}


def test_what_a_run_saw_by_itself_is_among_them(flagged: Callable[..., dict[str, str]]) -> None:
    assert flagged(flags={"random answers": "the answers differ"}) == {"random answers": "the answers differ"}


def test_the_page_names_all_flags() -> None:
    table = PAGE.read_text().partition("## Flags")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| \*([a-z ]+)\* \|", table, flags=re.MULTILINE)) == NAMES
    source = "".join(path.read_text() for path in Path(PAGE.parents[1] / "lit_unlearn").rglob("*.py"))
    assert all(f'"{name}"' in source for name in NAMES)
