import numpy as np
import pytest
import torch
from scipy.linalg import lstsq
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

from lit_unlearn.attacks import FeatureMapping, HeadRecovery, StageRecovery, WorstRecovery
from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.recovery.base import score_part
from lit_unlearn.attacks.target import EncodedData
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
    return found | ({"images": len(splits["test_forget"][1]) // 2} if half else {})


CALIBRATIONS = {
    "train": (TRAIN, slice(None)),
    "retain": (("retain",), slice(None)),
    "heldout": (TEST, HALVES["calibration"]),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("calibration", list(CALIBRATIONS))
def test_head_recovery_is_least_squares_onto_one_hot_labels(make_target, nets, four_splits, calibration, ridge, bias):
    x, labels = arrays(nets[0], four_splits, *CALIBRATIONS[calibration])
    predict = fitted(x, np.eye(4)[labels], bias, ridge)
    found = (
        HeadRecovery(calibration=calibration, ridge=ridge, bias=bias)
        .evaluate(make_target(nets[0], **four_splits))
        .numbers
    )
    assert found == accuracies(predict, nets[0], four_splits, calibration == "heldout")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("calibration", list(CALIBRATIONS))
def test_feature_mapping_is_least_squares_onto_the_originals_features(
    make_target, nets, four_splits, calibration, ridge, bias
):
    x, _ = arrays(nets[0], four_splits, *CALIBRATIONS[calibration])
    goal, _ = arrays(nets[1], four_splits, *CALIBRATIONS[calibration])
    mapped = fitted(x, goal, bias, ridge)
    head, offset = nets[1].head.weight.detach().numpy(), nets[1].head.bias.detach().numpy()
    found = (
        FeatureMapping(calibration=calibration, ridge=ridge, bias=bias)
        .evaluate(make_target(*nets, **four_splits))
        .numbers
    )
    expected = accuracies(lambda h: mapped(h) @ head.T + offset, nets[0], four_splits, calibration == "heldout")
    assert found == expected


def test_head_recovery_onto_logits_is_feature_mapping(make_target, nets, four_splits, monkeypatch):
    read = {}
    for attack in (HeadRecovery(target="logits"), FeatureMapping()):
        target = make_target(*nets, **four_splits)
        answers = read.setdefault(type(attack), [])
        attack_logits = attack.logits

        def logits(target, mapped, attack_logits=attack_logits, answers=answers):
            answers.append(attack_logits(target, mapped).double())
            return answers[-1]

        monkeypatch.setattr(attack, "logits", logits)
        attack.evaluate(target)
    left, right = (torch.cat(answers) for answers in read.values())
    assert len(left) == sum(len(labels) for _, labels in four_splits.values())
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def test_mapping_undoes_a_change_of_basis(make_target, vectors, four_splits):
    """Unlearning that only rotates the features recovers to the original's own answers."""
    original = vectors(nn.Identity(), 5, 4)
    rotate = nn.Linear(5, 5, bias=True)
    rotated = vectors(rotate, 5, 4, seed=9)
    target = make_target(rotated, original, **four_splits)
    assert FeatureMapping(ridge=0.0).evaluate(target).numbers == make_target(original, **four_splits).accuracies(
        lambda batch: batch.logits
    )


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping])
def test_constant_features_give_one_answer_and_not_nan(make_target, vectors, four_splits, attack, bias, value):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 6), value)

    original = vectors(encoder(8, 2), 8, 4)
    found = attack(bias=bias).evaluate(make_target(vectors(Constant(), 6, 4), original, **four_splits)).numbers
    halves = [(found["forget_acc"], found["test_forget_acc"]), (found["retain_acc"], found["test_retain_acc"])]
    # The same class for all: right for half of one of the pairs of classes.
    assert sorted(halves) == [(0.0, 0.0), (0.5, 0.5)]


def test_head_recovery_on_retained_data_never_names_a_forgotten_class(make_target, nets, four_splits, monkeypatch):
    attack, named = HeadRecovery(calibration="retain"), []
    monkeypatch.setattr(attack, "logits", lambda target, mapped: named.append(mapped.argmax(1)) or mapped)
    wild = {name: (100 * torch.randn_like(x), y) for name, (x, y) in four_splits.items() if name != "retain"}
    found = attack.evaluate(make_target(nets[0], **{**four_splits, **wild})).numbers
    assert set(torch.cat(named).tolist()) == {2, 3}
    assert found["forget_acc"] == found["test_forget_acc"] == 0


def test_feature_mapping_on_retained_data_can_name_a_forgotten_class(make_target, vectors, four_splits):
    original = vectors(nn.Identity(), 5, 4)
    target = make_target(vectors(nn.Linear(5, 5), 5, 4, seed=9), original, **four_splits)
    found = FeatureMapping(calibration="retain", ridge=0.0).evaluate(target).numbers
    assert (
        found["forget_acc"]
        == make_target(original, **four_splits).accuracies(lambda batch: batch.logits)["forget_acc"]
        > 0
    )


