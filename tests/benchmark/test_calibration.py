"""Error rates of the verdict, on rows with known noise."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lit_unlearn.benchmark.calibration import _leaks_with, calibrate
from lit_unlearn.benchmark.command import report
from lit_unlearn.benchmark.gathering import kept_rows
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, read_rows, write_rows
from lit_unlearn.reports.comparisons import compare
from lit_unlearn.reports.figures import power_lines, standalone
from lit_unlearn.reports.noise import KNOWN, deviations, known_deviation

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"forget": 6000, "retain": 14000, "test_forget": 3000, "test_retain": 7000}


def row(method, seed, answer=0.0, **moved):
    """A row whose attacks have the noise of Retrains, a point and a half, around what Retrain gives."""
    noise = np.random.default_rng(seed + 100 * len(method)).normal(scale=0.012, size=4)
    means = {"hr": 0.8, "fm": 0.77, "worst": 0.84, "worst/stages": 0.85}
    attacks = {f"recovery/{n}/test_forget_acc": means[n] + e for n, e in zip(means, noise, strict=True)}
    attacks |= {f"recovery/{name}/test_forget_acc": value for name, value in moved.items()}
    return Row(
        method,
        "ok",
        metrics={"forget_acc": answer, "retain_acc": 0.97, "test_retain_acc": 0.93, "test_forget_acc": answer},
        attacks=attacks,
        split={"hash": "x", "forgotten_classes": [0, 1, 2], "counts": COUNTS},
        seed=seed,
        benchmark={"key": f"{method}{seed}", "scenario": "class", "experiment": method, "seeds": {"original": seed}},
    )


def rows(count=8):
    found = [row("Retrain", seed) for seed in range(count)]
    found += [row("Original", seed, answer=0.91, hr=0.92, fm=0.92) for seed in range(3)]
    return [*found, *(row("HeadOnly", seed, hr=0.92, fm=0.92) for seed in range(3))]


def test_retrains_are_hardly_ever_said_to_leak_and_what_leaks_always():
    found = calibrate(summarise(rows())[0])
    pairs, rest = found.null
    assert (pairs.of, rest.of, found.retrains) == (56, 8, 8)
    assert pairs.said / pairs.of <= 0.05
    assert rest.said == 0
    assert {rate.what: (rate.said, rate.of) for rate in found.positive} == {"Original": (3, 3), "HeadOnly": (3, 3)}
    text = str(found)
    assert "Retrain beside another: " in text
    assert "HeadOnly: 3 of 3 (100 %; 37 to 100 %): leaks 3" in text
    assert "(0 %; 0 to 31 %)" in text, "eight models show no more"
    assert (pairs.bounds, rest.bounds) == (None, pytest.approx((0, 1 - 0.05 ** (1 / 8))))


def test_a_model_that_never_saw_the_forget_set_but_was_trained_otherwise_counts_as_null():
    short = [row("RetrainShort", seed) for seed in range(2)]
    found = calibrate(summarise([*rows(), *short])[0])
    assert [(rate.what, rate.said, rate.of) for rate in found.null][2:] == [("RetrainShort beside all", 0, 2)]
    assert {rate.what for rate in found.positive} == {"Original", "HeadOnly"}


def test_power_grows_with_the_excess_and_with_the_seeds():
    power = calibrate(summarise(rows())[0]).power
    for count in (1, 3, 5):
        shares = [power[count, excess] for excess in (0.0, 0.01, 0.02, 0.05, 0.10)]
        assert shares == sorted(shares)
        assert shares[0] <= 0.01
    assert power[3, 0.10] > 0.95
    assert power[3, 0.05] >= power[1, 0.05]


def test_what_is_added_to_membership_first_brings_a_model_that_is_below_retrain_nearer():
    (above, below) = (
        next(
            each
            for each in compare([membership(0.5 + side)], [membership(0.5 + noise) for noise in (0.0, 0.01, -0.01)], [])
            if each.attack == "membership/rmia"
        )
        for side in (0.04, -0.04)
    )
    assert (above.turned, below.turned) == (False, True)
    assert (above.forward, below.forward) == pytest.approx((0.54, 0.46))
    assert [[_leaks_with(each, excess) for excess in (0, 0.06, 0.2)] for each in (above, below)] == [
        [False, True, True],
        [False, False, True],
    ]


def membership(forward: float) -> Row:
    """A row that has little else."""
    attacks = {"membership/rmia/auc": forward, "membership/rmia/direction": 1.0}
    split = {"hash": "0", "forgotten_classes": [0, 1, 2], "counts": {"forget": 6000, "test_forget": 3000}}
    metrics = {"forget_acc": 0.0, "test_forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": 0.9}
    return Row("X", "ok", metrics=metrics, attacks=attacks, split=split, seed=round(1000 * forward))


def test_the_deviations_are_those_of_the_retrains():
    found = calibrate(summarise(rows())[0]).deviations
    values = {
        name: np.std([r.attacks[f"recovery/{name}/test_forget_acc"] for r in rows()[:8]], ddof=1)
        for name in ("hr", "fm", "worst", "worst/stages")
    }
    assert found["recovery/"] == (pytest.approx(max(values.values())), KNOWN["recovery/"][0])
    assert found["no attack"] == (0, KNOWN["no attack"][0])


def test_no_retrain_of_the_committed_tables_varies_more_than_is_known():
    for folder in ("calibration", "fashion_mnist_attack", "fashion_mnist_accuracy"):
        for summary in summarise(kept_rows(ROOT / "docs/results" / folder)):
            retrains = next(line.rows for line in summary.lines if line.label == "Retrain")
            assert len(retrains) == 8
            for name, found in deviations(retrains).items():
                assert found <= known_deviation(name, retrains[0]), (folder, summary.scenario, name)


@pytest.fixture(scope="module")
def committed():
    """The calibration on the eight Retrains of Fashion-MNIST, and its rows."""
    read = read_rows(ROOT / "docs/results/calibration/rows.json")
    return {summary.scenario: (calibrate(summary), summary) for summary in summarise(read)}


@pytest.mark.parametrize("scenario", ["class", "random"])
def test_on_fashion_mnist_retrains_hardly_ever_leak_and_what_must_be_found_out_always_is(committed, scenario):
    found, summary = committed[scenario]
    pairs, rest = found.null
    assert (found.retrains, pairs.of, rest.of) == (8, 56, 8)
    assert pairs.said / pairs.of <= 0.05
    assert rest.said == 0
    caught = {rate.what: rate.said / rate.of for rate in found.positive}
    controls = {"Original", "FineTune"} | ({"HeadOnly", "Rescale"} if scenario == "class" else set())
    assert caught == dict.fromkeys(controls, 1.0)
    assert all(len(line.rows) >= 3 for line in summary.lines)


@pytest.mark.parametrize(("scenario", "least"), [("class", 0.7), ("random", 0.5)])
def test_on_fashion_mnist_ten_points_are_found_and_what_is_not_there_is_not(committed, scenario, least):
    power = committed[scenario][0].power
    for count in (1, 3, 5):
        shares = [power[count, excess] for excess in (0.0, 0.01, 0.02, 0.05, 0.10)]
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert shares[-1] >= least


def test_no_deviation_between_committed_retrains_is_larger_than_the_known_one(committed):
    for found, _ in committed.values():
        assert all(own <= known for own, known in found.deviations.values())


def test_the_page_shows_the_calibration_of_the_committed_rows(committed):
    page = (ROOT / "docs/verdict.md").read_text()
    for scenario, (found, _) in committed.items():
        assert f"<!-- calibration: {scenario} -->\n```text\n{found}\n```\n" in page
        drawn = standalone(power_lines(found.power))
        assert (ROOT / f"docs/results/calibration/power-{scenario}.svg").read_text() == drawn


def test_the_page_shows_the_rates_of_simulated_models(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/results/calibration"))
    error_rates = importlib.import_module("error_rates")
    found = json.loads((ROOT / "docs/results/calibration/error_rates.json").read_text())
    page = (ROOT / "docs/verdict.md").read_text()
    for of, mark in {"classes": "error rates", "images": "error rates of images"}.items():
        assert f"<!-- {mark} -->\n{error_rates.table(of, found['rates'])}\n<!-- /{mark} -->" in page
    rates = {
        name: {key: rate for key, rate in found["rates"].items() if key.endswith(name)} for name in error_rates.CASES
    }
    shared = {name: {key: rate for key, rate in of.items() if " 0.0 " not in key} for name, of in rates.items()}
    assert max(shared["alike"].values()) <= 0.01
    assert max(rates["alike"].values()) <= 0.05
    assert max(rates["alike, tails"].values()) <= 0.08
    assert found["rates"]["classes 1 1 1.0 alike, 3"] > 0.05, "one Retrain tells no deviation"
    assert max(shared["at margin"].values()) <= 0.07
    hidden = {key: rate for name in rates if "hidden" in name for key, rate in rates[name].items()}
    assert max(rate for key, rate in hidden.items() if key.split()[1] != "1") <= 0.08
    for several in ("classes 3 8 1.0", "images 3 8 1.0"):
        assert found["rates"][f"{several} noisier, 3, any"] > 5 * found["rates"][f"{several} noisier, 3"]
    checked = ("3 8 1.0 hidden, 3", "1 8 1.0 hidden, 3", "3 8 0.5 at margin", "1 1 0.5 alike, 3")
    for key in (*(f"classes {cell}" for cell in checked), "images 3 8 1.0 alike, tails", "images 1 8 0.5 noisier, 3"):
        of, count, others, same, name = key.split(" ", 4)
        again = error_rates.share(of, int(count), int(others), float(same), name, 60)
        assert again == pytest.approx(found["rates"][key], abs=4 * math.sqrt(0.25 * 0.5 / 60) / 2), key
    again = error_rates.share("images", 1, 1, 1.0, "alike, 3", found["runs"])
    assert again == found["rates"]["images 1 1 1.0 alike, 3"], "to the digit"


def test_the_program_of_the_rates_simulates_every_cell(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docs/results/calibration"))
    error_rates = importlib.import_module("error_rates")
    error_rates.main(["--runs", "1", "--output", str(tmp_path / "rates.json")])
    made = json.loads((tmp_path / "rates.json").read_text())
    committed = json.loads((ROOT / "docs/results/calibration/error_rates.json").read_text())
    assert made["runs"] == 1
    assert list(made["rates"]) == list(committed["rates"])
    assert error_rates.table("images", made["rates"]) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        error_rates.main(["--runs", "0", "--output", str(tmp_path / "none.json")])
    assert "--runs is 0; 1 or more is allowed" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


def test_under_the_whole_suite_too_no_retrain_is_said_to_leak():
    (summary,) = summarise(kept_rows(ROOT / "docs/results/deep"))
    found = calibrate(summary)
    assert [(rate.said, rate.of) for rate in found.null[:2]] == [(0, 56), (0, 8)]
    assert found.power[3, 0.10] >= 0.85
    assert all(own <= known for own, known in found.deviations.values())
    page = (ROOT / "docs/results/deep.md").read_text()
    assert f"<!-- calibration: class -->\n```text\n{found}\n```\n" in page


def test_the_command_prints_it_and_says_what_it_lacks(tmp_path, capsys):
    write_rows(tmp_path / "rows.json", rows())
    report([str(tmp_path), "--calibration"])
    assert "calibration with 8 Retrains" in capsys.readouterr().out
    report([str(tmp_path), "--calibration", "--margins.leak", "0.2", "--margins.same", "0.3"])
    assert "HeadOnly: 0 of 3" in capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text("<!-- calibration: class -->\n<!-- /calibration -->\n")
    report([str(tmp_path), "--calibration", "--markdown", str(page), "--figures", str(tmp_path)])
    assert "-->\n```text\n" + str(calibrate(summarise(rows())[0])) + "\n```\n<!--" in page.read_text()
    assert [path.name for path in tmp_path.glob("*.svg")] == ["power-class.svg"]
    assert "5 models of the method" in (tmp_path / "power-class.svg").read_text()
    write_rows(tmp_path / "rows.json", rows(2))
    with pytest.raises(UsageError, match=r"at least 3 Retrains, and there are 2: set seeds\.references"):
        report([str(tmp_path), "--calibration"])
