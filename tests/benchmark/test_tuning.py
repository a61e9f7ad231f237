import json
import math
import sys

import fake_runs
import pytest

from lit_unlearn import methods
from lit_unlearn.benchmark import Grid, Launcher, Run, Tuning, execute
from lit_unlearn.benchmark.gathering import collect
from lit_unlearn.benchmark.settings import look_up
from lit_unlearn.benchmark.tuning import Trial, draw, judge, trial_runs, write_winners
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row
from lit_unlearn.shipped import read_config

RANGES = {"OPC": (("lr", 1e-3, 0.1), ("weight", 0.1, 10.0)), "GA": (("lr", 1e-5, 1e-3),)}
LR = "model.init_args.optimizer.init_args.lr"


SETTINGS = {"model": {"init_args": {"optimizer": {"init_args": {"lr": 0.5}}, "weight": 7}}}


def test_a_trial_is_the_experiment_as_it_stands_and_then_points_within_the_ranges():
    trials = draw(SETTINGS, RANGES["OPC"], Tuning(trials=40), 40)
    assert trials[0] == {LR: 0.5, "model.init_args.weight": 7}
    assert len({tuple(trial.values()) for trial in trials}) == 40
    for place, low, high in ((LR, 1e-3, 0.1), ("model.init_args.weight", 0.1, 10)):
        values = [trial[place] for trial in trials[1:]]
        assert all(low <= value <= high for value in values)
        below = sum(value < math.sqrt(low * high) for value in values)
        assert 17 <= below <= 22, "evenly over the logarithm"
    assert draw(SETTINGS, RANGES["OPC"], Tuning(trials=3), 3) == trials[:3]
    assert draw(SETTINGS, RANGES["OPC"], Tuning(trials=3, seed=1), 3) != trials[:3]
    assert draw(SETTINGS, (), Tuning(trials=3), 3) == [{}]


@pytest.mark.parametrize(("trials", "rounds"), [(1, [1]), (2, [2]), (4, [2, 3, 4]), (9, [5, 6, 7, 8, 9])])
def test_an_estimator_learns_from_the_first_half_and_then_after_each_trial(trials, rounds):
    assert Tuning(trials=trials, sampler="tpe").rounds == rounds
    assert Tuning(trials=trials).rounds == [trials]


def learnt(optimum: float, trials: int, seed: int = 0) -> list[Trial]:
    """The search for a learning rate by an estimator, the gap being the distance to an optimum in powers of ten."""
    tuning, tried = Tuning(trials=trials, sampler="tpe", seed=seed), []
    for count in tuning.rounds:
        points = draw(SETTINGS, (("lr", 1e-5, 1.0),), tuning, count, tried)
        assert [{"lr": point[LR]} for point in points[: len(tried)]] == [trial.values for trial in tried]
        assert len(points) == count
        gaps = [abs(math.log10(point[LR] / optimum)) for point in points]
        tried = [
            Trial("class", "opc", {"lr": point[LR]}, gap, status="ok") for point, gap in zip(points, gaps, strict=True)
        ]
    return tried


@pytest.mark.parametrize("optimum", [1e-4, 1e-2])
def test_an_estimator_searches_where_trials_came_near(optimum):
    trials = learnt(optimum, 20)
    drawn, proposed = trials[1:10], trials[10:]
    mean = [sum(trial.gap for trial in part) / len(part) for part in (drawn, proposed)]
    assert mean[1] < mean[0] / 2
    assert trials == learnt(optimum, 20), "the same trials on the way"
    assert trials[10:] != learnt(optimum, 20, seed=1)[10:]


