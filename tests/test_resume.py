"""A run that is killed in the middle and goes on with ``--ckpt_path last`` ends as if nothing had happened."""

import re
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
import yaml
from command_line import experiment, lit_unlearn
from killed_runs import EPOCHS, launched

from lit_unlearn.reports import Row, read_rows
from lit_unlearn.shipped import read_config

SMALL = (
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    *(f"--trainer.max_epochs={EPOCHS}", "--data.init_args.train_limit=400", "--evaluation.retrain=null"),
    "--report.page=false",
)
OF_ONE_EPOCH = ("rescale", "ssd")
OPTIONS = {"ssd": ["--model.alpha=1"]}  # enough for it to dampen something
QUICK = ("opc", "scrub")
METHODS = sorted(read_config("tuned/digits").keys() - {"pretrain"})


def row_of(place: Path) -> Row:
    (path,) = place.glob("runs/*/version_*/results.json")
    return read_rows(path)[-1]


def weights_of(place: Path) -> dict[str, torch.Tensor]:
    (path,) = place.glob("runs/*/version_*/unlearned.ckpt")
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def ends_alike(folder: Path) -> None:
    whole, resumed = weights_of(folder / "whole"), weights_of(folder / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    expected, row = row_of(folder / "whole"), row_of(folder / "killed")
    assert (row.status, row.method) == ("ok", expected.method)
    assert row.attacks == expected.attacks
    assert row.metrics == expected.metrics
    assert len(row.attacks) == 8


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, method: str) -> None:
    words = (*experiment(method), *SMALL, *OPTIONS.get(method, []))
    assert launched(tmp_path, "whole", *words) == 0, (tmp_path / "whole/run.log").read_text()
    epoch = 0 if method in OF_ONE_EPOCH else 1
    kill = ("--trainer.callbacks+=killed_runs.Killer", f"--trainer.callbacks.epoch={epoch}")
    assert launched(tmp_path, "killed", *words, *kill) == -SIGKILL
    left = list((tmp_path / "killed").glob("runs/*/version_*/*.*"))
    assert not {path.name for path in left} & {"results.json", "unlearned.ckpt"}
    kept = list((tmp_path / "killed").glob("runs/*/version_0/checkpoints/*.ckpt"))
    assert len(kept) == epoch  # there is nothing yet to go on from in the first epoch: it begins anew
    assert launched(tmp_path, "killed", *words, "--ckpt_path=last") == 0, (tmp_path / "killed/run.log").read_text()
    said = (tmp_path / "killed/run.log").read_text()
    assert ("starts from the beginning" in said) == (epoch == 0)
    ends_alike(tmp_path)
    assert row_of(tmp_path / "killed").curves == row_of(tmp_path / "whole").curves
    assert row_of(tmp_path / "killed").epochs == row_of(tmp_path / "whole").epochs


def test_a_run_killed_while_it_attacks_is_attacked_when_it_goes_on(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL)
    assert launched(tmp_path, "whole", *words) == 0
    assert launched(tmp_path, "killed", *words, "--trainer.callbacks+=killed_runs.KillingAttack") == -SIGKILL
    assert launched(tmp_path, "killed", *words, "--ckpt_path=last") == 0
    ends_alike(tmp_path)


def test_last_is_the_newest_run_of_the_method_and_of_its_own_folder(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=1")
    assert launched(tmp_path, "here", *words) == 0
    assert launched(tmp_path, "here", *words) == 0
    outcome = lit_unlearn(tmp_path / "here", "validate", *experiment("finetune"), *SMALL[2:], "--ckpt_path=last")
    assert re.search(r"ckpt_path last: runs/FineTune/version_1/unlearned.ckpt\n", outcome.log), outcome
    other = (*experiment("opc"), "--evaluation.retrain=null", "--ckpt_path=last")
    outcome = lit_unlearn(tmp_path / "here", "validate", *other)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "there is no runs/OPC/*/unlearned.ckpt" in outcome.err
    saved = yaml.safe_load((tmp_path / "here/runs/FineTune/version_1/config.yaml").read_text())
    assert saved["ckpt_path"] is None


def test_last_is_looked_for_where_a_checkpoint_callback_was_told_to_write(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=1")
    told = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=kept", "--ckpt_path=last")
    assert launched(tmp_path, "here", *words, *told) == 0
    assert "there is no kept/*.ckpt: the run starts" in (tmp_path / "here/run.log").read_text()
    assert launched(tmp_path, "here", *words, *told, "--trainer.max_epochs=2") == 0
    assert re.search(r"ckpt_path last: kept/epoch=0\S*\.ckpt\n", (tmp_path / "here/run.log").read_text())
