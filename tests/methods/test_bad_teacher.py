import pytest
import torch
from torch import nn

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import BadTeacher
from lit_unlearn.methods.bad_teacher import blend


@pytest.mark.parametrize("reduction", ["batchmean", "elementwise_mean"])
def test_two_epochs_match_each_sample_with_its_own_teacher(follow, make_backbone, sgd, make_data, reduction):
    data = make_data()
    good = make_backbone().double().eval()
    module = BadTeacher(make_backbone(), optimizer=sgd, reduction=reduction)
    bad = make_backbone()
    bad.load_state_dict(module.bad_teacher.state_dict())
    bad.double().eval()

    def loss(network, batch, step):
        images, labels, flags = batch["mixed"]
        assert flags.tolist() == [label in (0, 1) for label in labels.tolist()]
        log_q, total = torch.log_softmax(network(images), 1), 0
        for row, flag in enumerate(flags.tolist()):
            with torch.no_grad():
                p = torch.softmax((bad if flag else good)(images[row : row + 1])[0], 0)
            total = total + (p * (p.log() - log_q[row])).sum()
        return total / len(labels) / (4 if reduction == "elementwise_mean" else 1)

    follow(module, loss, data=data, steps=12, epochs=2)  # 48 images in batches of 8
    for teacher, start in ((module.teacher, good), (module.bad_teacher, bad)):
        assert all(torch.equal(value, start.state_dict()[name]) for name, value in teacher.state_dict().items())


def test_the_bad_teacher_is_random_all_through_and_the_same_for_each_run_of_a_seed(make_backbone, monkeypatch):
    original, first = make_backbone(), BadTeacher(make_backbone()).bad_teacher
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    for name, value in first.named_parameters():
        assert value.dim() == 1 or not torch.equal(value, original.get_parameter(name)), name
    assert (first.encoder.stem.bn.running_mean == 0).all()
    images = torch.rand(200, 1, 8, 8)
    with torch.no_grad():
        assert float(first(images).softmax(1).amax(1).mean()) < 0.75 < float(original.eval()(images).softmax(1).amax())
    torch.rand(3)  # whatever was drawn before
    again = BadTeacher(make_backbone()).bad_teacher
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    other = BadTeacher(make_backbone()).bad_teacher
    assert not torch.equal(other.head.weight, first.head.weight)


def test_making_a_bad_teacher_draws_nothing_from_the_run(make_backbone):
    backbone, state = make_backbone(), torch.get_rng_state()
    BadTeacher(backbone)
    assert torch.equal(state, torch.get_rng_state())


def test_neither_teacher_is_saved_and_both_load_strictly(
    fit, make_trainer, make_backbone, make_data, trained_file, tmp_path
):
    module = BadTeacher(make_backbone(seed=3), weights=trained_file)
    assert {name.partition(".")[0] for name in module.state_dict()} == {"backbone", "teacher", "bad_teacher"}
    fit(module, make_data()).save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"backbone"}
    again = BadTeacher(make_backbone(seed=4), weights=trained_file)
    make_trainer().validate(again, datamodule=make_data(), ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
    saved["state_dict"]["bad_techer.head.bias"] = torch.zeros(4)
    torch.save(saved, tmp_path / "broken.ckpt")
    with pytest.raises(UsageError, match=r"Unexpected key.*bad_techer"):
        make_trainer().validate(again, datamodule=make_data(), ckpt_path=tmp_path / "broken.ckpt", weights_only=True)


def test_teachers_stand_in_eval_mode_whatever_mode_they_were_in(fit, make_backbone, make_data):
    module = BadTeacher(make_backbone())
    module.teacher.train()
    module.bad_teacher.train()
    before = module.bad_teacher.encoder.stem.bn.running_mean.clone()
    fit(module, make_data())
    assert torch.equal(module.bad_teacher.encoder.stem.bn.running_mean, before)


def test_the_blend_takes_each_row_from_its_teacher():
    good, bad = torch.randn(3, 5), torch.randn(3, 5)
    taught = blend(good, bad, torch.tensor([True, False, True]))
    assert torch.equal(taught, torch.stack([bad[0].softmax(0), good[1].softmax(0), bad[2].softmax(0)]))


def test_options_out_of_range(make_backbone):
    with pytest.raises(UsageError, match=r"unknown reduction 'mean'.*allowed: batchmean, elementwise_mean"):
        BadTeacher(make_backbone(), reduction="mean")


def test_weights_that_nothing_re_initialises_are_shuffled():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(64, 6))

        def forward(self, x):
            return x.flatten(1) @ self.matrix

    backbone = Backbone(Own(), nn.Linear(6, 4), [0.5], [0.25], {})
    teacher = BadTeacher(backbone).bad_teacher
    before, after = (network.get_parameter("encoder.matrix").flatten() for network in (backbone, teacher))
    assert torch.equal(before.sort().values, after.sort().values)
    assert (before == after).float().mean() < 0.1
    assert torch.equal(after, BadTeacher(backbone).bad_teacher.get_parameter("encoder.matrix").flatten())
