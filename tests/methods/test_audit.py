import pytest
import torch

from lit_unlearn.attacks import Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import Audit
from lit_unlearn.reports.report import Report


@pytest.fixture
def foreign(make_backbone, tmp_path):
    """Weights as other code would save them."""
    torch.save(make_backbone(seed=7).state_dict(), tmp_path / "foreign.pt")
    return tmp_path / "foreign.pt"


def audit(make_trainer, module, data):
    report = Report(page=False)
    trainer = make_trainer(Evaluation(), HeadRecovery(), FeatureMapping(), report)
    trainer.validate(module, datamodule=data, verbose=False)
    return report.rows


def test_a_foreign_model_is_scored_and_attacked_beside_its_original(
    make_trainer, make_backbone, make_data, trained_file, foreign
):
    module = Audit(make_backbone(seed=1), foreign, original=trained_file)
    assert all(map(torch.equal, module.backbone.state_dict().values(), make_backbone(seed=7).state_dict().values()))
    original, row = audit(make_trainer, module, make_data())
    assert (original.method, row.method, row.status) == ("Original", "Audit", "ok")
    assert original.metrics != row.metrics
    assert row.weights["source"] == str(foreign)
    assert row.hyperparameters["original"] == str(trained_file)
    assert "recovery/fm/test_forget_acc" in row.attacks
    assert row.skipped == {}


def test_without_the_original_what_needs_it_is_left_out_and_said_so(make_trainer, make_backbone, make_data, foreign):
    (row,) = audit(make_trainer, Audit(make_backbone(), foreign), make_data())
    assert row.method == "Audit"
    assert "recovery/hr/test_forget_acc" in row.attacks
    assert row.skipped == {"recovery/fm": "it needs the original model, which this run does not have"}


def test_it_does_not_train(make_trainer, make_backbone, make_data, foreign):
    with pytest.raises(UsageError, match="Audit trains nothing: it takes validate"):
        make_trainer().fit(Audit(make_backbone(), foreign), datamodule=make_data())


def test_weights_that_do_not_fit_are_refused(make_backbone, tmp_path):
    with pytest.raises(UsageError, match=r"no\.pt"):
        Audit(make_backbone(), tmp_path / "no.pt")
