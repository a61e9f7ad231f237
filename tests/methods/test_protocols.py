"""What methods and data read of each other, each by a Protocol, which mypy compares within a package only."""

import inspect

import pytest
import torch
from lightning.pytorch import LightningModule

from lit_unlearn.data.datamodule import UnlearnMethod
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune
from lit_unlearn.methods.protocols import Split, UnlearnData


def members(protocol):
    return {name: value for name, value in vars(protocol).items() if not name.startswith("_")}


def agree(protocol, thing):
    for name, wanted in members(protocol).items():
        assert hasattr(thing, name), name
        if inspect.isfunction(wanted):
            asked = list(inspect.signature(wanted).parameters.values())[1:]
            given = list(inspect.signature(getattr(thing, name)).parameters.values())
            assert [p.name for p in given][: len(asked)] == [p.name for p in asked], name
            assert all(p.default is not p.empty for p in given[len(asked) :]), name


def test_the_data_module_has_what_methods_read(make_data):
    data = make_data()
    agree(UnlearnData, data)
    agree(Split, data.split)


def test_a_method_has_what_the_data_reads(make_backbone):
    agree(UnlearnMethod, FineTune(make_backbone()))


def test_a_foreign_module_is_refused(make_data, make_trainer):
    class Foreign(LightningModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return None

        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    with pytest.raises(UsageError, match="Foreign"):
        make_trainer().fit(Foreign(), datamodule=make_data())


def test_the_data_module_works_without_a_trainer(make_data):
    data = make_data()
    assert (data.image_shape, data.num_classes) == ((1, 8, 8), 4)
    assert data.split.counts() == {"forget": 24, "retain": 24, "test_forget": 12, "test_retain": 12}
    images, labels = map(torch.cat, zip(*data.evaluation_batches("forget", torch.device("cpu")), strict=True))
    assert torch.equal(images, data.data.train_images[data.split.forget] / 255)
    assert sorted(set(labels.tolist())) == [0, 1]
    assert len(data.holdout) == 0
    assert sum(len(labels) for _, labels in data.shuffled_batches("retain", torch.device("cpu"), 10)) == 10
