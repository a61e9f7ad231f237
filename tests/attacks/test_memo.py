import pytest
import torch
from lit_unlearn.attacks.memo import Memo, fingerprint
from torch import nn

CPU = torch.device("cpu")


def test_a_value_is_made_once_and_the_oldest_goes_first():
    memo, made = Memo(2), []
    for key in ("a", "b", "a", "c", "a", "b"):
        assert memo(key, lambda key=key: made.append(key) or key, CPU) == key
    assert made == ["a", "b", "c", "b"]


def test_where_another_process_has_it_not_all_make_it(monkeypatch):
    memo, made = Memo(2), []
    memo("a", lambda: made.append(1), CPU)
    monkeypatch.setattr("lit_unlearn.attacks.memo.rank_and_world", lambda: (0, 2))  # the other's part of the sum is 0
    memo("a", lambda: made.append(2), CPU)
    assert made == [1, 2]


@pytest.mark.parametrize("change", ["weight", "buffer", "layer", "tensor", "shape", "options"])
def test_a_fingerprint_names_all_that_it_is_made_of(change):
    def network(slope=0.01):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LeakyReLU(slope))

    one, other = network(), network(0.02 if change == "layer" else 0.01)
    given, changed = torch.arange(4), torch.arange(4)
    if change == "weight":
        other[0].weight.data[0, 0] += 1e-6
    if change == "buffer":
        other[1].running_var[0] += 1e-6
    if change == "tensor":
        changed[0] = 1
    if change == "shape":
        changed = changed.view(2, 2)
    assert fingerprint(network(), (given,), 1) == fingerprint(one, (given,), 1)
    assert fingerprint(one, (given,), 1) != fingerprint(other, (changed,), 2 if change == "options" else 1)
