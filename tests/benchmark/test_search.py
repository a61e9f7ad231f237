"""Which trials come next: the reference, stratified points, an estimator's, and those beyond an edge."""

import math
import sys
from typing import Any

import pytest

from lit_unlearn import methods
from lit_unlearn.benchmark import Tuning
from lit_unlearn.benchmark import search as search_file
from lit_unlearn.benchmark.experiments import Experiments
from lit_unlearn.benchmark.runs import make_run
from lit_unlearn.benchmark.search import EXTENSIONS, Search
from lit_unlearn.benchmark.search_space import (
    Axis,
    Choice,
    Range,
    Ranges,
    Values,
    applicable,
    axes_of,
    own_values,
    values_of,
    variant_of,
)
from lit_unlearn.benchmark.trials import Outcome, Trial, final_winners, winners
from lit_unlearn.errors import UsageError
from lit_unlearn.shipped import read_config, shipped_names

RANGES: Ranges = (("lr", 1e-3, 0.1), ("weight", 0.1, 10.0), ("epochs", (3, 5, 10)))
OWN = {"lr": 0.01, "weight": 1.0, "epochs": 5}
BY_ACCURACY = {"attacks": None}


def search(ranges: Ranges, trials: int, **settings: Any) -> Search:
    return Search("OPC", axes_of(ranges), trials, ("opc",), Tuning(trials=trials, **settings))


def run(
    of: Search,
    own: Values,
    gap: Any,
    excess: Any = lambda values: 0.0,
    status: Any = lambda values: "ok",
    kept: float | None = None,
) -> list[Trial]:
    """All trials of a search, the scores of each being functions of its values."""
    tried: list[Trial] = []
    while len(points := of.points(own, tried)) > len(tried):
        assert points[: len(tried)] == [trial.values for trial in tried], "what was tried stays what it was"
        tried = [
            Trial(
                "class",
                "opc",
                values,
                of.drawn(place),
                gap=gap(values),
                excess=excess(values),
                status=status(values),
                kept=kept,
            )
            for place, values in enumerate(points)
        ]
    return tried


def test_the_first_trial_is_the_reference_and_half_are_stratified_before_any_is_run() -> None:
    points = search(RANGES, 80).points(OWN, [])
    assert points[0] == OWN
    assert len(points) == 40
    assert len({tuple(point.values()) for point in points}) == 40
    for name, low, high in (("lr", 1e-3, 0.1), ("weight", 0.1, 10)):
        values = [point[name] for point in points[1:]]
        assert all(low <= value <= high for value in values)
        assert 17 <= sum(value < math.sqrt(low * high) for value in values) <= 22, "evenly over the logarithm"
    epochs = [point["epochs"] for point in points[1:]]
    assert all(11 <= epochs.count(value) <= 15 for value in (3, 5, 10))
    assert search(RANGES, 6).points(OWN, []) == points[:3]
    assert search(RANGES, 6, seed=1).points(OWN, [])[1:] != points[1:3]
    assert search((), 12).points({}, []) == [{}]


@pytest.mark.parametrize(("trials", "first"), [(1, 1), (2, 2), (4, 2), (9, 5), (12, 6)])
def test_an_estimator_learns_from_the_first_half_and_then_after_each_trial(trials: int, first: int) -> None:
    tried = run(search(RANGES, trials, **BY_ACCURACY), OWN, lambda values: abs(values["lr"] - 0.01))
    assert [trial.drawn for trial in tried] == [
        "reference",
        *["stratified"] * (first - 1),
        *["estimated"] * (trials - first),
    ]
    assert len(search(RANGES, trials, sampler="qmc").points(OWN, [])) == trials


