"""Fewer images: what readouts are fitted on keeps the shares of its classes."""

import pytest
import torch

from lit_unlearn.attacks import SpatialRecovery, TransformedRecovery
from lit_unlearn.attacks.image_view import ImageView
from lit_unlearn.attacks.recovery.base import calibration_splits, scored_images
from lit_unlearn.attacks.recovery.worst import WorstRecovery
from lit_unlearn.results import AttackResult

SIZES = {"forget": 300, "retain": 900, "test_forget": 400, "test_retain": 600}


@pytest.fixture
def target(make_target, vectors):
    def make(*names, stages=None):
        splits = {name: (torch.arange(SIZES[name]).float()[:, None], torch.arange(SIZES[name]) % 4) for name in names}
        return make_target(vectors(torch.nn.Sequential(torch.nn.Identity()), 1, 4, stages=stages), **splits)

    return make


def sizes(view):
    found = {name: len(view.labels(name)) for name in view.split_names}
    for name, count in found.items():
        batches = list(view.evaluation_batches(name, torch.device("cpu")))
        assert torch.equal(torch.cat([labels for _, labels in batches]), view.labels(name)[:count])
    return found


@pytest.mark.parametrize(
    ("calibration", "left"),
    [
        ("train", {"forget": 50, "retain": 150, "test_forget": 200, "test_retain": 200}),
        ("heldout", {"forget": 200, "retain": 200, "test_forget": 80, "test_retain": 120}),
        ("rest", {"forget": 200, "retain": 95, "test_forget": 42, "test_retain": 63}),
        (None, {"forget": 200, "retain": 200, "test_forget": 200, "test_retain": 200}),
    ],
)
def test_splits_that_are_fitted_on_together_keep_their_shares(target, calibration, left):
    data = target(*SIZES).data
    together = calibration_splits(calibration) if calibration else ()
    found = {name: len(ImageView(data, most=200, together=together).labels(name)) for name in SIZES}
    assert found == left


def test_no_image_is_fitted_on_and_scored_where_unseen_images_are_drawn_from_odd_places(target):
    """A view of fewer images would renumber them, and put a half of the odd ones on even places."""
    data = target("forget", "retain", "test_retain").data
    data.splits["test_matched"] = tuple(tensor[1::2][:100] for tensor in data.splits["test_retain"])
    view = ImageView(data, most=200, together=calibration_splits("rest"))
    assert len(view.labels("test_retain")) == 600
    assert len(view.labels("retain")) < 200
    images = {
        split: torch.cat([x for x, _ in view.evaluation_batches(split, torch.device("cpu"))]).flatten().tolist()
        for split in ("test_retain", "test_matched")
    }
    assert not set(images["test_retain"][::2]) & set(images["test_matched"])


def test_where_there_are_few_enough_all_are_there(target):
    view = ImageView(target(*SIZES).data, most=5000, together=calibration_splits("train"))
    assert sizes(view) == SIZES
    assert sizes(ImageView(target(*SIZES).data)) == SIZES


@pytest.mark.parametrize("make", [SpatialRecovery, lambda most: TransformedRecovery(["flip"], most=most)])
@pytest.mark.parametrize("classes", [True, False])
def test_the_attacks_fit_on_the_shares_of_the_data(target, monkeypatch, make, classes):
    seen = {}

    def evaluate(self, target):
        seen.update({name: len(target.data.labels(name)) for name in target.data.split_names})
        numbers = {f"stages/{name}_acc": 0.5 for name in target.data.split_names}
        return AttackResult(numbers, {"stages/strongest": "any"})

    monkeypatch.setattr(WorstRecovery, "evaluate", evaluate)
    monkeypatch.setattr("lit_unlearn.attacks.recovery.transformed._of_one_size", lambda change: None)
    names = SIZES if classes else [name for name in SIZES if name != "test_forget"]
    found = make(most=300).evaluate(target(*names, stages={"one": "0"})).numbers
    if classes:
        assert seen == {"forget": 75, "retain": 225, "test_forget": 300, "test_retain": 300}
    else:
        assert seen == {"forget": 300, "retain": 180, "test_retain": 120}
    prefix = "" if make is SpatialRecovery else "flip/stages/"
    assert found[f"{prefix}images"] == 300
    assert found.get(f"{prefix}unseen") == (None if classes else 60), "one half is fitted on"


def test_what_is_scored_is_counted(target):
    classes, single = target(*SIZES).data, target("forget", "retain", "test_retain").data
    assert scored_images(classes, "train") == {"images": 400}
    assert scored_images(classes, "heldout") == {"images": 200}
    assert scored_images(single, "rest") == {"images": 300, "unseen": 300}
    assert scored_images(single, None) == {"images": 300, "unseen": 600}
    assert scored_images(target("forget", "retain").data, "rest") == {"images": 300}