def test_held_out_calibration_and_its_score_share_no_sample(make_target, nets, four_splits, monkeypatch):
    target = make_target(nets[0], **four_splits)
    asked = []
    given = EncodedData.batches
    monkeypatch.setattr(
        EncodedData, "batches", lambda self, split, part="all": asked.append((split, part)) or given(self, split, part)
    )
    HeadRecovery(calibration="heldout").evaluate(target)
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


def test_feature_mapping_reads_no_label(make_target, nets, four_splits):
    wrong = {name: (x, y.flip(0).roll(1)) for name, (x, y) in four_splits.items()}
    attack, read = FeatureMapping(), []
    for splits in (four_splits, wrong):
        answers = []
        attack.logits = lambda target, mapped, answers=answers: answers.append(mapped) or mapped[:, :4]
        attack.evaluate(make_target(*nets, **splits))
        read.append(torch.cat(answers))
    assert torch.equal(read[0], read[1])


def test_a_random_share_is_attacked_without_forgotten_test_classes(make_target, nets, four_splits):
    del four_splits["test_forget"]
    for attack in (HeadRecovery(calibration="heldout"), FeatureMapping()):
        assert set(attack.evaluate(make_target(*nets, **four_splits)).numbers) == {
            "forget_acc",
            "retain_acc",
            "test_retain_acc",
            "unseen",
        }


@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping, WorstRecovery])
def test_how_many_are_scored_is_said_where_half_of_them_is_fitted_on(make_target, nets, four_splits, attack):
    """Of classes none is; of single images half of the unseen ones, but none that have their class shares."""
    matched = four_splits["test_forget"]
    single = {name: each for name, each in four_splits.items() if name != "test_forget"}
    for splits, expected in (
        (four_splits, set()),
        (single, {len(single["test_retain"][1]) // 2}),
        ({**single, "test_matched": matched}, set()),
    ):
        numbers = attack().evaluate(make_target(nets[0], nets[1], **splits)).numbers
        assert {value for name, value in numbers.items() if name.endswith("unseen")} == expected
        assert not [name for name in numbers if name.endswith("images")]


def test_unseen_images_of_the_same_class_shares_are_scored_whole_and_not_fitted_on(make_target, nets, four_splits):
    points, labels = four_splits.pop("test_forget")
    labels[::2] = 3  # wrong ones, so that either half tells something else
    splits = {**four_splits, "test_matched": (points, labels)}
    target = make_target(nets[0], **splits)
    attack = HeadRecovery()
    assert [split for split, _ in attack.calibration_parts(target)] == ["retain", "test_retain"]
    whole = score_part(target, attack.readouts(target), "test_matched", "all")[""]
    assert attack.evaluate(target).numbers["test_matched_acc"] == whole
    found = WorstRecovery([attack]).evaluate(target).numbers
    assert found["gap"] == found["forget_acc"] - whole


@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"calibration": "retian"},
            r"unknown calibration set 'retian'; did you mean.*allowed: heldout, rest, retain, train",
        ),
        ({"ridge": -1.0}, "ridge is -1.0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"normalise": "l1"}, r"unknown normalisation 'l1'; did you mean 'l2'.*allowed: gated, l2, raw, standard"),
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


def everything(target, splits):
    """All samples of several splits as one batch, as the model sees them."""
    whole = [target.model.gather(split) for split in splits]
    stages = {name: torch.cat([batch.stages[name] for batch in whole]) for name in whole[0].stages}
    return Encoded(*(torch.cat([batch[i] for batch in whole]) for i in range(3)), stages)


@pytest.mark.parametrize("bias", [True, False])
def test_standardised_recovery_is_sklearns_ridge_on_standardised_features(make_target, nets, four_splits, bias):
    target = make_target(nets[0], **four_splits)
    train, test = (everything(target, splits) for splits in (TRAIN, TEST))
    scaler = StandardScaler().fit(train.features.double().numpy())
    x = scaler.transform(train.features.double().numpy())
    reference = Ridge(0.3 * (x**2).mean() * len(x), fit_intercept=bias).fit(x, np.eye(4)[train.labels.numpy()])
    read = HeadRecovery(ridge=0.3, bias=bias, normalise="standard").readouts(target)[""]
    expected = reference.predict(scaler.transform(test.features.double().numpy()))
    torch.testing.assert_close(read(test), torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping])
