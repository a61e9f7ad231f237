"""``export``: weights from any checkpoint under the user's own names, and evidence that is verified again."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import lit_unlearn
from safetensors.torch import load_file

from lit_unlearn.backbones.saving import tensors_sha256
from lit_unlearn.evidence import MANIFEST, write_evidence
from lit_unlearn.reports import read_rows
from lit_unlearn.reports.rows import Row, write_rows

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        parts = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        self.body = nn.Sequential(*parts)
        self.answer = nn.Linear(16, 10)
    def forward(self, images):
        return self.answer(self.body(images))
"""
ARGS = (
    *("--model", "OPC", "--model.backbone", "Custom", "--model.backbone.network", "own_net.Net"),
    *("--model.backbone.in_channels", "1", "--model.backbone.mean", "[0.3]", "--model.backbone.std", "[0.4]"),
    *("--model.weights", "net.pt", "--data.source", "Digits", "--data.forget.classes", "[3]"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a network of the user's own."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "own_net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import own_net  # type: ignore[import-not-found]

        torch.save({"model_state_dict": own_net.Net().state_dict()}, folder / "net.pt")
        outcome = lit_unlearn(folder, "fit", *ARGS)
    assert outcome.status == 0, outcome.err
    assert "own_net.Net: runs/OPC/version_0/unlearned.safetensors\n" in outcome.log
    assert "net.pt: the weights are what is below 'model_state_dict'\n" in outcome.log
    return folder


@pytest.mark.parametrize("source", ["", "unlearned.ckpt", "unlearned.safetensors", "checkpoints/*.ckpt"])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_are_written_from_any_checkpoint(folder: Path, tmp_path: Path, source: str, ending: str) -> None:
    run = folder / "runs/OPC/version_0"
    path = next(run.glob(source)) if source else run
    outcome = lit_unlearn(folder, "export", path, "--to", tmp_path / f"new/home.{ending}")
    assert outcome.status == 0, outcome.err
    assert "under the names of own_net.Net; it takes images in [0, 1] minus [0.3], divided by [0.4]" in outcome.out
    home = tmp_path / f"new/home.{ending}"
    state = load_file(home) if ending == "safetensors" else torch.load(home, weights_only=True)
    from own_net import Net  # type: ignore[import-not-found]

    Net().load_state_dict(state, strict=True)
    row = read_rows(run / "results.json")[-1]
    assert row.weights["result"]["tensors_sha256"] == tensors_sha256(state)
    assert row.weights["result"]["file"] == "unlearned.safetensors"
    assert (row.backbone["network"], row.backbone["head"]) == ("own_net.Net", "answer")
    assert (row.backbone["mean"], row.backbone["std"]) == ([0.3], [0.4])
    page = (run / "report.html").read_text()
    assert all(text in page for text in (row.weights["result"]["sha256"], "own_net.Net", "answer"))


def test_a_changed_architecture_is_named(tmp_path: Path) -> None:
    args = ("--model", "BoundaryExpanding", "--model.keep_unit", "true", "--model.weights", "digits_resnet8")
    more = ("--model.backbone", "ResNet8", "--model.backbone.in_channels", "1", *ARGS[-10:])
    outcome = lit_unlearn(tmp_path, "fit", *args, *more)
    assert outcome.status == 0, outcome.err
    assert "ResNet8, but the head has one output more than the 10 classes" in outcome.log
    run = tmp_path / "runs/BoundaryExpanding/version_0"
    assert "one output more" in read_rows(run / "results.json")[-1].weights["result"]["change"]
    outcome = lit_unlearn(tmp_path, "export", run, "--to", "x.pt")
    assert "The method changed the architecture: the head has one output more" in outcome.out


def test_weights_with_a_gate_are_not_those_of_the_original(folder: Path) -> None:
    outcome = lit_unlearn(folder, "fit", *ARGS, "--model", "Rescale")
    assert outcome.status == 0, outcome.err
    run = folder / "runs/Rescale/version_0"
    outcome = lit_unlearn(folder, "export", run, "--to", "gated.pt", "--evidence", "gated.zip")
    assert "a gate after the encoder scales the features" in outcome.out
    from own_net import Net

    original = torch.load(folder / "net.pt", weights_only=True)["model_state_dict"]
    gated = torch.load(folder / "gated.pt", weights_only=True)
    assert gated.keys() - original.keys() == {"gate.factors", "gate.head.weight", "gate.head.bias"}
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Net().load_state_dict(gated, strict=True)
    assert read_rows(run / "results.json")[-1].weights["result"]["tensors_sha256"] == tensors_sha256(gated)
    outcome = lit_unlearn(folder, "export", "gated.zip", "--verify", "--weights", "net.pt")
    assert outcome.status != 0
    assert "net.pt: not the weights of this evidence" in outcome.err
    outcome = lit_unlearn(folder, "validate", *ARGS, "--model.weights", "gated.pt")
    assert "unexpected gate.factors" in outcome.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("none", "--to", "x.pt"), "unknown weights, neither a file nor a name in the manifest: 'none'"),
        ((".", "--to", "x.pt"), "there is no unlearned.ckpt and no unlearned.safetensors"),
        (("net.pt", "--to", "x.npz"), "written as .pt or .safetensors, not as .npz"),
        (("net.pt",), "give --to FILE, --evidence FILE, or --verify alone"),
        (("net.pt", "--verify", "--to", "x.pt"), "--verify alone"),
        (("net.pt", "--to", "x.pt", "--weights", "y.pt"), "--weights goes with --verify"),
        (("net.pt", "--evidence", "x.zip"), "net.pt: no run: there is no results.json"),
        (("runs/OPC/version_0", "--evidence", "x.tar"), "x.tar: evidence is a .zip file"),
        (("runs/OPC/version_0", "--to", "runs/OPC/version_0/unlearned.safetensors"), "is the run's own file"),
        (("net.pt", "--verify"), "net.pt: no evidence"),
        (("none.zip", "--verify"), "none.zip: no evidence"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(folder: Path, args: tuple[str, ...], said: str) -> None:
    outcome = lit_unlearn(folder, "export", *args)
    assert outcome.status == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not {"x.pt", "x.npz", "x.zip", "x.tar"} & {path.name for path in folder.iterdir()}


@pytest.fixture
def evidence(folder: Path, tmp_path: Path) -> Path:
    outcome = lit_unlearn(folder, "export", "runs/OPC/version_0", "--evidence", tmp_path / "evidence.zip")
    assert outcome.status == 0, outcome.err
    return tmp_path / "evidence.zip"


def test_evidence_is_verified_with_the_weights_in_any_format(folder: Path, evidence: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(evidence) as archive:
        assert {MANIFEST, "results.json", "report.html", "config.yaml"} <= set(archive.namelist())
        manifest = json.loads(archive.read(MANIFEST))
    row = read_rows(folder / "runs/OPC/version_0/results.json")[-1]
    assert manifest["data_sha256"] == row.data["sha256"]
    assert manifest["split"] == row.split["hash"]
    assert manifest["original_sha256"] == row.weights["sha256"]
    lit_unlearn(folder, "export", "runs/OPC/version_0", "--to", tmp_path / "home.pt")
    outcome = lit_unlearn(folder, "export", evidence, "--verify", "--weights", tmp_path / "home.pt")
    assert outcome.status == 0, outcome.err
    assert "home.pt: the weights that this evidence is of" in outcome.out
    wrapped = {f"_orig_mod.module.{name}": value for name, value in torch.load(tmp_path / "home.pt").items()}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    for other in (folder / "runs/OPC/version_0/unlearned.ckpt", tmp_path / "wrapped.pt"):
        outcome = lit_unlearn(folder, "export", evidence, "--verify", "--weights", other)
        assert outcome.status == 0, outcome.err
    outcome = lit_unlearn(folder, "export", evidence, "--verify", "--weights", "net.pt")
    assert outcome.status == 2
    assert "net.pt: not the weights of this evidence" in outcome.err


def test_evidence_has_the_settings_of_the_retrains_that_were_measured_and_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sources = tmp_path / "run", dict[str, str]()
    shutil.copytree(folder / "runs/OPC/version_0", run)
    for name in ("first", "second", "changed", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "retrain.pt").write_text(name)
        (tmp_path / name / "settings.json").write_text(f'{{"of": "{name}"}}')
        sources[f"{tmp_path}/{name}/retrain.pt"] = hashlib.sha256(name.encode()).hexdigest()
    (tmp_path / "changed/retrain.pt").write_text("another")
    (tmp_path / "gone/retrain.pt").unlink()
    retrains = [Row("Retrain", "ok", weights={"source": name, "sha256": sha}) for name, sha in sources.items()]
    python = Row("Retrain", "ok", weights={"source": "a network given from Python"})
    stated = Row("Retrain", "ok", weights={"source": "gone.pt", "sha256": "0", "trained_without": "forget.txt"})
    write_rows(run / "results.json", [*retrains, python, stated, read_rows(run / "results.json")[-1]])
    (tmp_path / "settings.json").write_text("a secret of somebody else")
    monkeypatch.chdir(tmp_path)
    said = write_evidence(run, tmp_path / "evidence.zip")
    assert "The settings of 2 of the Retrains are not in it: " in said
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if "settings" in name}
    assert kept == {
        "retrain/settings.json": b'{"of": "first"}',
        "retrain/1/settings.json": b'{"of": "second"}',
    }


def test_evidence_of_an_audit_and_of_validate_is_bound_to_the_weights_that_were_measured(
    folder: Path, tmp_path: Path
) -> None:
    made = folder / "runs/OPC/version_0/unlearned.safetensors"
    lit_unlearn(folder, "export", made, "--to", tmp_path / "home.pt")
    audit = [{"OPC": "Audit", "net.pt": tmp_path / "home.pt"}.get(word, word) for word in ARGS]
    for name, command in (
        ("validate", (*ARGS, "--ckpt_path", made.with_suffix(".ckpt"))),
        ("audit", (*audit, "--model.original", "net.pt")),
    ):
        run = f"--trainer.logger.save_dir={tmp_path}/runs", f"--trainer.logger.name={name}"
        outcome = lit_unlearn(folder, "validate", *command, *run, "--evaluation.retrain=null")
        assert outcome.status == 0, outcome.err
        zipped = tmp_path / f"{name}.zip"
        outcome = lit_unlearn(folder, "export", tmp_path / f"runs/{name}/version_0", "--evidence", zipped)
        assert outcome.status == 0, outcome.err
        for weights in (made, tmp_path / "home.pt"):
            outcome = lit_unlearn(folder, "export", zipped, "--verify", "--weights", weights)
            assert outcome.status == 0, outcome.err
        original = hashlib.sha256((folder / "net.pt").read_bytes()).hexdigest()
        assert f"original weights {original}, result with tensors " in outcome.out
        outcome = lit_unlearn(folder, "export", zipped, "--verify", "--weights", "net.pt")
        assert (outcome.status, "net.pt: not the weights of this evidence" in outcome.err) == (2, True)


def changed(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    change(held)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)


def forged(held: dict[str, bytes]) -> None:
    """Results and their hash are changed together; what names the run stays."""
    held["results.json"] = held["results.json"].replace(b'"left_out": "', b'"left_out": "0')
    manifest = json.loads(held[MANIFEST])
    manifest["files"]["results.json"] = hashlib.sha256(held["results.json"]).hexdigest()
    held[MANIFEST] = json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.update({"report.html": held["report.html"] + b" "}), "report.html was changed"),
        (lambda held: held.pop("config.yaml"), "does not list exactly the files"),
        (lambda held: held.update({"more.txt": b""}), "does not list exactly the files"),
        (lambda held: held.pop(MANIFEST), "it must hold evidence.json and results.json"),
        (lambda held: held.update({MANIFEST: b"[]"}), "no evidence"),
        (lambda held: held.update({MANIFEST: b"{"}), "no evidence"),
        (forged, "evidence.json and results.json disagree about left_out"),
    ],
)
def test_changed_evidence_does_not_hold(folder: Path, evidence: Path, change, said: str) -> None:
    changed(evidence, change)
    outcome = lit_unlearn(folder, "export", evidence, "--verify")
    assert outcome.status == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_could_not_be_read_again_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_unlearn.archives.MOST_BYTES", 2**10)
    outcome = lit_unlearn(folder, "export", "runs/OPC/version_0", "--evidence", tmp_path / "large.zip")
    assert outcome.status == 2
    assert "large.zip is not written: its " in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_evidence_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_unlearn.archives.MOST_BYTES", 2**16)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, "{}")
        archive.writestr("results.json", b"0" * 2**20)
    outcome = lit_unlearn(tmp_path, "export", "bomb.zip", "--verify")
    assert outcome.status == 2
    assert "larger than" in outcome.err
