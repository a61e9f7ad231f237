import torch

from lit_unlearn.methods import Pretrain


def test_two_steps_are_cross_entropy_on_everything(follow, make_backbone, sgd):
    def loss(network, batch, step):
        images, labels = batch["full"]
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    follow(Pretrain(make_backbone(seed=3), optimizer=sgd), loss)


def test_an_epoch_holds_the_forget_set_too_and_needs_none(fit, make_backbone, make_data, recorder):
    data = make_data(forget=None)
    fit(Pretrain(make_backbone(seed=3)), data, recorder)
    labels = torch.cat([batch["full"][1] for batch in recorder.batches])
    assert labels.bincount().tolist() == [12, 12, 12, 12]


def test_weights_name_the_original_and_training_starts_afresh_all_the_same(make_backbone, trained_file, trained_state):
    module = Pretrain(make_backbone(seed=3), weights=trained_file)
    fresh = make_backbone(seed=3).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in module.backbone.state_dict().items())
    original = module.original_copy().state_dict()
    assert all(torch.equal(value, trained_state[name]) for name, value in original.items())
    assert not module.is_original()


def test_without_weights_there_is_no_original(make_backbone):
    module = Pretrain(make_backbone(seed=3))
    assert module.original_copy() is None
    assert not module.is_original()
