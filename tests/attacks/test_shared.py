import pytest
import torch

from lit_unlearn.attacks.pool import ENDINGS
from lit_unlearn.attacks.shared import Shared

CPU = torch.device("cpu")


def test_a_value_is_computed_once():
    shared, made = Shared(), []
    for key in ("a", "b", "a", "b"):
        assert shared.once(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b"]
    assert Shared().once("a", lambda: "again") == "again"  # nothing is kept outside


def test_tensors_are_kept_in_a_folder_for_the_runs_after_and_in_memory_without_one(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.arange(3.0)}

    for _ in range(2):
        shared = Shared(tmp_path / "new" / "folder")
        assert torch.equal(shared.tensors("key", make, CPU)["x"], torch.arange(3.0))
    assert len(made) == 1
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert file.name.startswith("key-")
    assert file.suffix not in ENDINGS, "a pool would take it for weights"
    for _ in range(2):
        Shared().tensors("key", make, CPU)
    assert len(made) == 3


def test_a_damaged_file_is_made_anew_and_other_code_makes_another(tmp_path, monkeypatch):
    make = lambda: {"x": torch.ones(1), "notes": ["text", 1.5]}  # noqa: E731
    Shared(tmp_path).tensors("a", make, CPU)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    turned = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 50)]
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], *turned):
        file.write_bytes(damaged)
        assert Shared(tmp_path).tensors("a", make, CPU) == make()
        assert len(file.read_bytes()) == len(whole)
    monkeypatch.setattr("lit_unlearn.attacks.shared.installed_code", lambda: "another version")
    assert Shared(tmp_path).tensors("a", lambda: {"x": torch.zeros(1)}, CPU)["x"] == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_may_be_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Shared("~/kept").tensors("a", lambda: {"x": torch.ones(1)}, CPU)
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_full_disk_costs_the_next_run_time_and_this_one_nothing(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.warns(UserWarning, match=r"taken/a-.*\.kept cannot be written, so that the next run computes it again"):
        assert Shared(tmp_path / "taken").tensors("a", lambda: {"x": 1}, CPU) == {"x": 1}


def test_where_another_process_lacks_the_file_all_compute(tmp_path, monkeypatch):
    make = lambda: {"x": torch.zeros(1)}  # noqa: E731
    Shared(tmp_path).tensors("a", make, CPU)
    monkeypatch.setattr("lit_unlearn.attacks.shared._on_all", lambda flag, device: False)
    made = []
    Shared(tmp_path).tensors("a", lambda: made.append(1) or {"x": torch.ones(1)}, CPU)
    assert made == [1]


def test_processes_agree_where_the_run_computes_wherever_the_tensors_are_kept(tmp_path, monkeypatch):
    """With NCCL a tensor on the CPU cannot be reduced."""
    asked = []
    monkeypatch.setattr("lit_unlearn.attacks.shared._on_all", lambda flag, device: asked.append(device) or flag)
    computes = torch.device("cpu", 0)
    for _ in range(2):
        found = Shared(tmp_path).tensors("a", lambda: {"x": torch.ones(1)}, computes, kept_on=CPU)
        assert found["x"].device == CPU
    assert asked == [computes] * 2
