"""A search as runs of a grid: budgets, what each trial is given, who wins, and what is written."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_runs
import pytest
import yaml

from lit_unlearn.benchmark import Grid, Launcher, Run, Tuning, execute
from lit_unlearn.benchmark.command import tune
from lit_unlearn.benchmark.gathering import collect
from lit_unlearn.benchmark.search import Search
from lit_unlearn.benchmark.search_space import Choice, Ranges
from lit_unlearn.benchmark.settings import look_up
from lit_unlearn.benchmark.trials import Trial
from lit_unlearn.benchmark.tuning import judge, searches_of, trial_runs
from lit_unlearn.benchmark.tuning_log import tables, write_log
from lit_unlearn.cli import declared_ranges
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row
from lit_unlearn.reports.rows import read_rows
from lit_unlearn.shipped import read_config

RANGES = {"OPC": (("lr", 1e-3, 0.1), ("weight", 0.1, 10.0)), "GA": (("lr", 1e-5, 1e-3),)}
LR = "model.init_args.optimizer.init_args.lr"
OWN = {"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.01}}, "weight": 1.0}
RATE = {"optimizer": {"class_path": "SGD", "init_args": {"lr": 1e-4}}}

Experiments = Callable[..., dict[str, Any]]
Searches = Mapping[tuple[str, str], Search]


def declared(class_path: str) -> Ranges:
    return RANGES.get(class_path, ())


def qmc(trials: int, **settings: Any) -> Tuning:
    return Tuning(**{"trials": trials, "sampler": "qmc", "attacks": None, **settings})


def searched(grid: Grid, tuning: Tuning) -> tuple[Searches, list[Run]]:
    searches = searches_of(grid, tuning, declared)
    return searches, trial_runs(grid, tuning, searches)


def rows_of(runs: list[Run], scores: dict[str, list[float]], leaks: dict[str, list[float]] | None = None) -> list[Row]:
    """A Retrain that scores .9, .3 once recovered, and of each trial its test accuracy and what is recovered."""
    rows = []
    for scenario in ("class", "random"):
        told: dict[str, Any] = {
            "scenario": scenario,
            "experiment": "references",
            "key": scenario,
            "seeds": {"original": 0},
        }
        metrics = {"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": 0.9}
        attacks = {"recovery/hr/forget_acc": 0.3, "recovery/hr/test_retain_acc": 0.3}
        rows.append(Row("Retrain", "ok", metrics=metrics, attacks=attacks, benchmark=told))
        for name, values in scores.items():
            own = [run for run in runs if (run.scenario, run.name, run.seeds["original"]) == (scenario, name, 0)]
            found = (leaks or {}).get(name, [0.3] * len(values))
            for run, value, leak in zip(own, values, found, strict=False):
                told = {"scenario": scenario, "experiment": name, "key": run.key, "seeds": {"original": 0}}
                measured = {"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": abs(value)}
                attacks = {"recovery/hr/forget_acc": leak, "recovery/hr/test_retain_acc": 0.3} if leaks else {}
                status: Any = "ok" if value >= 0 else "diverged"
                rows.append(Row(name.upper(), status, metrics=measured, attacks=attacks, benchmark=told))
    return rows


def test_the_smallest_gap_to_retrain_wins_in_each_scenario_and_nothing_that_diverged(experiments: Experiments) -> None:
    searches, runs = searched(Grid(**experiments(opc=OWN, ga=RATE)), qmc(3))
    trials = judge(runs, rows_of(runs, {"opc": [0.7, 0.96, 0.87], "ga": [-0.9, -0.9, -0.9]}), searches)
    opc = [trial for trial in trials if (trial.scenario, trial.experiment) == ("random", "opc")]
    assert [trial.won for trial in opc] == [[], [], ["accuracy"]]
    assert [trial.gap for trial in opc] == pytest.approx([20 / 3, 2, 1])
    assert [trial.excess for trial in opc] == [None] * 3
    assert [trial.drawn for trial in opc] == ["reference", "stratified", "stratified"]
    ga = [trial for trial in trials if trial.experiment == "ga"]
    assert not any(trial.won for trial in ga)
    assert {(trial.status, trial.gap) for trial in ga} == {("diverged", None)}


def test_one_set_of_trials_is_chosen_from_by_accuracy_and_under_attack(experiments: Experiments) -> None:
    searches, runs = searched(Grid(**experiments(("class",), opc=OWN)), qmc(3, attacks="attack/quick"))
    rows = rows_of(runs, {"opc": [0.9, 0.87, 0.84]}, {"opc": [0.9, 0.31, 0.2]})
    trials = judge(runs, rows, searches)
    assert [trial.gap for trial in trials] == pytest.approx([0, 1, 2])
    assert [trial.excess for trial in trials] == pytest.approx([60, 1, 0], abs=1e-9)
    assert [trial.lost for trial in trials] == pytest.approx([0, 3, 6])
    assert [trial.won for trial in trials] == [["accuracy"], ["attack"], []], "of two equal sums the first"
    ruined = rows_of(runs, {"opc": [0.9, 0.86, 0.84]}, {"opc": [0.9, 0.4, 0.2]})
    assert [trial.won for trial in judge(runs, ruined, searches)] == [["accuracy"], ["attack"], []], (
        "1.3 + 10, not 2 + 0: its utility is damaged"
    )
    rows[2].status = "diverged"
    (diverged,) = [trial for trial in judge(runs, rows, searches) if trial.status == "diverged"]
    assert (diverged.won, diverged.score("accuracy")) == ([], None)


def test_a_trial_that_was_pruned_counts_as_the_original_that_it_leaves(experiments: Experiments) -> None:
    searches, runs = searched(Grid(**experiments(("class",), opc=OWN)), qmc(3, attacks="attack/quick"))
    retrain, *own = rows_of(runs, {"opc": [0.87, 0.0, 0.84]}, {"opc": [0.0, 0.3, 0.7]})[:4]
    own[0].status, own[0].attacks = "pruned", {}
    (unknown, *_) = judge(runs, [retrain, *own], searches)
    assert unknown.score("accuracy") == pytest.approx(1)
    assert unknown.score("attack") is None, "no original is measured"
    original = replace(
        retrain, method="Original", attacks={"recovery/hr/forget_acc": 0.5, "recovery/hr/test_retain_acc": 0.3}
    )
    pruned, ruined, leaking = judge(runs, [original, retrain, *own], searches)
    assert [trial.excess for trial in (pruned, ruined, leaking)] == pytest.approx([20, 0, 40])
    assert [trial.gap for trial in (pruned, ruined, leaking)] == pytest.approx([1, 30, 2])
    assert (pruned.won, ruined.won, leaking.won) == (["accuracy", "attack"], [], []), "to ruin the model is no better"


def test_a_trial_is_told_how_much_of_originals_lead_on_the_forget_set_it_keeps(experiments: Experiments) -> None:
    searches, runs = searched(Grid(**experiments(("class",), opc=OWN)), qmc(3))
    retrain, *own = rows_of(runs, {"opc": [0.9, 0.9, 0.9]})[:4]
    original = replace(retrain, method="Original", metrics={**retrain.metrics, "forget_acc": 0.8})
    for row, named in zip(own, (0.8, 0.72, 0.0), strict=True):
        row.metrics["forget_acc"] = named
    assert [trial.kept for trial in judge(runs, [original, retrain, *own], searches)] == [1.0, 0.9, 0.0]
    assert [trial.kept for trial in judge(runs, [retrain, *own], searches)] == [None] * 3
    without_lead = replace(original, metrics=retrain.metrics)
    assert [trial.kept for trial in judge(runs, [without_lead, retrain, *own], searches)] == [None] * 3


def test_of_equal_trials_the_first_wins_and_one_without_a_row_has_failed(experiments: Experiments) -> None:
    searches, runs = searched(Grid(**experiments(opc=OWN)), qmc(3))
    rows = [
        row
        for row in rows_of(runs, {"opc": [0.8, 0.8, 0.9]})
        if row.metrics["test_retain_acc"] < 0.85 or row.method == "Retrain"
    ]
    trials = [trial for trial in judge(runs, rows, searches) if trial.scenario == "class"]
    assert [(trial.status, trial.won) for trial in trials] == [("ok", ["accuracy"]), ("ok", []), ("failed", [])]


def test_every_trial_is_tested_on_the_training_set_alone_and_measured_against_a_retrain_of_the_same_data(
    experiments: Experiments,
) -> None:
    _, runs = searched(Grid(**experiments(opc=OWN, ga=RATE, msg={})), qmc(3, share=0.25))
    assert all(look_up(run.settings, "data.init_args.test_from_train") == 0.25 for run in runs)
    counts = [sum(run.name == name and run.scenario == "class" for run in runs) for name in ("opc", "ga", "msg")]
    assert counts == [3, 3, 1]
    assert len({run.key for run in runs}) == len(runs)


def test_experiments_of_one_class_share_its_budget(experiments: Experiments) -> None:
    folder = experiments(("class",), opc=OWN, ga=RATE)
    text = Path(folder["experiments"]).read_text()
    Path(folder["experiments"]).write_text(text + text.partition("opc:")[2].join(("own:", "")).replace("ga:", "ga2:"))
    searches, _ = searched(Grid(**folder), Tuning(trials=12, attacks=None))
    assert {name: (search.trials, search.shared) for (_, name), search in searches.items()} == {
        "ga": (12, ("ga",)),
        "opc": (6, ("opc", "own")),
        "own": (6, ("opc", "own")),
    }


def test_every_trial_and_both_reference_models_are_attacked_alike_and_a_trial_may_be_ended_early(
    experiments: Experiments,
) -> None:
    quick = read_config("attack/quick")
    _, runs = searched(Grid(**experiments(("class",), opc=OWN)), qmc(2, attacks="attack/quick"))
    watch = {"class_path": "lit_unlearn.methods.pruning.NoEffectWatch"}
    attacked = [run for run in runs if run.reports]
    assert [run.name for run in attacked] == ["references", "opc", "opc"]
    for run in attacked:
        own = [] if run.name == "references" else [watch]
        assert run.settings["trainer"]["callbacks"] == [*quick["trainer"]["callbacks"], *own]
        assert run.settings["evaluation"]["suite"] == quick["evaluation"]["suite"]
    assert all(not run.settings["trainer"]["callbacks"] for run in runs if not run.reports)
    _, plain = searched(Grid(**experiments(("class",), opc=OWN)), qmc(2))
    assert [run.settings["trainer"]["callbacks"] for run in plain if run.reports] == [[], [watch], [watch]]


def test_settings_of_one_scenario_go_on_top_of_it_alone(experiments: Experiments) -> None:
    of_class = {"class": {"data": {"init_args": {"train_limit": 7}}}}
    _, runs = searched(Grid(**experiments(opc=OWN), scenario_overrides=of_class), qmc(2))
    limits = {(run.scenario, look_up(run.settings, "data.init_args.train_limit")) for run in runs if run.scenario}
    assert limits == {("class", 7), ("random", None)}
    with pytest.raises(UsageError, match=r"scenario_overrides 'clas'; did you mean 'class'"):
        searched(Grid(**experiments(opc=OWN), scenario_overrides={"clas": {}}), qmc(2))


def test_what_is_searched_can_be_given_for_an_experiment(experiments: Experiments) -> None:
    ranges = {"SCRUB": (("lr", 1e-4, 0.01), ("alpha", 0.1, 0.5, (0.01, 1.0)), ("msteps", (2, 3, 5)))}
    grid = Grid(**experiments(("class",), scrub=OWN))

    def axes(**own: Any) -> list[str]:
        searches = searches_of(grid, qmc(2, ranges={"scrub": own} if own else {}), ranges.__getitem__)
        return [str(axis) for axis in searches["class", "scrub"].axes]

    assert axes() == ["lr 0.0001–0.01", "alpha 0.1–0.5", "msteps 2, 3, 5"]
    assert axes(msteps=[7, 9], lr=[], alpha=[0.02, 1]) == ["alpha 0.02–1", "msteps 7, 9"]
    for own in ({}, {"alpha": [0.02, 1]}):
        of_scrub = {"scrub": {"lr": [], "msteps": [], **own}}
        (axis,) = searches_of(grid, qmc(2, ranges=of_scrub), ranges.__getitem__)["class", "scrub"].axes
        assert axis.limits == (0.01, 1.0), "where a range must not go beyond stays the method's"
    refused = {
        "gamma": ([1, 2], r"setting in tuning.ranges.scrub 'gamma' \(allowed: alpha, lr, msteps\)"),
        "lr": (
            [0.1, 0.01],
            r"tuning.ranges.scrub.lr is \[0.1, 0.01\], but must be two numbers, the lower first, above 0",
        ),
        "alpha": ([0.1, 2.0], r"tuning.ranges.scrub.alpha is \[0.1, 2.0\], .*, the lower first, from 0.01 to 1"),
    }
    for setting, (values, message) in refused.items():
        with pytest.raises(UsageError, match=message):
            axes(**{setting: values})
    searches = searches_of(
        grid, qmc(2, ranges={"scrub": {"lr": []}, "class/scrub": {"msteps": [7]}}), ranges.__getitem__
    )
    assert [axis.name for axis in searches["class", "scrub"].axes] == ["alpha", "msteps"]
    assert searches["class", "scrub"].axes[1].values == (7,)
    with pytest.raises(UsageError, match=r"experiment in tuning.ranges 'scrubs'; did you mean 'scrub'"):
        searches_of(grid, qmc(2, ranges={"scrubs": {}}), ranges.__getitem__)


def test_a_method_outside_the_package_is_searched_over_what_it_declares(
    experiments: Experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found in the folder that the command runs in, and one that is called OPC is not taken for ours."""
    (tmp_path / "smoothing.py").write_text(
        """from lit_unlearn.methods import FineTune

class Smooth(FineTune):
    search = (("push", 0.1, 10.0),)

class OPC:  # no method, so that other tests find one of this name
    search = (("pull", 1.0, 2.0),)
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
    own = {name: {"class_path": f"smoothing.{path}"} for name, path in (("smooth", "Smooth"), ("opc", "OPC"))}
    (tmp_path / "experiments.yaml").write_text(yaml.safe_dump({name: {"model": each} for name, each in own.items()}))
    grid = Grid({"class": "base/digits_class"}, "experiments.yaml")
    found = searches_of(grid, qmc(4, ranges={"smooth": {"push": [0.5, 5]}}), declared_ranges)
    assert [str(axis) for axis in found["class", "smooth"].axes] == ["push 0.5–5"]
    assert [str(axis) for axis in found["class", "opc"].axes] == ["pull 1–2"]
    assert {search.trials for search in found.values()} == {4}
    with pytest.raises(UsageError, match=r"smoothing has no class 'Smoth'; did you mean 'Smooth'"):
        declared_ranges("smoothing.Smoth")
    assert declared_ranges("lit_unlearn.methods.OPC") == declared_ranges("OPC") != ()


def test_a_search_over_a_grid_with_epochs_is_refused(experiments: Experiments) -> None:
    with pytest.raises(UsageError, match=r"grid.epochs is \[1, 2\], but a search sets the epochs itself"):
        searched(Grid(**experiments(opc=OWN), epochs=[1, 2]), qmc(2))


def test_no_more_than_twice_the_epochs_of_retrain_are_searched(experiments: Experiments) -> None:
    ranges = {"OPC": (("epochs", (2, 4, 5)),)}
    found = searches_of(Grid(**experiments(opc=OWN, retrain={})), qmc(2), ranges.__getitem__)
    assert found["class", "opc"].axes == (Choice("epochs", (2, 4)),), "Retrain has two epochs"


def test_trials_of_an_estimator_are_cells_that_stay_what_they_were(experiments: Experiments) -> None:
    grid, tuning = Grid(**experiments(opc=OWN, ga=RATE)), Tuning(trials=4, attacks=None)
    searches = searches_of(grid, tuning, declared)
    known: list[Trial] = []
    before: set[str] = set()
    for count in (2, 3, 4):
        runs = trial_runs(grid, tuning, searches, known)
        own = {run.key for run in runs}
        assert own >= before
        assert sum("unlearning" in run.seeds for run in runs) == 4 * count, "of two methods in two scenarios"
        scores = {"opc": [0.9, 0.6, 0.5, 0.4][:count], "ga": [0.9, -0.8, 0.6, 0.5][:count]}
        known, before = judge(runs, rows_of(runs, scores), searches), own
    assert trial_runs(grid, tuning, searches, known)[-1].key in before, "no winner at an edge: nothing comes next"
    assert [trial.gap is None for trial in known if trial.experiment == "ga"] == [False, True, False, False] * 2


def test_the_log_holds_every_trial_and_each_way_to_choose_has_its_experiments(
    experiments: Experiments, tmp_path: Path
) -> None:
    grid = Grid(**experiments(("class",), opc=OWN, retrain={"epochs": 7}))
    tuning = qmc(3, attacks="attack/quick")
    searches, runs = searched(grid, tuning)
    rows = rows_of(runs, {"opc": [0.9, 0.87, 0.5]}, {"opc": [0.9, 0.3, 0.3]})
    trials = judge(runs, rows, searches)
    write_log(grid, tuning, runs, trials, searches, rows, tmp_path)
    log = json.loads((tmp_path / "tuning.json").read_text())
    assert [trial["won"] for trial in log["trials"]] == [["accuracy"], ["attack"], []]
    assert [(trial["gap"], trial["excess"]) for trial in log["trials"]][:2] == [
        pytest.approx((0, 60)),
        pytest.approx((1, 0), abs=1e-9),
    ]
    assert log["tuning"] == {
        "trials": 3,
        "share": 0.2,
        "seed": 0,
        "sampler": "qmc",
        "attacks": "attack/quick",
        "ranges": {},
        "finalists": 0,
        "originals": 3,
    }
    assert (log["references"][0]["method"], log["references"][0]["gap"], log["references"][0]["excess"]) == (
        "Retrain",
        0,
        0,
    )
    assert log["searches"][0]["ranges"] == ["lr 0.001–0.1", "weight 0.1–10"]
    page = (tmp_path / "tuning.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| opc |")]
    assert line.startswith("| opc | 3 | lr 0.001–0.1; weight 0.1–10 | **lr 0.01, weight 1: 0.00 + 60.00** · _lr ")
    for place, name in enumerate(("accuracy", "attack")):
        sections = read_config(f"{tmp_path}/tuned_{name}.yaml")["class"]
        assert sections["retrain"] == read_config(str(grid.experiments))["retrain"], "a grid can take the file as it is"
        written = sections["opc"]
        assert written["trainer"] == {"max_epochs": 2}
        assert look_up(written, LR) == trials[place].values["lr"]
        assert look_up(written, "model.init_args.weight") == trials[place].values["weight"]
        assert look_up(written, "data.init_args.test_from_train") is None


def test_the_page_says_whose_budget_it_is_and_what_was_extended(experiments: Experiments) -> None:
    tuning = Tuning(trials=6, attacks=None)
    search = Search(
        "OPC",
        searches_of(Grid(**experiments(opc=OWN)), tuning, declared)["class", "opc"].axes,
        2,
        ("opc", "own"),
        tuning,
    )
    tried = [
        Trial("class", "opc", {"lr": lr, "weight": 1.0}, gap=gap, status=status)
        for lr, gap, status in ((0.01, 2.0, "ok"), (0.1, 1.0, "ok"), (0.32, 3.0, "pruned"), (1.0, 3.0, "ok"))
    ]
    (page,) = tables(tried, {("class", "opc"): search})
    assert (
        "| opc | 2 of 6, shared with own, 2 added | lr 0.001–0.1; weight 0.1–10; extended to lr 0.001–1 (2 trials) |"
        in page
    )
    assert "lr 0.32, weight 1: pruned" in page


def test_a_winner_on_data_of_the_grid_is_a_section_of_that_data(experiments: Experiments, tmp_path: Path) -> None:
    (tmp_path / "svhn.yaml").write_text("data: {init_args: {source: SVHN}}\n")
    grid, tuning = Grid(**experiments(("class",), opc=OWN), data=[str(tmp_path / "svhn.yaml")]), qmc(1)
    searches, runs = searched(grid, tuning)
    trials = judge(runs, [], searches)
    trials[0].won = ["accuracy"]
    write_log(grid, tuning, runs, trials, searches, [], tmp_path)
    assert read_config(f"{tmp_path}/tuned_accuracy.yaml#svhn/class/opc")["model"]["class_path"] == "OPC"


def test_a_search_is_a_command_that_goes_on_where_it_was_stopped(experiments: Experiments, tmp_path: Path) -> None:
    """The stand-in scores all alike, so that the reference wins and no range is extended."""
    given = experiments(("class",), opc=OWN, bad={"wish": "fail", **RATE})
    out = tmp_path / "out"
    words = [f"--grid={json.dumps(given)}", "--tuning.trials=4", "--tuning.attacks=null", f"--output={out}"]
    ranges = {**RANGES, "BAD": RANGES["GA"]}
    checks = []

    def accepted(subcommand: str, settings: Mapping[str, Any]) -> None:
        checks.append(settings["trainer"]["logger"]["init_args"]["version"])

    def search() -> list[str]:
        with pytest.raises(UsageError, match="of the runs failed"):
            tune(words, fake_runs.run, accepted, ranges.__getitem__)
        return (out / "journal").read_text().split()

    first = search()
    assert len(checks) == len(set(checks)), "each run is checked once"
    log = (out / "tuning.json").read_text()
    done = [trial for trial in json.loads(log)["trials"] if trial["experiment"] == "opc"]
    assert [trial["drawn"] for trial in done] == ["reference", "stratified", "estimated", "estimated"]
    assert len(first) == len(set(first)) == 3 + 4, "Original, Retrain, both measured, and four trials"
    lost = (out / "failures").read_text().split()
    assert len(lost) == len(set(lost)) == 4, "what failed is not tried again in this call"
    assert [trial["status"] for trial in json.loads(log)["trials"] if trial["experiment"] == "bad"] == ["failed"] * 4
    assert search() == first
    assert (out / "tuning.json").read_text() == log
    assert {row.status for row in read_rows(out / "rows.json")} == {"ok"}


def test_finalists_are_tried_on_other_originals_and_the_mean_decides(experiments: Experiments, tmp_path: Path) -> None:
    given = experiments(("class", "random"), opc=OWN, ga=RATE)
    nothing = {"random": ["opc", "ga"]}
    words = [f"--grid={json.dumps({**given, 'skip': nothing})}", "--tuning.trials=4", "--tuning.attacks=null"]
    words += ["--tuning.finalists=2", "--tuning.originals=3", "--launcher.workers=2", f"--output={tmp_path}"]
    tune(words, fake_runs.run, lambda *_: None, declared)
    done = (tmp_path / "journal").read_text().split()
    assert len(done) == len(set(done)) == 2 + 3 * 3 + 2 * (4 + 2 * 2), (
        "Retrain of the scenario without finalists, references of three seeds, trials, and finalists"
    )
    log = json.loads((tmp_path / "tuning.json").read_text())
    assert [each["original"] for each in log["references"] if each["scenario"] == "class"] == [0, 0, 1, 1, 2, 2]
    assert {each["gap"] for each in log["references"] if each["method"] == "Retrain"} == {0}, "each beside its own"
    for name in ("opc", "ga"):
        own = [trial for trial in log["trials"] if trial["experiment"] == name]
        assert [len(trial["again"]) for trial in own] == [2, 2, 0, 0], "of equal trials the first"
        assert [trial["won"] for trial in own] == [["accuracy"], [], [], []]
        assert {each["status"] for trial in own for each in trial["again"]} == {"ok"}
        gaps = [each["gap"] for each in own[0]["again"]]
        assert gaps == pytest.approx([0, 1 / 3]), "to the Retrain of the same original, which is attacked with seed 1"
    rows = {row.benchmark["key"]: row for row in read_rows(tmp_path / "rows.json")}
    repeated = [rows[each["key"]] for each in own[0]["again"]]
    assert [row.benchmark["seeds"] for row in repeated] == [{"original": n, "unlearning": n} for n in (1, 2)]
    assert "(of 3 models" in (tmp_path / "tuning.md").read_text()
    tune(words, fake_runs.run, lambda *_: None, declared)
    assert (tmp_path / "journal").read_text().split() == done
    assert json.loads((tmp_path / "tuning.json").read_text()) == log


def test_a_search_goes_on_from_its_rows_alone(experiments: Experiments, tmp_path: Path) -> None:
    """There are rows of the reference models of all originals, but not the models, which finalists of a method need."""
    given = experiments(("class",), opc=OWN, ga=RATE)
    words = [f"--grid={json.dumps(given)}", "--tuning.trials=2", "--tuning.attacks=null", "--tuning.finalists=1"]
    first, then = tmp_path / "first", tmp_path / "then"
    tune([*words, "--grid.methods=[opc]", f"--output={first}"], fake_runs.run, lambda *_: None, declared)
    then.mkdir()
    shutil.copy(first / "rows.json", then)
    tune([*words, f"--output={then}"], fake_runs.run, lambda *_: None, declared)
    log = json.loads((then / "tuning.json").read_text())["trials"]
    assert {(trial["experiment"], len(trial["again"])) for trial in log if trial["won"]} == {("opc", 2), ("ga", 2)}
    new = {row.benchmark["key"] for row in read_rows(then / "rows.json") if row.benchmark["experiment"] == "ga"}
    assert new < set((then / "journal").read_text().split())
    assert len((then / "journal").read_text().split()) == len(new) + 3, "the three originals alone"


def test_a_finalist_without_a_result_on_another_original_cannot_win(experiments: Experiments) -> None:
    grid, tuning = Grid(**experiments(("class",), opc=OWN)), qmc(2, finalists=1)
    searches, runs = searched(grid, tuning)
    known = judge(runs, rows_of(runs, {"opc": [0.9, 0.8]}), searches)
    (best, _), runs = (run for run in runs if "unlearning" in run.seeds), trial_runs(grid, tuning, searches, known)
    again = [run for run in runs if "unlearning" in run.seeds and run.seeds["original"] > 0]
    assert [run.variant for run in again] == [best.variant] * 2
    found = judge(runs, rows_of(runs, {"opc": [0.9, 0.8]}), searches)
    assert [(len(trial.again), trial.won) for trial in found] == [(2, []), (0, [])]
    assert [each.status for each in found[0].again] == ["failed"] * 2


@pytest.mark.parametrize(
    "setting", [{"trials": 0}, {"share": 0.0}, {"share": 1.0}, {"finalists": -1}, {"originals": 1}]
)
def test_a_search_out_of_range_is_one_line(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"tuning.{next(iter(setting))} is"):
        Tuning(**setting)


def test_a_sampler_that_there_is_not_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"tuning\.sampler 'grid'.*qmc, tpe"):
        Tuning(sampler="grid")  # type: ignore[arg-type]


def test_a_search_takes_no_original_that_has_seen_what_it_holds_out(experiments: Experiments) -> None:
    with pytest.raises(UsageError, match=r"grid\.original is 'prod\.pt', but it was trained on the images"):
        searched(Grid(**experiments(opc=OWN), original="prod.pt"), qmc(2))


def test_runs_of_a_search_are_executed_like_those_of_a_benchmark(experiments: Experiments, tmp_path: Path) -> None:
    searches, runs = searched(Grid(**experiments(("class",), opc=OWN)), qmc(2))
    assert execute(runs, tmp_path, fake_runs.run, Launcher(workers=2), lambda progress: None) == {}
    trials = judge(runs, collect(runs, tmp_path), searches)
    assert [trial.status for trial in trials] == ["ok", "ok"]


def test_a_search_that_is_slow_holds_up_no_other(experiments: Experiments, tmp_path: Path) -> None:
    given = experiments(("class",), opc={"pause": 1.0, **OWN}, ga=RATE)
    words = [f"--grid={json.dumps(given)}", "--tuning.trials=4", "--tuning.attacks=null", "--launcher.workers=2"]
    tune([*words, f"--output={tmp_path}"], fake_runs.run, lambda *_: None, declared)
    log = json.loads((tmp_path / "tuning.json").read_text())["trials"]
    ended = (tmp_path / "journal").read_text().split()
    slow, quick = ([ended.index(t["key"]) for t in log if t["experiment"] == name] for name in ("opc", "ga"))
    assert len(slow) == len(quick) == 4
    assert max(quick) < slow[2], "four quick trials, the later ones by what the earlier ones gave, beside two slow ones"
    rows = {row.benchmark["key"] for row in read_rows(tmp_path / "rows.json")}
    assert rows >= {trial["key"] for trial in log}


def test_without_its_reference_models_a_search_ends(experiments: Experiments, tmp_path: Path) -> None:
    given = experiments(("class",), opc=OWN, retrain={"wish": "fail"})
    words = [f"--grid={json.dumps(given)}", "--tuning.trials=8", "--tuning.attacks=null", f"--output={tmp_path}"]
    with pytest.raises(UsageError, match="2 of the runs failed"):  # Retrain, and the attacks on both
        tune(words, fake_runs.run, lambda *_: None, declared)
    assert not (tmp_path / "tuning.json").exists()


def test_what_failed_is_tried_once_in_a_call(experiments: Experiments, tmp_path: Path) -> None:
    """The trials of opc are known in the second call, in which each that is planned plans the next."""
    given = experiments(("class",), opc=OWN, bad={"wish": "fail"})
    words = [f"--grid={json.dumps(given)}", "--tuning.trials=4", "--tuning.attacks=null", f"--output={tmp_path}"]
    for calls in (1, 2):
        with pytest.raises(UsageError, match="1 of the runs failed"):
            tune(words, fake_runs.run, lambda *_: None, declared)
        assert len((tmp_path / "failures").read_text().split()) == calls
