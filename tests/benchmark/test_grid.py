import copy
import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lit_unlearn.benchmark import Grid, Seeds, make_runs
from lit_unlearn.benchmark.experiments import Experiments
from lit_unlearn.benchmark.runs import make_run
from lit_unlearn.benchmark.settings import look_up, merged, put
from lit_unlearn.errors import UsageError
from lit_unlearn.own_code import own_code
from lit_unlearn.shipped import read_config


def test_a_grid_has_every_experiment_of_every_scenario_and_seed(experiments):
    runs = make_runs(Grid(**experiments(ga={}, opc={}), seeds=Seeds(originals=2, unlearnings=3, attacks=2, first=5)))
    names = [(run.scenario, run.name, *run.seeds.values()) for run in runs]
    assert len(runs) == 2 * (1 + 2 * (1 + 2 + 2 * 3 * (1 + 2))) == len(set(names)) == len({run.key for run in runs})
    assert names[0] == ("", "pretrain", 5)
    assert [name for name in names if name[:2] == ("random", "opc")] == [
        ("random", "opc", original, seed, *attack)
        for original in (5, 6)
        for seed in range(3 * original, 3 * original + 3)
        for attack in ((), (5,), (6,))
    ]
    before: set[str] = set()
    for run in runs:
        assert {need.key for need in run.needs.values()} <= before
        before.add(run.key)
    assert [run.subcommand for run in runs if run.name == "references"] == ["validate"] * 8


def test_a_run_has_its_seed_its_folder_and_the_weights_of_its_own_original(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(opc={"weight": 3}), seeds=Seeds(originals=2)))
    for seed in (0, 1):
        original, retrain, references, unlearn, attack = (
            run for run in runs if run.scenario in ("", "class") and run.seeds["original"] == seed
        )
        config = unlearn.config(tmp_path)
        assert config["seed_everything"] == seed
        assert config["model"]["init_args"]["weights"] == str(original.weights(tmp_path))
        assert config["model"]["init_args"]["weight"] == 3
        logger = config["trainer"]["logger"]["init_args"]
        assert "/".join((logger["name"], logger["version"])) == unlearn.folder
        assert logger["version"] == f"run-{unlearn.key}", "a key of digits and one e would be read as a number"
        assert (unlearn.reports, attack.reports, references.reports) == (False, True, True)
        config = attack.config(tmp_path)
        assert config["seed_everything"] == 0
        assert config["model"]["init_args"]["weights"] == str(original.weights(tmp_path))
        assert config["evaluation"] == {"retrain": str(retrain.weights(tmp_path)), "reference_models": False}
        assert config["ckpt_path"] == str(unlearn.weights(tmp_path))
        assert "max_epochs" not in config["trainer"]


def test_the_key_changes_with_any_setting_of_the_run_or_of_what_it_builds_on_and_with_nothing_else(experiments):
    folder = experiments(opc={}, ga={})

    def keys(**grid):
        return {(c.scenario, c.name, c.reports): c.key for c in make_runs(Grid(**folder, **grid))}

    first = keys()
    assert keys() == first == keys(methods=["opc", "ga"], scenarios=["class", "random"])
    path = Path(folder["experiments"])
    sections = yaml.safe_load(path.read_text())
    put(sections, "class.retrain.trainer.max_epochs", 3)
    path.write_text(yaml.safe_dump(sections))
    differing = {name for name, key in keys().items() if first[name] != key}
    measured = {("class", name, True) for name in ("references", "opc", "ga")}
    assert differing == {("class", "retrain", False)} | measured
    over = keys(overrides={"trainer": {"precision": "bf16-mixed"}})
    assert not over.items() & first.items()


