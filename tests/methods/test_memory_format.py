"""A run in channels_last is the same run but for rounding, and says, keeps and shares its format."""

from pathlib import Path

import pytest
import torch
from format_jobs import Seen, of_two
from processes import together
from torch import nn

from lit_unlearn import methods
from lit_unlearn.attacks import AdaptiveRelearn, Evaluation, GradientInversion, HeadRecovery
from lit_unlearn.backbones import Custom, memory_format
from lit_unlearn.backbones.memory_format import memory_format_of
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import OPC, FineTune, Retrain, callbacks
from lit_unlearn.reports.report import Report
from lit_unlearn.suites import attacks_of_config

FORMATS = ("contiguous", "channels_last")
METHODS = [name for name in methods.__all__ if name not in ("Audit", "UnlearnModule")]
OPTIONS = {
    "AMUN": {"radius": 0.5, "steps": 2},  # many steps make rounding large
    "PruneRegrow": {"half_precision": False},  # rounding to half precision makes it large too
    "SSD": {"alpha": 1.5},  # enough for it to dampen something
}


@pytest.fixture
def probed(monkeypatch):
    """Answers of the probe, in turn; it fails where it is asked more often."""
    answers = []
    monkeypatch.setattr(callbacks, "faster_format", lambda *_: answers.pop(0))
    return answers


def in_format(name, make):
    torch.manual_seed(11)  # decides what a fresh start draws
    module = make()
    module.memory_format = name
    return module


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_the_same_weights_but_for_rounding(fit, make_backbone, make_data, method):
    def make():
        return getattr(methods, method)(make_backbone(), **OPTIONS.get(method, {}))

    modules = [in_format(name, make) for name in FORMATS]
    for module in modules:
        seen = Seen()
        fit(module, make_data(), seen, max_epochs=2 if method == "UNDO" else 1)  # it suppresses, and then distils
        assert seen.formats == {module.memory_format}
        assert memory_format_of(module.backbone) == "contiguous"  # as it was given
    one, two = (module.backbone.state_dict() for module in modules)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


SHORT = {
    "AdaptiveRelearn": AdaptiveRelearn(learning_rates=[0.1], heads=["kept"], resets=[0], steps=100),
    "GradientInversion": GradientInversion(images=2, steps=3),
}
"""In place of those of the suite that take long."""


def measured(fit, make_backbone, make_data, name):
    report = Report(write=False)
    module = in_format(name, lambda: FineTune(make_backbone()))
    attacks, suite = attacks_of_config("attack/suite")
    attacks = [*SHORT.values(), *(each for each in attacks if type(each).__name__ not in SHORT)]
    retrain = make_backbone(seed=1)
    fit(module, make_data(), *attacks, Evaluation(retrain, suite, reference_models=False), report)
    return report.rows


@pytest.mark.ci
def test_all_attacks_find_the_same_numbers_and_rows_say_the_format(fit, make_backbone, make_data):
    pairs = zip(*(measured(fit, make_backbone, make_data, name) for name in FORMATS), strict=True)
    for one, two in pairs:
        assert (one.devices["memory_format"], two.devices["memory_format"]) == FORMATS
        assert len(one.attacks) > 4
        # IDI and relearning train, which lets rounding grow.
        trains = ("representation/idi/", "relearn/")
        kept = [{name: v for name, v in row.attacks.items() if not name.startswith(trains)} for row in (one, two)]
        assert kept[1] == pytest.approx(kept[0], rel=0, abs=1e-4)
        assert one.attacks.keys() == two.attacks.keys()
        assert two.metrics == pytest.approx(one.metrics, rel=0, abs=1e-4)


def test_every_network_that_is_measured_has_the_format(fit, make_backbone, make_data, probed):
    probed.append("channels_last")
    seen = []

    class Looking(HeadRecovery):
        def evaluate(self, target):
            seen.append({memory_format_of(each.backbone) for each in (target.model, target.original, target.retrain)})
            return super().evaluate(target)

    fit(FineTune(make_backbone()), make_data(), Looking(), Evaluation(make_backbone(seed=1)))
    assert seen == [{"channels_last"}] * 3


def test_a_run_that_goes_on_has_the_format_that_it_began_with(fit, make_trainer, make_backbone, make_data, probed):
    probed.append("channels_last")
    whole = fit(OPC(make_backbone()), make_data(), max_epochs=2)
    state = {name: value.clone() for name, value in whole.lightning_module.backbone.state_dict().items()}
    probed.append("channels_last")
    trainer = fit(OPC(make_backbone()), make_data(), max_epochs=1, enable_checkpointing=True)
    (path,) = Path(trainer.checkpoint_callback.best_model_path).parent.glob("*.ckpt")
    held = torch.load(path, weights_only=True)
    assert held["lit_unlearn"]["memory_format"] == "channels_last"
    assert all(value.is_contiguous() for value in held["state_dict"].values())
    probed.append("contiguous")
    seen, resumed = Seen(), OPC(make_backbone())
    make_trainer(seen, max_epochs=2).fit(resumed, datamodule=make_data(), ckpt_path=str(path))
    assert probed == []
    assert seen.formats == {"channels_last"}
    torch.testing.assert_close(resumed.backbone.state_dict(), state, rtol=0, atol=0)


def test_a_dry_run_or_a_compiled_network_is_not_tried(fit, make_backbone, make_data, probed):
    fit(FineTune(make_backbone()), make_data(), fast_dev_run=True)
    compiled = FineTune(make_backbone())
    compiled.backbone.compile(backend="eager")
    fit(compiled, make_data())
    with pytest.raises(IndexError):
        fit(FineTune(make_backbone()), make_data())


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(256, 4)

    def forward(self, x):
        return self.last(self.norm(self.conv(x)).view(len(x), -1))


def test_a_network_that_cannot_take_it_is_unlearned_and_attacked_all_the_same(fit, make_data, monkeypatch):
    monkeypatch.setattr(callbacks, "faster_format", memory_format.faster_format)
    report = Report(write=False)
    fit(FineTune(Custom(Viewing(), in_channels=1)), make_data(), *attacks_of_config("attack/quick")[0], report)
    assert report.rows[-1].devices["memory_format"] == "contiguous"
    assert report.rows[-1].attacks
    with pytest.raises(UsageError, match="memory_format channels_last"):
        fit(in_format("channels_last", lambda: FineTune(Custom(Viewing(), in_channels=1))), make_data())


@pytest.mark.ci
def test_every_process_takes_the_choice_of_the_first(tmp_path):
    assert together(of_two, tmp_path, 2) == [["channels_last"]] * 2


def test_a_fresh_network_draws_the_same_in_both_formats(fit, make_backbone, make_data):
    seeds = [in_format(name, lambda: Retrain(make_backbone())) for name in FORMATS]
    one, two = (module.backbone.state_dict() for module in seeds)
    torch.testing.assert_close(two, one, rtol=0, atol=0)
