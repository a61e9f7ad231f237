import pytest
import torch

from lit_unlearn.attacks.images import batches_with_index, own_share, packed, packed_pick, packed_share, pick, unpacked

CPU = torch.device("cpu")


@pytest.fixture
def data(make_data):
    return make_data()


def whole(data, split):
    return [torch.cat(pieces) for pieces in zip(*data.evaluation_batches(split, CPU), strict=True)]


def test_the_picked_are_those_of_the_index_in_the_order_asked(data):
    images, labels = whole(data, "retain")
    wanted = torch.tensor([17, 0, 3, 11, 3])
    picked = pick(data, "retain", wanted, CPU)
    assert torch.equal(picked[0], images[wanted])
    assert torch.equal(picked[1], labels[wanted])


def test_a_process_alone_owns_every_sample(data):
    images, labels = whole(data, "retain")
    own = own_share(data, "retain", torch.tensor([17, 0, 3]), CPU)
    assert torch.equal(own[0], images[[0, 3, 17]])
    assert torch.equal(data.labels("retain"), labels)
    index = torch.cat([index for index, _, _ in batches_with_index(data, "retain", CPU)])
    assert index.tolist() == list(range(len(labels)))


def test_nothing_wanted_is_nothing_of_the_right_shape(data):
    images, labels = pick(data, "retain", torch.empty(0, dtype=torch.long), CPU)
    assert (images.shape, labels.shape) == ((0, 1, 8, 8), (0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_packing_loses_nothing(dtype):
    levels = (torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8) / 255).to(dtype)
    held = packed(levels)
    assert held.dtype == (torch.uint8 if dtype == torch.float32 else dtype)
    assert torch.equal(unpacked(held), levels)
    for others in (levels + 0.0078125, levels - 0.5, levels * 2):
        assert packed(others) is others


class Halves:
    """A split of whose batches every second one is of bytes."""

    def __init__(self, images):
        self.images = images

    def evaluation_batches(self, split, device, part="all", most=None, wanted=None):
        for number, batch in enumerate(self.images[wanted].split(4)):
            yield batch if number % 2 else batch.mul(255).round() / 255, torch.zeros(len(batch))


def test_pieces_of_both_kinds_come_back_as_they_were():
    data = Halves(torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    wanted = torch.arange(12)
    expected = torch.cat([images for images, _ in data.evaluation_batches("retain", CPU, wanted=wanted)])
    assert torch.equal(pick(data, "retain", wanted, CPU)[0], expected)
    assert torch.equal(own_share(data, "retain", wanted, CPU)[0], expected)
    assert packed_share(data, "retain", wanted, CPU)[0].dtype == torch.float32
    assert packed_share(data, "retain", wanted[:4], CPU)[0].dtype == torch.uint8
    assert torch.equal(unpacked(packed_pick(data, "retain", wanted[:4], CPU)[0]), expected[:4])
