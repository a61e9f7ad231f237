import pytest
import torch

from lit_unlearn.attacks.images import batches_with_index, own_share, pick

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