@pytest.mark.parametrize(
    "named",
    [
        lambda file: {"data": {"init_args": {"forgotten_before": [{"classes": [1]}, {"index_file": file}]}}},
        lambda file: {"model": {"init_args": {"backbone": {"init_args": {"pretrained": file}}}}},
        lambda file: {"model": {"init_args": {"original": file}}},
        lambda file: {"model": {"init_args": {"suppressed": file}}},
        lambda file: {"evaluation": {"retrain": {"weights": "retrain.pt", "trained_without": file}}},
        lambda file: {"evaluation": {"retrain": {"weights": "retrain.pt", "trained_without": {"index_file": file}}}},
        lambda file: {"trainer": {"callbacks": [{"class_path": "X"}, {"init_args": {"references": ["a", file]}}]}},
        lambda file: {"trainer": {"callbacks": [{"class_path": "X", "init_args": {"words": file}}]}},
    ],
)
def test_the_key_changes_with_the_content_of_a_file_that_settings_name(tmp_path, named):
    def key():
        return make_run("fit", "class", "ga", {"original": 0}, named(str(tmp_path / "file")), {}).key

    missing = key()
    (tmp_path / "file").write_text("1\n")
    first = key()
    assert first == key() != missing
    (tmp_path / "file").write_text("1\n2\n")
    assert key() not in (first, missing)


def test_an_option_that_no_file_can_be_called_is_a_text():
    for text in ("a" * 5000, "a\0b"):
        callback = {"class_path": "X", "init_args": {"words": text}}
        settings = {"trainer": {"callbacks": [callback]}}
        assert make_run("fit", "class", "ga", {"original": 0}, settings, {}).key


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"class_path": "mine_here.Method"}},
        {"model": {"init_args": {"backbone": {"init_args": {"network": "mine_here.Net"}}}}},
        {"trainer": {"callbacks": [{"class_path": "HeadRecovery"}, {"class_path": "mine_here.Attack"}]}},
    ],
)
def test_the_key_changes_with_the_code_of_a_class_of_ones_own(tmp_path, monkeypatch, settings):
    monkeypatch.syspath_prepend(tmp_path)

    def key(text):
        (tmp_path / "mine_here.py").write_text(text)
        importlib.invalidate_caches()
        return make_run("fit", "class", "ga", {"original": 0}, copy.deepcopy(settings), {}).key

    first = key("class Method:\n    rate = 1\n")
    assert key("# what it does\n\nclass Method:\n    rate = 1  # a share\n") == first
    assert key("class Method:\n    rate = 2\n") != first
    assert key("class Method:\nrate = 1\n") != first, "a mistake is the parser's to name"


@pytest.mark.parametrize(
    "statement",
    [
        "import deep_here.part",
        "from deep_here import part",
        "from deep_here.part import rate",
        "def build():\n    from deep_here.part import rate",
        "from .part import rate",
        "from . import part",
        "import torch, deep_here.between",  # which imports the part, and itself
    ],
)
def test_the_key_changes_with_the_code_that_a_file_of_ones_own_imports(tmp_path, monkeypatch, statement):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "deep_here").mkdir()
    (tmp_path / "deep_here/__init__.py").write_text("raise RuntimeError('nothing is imported for a key')\n")
    (tmp_path / "deep_here/between.py").write_text("from . import part, between, nowhere\nfrom .... import far\n")
    (tmp_path / "deep_here/net.py").write_text(f"{statement}\n")
    keys = []
    for rate in (1, 2):
        (tmp_path / "deep_here/part.py").write_text(f"rate = {rate}\n")
        importlib.invalidate_caches()
        keys.append(own_code({"model": [{"class_path": "deep_here.net.Net"}]}))
    first, second = keys
    assert first.keys() == second.keys() >= {"deep_here", "deep_here.net", "deep_here.part"}
    assert all(name.startswith("deep_here") for name in first)
    assert [name for name in first if first[name] != second[name]] == ["deep_here.part"]


def test_installed_and_missing_classes_have_no_code_of_ones_own():
    paths = ["torch.optim.SGD", "lit_unlearn.methods.OPC", "json.JSONDecoder", "nowhere_here.Net", "OPC", "a b.C"]
    assert own_code({"model": [{"class_path": path} for path in paths]}) == {}


def test_the_key_of_a_run_that_names_no_file_stays_from_version_to_version():
    settings = {
        "model": {"init_args": {"backbone": {"init_args": {"pretrained": True}}}},
        "data": {"init_args": {"forgotten_before": [{"classes": ["cat"]}]}},
        "evaluation": {"retrain": "model/retrain"},
    }
    assert make_run("fit", "s", "n", {}, settings, {}).key == "d21132d2653fb9c1"


