"""Runs in mixed precision; whatever attacks sum up stays in double precision."""

import inspect
import warnings

import pytest
import torch
from attacked import Keeps

from lit_unlearn import attacks as public
from lit_unlearn.attacks import (
    Attack,
    DetectSamples,
    Distance,
    Evaluation,
    FeatureMapping,
    Grafting,
    HeadRecovery,
    KNNRecovery,
    Representation,
    ThresholdMembership,
)
from lit_unlearn.attacks.recovery.reservoir import Reservoir
from lit_unlearn.attacks.recovery.scaling import NormGate, Standardiser
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.methods import FineTune
from lit_unlearn.metrics.cka import LinearCKA
from lit_unlearn.metrics.normal_equations import NormalEquations
from lit_unlearn.metrics.spread import Spread
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT

PUBLIC = [
    each
    for each in (getattr(public, name) for name in public.__all__)
    if inspect.isclass(each) and issubclass(each, Attack) and not inspect.isabstract(each)
]
SMALL = {
    "AdaptiveRelearn": {"steps": 100, "learning_rates": [0.1], "heads": ["kept"]},
    "ForgettingQuality": {"models": 3},
    "GradientInversion": {"images": 2, "steps": 2, "engine": "loop"},
    "IDI": {"steps": 2},
    "KLoM": {"models": 2},
    "PerturbedImages": {"steps": 2},
    "Relearn": {"steps": 2},
    "UniversalPerturbation": {"steps": 2},
    "WorstRecovery": {"stages": "readouts"},
}
"""Settings with which attacks take seconds."""

STATISTICS = (LinearCKA, NormalEquations, NormGate, Reservoir, Spread, Standardiser)


def attacks():
    return [
        Evaluation(reference_models=False),
        HeadRecovery(),
        HeadRecovery(normalise="standard", name="standard"),
        HeadRecovery(normalise="gated", name="gated"),
        FeatureMapping(),
        KNNRecovery(),
        ThresholdMembership(),
        DetectSamples(),
        Representation(),
        Grafting(),
        Distance(points=3),
    ]


def unlearned(fit, make_backbone, make_data, trained_file, precision):
    report = Report(page=False)
    module = FineTune(make_backbone(seed=3), weights=trained_file)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = fit(module, make_data(), *attacks(), report, precision=precision)
    assert trainer.global_step > 0
    return report, [str(each.message) for each in said]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_statistics_of_attacks_are_in_double_precision(
    fit, make_backbone, make_data, trained_file, monkeypatch, precision
):
    seen = {}
    for statistic in STATISTICS:

        def compute(self, measure=statistic.compute, name=statistic.__name__):
            seen.setdefault(name, set()).update(getattr(self, state).dtype for state in self._defaults)
            return measure(self)

        monkeypatch.setattr(statistic, "compute", compute)
    report, _ = unlearned(fit, make_backbone, make_data, trained_file, precision)
    assert report.rows[-1].status == "ok"
    assert seen == {statistic.__name__: {torch.float64} for statistic in STATISTICS}


def test_attacks_on_one_model_find_the_same_in_mixed_and_in_full_precision(
    fit, make_trainer, make_backbone, make_data, trained_file
):
    report, _ = unlearned(fit, make_backbone, make_data, trained_file, "bf16-mixed")
    audit = Report(page=False)
    make_trainer(*attacks(), audit, precision="32-true").validate(
        FineTune(make_backbone(seed=3), weights=trained_file),
        datamodule=make_data(),
        ckpt_path=report.directory / CHECKPOINT,
        weights_only=True,
    )
    assert [row.precision for row in (report.rows[-1], audit.rows[-1])] == ["bf16-mixed", "32-true"]
    assert audit.rows[-1].attacks == report.rows[-1].attacks
    assert audit.rows[-1].metrics == report.rows[-1].metrics


def test_on_a_cpu_16_mixed_becomes_bf16_mixed_and_the_row_says_so(fit, make_backbone, make_data, trained_file):
    report, said = unlearned(fit, make_backbone, make_data, trained_file, "16-mixed")
    assert [(row.status, row.precision) for row in report.rows] == [("ok", "bf16-mixed")]
    assert any("fp16 is not supported on CPU" in message for message in said)


@pytest.mark.gpu
def test_on_a_gpu_16_mixed_trains_with_scaled_losses(fit, make_backbone, make_data, trained_file):
    report = Report(page=False)
    module = FineTune(make_backbone(seed=3), weights=trained_file)
    trainer = fit(module, make_data(), *attacks(), report, precision="16-mixed", accelerator="gpu")
    assert trainer.precision_plugin.scaler.get_scale() > 1
    assert (report.rows[-1].status, report.rows[-1].precision) == ("ok", "16-mixed")
    assert all(value.dtype == torch.float32 for value in module.backbone.parameters())
    assert len(report.rows[-1].attacks) > 20


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_attack_runs_where_the_network_is_in_half_precision(fit, make_backbone, make_data, tmp_path, kind):
    data, keeps = make_data(classes=[0, 1]), Keeps()
    for seed in range(5, 9):
        save_weights(make_backbone(seed=seed), tmp_path / f"{seed}.pt", {"split": data.split.hash})
    for seed in range(9, 12):
        said = {"split": data.split.hash, "method": "FineTune"}
        save_weights(make_backbone(seed=seed), tmp_path / f"{seed}.pt", said)
    evaluation = Evaluation(retrain=str(tmp_path / "5.pt"), pool=str(tmp_path), reference_models=False)
    attack = kind(**SMALL.get(kind.__name__, {}))
    fit(FineTune(make_backbone()), data, attack, evaluation, keeps, precision="bf16-true")
    found = keeps.results.models["unlearned"]
    assert found.skipped.get(attack.title, "undefined").startswith("undefined")
    assert any(name.startswith(f"{attack.title}/") for name in found.attacks)
