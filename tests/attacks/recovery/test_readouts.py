import weakref
from functools import partial

import numpy as np
import pytest
import torch
from attacked import attacked
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize
from torch import nn

from lit_unlearn.attacks import (
    CapacityRecovery,
    FeatureMapping,
    ForgetProbe,
    HeadRecovery,
    KNNRecovery,
    LinearDiscriminant,
    NearestMean,
    StageRecovery,
)
from lit_unlearn.attacks.recovery.random_features import RandomFeatures
from lit_unlearn.errors import UsageError

TRAIN = ("forget", "retain")


def arrays(target, splits):
    whole = [target.model.gather(split) for split in splits]
    x = torch.cat([batch.features for batch in whole]).double().numpy()
    return x, torch.cat([batch.labels for batch in whole]).numpy()


def scores(reference, target, splits=("forget", "retain", "test_forget", "test_retain")):
    return {f"{split}_acc": float(reference.score(*arrays(target, [split]))) for split in splits}


@pytest.mark.parametrize("name", ["retrain", "1e-3"])
@pytest.mark.parametrize(
    ("attack", "reference"),
    [
        (NearestMean(normalise="raw"), NearestCentroid()),
        (NearestMean(normalise="l2"), make_pipeline(Normalizer(), NearestCentroid())),
        (LinearDiscriminant(ridge=0.0, normalise="raw"), LinearDiscriminantAnalysis(solver="lsqr")),
        (
            LinearDiscriminant(ridge=0.0, normalise="l2"),
            make_pipeline(Normalizer(), LinearDiscriminantAnalysis(solver="lsqr")),
        ),
        (KNNRecovery(), KNeighborsClassifier(5, metric="cosine", algorithm="brute")),
        (KNNRecovery(k=1), KNeighborsClassifier(1, metric="cosine", algorithm="brute")),
    ],
    ids=["nearest mean", "nearest mean, l2", "lda", "lda, l2", "5-nn", "1-nn"],
)
def test_each_readout_is_sklearns_on_the_same_features(digits, attack, reference, name):
    target = digits(name)
    assert attack.evaluate(target).numbers == scores(reference.fit(*arrays(target, TRAIN)), target)


def test_the_probe_is_sklearns_logistic_regression_among_forgotten_classes(digits):
    target = digits("retrain")
    reference = make_pipeline(Normalizer(), StandardScaler(), LogisticRegression(C=0.5, max_iter=1000))
    reference.fit(*arrays(target, ["forget"]))
    found = ForgetProbe(penalty=2.0).evaluate(target).numbers
    assert found == scores(reference, target, ["forget", "test_forget"])


def test_capacity_is_a_ridge_on_random_features_of_standardised_directions(digits):
    target = digits("retrain")
    x, labels = arrays(target, TRAIN)
    scaler = StandardScaler().fit(normalize(x))
    lift = RandomFeatures(64, 200, seed=3)

    def lifted(x):
        return lift(torch.from_numpy(scaler.transform(normalize(x)))).numpy()

    z, goal = lifted(x), torch.eye(10)[torch.from_numpy(labels)].numpy()
    reference = Ridge(0.1 * z.var(0).mean() * len(z)).fit(z, goal)
    batch = target.model.gather("test_forget")
    read = CapacityRecovery(dimensions=200, seed=3).readouts(target)[""](batch)
    expected = torch.from_numpy(reference.predict(lifted(batch.features.double().numpy())))
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-8)


def test_a_capacity_tells_classes_apart_that_no_line_divides(make_target, vectors):
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] * x[:, 1] > 0).long()
    target = make_target(vectors(nn.Identity(), 2, 2), forget=(x, labels))
    assert HeadRecovery(calibration="train", normalise="l2").evaluate(target).numbers["forget_acc"] < 0.65
    assert CapacityRecovery("train", dimensions=300).evaluate(target).numbers["forget_acc"] > 0.95