@pytest.mark.parametrize("optimum", [1e-4, 1e-2])
def test_an_estimator_searches_where_trials_came_near(optimum: float) -> None:
    def distance(values: Values) -> float:
        return abs(math.log10(values["lr"] / optimum))

    ranges = (("lr", 1e-5, 1.0),)
    tried = run(search(ranges, 20, **BY_ACCURACY), {"lr": 0.5}, distance)
    drawn, proposed = (
        [distance(trial.values) for trial in tried if trial.drawn == by] for by in ("stratified", "estimated")
    )
    assert sum(proposed) / len(proposed) < sum(drawn) / len(drawn) / 2
    assert tried == run(search(ranges, 20, **BY_ACCURACY), {"lr": 0.5}, distance), "the same trials on the way"
    other = run(search(ranges, 20, seed=1, **BY_ACCURACY), {"lr": 0.5}, distance)
    assert other[10:20] != tried[10:20]


def test_an_estimator_looks_at_both_scores_by_turns() -> None:
    """By accuracy a low rate is best, under attack a high one: proposals go to either side."""
    tried = run(
        search((("lr", 1e-5, 1.0),), 40),
        {"lr": 3e-3},
        lambda values: 2.0 * abs(math.log10(values["lr"] / 1e-4)),
        lambda values: 6.0 * abs(math.log10(values["lr"] / 1e-1)),
    )
    sides = [[trial.values["lr"] > 3e-3 for trial in tried[start:40:2]] for start in (20, 21)]
    by_accuracy, under_attack = (sum(side) / len(side) for side in sides)
    assert by_accuracy < 0.4 < 0.6 < under_attack


def test_an_estimator_keeps_off_what_diverged_and_what_leaves_the_original() -> None:
    tried = [
        Trial("class", "opc", {"lr": lr}, gap=9.0 if status == "pruned" else 1.0 if lr > 0.01 else 5.0, status=status)
        for lr, status in (
            (0.001, "ok"),
            (0.9, "diverged"),
            (0.5, "pruned"),
            (0.1, "pruned"),
            (0.003, "ok"),
            (5e-4, "ok"),
        )
    ]
    proposed = [
        search((("lr", 1e-4, 1.0),), 12, seed=seed, **BY_ACCURACY).points({"lr": 0.001}, tried)[-1]["lr"]
        for seed in range(40)
    ]
    assert sum(lr <= 0.01 for lr in proposed) >= 28


def test_a_setting_that_was_tried_is_not_proposed_again_and_the_budget_is_used() -> None:
    """Rounded to two digits, a narrow range has few settings, and an estimator proposes the best again."""
    of, own = search((("lr", 0.01, 0.015),), 6, **BY_ACCURACY), {"lr": 0.01}
    tried: list[Trial] = []
    while len(points := of.points(own, tried)) > len(tried):
        tried = [Trial("class", "opc", each, gap=abs(each["lr"] - 0.012), status="ok") for each in points]
    assert sorted(trial.values["lr"] for trial in tried[:6]) == [0.01, 0.011, 0.012, 0.013, 0.014, 0.015]
    few = search((("epochs", (3, 6)),), 6, **BY_ACCURACY)
    tried = [Trial("class", "opc", {"epochs": epochs}, gap=1.0, status="ok") for epochs in (3, 6)]
    assert few.points({"epochs": 3}, tried) == [{"epochs": 3}, {"epochs": 6}], "nothing is left"


def test_what_failed_says_nothing_and_a_reference_outside_the_ranges_is_left_out() -> None:
    tried = [Trial("class", "opc", {"lr": lr}) for lr in (0.5, 0.01)]
    assert 0.001 <= search((("lr", 1e-3, 0.1),), 4).points({"lr": 0.5}, tried)[-1]["lr"] <= 0.1


def test_without_optuna_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"lit_unlearn\[tune\]"):
        search(RANGES, 4).points(OWN, [])
    tried = [Trial("class", "opc", OWN, gap=1.0, excess=0.0, status="ok")] * 2
    with pytest.raises(UsageError, match=r"lit_unlearn\[tune\]"):
        search(RANGES, 4).points(OWN, tried)


