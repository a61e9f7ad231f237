import torch

from lit_unlearn.methods import FineTune


def test_two_steps_are_cross_entropy_on_the_retain_set(follow, make_backbone, sgd, make_data):
    def loss(network, batch, step):
        ((part, (images, labels)),) = batch.items()
        assert part == "retain"
        return -torch.log_softmax(network(images), 1)[torch.arange(len(labels)), labels].mean()

    data = make_data()
    _, record, _ = follow(FineTune(make_backbone(), optimizer=sgd), loss, data=data)
    seen = torch.cat([batch["retain"][1] for batch in record.batches])
    assert set(seen.tolist()) == {2, 3}  # classes 0 and 1 are the forgotten ones


def test_an_epoch_is_one_pass_over_the_retain_set(fit, make_backbone, make_data, recorder):
    data = make_data()
    fit(FineTune(make_backbone()), data, recorder)
    assert sum(len(batch["retain"][1]) for batch in recorder.batches) == len(data.split.retain)