def test_neighbours_of_a_part_of_the_calibration_set(digits):
    target = digits("original")
    few = [KNNRecovery(k=1, limit=8, seed=seed).evaluate(target).numbers for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert few[0]["retain_acc"] < KNNRecovery(k=1).evaluate(target).numbers["retain_acc"] == 1
    assert KNNRecovery(k=5, limit=3).evaluate(target).numbers.keys() == few[0].keys()  # fewer than k


def test_collapse_onto_a_point_away_from_the_origin_does_not_escape_the_probe(make_target, vectors, four_splits):
    class Collapsed(nn.Module):
        def forward(self, x):
            return torch.where(x.mean(1, keepdim=True) > 50, 3 + 1e-6 * (x - 100), x)

    given = {name: (x.double(), y) for name, (x, y) in four_splits.items()}
    marked = {name: (x + 100 if "forget" in name else x, y) for name, (x, y) in given.items()}
    collapsed = make_target(vectors(Collapsed(), 5, 4).double(), **marked)
    plain = make_target(vectors(nn.Identity(), 5, 4).double(), **given)
    assert HeadRecovery(normalise="l2").evaluate(collapsed).numbers["forget_acc"] < 0.65  # of two classes
    # One of five directions, that of the point itself, is lost with the length.
    assert (
        ForgetProbe().evaluate(collapsed).numbers["forget_acc"]
        > ForgetProbe().evaluate(plain).numbers["forget_acc"] - 0.15
        > 0.75
    )


@pytest.mark.parametrize("calibration", ["train", "heldout", "rest"])
def test_the_probe_is_fitted_on_forgotten_samples_alone(make_target, vectors, four_splits, calibration):
    wild = {name: (x if "forget" in name else x + 100, y) for name, (x, y) in four_splits.items()}
    found = [
        ForgetProbe(calibration).evaluate(make_target(vectors(nn.Identity(), 5, 4), **splits)).numbers
        for splits in (four_splits, wild)
    ]
    assert found[0] == found[1]
    assert set(found[0]) == {"forget_acc", "test_forget_acc"}


def test_the_probe_is_undefined_where_there_is_nothing_to_tell_apart(make_target, vectors, four_splits):
    net = vectors(nn.Sequential(nn.Identity()), 5, 4, stages={"inner": "0"})
    single = {name: (x[y != 1], y[y != 1]) for name, (x, y) in four_splits.items()}
    images = {name: four_splits[name] for name in ("forget", "retain", "test_retain")}
    for splits in (single, images):
        for layers, where in (("features", ""), ("stages", "inner/")):
            attack = ForgetProbe(layers=layers)
            seen = attacked(attack, make_target(net, **splits))
            assert seen.attacks == {}
            assert f"undefined: recovery/forget_probe/{where}forget_acc" in seen.skipped[attack.title]


@pytest.mark.parametrize(
    "make",
    [
        partial(HeadRecovery, normalise="gated"),
        partial(FeatureMapping, normalise="standard"),
        NearestMean,
        LinearDiscriminant,
        KNNRecovery,
        partial(CapacityRecovery, dimensions=64),
        ForgetProbe,
    ],
)
def test_the_same_readout_at_every_stage(digits, make):
    target = digits("retrain")
    found, own = make(layers="stages").evaluate(target).numbers, make().evaluate(target).numbers
    stages = ("stem", "stage1", "stage2", "stage3")
    assert set(found) == {f"{stage}/{name}" for stage in stages for name in own}
    last = {name.removeprefix("stage3/"): value for name, value in found.items() if name.startswith("stage3/")}
    assert last == own  # the last stage is the features
    assert len({found[f"{stage}/forget_acc"] for stage in stages}) > 1


def test_readouts_of_a_stage_are_sklearns_on_its_activations(digits):
    target = digits("original")

    def at(split):
        whole = target.model.gather(split)
        return whole.stages["stage1"].double().numpy(), whole.labels.numpy()

    x, labels = (np.concatenate(parts) for parts in zip(*map(at, TRAIN), strict=True))
    probe = make_pipeline(Normalizer(), StandardScaler(), LogisticRegression(max_iter=1000)).fit(*at("forget"))
    references = {
        KNNRecovery(layers="stages"): KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(x, labels),
        NearestMean(normalise="raw", layers="stages"): NearestCentroid().fit(x, labels),
        ForgetProbe(layers="stages"): probe,
    }
    for attack, reference in references.items():
        assert attack.evaluate(target).numbers["stage1/test_forget_acc"] == reference.score(*at("test_forget")), (
            attack.name
        )


class Watched(nn.Module):
    """An encoder that counts how many of its outputs are alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = weakref.WeakSet(), 0

    def forward(self, x):
        out = x.clone()
        self.alive.add(out)
        self.most = max(self.most, len(self.alive))
        return out


@pytest.mark.parametrize(
    "attack",
    [
        *(HeadRecovery(normalise=normalise) for normalise in ("raw", "standard", "l2", "gated")),
        FeatureMapping(normalise="gated"),
        NearestMean(),
        LinearDiscriminant(),
        CapacityRecovery(dimensions=32),
        KNNRecovery(limit=10),
        StageRecovery(),
        HeadRecovery(normalise="standard", layers="stages"),
        FeatureMapping(normalise="gated", layers="stages"),
        NearestMean(layers="stages"),
        LinearDiscriminant(layers="stages"),
        CapacityRecovery(dimensions=32, layers="stages"),
        KNNRecovery(limit=10, layers="stages"),
    ],
    ids=lambda attack: f"{attack.name} {getattr(attack, 'normalise', '')} {attack.layers}",
)
def test_no_batch_is_kept_so_memory_does_not_grow_with_the_samples(make_target, vectors, attack):
    most = []
    for repeats in (2, 40):
        x, labels = torch.randn(10 * repeats, 5), torch.arange(5).repeat(2 * repeats)
        net = vectors(nn.Sequential(Watched()), 5, 5, stages={"inner": "0"})
        found = attack.evaluate(make_target(net, net, budget=0, forget=(x, labels), retain=(x, labels))).numbers
        assert set(found) == {f"{'inner/' * (attack.layers == 'stages')}{split}_acc" for split in TRAIN}
        most.append(net.encoder[0].most)
    assert most[0] == most[1] <= 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNNRecovery(k=0), "k is 0"),
        (lambda: KNNRecovery(limit=0), "limit is 0"),
        (lambda: CapacityRecovery(dimensions=0), "dimensions is 0"),
        (lambda: ForgetProbe(penalty=0), "penalty is 0"),
        (lambda: ForgetProbe("retain"), "calibration is 'retain', but a probe among forgotten classes needs samples"),
        (lambda: NearestMean(layers="stage"), "unknown layers 'stage'; did you mean 'stages'"),
        (lambda: NearestMean("tain"), "unknown calibration set 'tain'"),
        (lambda: LinearDiscriminant(ridge=-1), "ridge is -1"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(UsageError, match=message):
        make()