def test_where_the_winner_lies_at_an_edge_the_range_is_extended_by_half_its_logarithm() -> None:
    of = search((("lr", 1e-4, 0.01),), 4, sampler="qmc", **BY_ACCURACY)
    tried = [
        Trial("class", "opc", {"lr": lr}, gap=gap, status="ok")
        for lr, gap in zip((1e-3, 2e-4, 0.0085, 3e-3), (4, 9, 2, 3), strict=True)
    ]
    points = of.points({"lr": 1e-3}, tried)
    assert points[4:] == [{"lr": 0.032}, {"lr": 0.1}], "middle and end of 0.01 to 0.1"
    tried += [Trial("class", "opc", {"lr": lr}, gap=gap, status="ok") for lr, gap in ((0.032, 1), (0.1, 5))]
    assert of.points({"lr": 1e-3}, tried) == points, "the winner is no longer at the edge"
    assert [str(one.after) for one in of.extensions(tried)] == ["lr 0.0001–0.1"]
    tried[-1].gap = 0.5
    again = of.points({"lr": 1e-3}, tried)
    assert again[6:] == [{"lr": 0.57}, {"lr": 3.2}]
    tried += [Trial("class", "opc", {"lr": lr["lr"]}, gap=0.1, status="ok") for lr in again[6:]]
    assert of.points({"lr": 1e-3}, tried) == again, "twice at most"
    assert EXTENSIONS == 2


def test_five_per_cent_of_the_logarithm_are_the_edge() -> None:
    axis = Range("lr", 1e-4, 0.01)
    assert [axis.edge(value) for value in (1e-4, 1.2e-4, 1.3e-4, 7.8e-3, 8e-3, 0.01)] == [
        "low",
        "low",
        None,
        None,
        "high",
        "high",
    ]
    assert axis.extended("low") == Range("lr", 1e-5, 0.01)


def test_no_range_is_extended_beyond_its_limits() -> None:
    share = Range("fraction", 0.1, 0.9, (0.01, 1.0))
    assert share.extended("high").high == 1.0
    assert share.extended("high").extended("high") == share.extended("high")
    of = search((("fraction", 0.1, 1.0, (0.1, 1.0)),), 2, sampler="qmc", **BY_ACCURACY)
    tried = [Trial("class", "opc", {"fraction": value}, gap=value, status="ok") for value in (0.1, 1.0)]
    assert len(of.points({"fraction": 0.1}, tried)) == 2
    assert Range("k", 2, 8).extended("high") == Range("k", 2, 16)
    assert Range("k", 2, 8).extended("low") == Range("k", 1, 8)


def test_the_winner_under_attack_may_extend_a_range_too() -> None:
    of = search((("lr", 1e-4, 0.01), ("weight", 1.0, 100.0)), 3, sampler="qmc")
    tried = [
        Trial("class", "opc", {"lr": 1e-3, "weight": 10.0}, gap=1.0, excess=50.0, status="ok"),
        Trial("class", "opc", {"lr": 2e-3, "weight": 98.0}, gap=4.0, excess=0.0, status="ok"),
        Trial("class", "opc", {"lr": 3e-3, "weight": 20.0}, status="diverged"),
    ]
    assert of.points({}, tried)[3:] == [{"lr": 2e-3, "weight": 320.0}, {"lr": 2e-3, "weight": 1000.0}]
    assert {name: tried.index(trial) for name, trial in winners(tried, of.tuning.criteria).items()} == {
        "accuracy": 0,
        "attack": 1,
    }


def test_both_winners_have_a_range_extended_by_turns() -> None:
    of = search((("lr", 1e-3, 0.1),), 3)
    tried = [
        Trial("class", "opc", {"lr": lr}, gap=gap, excess=excess, status="ok")
        for lr, gap, excess in ((0.1, 1.0, 50.0), (1e-3, 5.0, 0.0), (0.01, 3.0, 20.0))
    ]
    upwards = of.points({}, tried)[3:]
    assert upwards == [{"lr": 0.32}, {"lr": 1.0}], "the winner by accuracy first"
    still_at_the_edge = zip(upwards, (0.5, 0.4), strict=True)
    tried += [Trial("class", "opc", values, gap=gap, excess=60.0, status="ok") for values, gap in still_at_the_edge]
    assert of.points({}, tried)[5:] == [{"lr": 1.8e-4}, {"lr": 3.2e-5}], "then the one under attack"