def test_an_estimator_keeps_off_what_diverged():
    ranges, tuning = (("lr", 1e-4, 1.0),), Tuning(trials=12, sampler="tpe")
    tried = [
        Trial("class", "opc", {"lr": lr}, None if lr > 0.01 else 5.0, status="diverged" if lr > 0.01 else "ok")
        for lr in (0.001, 0.9, 0.5, 0.1, 0.003, 0.0005)
    ]
    proposed = [draw(SETTINGS, ranges, Tuning(12, 0.2, seed, "tpe"), 7, tried)[-1][LR] for seed in range(40)]
    assert sum(lr <= 0.01 for lr in proposed) >= 28
    assert draw(SETTINGS, ranges, tuning, 7, tried)[:6] == draw(SETTINGS, ranges, tuning, 6, tried)


def test_trials_of_an_estimator_are_cells_that_stay_what_they_were(experiments):
    grid, tuning = Grid(**experiments(opc={}, ga={})), Tuning(trials=4, sampler="tpe")
    known, before = [], []
    for count in tuning.rounds:
        runs = trial_runs(grid, tuning, RANGES, count, known)
        own = {run.key for run in runs}
        assert own >= set(before)
        assert sum("unlearning" in run.seeds for run in runs) == 4 * count, "of two methods in two scenarios"
        scores = {"opc": [0.7, 0.96, 0.87, 0.8][:count], "ga": [-0.9, 0.8, 0.8, 0.7][:count]}
        known, before = judge(runs, rows_of(runs, scores)), own
    assert [trial.gap is None for trial in known if trial.experiment == "ga"] == [True, False, False, False] * 2


def test_an_estimator_without_optuna_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    tried = [Trial("class", "opc", {"lr": 0.1}, 1.0, status="ok")] * 2
    with pytest.raises(UsageError, match=r"lit_unlearn\[tune\]"):
        draw(SETTINGS, (("lr", 1e-4, 1.0),), Tuning(sampler="tpe"), 3, tried)


def test_every_trial_is_tested_on_the_training_set_alone_and_measured_against_a_retrain_of_the_same_data(experiments):
    runs = trial_runs(Grid(**experiments(opc={}, ga={}, msg={})), Tuning(trials=3, share=0.25), RANGES)
    assert all(look_up(run.settings, "data.init_args.test_from_train") == 0.25 for run in runs)
    counts = [sum(run.name == name and run.scenario == "class" for run in runs) for name in ("opc", "ga", "msg")]
    assert counts == [3, 3, 1]
    assert len({run.key for run in runs}) == len(runs)


def rows_of(runs: list[Run], scores: dict[str, list[float]]) -> list[Row]:
    """A Retrain that scores .9, and for each experiment its trials' test accuracies."""
    rows = []
    for scenario in ("class", "random"):
        told = {"scenario": scenario, "experiment": "references", "key": scenario, "seeds": {}}
        metrics = {"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": 0.9}
        rows.append(Row("Retrain", "ok", metrics=metrics, benchmark=told))
        for name, values in scores.items():
            own = [run for run in runs if (run.scenario, run.name) == (scenario, name)]
            for run, value in zip(own, values, strict=True):
                told = {"scenario": scenario, "experiment": name, "key": run.key, "seeds": {}}
                status = "ok" if value >= 0 else "diverged"
                measured = {"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": abs(value)}
                rows.append(Row(name.upper(), status, metrics=measured, benchmark=told))
    return rows


def test_the_smallest_gap_to_retrain_wins_in_each_scenario_and_nothing_that_diverged(experiments):
    runs = trial_runs(Grid(**experiments(opc={}, ga={})), Tuning(trials=3), RANGES)
    trials = judge(runs, rows_of(runs, {"opc": [0.7, 0.96, 0.87], "ga": [-0.9, -0.9, -0.9]}))
    opc = [trial for trial in trials if (trial.scenario, trial.experiment) == ("random", "opc")]
    assert [trial.won for trial in opc] == [False, False, True]
    assert [trial.gap for trial in opc] == pytest.approx([20 / 3, 2, 1])
    ga = [trial for trial in trials if trial.experiment == "ga"]
    assert not any(trial.won for trial in ga)
    assert {(trial.status, trial.gap) for trial in ga} == {("diverged", None)}


