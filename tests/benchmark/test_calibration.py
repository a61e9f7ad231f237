"""Error rates of the verdict, on rows with known noise."""

import numpy as np
import pytest

from lit_unlearn.benchmark.calibration import calibrate
from lit_unlearn.benchmark.command import report
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, write_rows

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
    assert "HeadOnly: 3 of 3 (100 %): leaks 3" in text


def test_power_grows_with_the_excess_and_with_the_seeds():
    power = calibrate(summarise(rows())[0]).power
    for count in (1, 3, 5):
        shares = [power[count, excess] for excess in (0.0, 0.01, 0.02, 0.05, 0.10)]
        assert shares == sorted(shares)
        assert shares[0] <= 0.01
    assert power[3, 0.10] > 0.95
    assert power[3, 0.05] >= power[1, 0.05]


def test_the_deviations_are_those_of_the_retrains():
    found = calibrate(summarise(rows())[0]).deviations
    values = {
        name: np.std([r.attacks[f"recovery/{name}/test_forget_acc"] for r in rows()[:8]], ddof=1)
        for name in ("hr", "fm", "worst", "worst/stages")
    }
    assert found["recovery/"] == pytest.approx(max(values.values()))
    assert found["no attack"] == 0


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