def test_the_attacks_on_a_model_have_seeds_of_its_own_where_seeds_are_nested(experiments):
    runs = make_runs(
        Grid(**experiments(opc={}), seeds=Seeds(originals=2, unlearnings=2, attacks=2, first=1, nested=True))
    )
    seeds = {(run.scenario, *run.seeds.values()): run.settings["seed_everything"] for run in runs if run.reports}
    assert [name[1:] for name in seeds if name[0] == "class"] == [
        (1, 2), (1, 3), (1, 2, 4), (1, 2, 5), (1, 3, 6), (1, 3, 7),
        (2, 4), (2, 5), (2, 4, 8), (2, 4, 9), (2, 5, 10), (2, 5, 11),
    ]  # fmt: skip
    assert all(seed == name[-1] for name, seed in seeds.items())


def test_a_nested_grid_of_three_is_three_grids_of_one(experiments):
    folder = experiments(opc={})
    whole = make_runs(Grid(**folder, seeds=Seeds(originals=3, nested=True)))
    assert {run.key for run in whole} == {
        run.key for first in range(3) for run in make_runs(Grid(**folder, seeds=Seeds(first=first)))
    }


def test_a_pool_gives_each_attack_the_models_of_all_seeds_and_changes_no_other_run(experiments, tmp_path):
    folder = experiments(opc={}, ga={})
    alone, runs = (
        make_runs(Grid(**folder, seeds=Seeds(originals=2, unlearnings=2), pool=pool)) for pool in (False, True)
    )
    fits = [run for run in runs if run.subcommand == "fit"]
    assert {run.key for run in fits} == {run.key for run in alone if run.subcommand == "fit"}
    assert not {run.key for run in runs if run.reports} & {run.key for run in alone if run.reports}
    assert len(runs) == len(alone) == len({run.key for run in runs})
    before: set[str] = set()
    for run in runs:
        assert {need.key for need in run.needs.values()} <= before
        before.add(run.key)
    (attack,) = (
        run for run in runs if (run.scenario, run.name, *run.seeds.values()) == ("random", "opc", 1, 3, 0)
    )  # fmt: skip
    assert attack.config(tmp_path)["evaluation"]["pool"] == [], "nothing was made yet"
    for run in fits:
        run.weights(tmp_path).parent.mkdir(parents=True)
        run.weights(tmp_path).touch()
    expected = [
        run.weights(tmp_path)
        for run in fits
        if run.scenario in ("", "random") and run.name in ("pretrain", "retrain", "opc")
    ]
    assert attack.config(tmp_path)["evaluation"]["pool"] == [str(path) for path in expected]
    assert len(expected) == 2 + 2 + 4
    expected[-1].unlink()
    assert len(attack.config(tmp_path)["evaluation"]["pool"]) == 7, "a run that diverged leaves no weights"
    (references, _) = (run for run in runs if (run.scenario, run.name) == ("class", "references"))
    assert len(references.config(tmp_path)["evaluation"]["pool"]) == 2 + 2


def test_the_key_of_an_attack_changes_with_every_model_of_its_pool(experiments):
    folder = experiments(("class",), opc={}, ga={})

    def keys(originals):
        runs = make_runs(Grid(**folder, seeds=Seeds(originals=originals), pool=True))
        return {run.name: run.key for run in runs if run.reports and run.seeds["original"] == 0}

    first = keys(2)
    assert first == keys(2)
    assert not set(keys(3).values()) & set(first.values())
    path = Path(folder["experiments"])
    sections = yaml.safe_load(path.read_text())
    put(sections, "ga.model.init_args.weight", 3)
    path.write_text(yaml.safe_dump(sections))
    assert {name for name, key in keys(2).items() if first[name] != key} == {"ga"}


def test_a_pool_has_the_originals_of_its_own_scenario(experiments):
    folder = experiments(opc={})
    other = {"random": {"data": {"init_args": {"train_limit": 7}}}}
    both = Grid(**folder, scenario_overrides=other, seeds=Seeds(originals=2), pool=True)
    runs = make_runs(both)
    assert sum(run.name == "pretrain" for run in runs) == 4, "each scenario has originals of its own"
    for scenario in ("class", "random"):
        alone = {run.key for run in make_runs(replace(both, scenarios=[scenario]))}
        assert {run.key for run in runs if run.scenario == scenario} <= alone, "whatever else is in the grid"