def test_what_diverged_is_worse_than_all_that_was_measured(monkeypatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(search_file, "estimated", lambda axes, seed, scored: seen.append(scored) or {"lr": 0.05})
    of = search((("lr", 1e-3, 0.1),), 4)
    tried = [
        Trial("class", "opc", {"lr": 0.01}, gap=80.0, excess=60.0, status="ok"),
        Trial("class", "opc", {"lr": 0.1}, status="diverged"),
        Trial("class", "opc", {"lr": 0.02}, gap=70.0, excess=60.0, status="ok"),
    ]
    of.points({}, tried)
    assert [score for _, score in seen[0]] == [140.0, 140.0, 130.0]


def test_where_nothing_tried_changes_anything_higher_rates_are_tried_and_the_reference_stands() -> None:
    of = search((("lr", 1e-5, 1e-3), ("weight", 1.0, 100.0)), 3)
    tried = run(of, {"lr": 1e-4, "weight": 1.0}, lambda values: 6.0, status=lambda values: "pruned", kept=1.0)
    assert [trial.values for trial in tried[3:]] == [{"lr": lr, "weight": 1.0} for lr in (3.2e-3, 0.01, 0.057, 0.32)]
    assert [tried.index(trial) for trial in winners(tried, of.tuning.criteria).values()] == [0, 0]
    tried[3].status, tried[3].gap = "ok", 79.0
    assert tried.index(winners(tried, of.tuning.criteria)["accuracy"]) == 0, "to ruin the model is no better"
    tried[3].gap = 5.0
    assert tried.index(winners(tried, of.tuning.criteria)["accuracy"]) == 3


def test_a_winner_that_forgets_nothing_is_tried_at_rates_between_its_own_and_the_next_that_does_something() -> None:
    of = search((("lr", 1e-4, 0.1), ("weight", 1.0, 100.0)), 4, **BY_ACCURACY)

    def tried(lr: float, gap: float, kept: float | None, status: Any = "ok") -> Trial:
        return Trial("class", "opc", {"lr": lr, "weight": 10.0}, gap=gap, kept=kept, status=status)

    first = [tried(1e-3, 7.0, 1.0), tried(2e-3, 6.9, 0.95), tried(1e-4, 6.0, 1.0), tried(0.054, 40.0, -3.0)]
    added = [0.006, 0.018]
    assert [values["lr"] for values in of.points({}, first)[4:]] == added, "thirds of the way from 0.002 to 0.054"
    assert [values["weight"] for values in of.points({}, first)[4:]] == [10.0, 10.0]
    assert of.extensions(first) == []
    diverged = [*first[:3], tried(0.054, 40.0, None, "diverged")]
    assert [values["lr"] for values in of.points({}, diverged)[4:]] == added
    between = [*first, tried(0.006, 5.0, 0.91), tried(0.018, 30.0, -1.0)]
    assert [values["lr"] for values in of.points({}, between)[6:]] == [0.0087, 0.012], "and once more"
    found = [*first, tried(0.006, 6.8, 0.91), tried(0.018, 1.0, 0.2)]
    assert len(of.points({}, found)) == 6, "the winner forgets"
    near = [*first[:3], tried(0.00201, 40.0, -3.0)]
    assert len(of.points({}, near)) == 4, "nothing lies between two digits"


def test_what_is_too_much_for_other_settings_does_not_bound_the_rates_of_a_winner() -> None:
    of = search((("lr", 1e-4, 0.1), ("weight", 1.0, 100.0)), 3, **BY_ACCURACY)

    def tried(lr: float, weight: float, gap: float, kept: float) -> Trial:
        return Trial("class", "opc", {"lr": lr, "weight": weight}, gap=gap, kept=kept, status="ok")

    first = [tried(1e-4, 1.0, 6.0, 1.0), tried(3e-4, 90.0, 40.0, -3.0), tried(1e-3, 1.0, 6.5, 1.0)]
    added = of.points({}, first)[3:]
    assert added == [{"lr": lr, "weight": 1.0} for lr in (4.6e-3, 0.022)], "thirds of the way from .001 to the end, .1"
    nothing = [tried(values["lr"], 1.0, 7.0, 1.0) for values in added]
    further = of.points({}, [*first, *nothing])[5:]
    assert further == [{"lr": lr, "weight": 1.0} for lr in (0.036, 0.06)]
    at_end = [*first, tried(4.6e-3, 1.0, 7.0, 1.0), tried(0.1, 1.0, 7.0, 1.0)]
    assert [values["lr"] for values in of.points({}, at_end)[5:]] == [0.57, 3.2], "and beyond"


def test_without_a_rate_or_anything_that_forgets_the_range_goes_on() -> None:
    of = search((("lr", 1e-4, 0.01),), 3, **BY_ACCURACY)
    tried = [Trial("class", "opc", {"lr": lr}, gap=6.0, kept=1.0, status="ok") for lr in (1e-4, 1e-3, 3e-3)]
    assert [values["lr"] for values in of.points({}, tried)[3:]] == [0.032, 0.1], "the winner lies at the other end"
    of = search((("dampening", 0.1, 1.0),), 2, **BY_ACCURACY)
    tried = [Trial("class", "opc", {"dampening": value}, gap=value, kept=1.0, status="ok") for value in (0.1, 1.0)]
    assert [values["dampening"] for values in of.points({}, tried)[2:]] == [0.057, 0.032]


def test_the_same_search_runs_the_same_way_with_its_extensions() -> None:
    of = search((("lr", 1e-4, 0.01), ("epochs", (3, 5))), 8)
    runs = [run(of, {"lr": 1e-3, "epochs": 3}, lambda values: 1 / values["lr"]) for _ in range(2)]
    assert runs[0] == runs[1]
    assert [trial.drawn for trial in runs[0]].count("extended") == 4


SETTINGS = {
    "model": {
        "init_args": {
            "optimizer": {"init_args": {"lr": 0.001}},
            "lr_scheduler": {"init_args": {"T_max": 5, "base_lr": 3.333e-4, "max_lr": 1e-3, "eta_min": 5e-5}},
            "weight": 7,
        }
    },
    "data": {"init_args": {"batch_size": 64, "forget_batch_size": None}},
    "trainer": {"max_epochs": 5},
}
SCHEDULER = "model.init_args.lr_scheduler.init_args"


def test_a_scheduler_goes_with_epochs_and_rate_and_the_reference_stays_as_it_is() -> None:
    axes = axes_of((*RANGES, ("forget_batch_size", (32, 64))))
    own = own_values(SETTINGS, axes)
    assert own == {"lr": 0.001, "weight": 7, "epochs": 5, "forget_batch_size": 64}
    reference = variant_of(SETTINGS, own)
    assert {place: value for place, value in reference.items() if place.startswith(SCHEDULER)} == {
        f"{SCHEDULER}.T_max": 5,
        f"{SCHEDULER}.base_lr": 3.333e-4,
        f"{SCHEDULER}.max_lr": 1e-3,
        f"{SCHEDULER}.eta_min": 5e-5,
    }
    assert variant_of(SETTINGS, {"lr": 0.02, "epochs": 10}) == {
        "model.init_args.optimizer.init_args.lr": 0.02,
        "trainer.max_epochs": 10,
        f"{SCHEDULER}.T_max": 10,
        f"{SCHEDULER}.base_lr": 6.666e-3,
        f"{SCHEDULER}.max_lr": 0.02,
        f"{SCHEDULER}.eta_min": 1e-3,
    }
    steps = {**SETTINGS, "trainer": {"max_epochs": 8}}
    assert f"{SCHEDULER}.T_max" not in variant_of(steps, {"epochs": 10}), "no cosine over the epochs"


@pytest.mark.parametrize(("epochs", "steps"), [(3, [3, 5, 9]), (6, [6, 10, 18]), (10, [10, 17, 30]), (1, [1, 2, 3])])
def test_milestones_keep_their_share_of_the_epochs(epochs: int, steps: list[int]) -> None:
    scheduler = {"lr_scheduler": {"init_args": {"milestones": [3, 5, 9]}}}
    settings = {"model": {"init_args": scheduler}, "trainer": {"max_epochs": 3}}
    assert variant_of(settings, {"epochs": epochs}) == {"trainer.max_epochs": epochs, f"{SCHEDULER}.milestones": steps}
    assert f"{SCHEDULER}.milestones" not in variant_of(settings, {"lr": 0.1})


def test_a_run_is_labelled_by_what_is_searched_and_not_by_what_goes_with_it() -> None:
    scheduler = {"lr_scheduler": {"init_args": {"milestones": [3, 5, 9]}}}
    settings = {"model": {"init_args": scheduler}, "trainer": {"max_epochs": 3}}
    variant = variant_of(settings, {"epochs": 6, "lr": 0.0123, "freeze_batchnorm": True})
    run = make_run("fit", "class", "scrub", {"original": 0}, settings, {}, variant, reports=True)
    assert run.label == "class/scrub (original 0, epochs 6, lr 0.0123, freeze_batchnorm 1)"


def test_a_setting_of_a_scheduler_is_searched_where_there_is_that_scheduler() -> None:
    axes = axes_of((("lr", 1e-4, 0.01), ("lr_step_size", (1, 5, 10))))
    assert [axis.name for axis in applicable(axes, SETTINGS)] == ["lr"]
    stepping = {"lr_scheduler": {"init_args": {"step_size": 1}}, "optimizer": {"init_args": {"lr": 0.001}}}
    settings = {"model": {"init_args": stepping}}
    assert applicable(axes, settings) == axes
    assert own_values(settings, axes) == {"lr": 0.001, "lr_step_size": 1}
    variant = variant_of(settings, {"lr": 0.002, "lr_step_size": 5})
    assert variant[f"{SCHEDULER}.step_size"] == 5
    assert values_of(variant) == {"lr": 0.002, "lr_step_size": 5}


METHODS = sorted(set(methods.__all__) - {"Audit", "UnlearnModule"})


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_would_have_tuned_is_its_own_argument_with_a_range(name: str) -> None:
    method = getattr(methods, name)
    common = ("lr", "lr_step_size", "epochs", "batch_size", "forget_batch_size")
    for axis in axes_of(method.search):
        assert axis.name in common or axis.name in method.__init__.__code__.co_varnames, axis
        if isinstance(axis, Range):
            assert 0 < axis.low < axis.high
            assert axis.limits[0] <= axis.low < axis.high <= axis.limits[1]
        else:
            assert isinstance(axis, Choice)
            assert list(axis.values) == sorted(set(axis.values))


def test_every_method_has_something_to_tune_but_for_the_reference_models_and_a_control() -> None:
    assert {name for name in methods.__all__ if not getattr(methods, name).search} == {
        "Audit",
        "Pretrain",
        "Rescale",
        "UnlearnModule",
    }


@pytest.mark.parametrize(
    ("declared", "most", "left"),
    [
        (("epochs", (3, 10, 30, 100)), 20, Choice("epochs", (3, 10))),
        (("epochs", (3, 10)), 1, Choice("epochs", (3,))),
        (("epochs", 2, 50), 20, Range("epochs", 2, 20, (0.0, 20))),
        (("weight", 2.0, 50.0), 20, Range("weight", 2.0, 50.0)),
    ],
)
def test_epochs_are_searched_up_to_a_limit(declared: Any, most: float, left: Axis) -> None:
    assert axes_of([declared], most) == (left,)


@pytest.mark.parametrize("name", [name.removeprefix("model/") for name in shipped_names() if name.startswith("model/")])
def test_the_ranges_hold_the_reference_setting(name: str) -> None:
    method = str(read_config(f"model/{name}")["model"]["class_path"])
    axes = axes_of(getattr(methods, method).search)
    settings = Experiments({"class": "base/fashion_mnist_class"}, None).settings("class", name)
    own = own_values(settings, axes)
    assert own.keys() == {axis.name for axis in axes}
    for axis in axes:
        assert own[axis.name] in axis, axis


def test_a_ruined_network_wins_under_attack_only_among_ruined_ones() -> None:
    def tried(*lost: float | None) -> list[Trial]:
        scores = ((9.0, 1.0), (3.0, 20.0), (8.0, 12.0))  # gap, excess
        return [
            Trial("class", "opc", {"lr": 0.01}, gap=gap, excess=excess, lost=each, status="ok")
            for (gap, excess), each in zip(scores, lost, strict=True)
        ]

    def won(trials: list[Trial]) -> tuple[int, int]:
        found = winners(trials, ("accuracy", "attack"))
        return trials.index(found["accuracy"]), trials.index(found["attack"])

    assert won(tried(4.9, 1.0, 1.0)) == (1, 0)
    assert won(tried(5.1, 1.0, 1.0)) == (1, 2)
    assert won(tried(5.1, 9.0, 1.0)) == (1, 2), "by accuracy the gap alone counts"
    assert won(tried(5.1, 9.0, 30.0)) == (1, 0), "all are ruined"
    assert won(tried(None, None, None)) == (1, 0), "it is unknown"


def test_the_best_by_each_way_to_choose_are_finalists_once_all_trials_have_ended() -> None:
    of, own = search((("weight", 0.1, 10.0),), 4, sampler="qmc", finalists=1), {"weight": 1.0}
    scores = [(1.0, 9.0), (2.0, 3.0), (3.0, 1.0), (9.0, 9.0)]  # gap, excess
    tried = [
        Trial("class", "opc", values, gap=gap, excess=excess, status="ok")
        for values, (gap, excess) in zip(of.points(own, []), scores, strict=True)
    ]
    assert of.finalists(of.points(own, tried[:3]), tried[:3]) == [], "a trial is still to come"
    assert of.finalists(of.points(own, tried), tried) == [tried[0], tried[2]]
    two = search((("weight", 0.1, 10.0),), 4, sampler="qmc", finalists=2)
    assert two.finalists(two.points(own, tried), tried) == tried[:3]
    none = search((("weight", 0.1, 10.0),), 4, sampler="qmc")
    assert none.finalists(none.points(own, tried), tried) == []
    assert search((), 4, finalists=1).finalists([{}], [Trial("class", "rescale", {}, gap=1.0, status="ok")]) == []


def test_between_finalists_the_mean_over_the_models_decides() -> None:
    def outcome(gap: float, excess: float, lost: float = 0.0, status: Any = "ok") -> Outcome:
        return Outcome(gap=gap, excess=excess, lost=lost, status=status)

    def trial(key: str, *again: Outcome, gap: float, excess: float = 1.0) -> Trial:
        return Trial("class", "opc", {}, again=list(again), gap=gap, excess=excess, lost=0.0, status="ok", key=key)

    def won(*trials: Trial) -> list[str]:
        return [trial.key for trial in final_winners(trials, ("accuracy", "attack")).values()]

    first, second = trial("a", gap=1.0), trial("b", gap=2.0)
    assert won(first, second) == ["a", "a"], "without finalists one model decides"
    lucky = trial("a", outcome(9.0, 1.0), gap=1.0)
    steady = trial("b", outcome(3.0, 1.0), gap=2.0)
    assert won(lucky, steady, trial("c", gap=0.0)) == ["b", "b"], "and what is no finalist cannot win"
    collapsed = trial("a", outcome(1.0, 0.0, lost=11.0), gap=1.0, excess=0.0)
    assert won(collapsed, steady) == ["a", "b"], "its utility is damaged on average"
    assert won(trial("a", outcome(0.0, 0.0, status="diverged"), gap=0.0), steady) == ["b", "b"]
    assert won(trial("a", outcome(1.0, 1.0, status="pruned"), gap=1.0), steady) == ["a", "a"]
    unknown = trial("a", Outcome(gap=1.0, status="ok"), gap=1.0, excess=0.0)
    assert won(unknown, steady) == ["a", "b"], "it was not attacked on one of the models"


def test_a_seed_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"tuning\.seed is -1, but must lie in 0 to"):
        Tuning(seed=-1)
