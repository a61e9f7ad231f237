import torch

from lit_unlearn.backbones import gradient_batches as limits
from lit_unlearn.backbones.gradient_batches import gradient_batches


def test_a_standard_batch_of_small_images_stays_whole():
    images, labels = torch.zeros(1000, 3, 32, 32), torch.arange(1000)
    ((same, also),) = gradient_batches([(images, labels)])
    assert same.data_ptr() == images.data_ptr()
    assert torch.equal(also, labels)


def test_large_images_come_in_smaller_batches_all_of_them_in_order():
    images = torch.zeros(100, 3, 1, 1).expand(100, 3, 224, 224)
    found = list(gradient_batches([(images, torch.arange(100))]))
    assert [len(labels) for _, labels in found] == [27, 27, 27, 19]
    assert torch.equal(torch.cat([labels for _, labels in found]), torch.arange(100))


def test_one_image_is_a_batch_however_large_and_an_empty_batch_stays_one(monkeypatch):
    monkeypatch.setattr(limits, "MOST_VALUES", 5)
    assert [len(y) for _, y in gradient_batches([(torch.zeros(2, 3, 4, 4), torch.zeros(2))])] == [1, 1]
    assert [len(y) for _, y in gradient_batches([(torch.zeros(0, 3, 4, 4), torch.zeros(0))])] == [0]