def test_a_pool_of_one_scenario_changes_no_run_of_another(experiments):
    grid = Grid(**experiments(opc={}), seeds=Seeds(originals=2))
    without, of_all, of_random = (make_runs(replace(grid, pool=pool)) for pool in (False, True, ["random"]))
    for scenario, same in (("class", without), ("random", of_all)):
        keys = [run.key for run in of_random if run.scenario == scenario and run.reports]
        assert keys == [run.key for run in same if run.scenario == scenario and run.reports]
    with pytest.raises(UsageError, match=r"unknown scenario of grid.pool 'rando'; did you mean 'random'"):
        make_runs(replace(grid, pool=["rando"]))


@pytest.mark.parametrize("own", [None, ["given.pt"], {"0000": "given.pt"}])
def test_a_pool_of_the_grid_takes_the_place_of_one_that_a_base_names(experiments, tmp_path, own):
    folder = experiments(("class",), opc={})
    plain = make_runs(Grid(**folder, pool=True))
    path = Path(folder["bases"]["class"])
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"evaluation": {"pool": own}}))
    attack = make_runs(Grid(**folder, pool=True))[-1]
    assert attack.settings["evaluation"]["pool"] == plain[-1].settings["evaluation"]["pool"]
    assert attack.config(tmp_path)["evaluation"]["pool"] == []
    if own == ["given.pt"]:
        assert make_runs(Grid(**folder))[-1].config(tmp_path)["evaluation"]["pool"] == own, "where the grid has none"


def test_a_pool_on_several_data_stays_on_its_own(experiments, tmp_path):
    folder = experiments(("class",), opc={})
    files = [data_file(tmp_path, name, {"class_path": name.upper()}) for name in ("mnist", "svhn")]
    runs = make_runs(Grid(**folder, data=files, pool=True))
    for run in runs:
        assert {need.scenario.partition("/")[0] for need in run.needs.values()} <= {run.scenario.partition("/")[0]}
    assert [len(run.needs) for run in runs if run.name == "opc" and run.reports] == [3 + 3] * 2


def data_file(folder, name, source):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"source": source, "batch_size": 3}}}))
    return str(folder / f"{name}.yaml")


def test_every_experiment_is_run_on_each_data_with_its_images_and_its_own_batches(experiments, tmp_path):
    folder = experiments(opc={})
    files = [data_file(tmp_path, name, {"class_path": name.upper()}) for name in ("mnist", "svhn")]
    runs = make_runs(Grid(**folder, data=files))
    assert [(run.scenario, run.name) for run in runs if run.subcommand == "fit"] == [
        (f"{data}{scenario}", name)
        for data in ("mnist", "svhn")
        for scenario, name in [
            ("", "pretrain"), ("/class", "retrain"), ("/class", "opc"), ("/random", "retrain"), ("/random", "opc")
        ]
    ]  # fmt: skip
    assert len({run.key for run in runs}) == len(runs) == 2 * len(make_runs(Grid(**folder)))
    for run in runs:
        data = run.config(tmp_path)["data"]["init_args"]
        forget = {"forget": None} if run.name == "pretrain" else {}
        assert data == {"source": {"class_path": run.scenario.partition("/")[0].upper()}, "augment": None, **forget}
        assert {need.scenario.partition("/")[0] for need in run.needs.values()} <= {run.scenario.partition("/")[0]}
        assert run.folder.startswith(f"{run.scenario}/{run.name}/")
    (above, *_) = make_runs(Grid(**folder, data=files, overrides={"data": {"init_args": {"source": "Digits"}}}))
    assert above.settings["data"]["init_args"]["source"] == "Digits"


