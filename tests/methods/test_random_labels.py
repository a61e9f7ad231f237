import pytest
import torch

from lit_unlearn.methods import RandomLabels
from lit_unlearn.methods.random_labels import random_labels


@pytest.mark.parametrize("exclude_true", [False, True])
def test_steps_follow_random_labels_on_forget_and_true_ones_on_retain(
    follow, make_backbone, sgd, make_data, exclude_true
):
    data = make_data(forget_batch_size=12)  # 24 forget images: two forget steps, then retain
    generator = torch.Generator().manual_seed(0)  # seed 0, epoch 0, rank 0

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == ("forget" if step < 2 else "retain")
        if part == "forget" and exclude_true:
            labels = (labels + torch.randint(1, 4, labels.shape, generator=generator)) % 4
        elif part == "forget":
            labels = torch.randint(0, 4, labels.shape, generator=generator)
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    follow(RandomLabels(make_backbone(), optimizer=sgd, exclude_true=exclude_true), loss, data=data, steps=3)


def test_labels_are_uniform_with_the_true_one_among_them():
    true = torch.arange(5).repeat(4000)
    drawn = random_labels(true, 5, exclude_true=False)
    counts = torch.stack([drawn[true == label].bincount(minlength=5) for label in range(5)])
    assert (counts - 800).abs().max() < 130  # five standard deviations of 25


def test_excluded_true_labels_never_come_up_and_the_others_are_uniform():
    true = torch.arange(5).repeat(4000)
    drawn = random_labels(true, 5, exclude_true=True)
    counts = torch.stack([drawn[true == label].bincount(minlength=5) for label in range(5)])
    assert (counts.diagonal() == 0).all()
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert (others - 1000).abs().max() < 140
