import numpy as np
import pytest
import torch
from scipy.linalg import lstsq
from torch import nn

from lit_unlearn.attacks import FeatureMapping, HeadRecovery
from lit_unlearn.errors import UsageError

TRAIN, TEST = ("forget", "retain"), ("test_forget", "test_retain")
HALVES = {"calibration": slice(0, None, 2), "evaluation": slice(1, None, 2)}


def encoder(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU())


@pytest.fixture
def nets(vectors):
    """An unlearned network of width 6 and an original of width 8."""
    return vectors(encoder(6, 1), 6, 4, seed=1), vectors(encoder(8, 2), 8, 4, seed=2)


def arrays(net, splits, names, part=slice(None)):
    with torch.no_grad():
        x = torch.cat([net.features(splits[name][0][part]) for name in names]).double().numpy()
    return x, torch.cat([splits[name][1][part] for name in names]).numpy()


def fitted(x, y, bias, ridge):
    """Least squares by scipy; the ridge as extra rows, in float64."""
    centre_x, centre_y = (x.mean(0), y.mean(0)) if bias else (np.zeros(x.shape[1]), np.zeros(y.shape[1]))
    x, y = x - centre_x, y - centre_y
    penalty = np.sqrt(ridge * (x**2).mean() * len(x))
    rows = np.vstack([x, penalty * np.eye(x.shape[1])])
    weight = lstsq(rows, np.vstack([y, np.zeros((x.shape[1], y.shape[1]))]))[0]
    return lambda other: (other - centre_x) @ weight + centre_y


def accuracies(predict, net, splits, half=False):
    found = {}
    for name in splits:
        part = HALVES["evaluation"] if half and name.startswith("test") else slice(None)
        x, labels = arrays(net, splits, [name], part)
        found[f"{name}_acc"] = float((predict(x).argmax(1) == labels).mean())
    return found


CALIBRATIONS = {
    "train": (TRAIN, slice(None)),
    "retain": (("retain",), slice(None)),
    "heldout": (TEST, HALVES["calibration"]),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("calibration", list(CALIBRATIONS))
def test_head_recovery_is_least_squares_onto_one_hot_labels(aim, nets, four_splits, calibration, ridge, bias):
    x, labels = arrays(nets[0], four_splits, *CALIBRATIONS[calibration])
    predict = fitted(x, np.eye(4)[labels], bias, ridge)
    found = HeadRecovery(calibration=calibration, ridge=ridge, bias=bias).run(aim(nets[0], **four_splits))
    assert found == accuracies(predict, nets[0], four_splits, calibration == "heldout")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("calibration", list(CALIBRATIONS))
def test_feature_mapping_is_least_squares_onto_the_originals_features(aim, nets, four_splits, calibration, ridge, bias):
    x, _ = arrays(nets[0], four_splits, *CALIBRATIONS[calibration])
    goal, _ = arrays(nets[1], four_splits, *CALIBRATIONS[calibration])
    mapped = fitted(x, goal, bias, ridge)
    head, offset = nets[1].head.weight.detach().numpy(), nets[1].head.bias.detach().numpy()
    found = FeatureMapping(calibration=calibration, ridge=ridge, bias=bias).run(aim(*nets, **four_splits))
    expected = accuracies(lambda h: mapped(h) @ head.T + offset, nets[0], four_splits, calibration == "heldout")
    assert found == expected


def test_head_recovery_onto_logits_is_feature_mapping(aim, nets, four_splits, monkeypatch):
    read = {}
    for attack in (HeadRecovery(target="logits"), FeatureMapping()):
        target = aim(*nets, **four_splits)
        answers = read.setdefault(type(attack), [])
        attack_logits = attack.logits

        def logits(target, mapped, attack_logits=attack_logits, answers=answers):
            answers.append(attack_logits(target, mapped).double())
            return answers[-1]

        monkeypatch.setattr(attack, "logits", logits)
        attack.run(target)
    left, right = (torch.cat(answers) for answers in read.values())
    assert len(left) == sum(len(labels) for _, labels in four_splits.values())
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def test_mapping_undoes_a_change_of_basis(aim, vectors, four_splits):
    """Unlearning that only rotates the features recovers to the original's own answers."""
    original = vectors(nn.Identity(), 5, 4)
    rotate = nn.Linear(5, 5, bias=True)
    rotated = vectors(rotate, 5, 4, seed=9)
    target = aim(rotated, original, **four_splits)
    assert FeatureMapping(ridge=0.0).run(target) == aim(original, **four_splits).accuracies(lambda batch: batch.logits)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping])