def test_callbacks_replace_those_of_measured_cells_alone(experiments, tmp_path):
    (tmp_path / "attacks.yaml").write_text(
        "trainer: {callbacks: [{class_path: HeadRecovery}], max_epochs: 9}\nevaluation: {suite: mine 1}\n"
    )
    runs = make_runs(Grid(**experiments(opc={}), attacks=str(tmp_path / "attacks.yaml")))
    with_attacks = [(run.subcommand, run.name) for run in runs if run.settings["trainer"]["callbacks"]]
    assert with_attacks == [("validate", "references"), ("validate", "opc")] * 2
    assert {run.settings["evaluation"].get("suite") for run in runs if run.reports} == {"mine 1"}
    assert not any(look_up(run.settings, "trainer.max_epochs") == 9 for run in runs)
    (tmp_path / "attacks.yaml").write_text("trainer: {}\n")
    with pytest.raises(UsageError, match="names no attack"):
        make_runs(Grid(**experiments(opc={}), attacks=str(tmp_path / "attacks.yaml")))


def test_a_place_is_looked_up_by_its_dotted_name():
    settings = {"data": {"init_args": {"batch_size": 5}}}
    assert look_up(settings, "data.init_args.batch_size") == 5
    assert look_up(settings, "data.init_args.batch_size.no") is None


def test_settings_are_merged_by_name_and_lists_replaced():
    below, above = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "d": {"e": 2}}
    assert merged(below, above) == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_another_class_takes_over_backbone_and_weights_alone():
    below = {"class_path": "OPC", "init_args": {"weights": "x", "backbone": {"init_args": {"width": 4}}, "weight": 3}}
    above = {"class_path": "SalUn", "init_args": {"fraction": 0.5}}
    options = {"weights": "x", "backbone": {"init_args": {"width": 4}}, "fraction": 0.5}
    assert merged(below, above) == {"class_path": "SalUn", "init_args": options}
    assert merged(below, {"init_args": {"weight": 1}})["init_args"]["weight"] == 1
    step, cosine = {"class_path": "StepLR", "init_args": {"step_size": 1}}, {"class_path": "CosineAnnealingLR"}
    assert merged({"scheduler": step}, {"scheduler": cosine}) == {"scheduler": {**cosine, "init_args": {}}}


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"experiments": "nowhere"}, "'nowhere'"),
        ({"bases": {"class": "base/digits_clas"}}, "'base/digits_class'"),
        ({"scenarios": ["clas"]}, "scenario 'clas'.*'class'"),
        ({"methods": ["opcc"]}, "method 'opcc'.*'opc'"),
        ({"attacks": "no.yaml"}, "no.yaml"),
        ({"data": ["no.yaml"]}, "no.yaml"),
        ({"data": []}, "grid.data"),
        ({"scenarios": []}, r"grid.scenarios is \[\], but must name at least one"),
        ({"methods": []}, r"grid.methods is \[\], but must name at least one"),
        ({"data": ["a/svhn.yaml", "b/svhn.yaml"]}, "grid.data"),
        ({"data": ["attack/quick"]}, "attack/quick.*init_args.source"),
    ],
)
def test_a_wrong_grid_is_one_line(experiments, grid, said):
    with pytest.raises(UsageError, match=said):
        make_runs(Grid(**(experiments(opc={}) | grid)))


def test_references_of_more_seeds_are_made_than_methods_are_run_on(experiments):
    few = make_runs(Grid(**experiments(opc={}), seeds=Seeds(originals=2)))
    runs = make_runs(Grid(**experiments(opc={}), seeds=Seeds(originals=2, references=5)))
    assert {run.key for run in few} <= {run.key for run in runs}
    per_seed = {seed: [run.name for run in runs if run.seeds["original"] == seed] for seed in range(5)}
    assert per_seed[4] == ["pretrain", "retrain", "references", "retrain", "references"]
    assert {seed for seed, names in per_seed.items() if "opc" in names} == {0, 1}
    with pytest.raises(UsageError, match=r"seeds\.references is 1, but must be at least 2"):
        Seeds(originals=2, references=1)


@pytest.mark.parametrize("seeds", [{"originals": 0}, {"unlearnings": -1}, {"attacks": 0}, {"first": -1}])
def test_seeds_out_of_range_are_one_line(seeds):
    with pytest.raises(UsageError, match=f"seeds.{next(iter(seeds))} is"):
        Seeds(**seeds)


