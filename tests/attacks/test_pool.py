"""A pool of models: what is found in it, what is left out, and what attacks make of it."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from attacked import Keeps
from command_line import lit_unlearn

from lit_unlearn.attacks import Evaluation, ForgettingQuality, KLoM, OwnRetrain, ReferenceMembership
from lit_unlearn.attacks.pool import Pool, check_pool, find_pool
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import Audit, FineTune, Retrain
from lit_unlearn.reports import read_rows
from lit_unlearn.reports.numbers import numbers as numbers_of


@pytest.fixture
def pool(make_backbone, make_data, tmp_path):
    """A folder of models in subfolders, and a function that adds one."""
    data, folder = make_data(), tmp_path / "pool"

    def add(name, seed, method="Retrain", backbone=None, **said):
        own = {"left_out": data.split.left_out} if method in ("Retrain", "RetrainShort") else {}
        metadata = {"method": method, "split": data.split.hash, "network": {}, **own, **said}
        save_weights(backbone or make_backbone(seed=seed), folder / name, metadata)
        return str(folder / name)

    return folder, add


def filled(folder, add, data):
    return {
        "retrains": [add(f"retrain/run-{seed}/unlearned.ckpt", seed) for seed in (1, 2, 3, 4)],
        "originals": [add(f"pretrain/{seed}.pt", seed, "Pretrain", split=data.split_of_nothing) for seed in (5, 6)],
        "unlearned": [add(f"finetune/{seed}.pt", seed, "FineTune") for seed in (7, 8)],
    }


def test_a_pool_is_what_the_files_say_of_themselves(pool, make_backbone, make_data, caplog):
    folder, add = pool
    data = make_data()
    kept = filled(folder, add, data)
    add("other_split.pt", 11, split="0123456789abcdef", left_out="0123456789abcdef")
    add("short.pt", 12, "RetrainShort")
    add("salun.pt", 13, "SalUn")
    add("seen.pt", 14, left_out="0123456789abcdef")
    add("unknown.pt", 15, "Pretrain", split=None)
    add("small.pt", 16, backbone=ResNet8(num_classes=3, in_channels=1, width=4), split="other")
    add("bigger_head.pt", 17, "FineTune", backbone=ResNet8(3, 1, width=4), architecture_change="a class more")
    (folder / "notes.txt").write_text("no weights")
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        found = find_pool([folder], FineTune(make_backbone()), data)
    assert {kind: set(getattr(found, kind)) for kind in kept} == {kind: set(files) for kind, files in kept.items()}
    (said,) = caplog.messages
    assert "has 4 Retrains of this split, 2 Originals and 2 unlearned models of FineTune; left out: " in said
    assert "2 of another backbone" in said
    assert "1 of Pretrain on split unknown, 1 of Retrain on split 0123456789abcdef" in said


def test_one_model_counts_once_and_a_training_that_goes_on_not_at_all(pool, make_backbone, make_data):
    folder, add = pool
    first = add("run/unlearned.ckpt", 1)
    add("run/unlearned.safetensors", 1)
    shutil.copy(first, folder / "copy.pt")
    held = torch.load(add("run/last.ckpt", 2), weights_only=True)
    torch.save({**held, "optimizer_states": [{"state": {}}]}, folder / "run/last.ckpt")
    assert find_pool([folder], FineTune(make_backbone()), make_data()).retrains == (str(folder / "copy.pt"),)


def test_a_real_checkpoint_of_a_retrain_and_its_export_are_one_retrain(make_backbone, make_data, fit, tmp_path):
    trainer = fit(Retrain(make_backbone(seed=3)), make_data(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "pool/unlearned.ckpt", weights_only=True)
    trainer.save_checkpoint(tmp_path / "pool/epoch.ckpt")
    trainer.lightning_module.save_network(tmp_path / "pool/unlearned.safetensors")
    found = find_pool([tmp_path / "pool"], FineTune(make_backbone()), make_data())
    assert found == Pool("FineTune", retrains=(str(tmp_path / "pool/unlearned.ckpt"),))


def test_unlearned_models_are_of_the_method_under_attack(pool, make_backbone, make_data):
    folder, add = pool
    data = make_data()
    kept = filled(folder, add, data)
    assert find_pool([folder], Retrain(make_backbone(seed=9)), data).unlearned == ()
    audited = Audit(make_backbone(), weights=kept["unlearned"][0])
    assert set(find_pool([folder], audited, data).unlearned) == set(kept["unlearned"])
    assert find_pool([folder], Audit(make_backbone()), data).unlearned == ()
    listed = [folder / "retrain", *kept["unlearned"]]
    assert find_pool(check_pool([str(each) for each in listed]), audited, data).originals == ()


def test_an_unreadable_file_is_named_and_the_others_count(pool, make_backbone, make_data):
    folder, add = pool
    own = add("good.pt", 1)
    (folder / "bad.pt").write_bytes(b"no weights")
    with pytest.warns(
        UserWarning, match=r"the pool's .*bad\.pt cannot be read and is left out: refused: it is no file"
    ):
        assert find_pool([folder], FineTune(make_backbone()), make_data()).retrains == (own,)


def test_a_pool_that_cannot_serve_is_refused_before_training(pool, make_backbone, make_data, fit):
    folder, add = pool
    with pytest.raises(UsageError, match=r"evaluation\.pool: there is no folder or file '.*pool'"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(pool=folder))
    add("a.pt", 1, split="0123456789abcdef", left_out="0123456789abcdef")
    add("b.pt", 2, "FineTune")
    here = make_data().split.hash
    with pytest.raises(
        UsageError, match=rf"holds no Retrain of split {here}: 2 files of weights can be read, 1 unlearn"
    ):
        fit(FineTune(make_backbone()), make_data(), Evaluation(pool=folder))
    with pytest.raises(UsageError, match=r"left out: 1 of Retrain on split 0123456789abcdef"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(pool=folder))
    add("c.pt", 3, backbone=ResNet8(num_classes=3, in_channels=1, width=4))
    with pytest.raises(UsageError, match=r"evaluation\.pool: .*c\.pt: the file is for 3 classes, the backbone for 4"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(pool=folder))


@pytest.mark.parametrize("given", [7, [7], {"a": "b"}])
def test_what_is_no_pool(given):
    with pytest.raises(UsageError, match=r"pool is .*, but must be a folder of weights"):
        Evaluation(pool=given)


def test_attacks_take_their_references_from_the_pool(pool, make_backbone, make_data, fit):
    folder, add = pool
    kept, keeps = filled(folder, add, make_data()), Keeps()
    attacks = [ReferenceMembership(method) for method in ("rmia", "lira", "lira_online", "u_lira")]
    fit(FineTune(make_backbone()), make_data(), Evaluation(kept["retrains"][0], pool=str(folder)), *attacks, keeps)
    named = ReferenceMembership("lira", kept["retrains"], name="named")
    again = Keeps()
    fit(FineTune(make_backbone()), make_data(), Evaluation(kept["retrains"][0]), named, again)
    for subject in ("unlearned", "retrain", "original"):
        model = keeps.results.models[subject]
        images, models = attacks[:2], attacks[2:]
        assert model.attacks.keys() >= {f"membership/{attack.name}/auc" for attack in images}
        assert model.attacks.keys() >= {f"membership/{attack.name}/auc_of_models" for attack in models}
        assert model.attacks["membership/lira/auc"] == again.results.models[subject].attacks["membership/named/auc"]


def test_an_attack_that_has_too_few_says_how_many_it_needs_and_has(pool, make_backbone, make_data, fit):
    folder, add = pool
    retrain, keeps = add("a.pt", 1), Keeps()
    add("b.pt", 2)
    attacks = [*map(ReferenceMembership, ("rmia", "u_lira", "lira_online")), KLoM(), ForgettingQuality()]
    fit(FineTune(make_backbone()), make_data(), Evaluation(retrain, pool=folder), *attacks, keeps)
    models = keeps.results.models
    assert models["unlearned"].skipped["membership/u_lira"] == (
        "it needs at least 3 Retrains and 2 models that unlearned, but has 2 and 0"
    )
    assert models["unlearned"].skipped["membership/lira_online"].endswith("3 Retrains and 2 Originals, but has 2 and 0")
    assert "membership/rmia/auc" in models["retrain"].attacks, "beside the other Retrain"
    for name in ("klom", "forgetting_quality"):
        assert models["unlearned"].skipped[f"membership/{name}"] == (
            "it needs at least 20 unlearned models of FineTune and 20 Retrains, but the pool has 0 and 2"
        )
        assert "20 Originals and 20 Retrains" in models["original"].skipped[f"membership/{name}"]
        assert models["retrain"].skipped[f"membership/{name}"] == (
            "it needs at least 40 Retrains, two times 20, but the pool has 2"
        )


def test_a_whole_run_scores_the_method_beside_retrain(pool, make_backbone, make_data, fit):
    folder, add = pool
    kept, keeps = filled(folder, add, make_data()), Keeps()
    attacks = [KLoM(models=2), ForgettingQuality(models=3, bootstrap=5)]
    for seed in (9, 10):
        add(f"finetune/{seed}.pt", seed, "FineTune")
    few, more = Keeps(), [add(f"retrain/{seed}.pt", seed) for seed in (40, 41, 42, 43)]
    own, other = (OwnRetrain(file, {"classes": [0, 1]}) for file in kept["retrains"][:2])
    fit(FineTune(make_backbone()), make_data(), Evaluation([own, other], pool=folder), *attacks, keeps)
    models = keeps.results.models
    unlearned, retrain = models["unlearned"].attacks, models["retrain"].attacks
    assert retrain["membership/klom/models"] == 4, "half of the Retrains beside the other"
    assert unlearned["membership/klom/models"] == 4, "as many as Retrain, though there are five"
    assert keeps.results.more_retrains[0].attacks["membership/klom/models"] == 4
    assert models["original"].attacks["membership/klom/models"] == 3
    assert unlearned["membership/klom/retain_mean"] > 0
    for found in (unlearned, retrain):
        quality, score, retained, tested = (
            found[f"membership/forgetting_quality/{name}"]
            for name in ("forgetting", "score", "retain_ratio", "test_ratio")
        )
        assert 0 <= quality <= 1
        assert score == pytest.approx(quality * retained * tested)
        assert found["membership/forgetting_quality/score_low"] <= score
        assert score <= found["membership/forgetting_quality/score_high"]
    for file in more:
        Path(file).unlink()
    fit(FineTune(make_backbone()), make_data(), Evaluation([own, other], pool=folder), *attacks, few)
    for measured in (few.results.models["retrain"], *few.results.more_retrains):
        assert measured.skipped["membership/forgetting_quality"].startswith("it needs at least 6 Retrains")


@pytest.mark.ci
def test_the_command_line_scores_a_method_with_a_pool_of_digits(tmp_path):
    small = ("--config", "base/digits_random", "--model.backbone.width=4", "--trainer.max_epochs=1")
    small += ("--data.train_limit=300", "--evaluation.retrain=null", "--trainer.enable_progress_bar=false")
    for method, count in (("Retrain", 4), ("Pretrain", 2), ("FineTune", 3)):
        for seed in range(count):
            where = (f"--trainer.logger.save_dir=pool/{seed}", f"--seed_everything={seed}", "--trainer.callbacks=[]")
            words = (*small, f"--model={method}", "--model.weights=fresh", *where)
            words += ("--data.forget=null",) if method == "Pretrain" else ()
            outcome = lit_unlearn(tmp_path, "fit", *words)
            assert (outcome.status, outcome.err) == (0, ""), outcome.err
    attacks = ("--config", "attack/pool", "--trainer.callbacks+=KLoM", "--trainer.callbacks.models=2")
    attacks += ("--trainer.callbacks.name=klom_of_few", "--evaluation.pool=pool")
    outcome = lit_unlearn(tmp_path, "fit", *small, "--model=FineTune", "--model.weights=fresh", *attacks)
    assert outcome.status == 0, outcome.err
    assert "has 4 Retrains of this split, 2 Originals and 3 unlearned models of FineTune" in outcome.log
    (results,) = (tmp_path / "runs").rglob("results.json")
    row = read_rows(results)[-1]
    assert row.attacks.keys() >= {f"membership/{name}/auc" for name in ("rmia", "lira")}
    assert row.attacks.keys() >= {f"membership/{name}/auc_of_models" for name in ("lira_online", "u_lira")}
    compared = {key.attack for key in numbers_of([row])}
    assert compared >= {"membership/rmia", "membership/lira"}
    assert compared.isdisjoint({"membership/lira_online", "membership/u_lira"}), "the verdict does not compare models"
    assert row.attacks["membership/klom_of_few/forget_p95"] >= row.attacks["membership/klom_of_few/forget_median"] >= 0
    assert "20 Retrains, but the pool has 3 and 4" in row.skipped["membership/forgetting_quality"]
    outcome = lit_unlearn(tmp_path, "fit", *small, "--model=FineTune", "--model.weights=fresh", "--evaluation.pool=no")
    assert (outcome.status, outcome.err) == (
        2,
        "lit-unlearn: error: evaluation.pool: there is no folder or file 'no'\n",
    )