def test_recovery_at_unit_length_is_plain_recovery_of_features_at_unit_length(
    make_target, nets, vectors, four_splits, attack
):
    class Unit(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return nn.functional.normalize(self.inner(x).double(), eps=1e-300)

    model, original = (net.double() for net in nets)
    unit = vectors(Unit(model.encoder), 6, 4, seed=1).double()
    doubled = {name: (x.double(), y) for name, (x, y) in four_splits.items()}
    found = attack(normalise="l2").evaluate(make_target(model, original, **doubled)).numbers
    assert found == attack().evaluate(make_target(unit, original, **doubled)).numbers
    assert found != attack().evaluate(make_target(model, original, **doubled)).numbers


class Shrunk(nn.Module):
    """The features of samples whose first entry is positive are made small."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.where(x[:, :1] > 0, self.scale * x, x)


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping])
def test_what_is_shrunk_is_lost_to_a_plain_ridge_and_no_other(make_target, vectors, attack, scale):
    draw = torch.Generator().manual_seed(5)
    labels = torch.arange(400) % 4
    x = 3 * torch.randn(4, 5, generator=draw)[labels] + torch.randn(400, 5, generator=draw)
    x[:, 0] = torch.where(labels < 2, 1.0, -1.0) * (x[:, 0].abs() + 0.1)  # classes 0 and 1 are shrunk
    splits = {"forget": (x[labels < 2], labels[labels < 2]), "retain": (x[labels > 1], labels[labels > 1])}
    original = vectors(nn.Identity(), 5, 4)
    with torch.no_grad():  # a head that reads the classes
        fit = HeadRecovery(calibration="train").readouts(make_target(original, **splits))[""]
        probes = Encoded(torch.cat([torch.zeros(1, 5), torch.eye(5)]), None, None, {})
        original.head.bias.copy_(fit(probes)[0])
        original.head.weight.copy_((fit(probes)[1:] - fit(probes)[0]).T)
    found = {
        normalise: attack(calibration="train", normalise=normalise)
        .evaluate(make_target(vectors(Shrunk(scale), 5, 4), original, **splits))
        .numbers["forget_acc"]
        for normalise in ("raw", "standard", "l2", "gated")
    }
    whole = attack(calibration="train").evaluate(make_target(original, original, **splits)).numbers["forget_acc"]
    assert whole > 0.9
    assert found["raw"] < 0.7  # of two classes
    assert found["standard"] < 0.7
    assert found["l2"] > whole - 0.05
    assert found["gated"] > whole - 0.01


@pytest.mark.parametrize("normalise", ["raw", "l2"])
@pytest.mark.parametrize("scale", [1e-5, 1e3])
def test_at_unit_length_scaling_one_group_changes_nothing(make_target, vectors, four_splits, normalise, scale):
    doubled = {name: (x.double(), y) for name, (x, y) in four_splits.items()}
    read = []
    for factor in (1.0, scale):
        target = make_target(vectors(Shrunk(factor), 5, 4).double(), **doubled)
        read.append(HeadRecovery(normalise=normalise, ridge=1e-3).readouts(target)[""](everything(target, TEST)))
    close = torch.allclose(*read, rtol=0, atol=1e-10)
    assert close == (normalise == "l2")


def test_all_but_the_forget_set_is_a_calibration_set(make_target, nets, four_splits):
    target = make_target(nets[0], **four_splits)
    given = list(HeadRecovery(calibration="rest").calibration_batches(target))
    labels = torch.cat([batch.labels for batch, _ in given])
    halves = [four_splits[split][1][::2] for split in TEST]
    assert torch.equal(labels, torch.cat([four_splits["retain"][1], *halves]))
    readouts = HeadRecovery(calibration="rest").readouts(target)
    found = HeadRecovery(calibration="rest").evaluate(target).numbers
    assert found["test_retain_acc"] == score_part(target, readouts, "test_retain", "evaluation")[""]


@pytest.mark.parametrize("attack", [HeadRecovery, FeatureMapping, StageRecovery])
def test_readouts_are_not_fitted_on_what_decides(make_target, nets, four_splits, attack):
    """Of classes they are fitted on all training images, of single images on all but these."""
    fits = {True: "train", False: "rest"}
    for classes, calibration in fits.items():
        splits = {name: each for name, each in four_splits.items() if classes or name != "test_forget"}
        target = make_target(nets[0], nets[1], **splits)
        assert attack().evaluate(target).numbers == attack(calibration=calibration).evaluate(target).numbers
        parts = dict(attack().calibration_parts(target))
        assert ("forget" in parts) == classes
        assert parts.get("test_retain") == (None if classes else "calibration")


def test_every_stage_is_recovered_from(digits):
    target = digits("original")
    found = StageRecovery(normalise="raw").evaluate(target).numbers
    stages = ("stem", "stage1", "stage2", "stage3")
    assert set(found) == {f"{s}/{n}_acc" for s in stages for n in (*TRAIN, *TEST)}
    last = {name: value for name, value in found.items() if name.startswith("stage3/")}
    assert last == {
        f"stage3/{name}": value for name, value in HeadRecovery().evaluate(target).numbers.items()
    }  # it is the features
    assert found["stem/test_retain_acc"] < found["stage3/test_retain_acc"]
