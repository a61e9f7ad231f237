import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.methods import BoundaryShrink
from lit_unlearn.methods.adversarial import fgsm
from lit_unlearn.methods.boundary_shrink import neighbours


def adversarial_classes(original, images, labels, size, exclude):
    """Sample by sample: one signed step on the frozen network, clamped to [0, 1], and what it says there."""
    found = []
    for image, label in zip(images, labels.tolist(), strict=True):
        x = image[None].clone().requires_grad_()
        (-torch.log_softmax(original(x), 1)[0, label]).backward()
        moved = torch.minimum(torch.maximum(x + size * torch.sign(x.grad), torch.zeros(())), torch.ones(()))
        scores = original(moved.detach())[0].tolist()
        found.append(max((c for c in range(4) if not (exclude and c == label)), key=lambda c: scores[c]))
    return torch.tensor(found)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("size", [0.1, 0.05])
def test_two_epochs_train_towards_the_classes_that_the_original_sees_across_the_boundary(
    follow, make_backbone, sgd, size, exclude
):
    original = make_backbone().double().eval()
    crossed = []

    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "forget"
        across = adversarial_classes(original, images, labels, size, exclude)
        crossed.extend((across != labels).tolist())
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), across].mean()

    module = BoundaryShrink(make_backbone(), optimizer=sgd, step_size=size, exclude_true=exclude)
    follow(module, loss, steps=6, epochs=2)
    assert all(crossed) if exclude else 0 < sum(crossed) < len(crossed)
    teacher = module.teacher.state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in original.state_dict().items())


def test_a_step_moves_every_pixel_by_its_length(make_backbone):
    network = make_backbone().eval().requires_grad_(False)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    moved = fgsm(network, images, torch.arange(6) % 4, 0.1)
    assert torch.equal(images, before)
    assert not images.requires_grad
    torch.testing.assert_close((moved - images).abs(), torch.full_like(images, 0.1))


@pytest.mark.parametrize("bounded", [True, False])
def test_what_the_original_sees_stays_in_the_pixel_range_where_asked(make_backbone, bounded):
    network, seen = make_backbone().eval().requires_grad_(False), []
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    neighbours(network, images, torch.arange(6) % 4, 0.3, False, bounded)
    start, moved = seen
    assert torch.equal(start, images)
    assert (moved.min() == 0 and moved.max() == 1) if bounded else (moved.min() < -0.2 and moved.max() > 1.2)


def test_a_step_that_does_not_cross_leaves_the_true_label_unless_it_is_excluded(make_backbone, make_data):
    data = make_data()
    data.prepare_data()
    data.setup("fit")
    images, labels = next(data.evaluation_batches("forget", torch.device("cpu")))
    network = make_backbone().eval().requires_grad_(False)
    assert torch.equal(neighbours(network, images, labels, 1e-6, False, True), labels)
    assert (neighbours(network, images, labels, 1e-6, True, True) != labels).all()


def test_the_original_does_not_learn_with_the_student(fit, make_backbone, make_data, sgd, recorder, trained_state):
    module = BoundaryShrink(make_backbone(), optimizer=sgd)
    fit(module, make_data(), recorder, max_epochs=2)
    assert all(torch.equal(value, module.teacher.state_dict()[name]) for name, value in trained_state.items())
    assert not module.teacher.training
    assert all(p.grad is None for p in module.teacher.parameters())


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_a_step_that_leads_nowhere_is_refused(make_backbone, value):
    with pytest.raises(UsageError, match=f"step_size is {value}"):
        BoundaryShrink(make_backbone(), step_size=value)