def test_constant_features_give_one_answer_and_not_nan(aim, vectors, four_splits, attack, bias, value):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 6), value)

    original = vectors(encoder(8, 2), 8, 4)
    found = attack(bias=bias).run(aim(vectors(Constant(), 6, 4), original, **four_splits))
    halves = [(found["forget_acc"], found["test_forget_acc"]), (found["retain_acc"], found["test_retain_acc"])]
    # The same class for all: right for half of one of the pairs of classes.
    assert sorted(halves) == [(0.0, 0.0), (0.5, 0.5)]


def test_head_recovery_on_retained_data_never_names_a_forgotten_class(aim, nets, four_splits, monkeypatch):
    attack, named = HeadRecovery(calibration="retain"), []
    monkeypatch.setattr(attack, "logits", lambda target, mapped: named.append(mapped.argmax(1)) or mapped)
    wild = {name: (100 * torch.randn_like(x), y) for name, (x, y) in four_splits.items() if name != "retain"}
    found = attack.run(aim(nets[0], **{**four_splits, **wild}))
    assert set(torch.cat(named).tolist()) == {2, 3}
    assert found["forget_acc"] == found["test_forget_acc"] == 0


def test_feature_mapping_on_retained_data_can_name_a_forgotten_class(aim, vectors, four_splits):
    original = vectors(nn.Identity(), 5, 4)
    target = aim(vectors(nn.Linear(5, 5), 5, 4, seed=9), original, **four_splits)
    found = FeatureMapping(calibration="retain", ridge=0.0).run(target)
    assert found["forget_acc"] == aim(original, **four_splits).accuracies(lambda batch: batch.logits)["forget_acc"] > 0


def test_held_out_calibration_and_its_score_share_no_sample(aim, nets, four_splits, monkeypatch):
    target = aim(nets[0], **four_splits)
    asked = []
    given = target.data.evaluation_batches
    target.data.evaluation_batches = lambda split, device, part="all": (
        asked.append((split, part)) or given(split, device, part)
    )
    HeadRecovery(calibration="heldout").run(target)
    assert asked == [
        ("test_forget", "calibration"),
        ("test_retain", "calibration"),
        ("forget", "all"),
        ("retain", "all"),
        ("test_forget", "evaluation"),
        ("test_retain", "evaluation"),
    ]


def test_the_two_halves_of_the_data_module_are_disjoint_and_complete(make_data):
    data = make_data()
    whole, *halves = (
        {
            image.numpy().tobytes()
            for images, _ in data.evaluation_batches("test_forget", "cpu", part)
            for image in images
        }
        for part in ("all", "calibration", "evaluation")
    )
    assert halves[0].isdisjoint(halves[1])
    assert halves[0] | halves[1] == whole


def test_feature_mapping_reads_no_label(aim, nets, four_splits):
    wrong = {name: (x, y.flip(0).roll(1)) for name, (x, y) in four_splits.items()}
    attack, read = FeatureMapping(), []
    for splits in (four_splits, wrong):
        answers = []
        attack.logits = lambda target, mapped, answers=answers: answers.append(mapped) or mapped[:, :4]
        attack.run(aim(*nets, **splits))
        read.append(torch.cat(answers))
    assert torch.equal(read[0], read[1])


def test_a_random_share_is_attacked_without_forgotten_test_classes(aim, nets, four_splits):
    del four_splits["test_forget"]
    for attack in (HeadRecovery(calibration="heldout"), FeatureMapping()):
        assert set(attack.run(aim(*nets, **four_splits))) == {"forget_acc", "retain_acc", "test_retain_acc"}


@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"calibration": "retian"}, r"unknown calibration set 'retian'; did you mean.*allowed: heldout, retain, train"),
        ({"ridge": -1.0}, "ridge is -1.0, but must be at least 0"),
        ({"ridge": float("nan")}, "ridge is nan, but must be at least 0"),
    ],
)
def test_options_out_of_range(attack, option, message):
    with pytest.raises(UsageError, match=message):
        attack(**option)


def test_an_unknown_target_of_head_recovery():
    with pytest.raises(UsageError, match=r"unknown target of head recovery 'label'.*allowed: labels, logits"):
        HeadRecovery(target="label")


def test_only_what_reads_the_original_asks_for_it():
    assert not HeadRecovery().needs_original
    assert HeadRecovery(target="logits").needs_original
    assert FeatureMapping().needs_original
    assert not HeadRecovery.needs_original  # the instance does not change its class
