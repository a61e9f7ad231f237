from functools import partial
from pathlib import Path

import pytest
import torch
from attacked import attacked
from command_line import experiment, lit_unlearn
from torch import nn

from lit_unlearn.attacks import FeatureMapping, ForgetProbe, HeadRecovery, KNNRecovery, NearestMean, WorstRecovery
from lit_unlearn.attacks.recovery import CapacityRecovery, Recovery
from lit_unlearn.attacks.recovery import worst as worst_case
from lit_unlearn.attacks.recovery.worst import SUITES, standard_suite
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune
from lit_unlearn.reports import read_rows

ROOT = Path(__file__).resolve().parents[3]
FEATURES = 22  # {raw, standard, l2, gated} x {bias, no bias} x {hr, fm}, two nearest means, two lda, knn, capacity


@pytest.fixture(scope="module", autouse=True)
def light():
    """The suite with fewer random features, which is most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worst_case, "CapacityRecovery", partial(CapacityRecovery, dimensions=128))
        yield


@pytest.fixture(scope="module")
def found(digits, light):
    """The numbers and notes of the standard suite on the controls."""
    attack = WorstRecovery()
    return {name: attacked(attack, digits(name)) for name in ("original", "retrain", "random", "1e-3", "1e-5")}


def worst(seen, name="test_forget_acc"):
    return seen.attacks[f"recovery/worst/{name}"]


@pytest.mark.parametrize("scale", ["1e-3", "1e-5"])
def test_shrunk_features_are_recovered_as_the_originals_and_not_by_plain_attacks(found, digits, scale):
    assert worst(found[scale]) >= worst(found["original"]) - 0.03
    assert worst(found[scale], "test_retain_acc") >= worst(found["original"], "test_retain_acc") - 0.03
    for plain in (HeadRecovery(), FeatureMapping()):
        assert plain.evaluate(digits(scale)).numbers["test_forget_acc"] <= 0.4  # a constant answer gives a third
    assert worst(found[scale], "test_forget_acc/hr_raw") <= 0.4
    for strong in ("hr_l2", "fm_l2", "hr_gated", "fm_gated", "nearest_mean_l2", "lda_l2", "knn", "capacity"):
        assert worst(found[scale], f"test_forget_acc/{strong}") >= worst(found["original"]) - 0.03


def test_the_strongest_alone_is_scored_on_the_retained_images(found, digits):
    seen = found["1e-3"]
    group = {"": "strongest", "stages/": "stages/strongest"}
    for place, note in group.items():
        name, _, view = seen.notes[f"recovery/worst/{note}"].partition("/")
        (member,) = [each for each in standard_suite("train") if each.name == name]
        alone = member.evaluate(digits("1e-3")).numbers
        assert worst(seen, f"{place}retain_acc") == alone[f"{view}/retain_acc".lstrip("/")]


def test_head_only_is_recovered_as_the_original_and_retrain_is_its_own_baseline(found, tmp_path):
    quick = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    suite = (*experiment("head_only"), "--config", "attack/recovery")
    assert lit_unlearn(tmp_path, "fit", *suite, *quick).status == 0
    original, retrain, row = read_rows(tmp_path / "runs/HeadOnly/version_0/results.json")
    key = "recovery/worst/test_forget_acc"
    assert row.metrics["test_forget_acc"] < 0.1
    assert row.attacks[key] >= original.attacks[key] - 0.03
    assert {name: value for name, value in retrain.attacks.items() if "/worst/" in name} == found["retrain"].attacks
    assert {name: value for name, value in original.attacks.items() if "/worst/" in name} == found["original"].attacks


def test_weights_that_never_learnt_are_not_read_as_well_as_the_original(found):
    """The digits are so easy that even random weights tell them apart; class means show most what training adds."""
    for name in ("nearest_mean_raw", "nearest_mean_l2"):
        own, other = (worst(found[subject], f"test_forget_acc/{name}") for subject in ("random", "original"))
        assert own < other - 0.15
    assert worst(found["random"]) < worst(found["original"])
    assert worst(found["random"], "test_retain_acc") < worst(found["original"], "test_retain_acc") - 0.05


def test_features_without_information_give_a_constant_answer(make_target, vectors, four_splits):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 5)

    original = vectors(nn.Identity(), 5, 4)
    attack = WorstRecovery()
    seen = attacked(attack, make_target(vectors(Constant(), 5, 4), original, **four_splits))
    numbers = seen.attacks
    assert (
        numbers["recovery/worst/test_forget_acc"]
        == numbers["recovery/worst/within_forget_classes/test_forget_acc"]
        == 0.5
    )


def test_every_member_and_what_the_maximum_is_of_are_named(found):
    numbers, key = found["1e-3"].attacks, "recovery/worst/test_forget_acc"
    members = {name.removeprefix(f"{key}/"): value for name, value in numbers.items() if name.startswith(f"{key}/")}
    features = {name: value for name, value in members.items() if not name.startswith(("stages", "forget_probe"))}
    stages = {name: value for name, value in members.items() if name.startswith("stages")}
    assert len(features) == numbers["recovery/worst/readouts"] == FEATURES
    assert len(stages) == numbers["recovery/worst/stages/readouts"] == 8
    assert numbers[key] == max(features.values())
    assert numbers["recovery/worst/stages/test_forget_acc"] == max(stages.values())
    assert numbers["recovery/worst/within_forget_classes/test_forget_acc"] == members["forget_probe"]
    notes = found["1e-3"].notes
    strongest = notes["recovery/worst/strongest"]
    assert features[strongest] == numbers[key]
    assert numbers["recovery/worst/test_retain_acc"] == numbers[f"recovery/worst/test_retain_acc/{strongest}"]
    assert (
        notes["recovery/worst/reading"] == f"of 22 readout(s), suite {SUITES['heads']}, on test_forget: their maximum"
    )
    assert "recovery/worst/retain_acc/forget_probe" not in numbers  # it has no right answer there
    assert not any("/retain_acc/" in name for name in numbers)
    assert not any(each.skipped for each in found.values())


class Given(Recovery):
    """A readout that is right where it is told to be."""

    def __init__(self, name, right, calibration="train"):
        super().__init__(name, calibration)
        self.right = right

    def readouts(self, target):
        def read(batch):
            right = self.right[batch.features[:, 0].long()]
            return torch.stack([~right, right], 1).float().gather(1, torch.stack([1 - batch.labels, batch.labels], 1))

        return {"": read}


def numbered(make_target, vectors, test=8):
    def part(count):
        return torch.arange(count).float()[:, None], torch.ones(count, dtype=torch.long)

    return make_target(
        vectors(nn.Identity(), 1, 2), forget=part(8), retain=part(8), test_forget=part(test), test_retain=part(8)
    )


def right(*positions):
    return torch.tensor([position in positions for position in range(8)])


def test_the_maximum_and_its_bias_by_hand(make_target, vectors):
    members = [Given("a", right(0, 2, 4, 1)), Given("b", right(1, 3, 5)), Given("c", right(0, 1))]
    attack = WorstRecovery(members)
    seen = attacked(attack, numbered(make_target, vectors))
    assert worst(seen) == 4 / 8
    assert seen.notes["recovery/worst/strongest"] == "a"
    # even positions: a 3/4, b 0, c 1/4, so a, and it gets 1/4 on the odd; odd: b 3/4, and it gets 0 on the even
    assert worst(seen, "selection_bias") == 4 / 8 - (1 / 4 + 0) / 2
    assert worst(seen, "readouts") == 3


def test_selection_on_one_half_and_the_score_on_the_other_by_hand(make_target, vectors):
    members = [Given("a", right(0, 2, 4, 1)), Given("b", right(1, 3, 5)), Given("c", right(0, 1))]
    attack = WorstRecovery(members, select="half")
    seen = attacked(attack, numbered(make_target, vectors))
    assert worst(seen) == 1 / 4
    assert worst(seen, "test_forget_acc/b") == 3 / 8
    assert seen.notes["recovery/worst/strongest"] == "a"
    assert "recovery/worst/selection_bias" not in seen.attacks


def test_of_equally_strong_members_the_first_counts(make_target, vectors):
    attack = WorstRecovery([Given("z", right(1)), Given("a", right(2))])
    seen = attacked(attack, numbered(make_target, vectors))
    assert seen.notes["recovery/worst/strongest"] == "z"


def test_a_single_held_out_image_has_no_halves(make_target, vectors):
    for select in ("maximum", "half"):
        attack = WorstRecovery([Given("a", right(0)), Given("b", right(1))], select=select)
        seen = attacked(attack, numbered(make_target, vectors, test=1))
        assert worst(seen) == 1
        assert "recovery/worst/selection_bias" not in seen.attacks


def test_single_images_are_predicted_by_what_was_fitted_on_all_others(make_target, vectors, four_splits):
    del four_splits["test_forget"]
    wrong = {**four_splits, "forget": (four_splits["forget"][0], four_splits["forget"][1].flip(0).roll(1))}
    original, found = vectors(nn.Linear(5, 6), 6, 4), []
    for splits in (four_splits, wrong):
        attack = WorstRecovery()
        seen = attacked(attack, make_target(vectors(nn.Identity(), 5, 4), original, **splits))
        found.append(seen.attacks)
    others = [{name: value for name, value in each.items() if "/test_retain_acc/" in name} for each in found]
    assert others[0] == others[1]  # no label of the forget set was read
    assert len(others[0]) == FEATURES
    numbers = found[0]
    gaps = {
        name: value - numbers[name.replace("/forget_acc/", "/test_retain_acc/")]
        for name, value in numbers.items()
        if "/forget_acc/" in name and "stages" not in name
    }
    assert numbers["recovery/worst/gap"] == pytest.approx(max(gaps.values()))
    gap = numbers["recovery/worst/forget_acc"] - numbers["recovery/worst/test_retain_acc"]
    assert numbers["recovery/worst/gap"] == pytest.approx(gap)
    assert seen.notes["recovery/worst/reading"].endswith("on forget: their maximum")


@pytest.mark.parametrize("select", ["maximum", "half"])
def test_of_single_images_the_largest_lead_over_unseen_ones_counts(make_target, vectors, select):
    def part(first):
        return first + torch.arange(8).float()[:, None], torch.ones(8, dtype=torch.long)

    def member(name, forget, unseen):
        told = [position in forget for position in range(8)] + [position in unseen for position in range(8)]
        return Given(name, torch.tensor(told), calibration="rest")

    # the unseen are scored where they are not fitted on, at odd positions: a 3/4, b 1/4, c 0
    members = [member("a", range(6), (1, 3, 5)), member("b", range(5), (1,)), member("c", (0, 1), ())]
    target = make_target(vectors(nn.Identity(), 1, 2), forget=part(0), retain=part(8), test_retain=part(8))
    seen = attacked(WorstRecovery(members, select=select), target)
    assert seen.notes["recovery/worst/strongest"] == "b"
    assert worst(seen, "test_retain_acc") == 1 / 4
    assert worst(seen, "forget_acc") == (5 / 8 if select == "maximum" else 2 / 4)  # at the odd positions 1 and 3 of 4
    # even positions: a 3/4 - 3/4, b 3/4 - 1/4, so b, with 2/4 - 1/4 on the odd; odd: b, c alike, so b, with 3/4 - 1/4
    if select == "maximum":
        assert worst(seen, "selection_bias") == 3 / 8 - (1 / 4 + 1 / 2) / 2


def test_members_that_need_the_original_are_left_out_without_one(make_target, vectors, four_splits):
    attack = WorstRecovery()
    seen = attacked(attack, make_target(vectors(nn.Identity(), 5, 4), **four_splits))
    assert worst(seen, "readouts") == FEATURES - 8
    assert not any("/fm_" in name for name in seen.attacks)


def test_the_standard_suite_holds_what_it_says():
    suite = standard_suite("train")
    names = [member.name for member in suite]
    assert len(set(names)) == len(names) == 25
    linear = {(type(m), m.normalise, m.bias) for m in suite if m.name.startswith(("hr_", "fm_"))}
    assert len(linear) == 16
    assert all(member.calibration == "retain" for member in standard_suite("retain"))


def settings(member, *others):
    """What a member is and does, but for its name."""
    kept = {"name", "layers", *others}
    return type(member), {key: value for key, value in vars(member).items() if key not in kept}


@pytest.mark.parametrize("calibration", ["train", "retain", "rest"])
def test_the_larger_suite_puts_every_readout_to_the_stages_too(calibration):
    suite = standard_suite(calibration, 7, "readouts")
    deep = [member for member in suite if member.layers == "stages"]
    given = [member for member in standard_suite(calibration, 7) if member.layers == "features"]
    assert [settings(member) for member in suite if member.layers == "features"] == list(map(settings, given))
    assert [settings(member) for member in deep] == list(map(settings, given))
    assert len(given) == FEATURES + (calibration != "retain")
    names = [member.name for member in suite]
    assert len(set(names)) == len(names) == 2 * len(given)
    probes = {member.name: member.group for member in suite if member.question}
    groups = {"forget_probe": "within_forget_classes", "forget_probe_stages": "within_forget_classes/stages"}
    assert probes == (groups if calibration != "retain" else {})


def test_the_worst_of_the_stages_covers_every_readout_at_every_stage(digits):
    attack = WorstRecovery(stages="readouts")
    seen = {name: attacked(attack, digits(name)) for name in ("original", "1e-5")}
    numbers, key = seen["1e-5"].attacks, "recovery/worst/test_forget_acc"
    members = {name.removeprefix(f"{key}/"): value for name, value in numbers.items() if name.startswith(f"{key}/")}
    stages = {name: value for name, value in members.items() if name.startswith("stages")}
    probes = {name: value for name, value in members.items() if name.startswith("forget_probe_stages/")}
    assert numbers["recovery/worst/readouts"] == FEATURES
    assert len(stages) == numbers["recovery/worst/stages/readouts"] == 4 * FEATURES
    assert len(probes) == numbers["recovery/worst/within_forget_classes/stages/readouts"] == 4
    assert numbers["recovery/worst/stages/test_forget_acc"] == max(stages.values())
    assert numbers["recovery/worst/within_forget_classes/stages/test_forget_acc"] == max(probes.values())
    assert stages["stages_hr_l2/stage3"] == members["hr_l2"]  # it is the features
    assert worst(seen["1e-5"], "stages/test_forget_acc") >= worst(seen["original"], "stages/test_forget_acc") - 0.03
    reading = f"of 88 readout(s), suite {SUITES['readouts']}, on test_forget: their maximum"
    assert seen["1e-5"].notes["recovery/worst/stages/reading"] == reading
    assert len(set(SUITES.values())) == len(SUITES)


def test_selection_on_what_was_fitted_is_refused_before_anything_is_trained(make_backbone, make_data, fit):
    attack = WorstRecovery(calibration="heldout", select="half")
    with pytest.raises(UsageError, match="select is 'half', but hr_raw is fitted on the half of test_forget"):
        fit(FineTune(make_backbone()), make_data(), attack)
    fit(FineTune(make_backbone()), make_data(), WorstRecovery([NearestMean(), KNNRecovery()], select="half"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WorstRecovery([]), "members is empty"),
        (lambda: WorstRecovery([NearestMean(), NearestMean()]), "two members are called 'nearest_mean'"),
        (lambda: WorstRecovery([ForgetProbe()], calibration="train"), "calibration is 'train', but members bring"),
        (lambda: WorstRecovery(select="halves"), r"unknown way to select 'halves'; did you mean 'half'"),
        (lambda: WorstRecovery(calibration="retian"), "unknown calibration set 'retian'"),
        (lambda: WorstRecovery(stages="readout"), r"unknown way to read stages 'readout'; did you mean 'readouts'"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(UsageError, match=message):
        make()
