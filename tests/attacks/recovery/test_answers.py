"""What the head still says among the classes that it no longer names."""

import pytest
import torch

from lit_unlearn.attacks import MaskedAnswers
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.data import Digits, ForgetSpec, UnlearnDataModule

CPU = torch.device("cpu")


def made(weights, classes=(0, 1, 2), hide=False):
    data = UnlearnDataModule(Digits(), ForgetSpec(classes=list(classes)))
    data.setup("fit")
    net = ResNet8(in_channels=1)
    load_weights(net, weights)
    if hide:
        with torch.no_grad():
            net.head.bias[list(classes)] = -100.0
    return Target(EncodedData(net.eval(), data, CPU), None, data, 10)


def test_a_head_that_only_never_names_the_classes_gives_them_all_back():
    target = made("digits_resnet8", hide=True)
    assert target.accuracies(lambda batch: batch.logits)["test_forget_acc"] == 0
    found = MaskedAnswers().evaluate(target).numbers
    assert found.keys() == {"forget_acc", "test_forget_acc"}
    assert min(found.values()) > 0.95


def test_it_is_the_largest_logit_of_the_forgotten_classes():
    target = made("digits_resnet8_retrain_classes_0_1_2")
    batch = target.model.gather("test_forget")
    expected = float((batch.logits[:, :3].argmax(1) == batch.labels).double().mean())
    assert MaskedAnswers().evaluate(target).numbers["test_forget_acc"] == pytest.approx(expected)


def test_retrains_rank_the_classes_that_they_never_saw_by_chance():
    seeds = ["", *(f"_seed_{seed}" for seed in range(1, 5))]
    names = [f"digits_resnet8_retrain_classes_0_1_2{seed}" for seed in seeds]
    found = [MaskedAnswers().evaluate(made(name)).numbers["test_forget_acc"] for name in names]
    assert 0.1 < sum(found) / len(found) < 0.7


def test_with_one_class_or_single_images_it_is_left_out():
    assert "known without the model" in (MaskedAnswers().lacks(made("digits_resnet8", (3,))) or "")
    data = UnlearnDataModule(Digits(), ForgetSpec(fraction=0.1))
    data.setup("fit")
    target = Target(EncodedData(ResNet8(in_channels=1).eval(), data, CPU), None, data, 10)
    reason = MaskedAnswers().lacks(target) or ""
    assert "no class with test images is forgotten whole" in reason
    assert "without the model" not in reason, "which class an image of a list has is not known"
    assert MaskedAnswers().lacks(made("digits_resnet8")) is None
