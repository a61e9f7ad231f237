import tempfile
from types import SimpleNamespace

import pytest
import torch

from lit_unlearn.attacks import scratch
from lit_unlearn.attacks.scratch import Scratch

TENSORS = [
    torch.randn(3, 4, 5).transpose(0, 2),
    torch.randn(7).bfloat16(),
    torch.arange(6).view(2, 3),
    torch.tensor(2.5, dtype=torch.float64),
    torch.empty(0, 8),
]


def test_what_is_stored_comes_back_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Scratch()
    places = [kept.put(tensor) for tensor in TENSORS]
    for place, tensor in reversed(list(zip(places, TENSORS, strict=True))):
        found = kept.get(place, torch.device("cpu"))
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "stored"), [(2**30 + 28, True), (2**30 + 27, False)])
def test_a_gibibyte_of_the_disk_is_left_free(free, stored, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert (Scratch().put(torch.zeros(7)) is not None) == stored