def test_of_equal_trials_the_first_wins_and_one_without_a_row_has_failed(experiments):
    runs = trial_runs(Grid(**experiments(opc={})), Tuning(trials=3), RANGES)
    rows = [
        row
        for row in rows_of(runs, {"opc": [0.8, 0.8, 0.9]})
        if row.metrics["test_retain_acc"] < 0.85 or row.method == "Retrain"
    ]
    trials = [trial for trial in judge(runs, rows) if trial.scenario == "class"]
    assert [(trial.status, trial.won) for trial in trials] == [("ok", True), ("ok", False), ("failed", False)]


def test_the_winner_is_written_as_an_experiment_and_the_log_holds_every_trial(experiments, tmp_path):
    folder = experiments(("class",), opc={})
    grid, tuning = Grid(**folder), Tuning(trials=3)
    runs = trial_runs(grid, tuning, RANGES)
    assert execute(runs, tmp_path, fake_runs.run, Launcher(workers=2), lambda progress: None) == {}
    trials = judge(runs, collect(runs, tmp_path))
    trials[0].won, trials[2].won = False, True
    write_winners(grid, tuning, runs, trials, tmp_path)
    log = json.loads((tmp_path / "tuning.json").read_text())
    assert [trial["won"] for trial in log["trials"]] == [False, False, True]
    assert log["tuning"] == {"trials": 3, "share": 0.2, "seed": 0, "sampler": "qmc"}
    (line,) = [line for line in (tmp_path / "tuning.md").read_text().splitlines() if line.startswith("| opc |")]
    assert line.count(":") == 3
    assert line.endswith("** |")
    written = read_config(f"{tmp_path}/tuned.yaml#class/opc")
    assert written["trainer"] == {"max_epochs": 2}
    assert look_up(written, LR) == trials[2].values["lr"]
    assert look_up(written, "model.init_args.weight") == trials[2].values["weight"]
    assert look_up(written, "data.init_args.test_from_train") is None


def test_a_winner_on_data_of_the_grid_is_a_section_of_that_data(experiments, tmp_path):
    (tmp_path / "svhn.yaml").write_text("data: {init_args: {source: SVHN}}\n")
    grid = Grid(**experiments(("class",), opc={}), data=[str(tmp_path / "svhn.yaml")])
    runs = trial_runs(grid, Tuning(trials=1), RANGES)
    (trial,) = judge(runs, [])
    trial.won = True
    write_winners(grid, Tuning(trials=1), runs, [trial], tmp_path)
    assert read_config(f"{tmp_path}/tuned.yaml#svhn/class/opc")["model"]["class_path"] == "OPC"


@pytest.mark.parametrize("setting", [{"trials": 0}, {"share": 0.0}, {"share": 1.0}])
def test_a_search_out_of_range_is_one_line(setting):
    with pytest.raises(UsageError, match=f"tuning.{next(iter(setting))} is"):
        Tuning(**setting)


def test_a_sampler_that_there_is_not_is_one_line():
    with pytest.raises(UsageError, match=r"tuning\.sampler 'grid'.*qmc, tpe"):
        Tuning(sampler="grid")


def test_what_a_method_would_have_tuned_is_its_own_argument_with_a_range():
    for name in set(methods.__all__) - {"Audit", "UnlearnModule"}:
        method = getattr(methods, name)
        arguments = method.__init__.__code__.co_varnames
        for setting, low, high in method.search:
            assert 0 < low < high
            assert setting == "lr" or setting in arguments, (name, setting)
    untuned = {name for name in methods.__all__ if not getattr(methods, name).search}
    assert untuned == {"Audit", "Pretrain", "Rescale", "UnlearnModule"}


def test_a_search_takes_no_original_that_has_seen_what_it_holds_out(experiments):
    with pytest.raises(UsageError, match=r"grid\.original is 'prod\.pt', but it was trained on the images"):
        trial_runs(Grid(**experiments(opc={}), original="prod.pt"), Tuning(), RANGES)
