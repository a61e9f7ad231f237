"""Runs in mixed precision; whatever attacks sum up stays in double precision."""

import warnings

import pytest
import torch

from lit_unlearn.attacks import (
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
from lit_unlearn.methods import FineTune
from lit_unlearn.metrics.cka import LinearCKA
from lit_unlearn.metrics.normal_equations import NormalEquations
from lit_unlearn.metrics.spread import Spread
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT

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