@pytest.mark.parametrize("text", ["- a", "a: [", "7"])
def test_a_file_that_is_no_settings_is_one_line(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml"):
        read_config(tmp_path / "x.yaml")


def test_both_scenarios_of_the_digits_have_a_retrain_and_nearly_the_same_methods():
    grid = read_config("tune/digits")["grid"]
    runs = make_runs(Grid(**{**grid, "seeds": Seeds()}))
    names = {scenario: {c.name for c in runs if c.scenario == scenario} for scenario in ("class", "random")}
    assert names["class"] - names["random"] == {"head_only", "rescale", "neggrad_plus", "scrub"}
    assert names["random"] - names["class"] == {"neggrad_plus_small", "scrub_small"}


def test_a_scenario_without_a_base_is_no_experiment_of_another() -> None:
    names = Experiments({"class": "base/fashion_mnist_class"}, "tuned/fashion_mnist_attack").names("class")
    assert {"opc", "scrub", "head_only"} <= set(names)
    assert not {"class", "random"} & set(names)


def test_every_experiment_is_run_at_each_number_of_epochs_and_a_cosine_goes_with_them(experiments, tmp_path):
    cosine = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 2}}
    step = {"class_path": "StepLR", "init_args": {"step_size": 2}}
    folder = experiments(("class",), opc={"lr_scheduler": cosine}, ga={"lr_scheduler": step})
    runs = make_runs(Grid(**folder, epochs=[1, 5]))
    made = {run.name: run.config(tmp_path) for run in runs if run.subcommand == "fit"}
    assert list(made) == ["pretrain", "retrain", "ga@1", "ga@5", "opc@1", "opc@5"]
    assert [made[name]["trainer"]["max_epochs"] for name in list(made)[2:]] == [1, 5, 1, 5]
    ends = [look_up(made[f"opc@{epochs}"], "model.init_args.lr_scheduler.init_args.T_max") for epochs in (1, 5)]
    assert ends == [1, 5]
    assert made["ga@5"]["model"]["init_args"]["lr_scheduler"] == step
    attacks = [run for run in runs if run.subcommand == "validate"]
    assert [run.name for run in attacks] == ["references", "ga@1", "ga@5", "opc@1", "opc@5"]
    assert look_up(attacks[-1].settings, "model.init_args.lr_scheduler.init_args.T_max") == 5
    assert len({run.key for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("epochs", "said"), [([], "at least one"), ([3, 3], "each once"), ([0], "grid.epochs is 0, but must be at least 1")]
)
def test_epochs_that_make_no_grid_are_one_line(experiments, epochs, said):
    with pytest.raises(UsageError, match=said):
        Grid(**experiments(("class",), opc={}), epochs=epochs)


def test_scenarios_that_differ_in_what_is_forgotten_share_an_original(experiments):
    folder = experiments(("class", "random"), opc={})
    other = {"random": {"data": {"init_args": {"forget": {"classes": [5, 7]}}}}}
    runs = make_runs(Grid(**folder, scenario_overrides=other))
    originals = [run for run in runs if run.name == "pretrain"]
    assert len(originals) == 1
    assert look_up(originals[0].settings, "data.init_args.forget") is None
    forgets = {run.scenario: look_up(run.settings, "data.init_args.forget") for run in runs if run.name == "opc"}
    assert forgets == {"class": None, "random": {"classes": [5, 7]}}


def test_a_method_of_another_scenario_is_left_out_and_none_at_all_is_refused():
    config = {**read_config("benchmark/calibration")["grid"], "scenarios": ["random"]}
    seeds = Seeds(**config.pop("seeds"))
    runs = make_runs(Grid(**config, seeds=seeds))
    assert {"finetune"} == {run.name for run in runs} - {"pretrain", "retrain", "references"}
    both = {run.key for run in make_runs(Grid(**{**config, "scenarios": None}, seeds=seeds))}
    assert {run.key for run in runs} <= both
    with pytest.raises(UsageError, match="no method of head_only, rescale is an experiment of random"):
        make_runs(Grid(**{**config, "methods": ["head_only", "rescale"]}, seeds=seeds))
    with pytest.raises(UsageError, match="unknown method 'head_onl'"):
        make_runs(Grid(**{**config, "methods": ["head_onl"]}, seeds=seeds))
