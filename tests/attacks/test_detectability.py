import copy
import math

import pytest
import torch
from attacked import attacked
from torch import nn

from lit_unlearn.attacks import DetectClasses, DetectSamples
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.metrics import auc

CPU = torch.device("cpu")
SCORES = ("feature_norm", "logit_norm", "entropy", "confidence")


def noise(count, seed, scale=1.0, classes=(2, 3)):
    points = scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return points, torch.tensor(classes).repeat(count)[:count]


@pytest.fixture
def net(vectors):
    return vectors(nn.Identity(), 5, 4)


def test_tiny_features_give_the_forgotten_away(make_target, net):
    splits = {"forget": noise(40, 1, 1e-3), "test_forget": noise(40, 2, 1e-3), "test_retain": noise(60, 3)}
    found = DetectSamples().evaluate(make_target(net, **splits)).numbers
    for split in ("forget", "test_forget"):
        assert found[f"{split}_feature_norm_auc"] == found[f"{split}_auc"] == 1
    assert len(found) == 2 * (len(SCORES) + 1)


def test_single_images_of_few_classes_are_told_from_unseen_ones_of_these(make_target, net):
    """All unseen images are as small as the forgotten ones, those of their classes are not."""
    splits = {"forget": noise(40, 1, 1e-3), "test_retain": noise(60, 2, 1e-3), "test_matched": noise(60, 3)}
    assert DetectSamples().evaluate(make_target(net, **splits)).numbers["forget_feature_norm_auc"] == 1


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_direction_is_learnt(make_target, net, scale):
    found = DetectSamples().evaluate(make_target(net, forget=noise(40, 1, scale), test_retain=noise(60, 3))).numbers
    assert found["forget_feature_norm_auc"] == 1


def test_where_nothing_is_told_apart_no_direction_is_made_up(make_target, net):
    """Folding the AUC at a half would give more than a half on average."""
    values = []
    for seed in range(8):
        splits = {"forget": noise(200, 2 * seed), "test_retain": noise(300, 2 * seed + 1)}
        values += [
            DetectSamples().evaluate(make_target(net, **splits)).numbers[f"forget_{name}_auc"]
            for name in ("entropy", "feature_norm")
        ]
    width = math.sqrt((1 / 100 + 1 / 150) / 12)
    assert all(abs(value - 0.5) <= 4 * width for value in values)
    assert abs(sum(values) / len(values) - 0.5) <= 3 * width / math.sqrt(len(values))


def test_the_judged_half_is_not_the_learnt_half(make_target, net):
    """On even positions the forgotten are small, on odd ones large: what was learnt points the wrong way."""
    points, labels = noise(40, 1)
    points = points * torch.tensor([1e-3, 1e3]).repeat(20)[:, None]
    found = DetectSamples().evaluate(make_target(net, forget=(points, labels), test_retain=noise(60, 3))).numbers
    assert found["forget_feature_norm_auc"] == 0


def test_the_best_score_is_chosen_before_it_is_judged(make_target, net):
    points, labels = noise(60, 3)
    flat = (torch.cat([points[:20] * 1e-3]), labels[:20])
    found = DetectSamples().evaluate(make_target(net, forget=flat, test_retain=(points, labels))).numbers
    assert found["forget_auc"] in [found[f"forget_{name}_auc"] for name in SCORES]
    assert found["forget_auc"] == 1


def test_a_single_image_is_undefined_and_no_crash(make_backbone, one_image):
    data, attack = one_image, DetectSamples()
    net = make_backbone().eval().requires_grad_(False)
    seen = attacked(attack, Target(EncodedData(net, data, CPU), None, data, 4))
    assert seen.attacks == {}
    assert "detectability/samples/forget_auc" in seen.skipped[attack.title]


def known_head(vectors, bias=True):
    net = vectors(nn.Identity(), 5, 4)
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([0.1, 2.0, 0.2, 3.0])[:, None] * torch.eye(4, 5))
        net.head.bias.copy_(torch.tensor([-1.0, 0.0, -3.0, -2.0]))
    if not bias:
        net.head.bias = None
    return net


def test_classes_by_their_rows_and_biases(make_target, vectors):
    """Rows of classes 0 and 2 are the smallest; of the biases those of 2 and 3 are."""
    splits = {"test_forget": noise(8, 1, classes=(0, 2)), "test_retain": noise(8, 2, classes=(1, 3))}
    found = DetectClasses().evaluate(make_target(known_head(vectors), **splits)).numbers
    assert found["head_norm_auc"] == 1
    assert found["head_bias_auc"] == 0.75  # of four pairs, (0, 3) alone is out of order


def test_classes_by_what_the_model_says(make_target, vectors, four_splits):
    net = vectors(nn.Identity(), 5, 4)
    with torch.no_grad():
        net.head.bias.copy_(torch.tensor([-9.0, -9.0, 0.0, 0.0]))
    tiny = {name: (x * (1e-3 if "forget" in name else 1), y) for name, (x, y) in four_splits.items()}
    found = DetectClasses().evaluate(make_target(net, **tiny)).numbers
    assert found["frequency_auc"] == found["feature_norm_auc"] == found["head_bias_auc"] == 1
    large = {name: (x * (1e3 if "forget" in name else 1), y) for name, (x, y) in four_splits.items()}
    assert DetectClasses().evaluate(make_target(net, **large)).numbers["feature_norm_auc"] == 0


def test_means_are_of_the_classes_own_images(make_target, vectors, four_splits):
    net = vectors(nn.Identity(), 5, 4)
    points, labels = (torch.cat([four_splits[f"test_{s}"][i] for s in ("forget", "retain")]) for i in (0, 1))
    with torch.no_grad():
        p = net(points).double().softmax(1)
    means = torch.stack([p[labels == c].amax(1).mean() for c in range(4)])
    found = DetectClasses().evaluate(make_target(net, **four_splits)).numbers
    assert found["confidence_auc"] == auc(-means[:2], -means[2:])
    assert found["frequency_auc"] == auc(-p.mean(0)[:2], -p.mean(0)[2:])


def test_a_head_without_bias_and_one_with_more_outputs(make_target, vectors, four_splits):
    attack = DetectClasses()
    seen = attacked(attack, make_target(known_head(vectors, bias=False), **four_splits))
    assert seen.skipped[attack.title] == "undefined: detectability/classes/head_bias_auc"
    wider = vectors(nn.Identity(), 5, 6)
    target = make_target(wider, **four_splits)
    target = Target(target.model, None, target.data, 4)
    assert all(0 <= value <= 1 for value in attack.evaluate(target).numbers.values())


def test_no_class_is_detected_where_none_was_forgotten(make_target, net, four_splits):
    del four_splits["test_forget"]
    attack = DetectClasses()
    seen = attacked(attack, make_target(net, **four_splits))
    assert seen.attacks == {}
    assert seen.skipped[attack.title].count("_auc") == 6


def test_they_leave_no_trace(make_backbone, make_data):
    net, data = make_backbone().eval().requires_grad_(False), make_data()
    before = copy.deepcopy(net.state_dict())
    for attack in (DetectSamples(), DetectClasses()):
        target = Target(EncodedData(net, data, CPU), None, data, 4)
        assert attack.evaluate(target).numbers == attack.evaluate(target).numbers
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
