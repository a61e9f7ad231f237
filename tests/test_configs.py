"""Every config, and every section of one, is read by the parser; the compositions of a grid run."""

import contextlib
import gzip
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import BASES, SETTINGS, experiment, lit_unlearn
from image_files import write_cifar10, write_svhn

from lit_unlearn import methods
from lit_unlearn.backbones import ResNet18
from lit_unlearn.benchmark import Grid, Seeds, make_runs
from lit_unlearn.benchmark.experiments import Experiments
from lit_unlearn.benchmark.gathering import collect
from lit_unlearn.benchmark.settings import merged
from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.reports import read_rows
from lit_unlearn.shipped import CONFIGS, is_config, read_config, shipped_config, shipped_names
from lit_unlearn.suites import attacks_of_config

QUICK = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
FASHION = Path("/usr/share/datasets/fashion-mnist")
SCENARIOS = ("class", "random")
SAMPLE = ("opc", "pretrain", "retrain", "ssd")
"""Experiments that run by default: a method, the two that train from scratch, and one without an optimizer."""

SHORTER: dict[str, dict[str, Any]] = {
    "GradientInversion": {"steps": 20},
    "AdaptiveRelearn": {"steps": 100, "learning_rates": [0.1], "measured": 100},
    "SpatialRecovery": {"cells": [2]},
    "TransformedRecovery": {"transforms": ["transpose", "invert"]},
}
"""Options with which slow attacks are tried."""

Settings = dict[str, Any]


def names_of(folder: str) -> list[str]:
    found = [name for name in shipped_names() if name.partition("/")[0] == folder]
    assert found, folder
    return found


def tuned(data: str, scenario: str) -> list[str]:
    names = Experiments({scenario: BASES[data, scenario]}, SETTINGS[data, scenario]).names(scenario)
    return ["pretrain", "retrain", *(name for name in names if scenario == "class" or name not in CLASSES_ONLY)]


CLASSES_ONLY = ("head_only", "rescale")
EXPERIMENTS = [
    (data, scenario, name)
    for data in ("digits", "fashion_mnist")
    for scenario in SCENARIOS
    for name in tuned(data, scenario)
]


def sampled(cases: list[tuple[str, str, str]]) -> list[object]:
    """The cases: a few by default, all others of classes for .ci/run, those of single images for ``-m slow``."""
    return [case_of(*case, ci=case[1] == "class" and case[2] not in SAMPLE, slow=case[1] != "class") for case in cases]


def case_of(*values: object, ci: bool = False, slow: bool = False, id: str | None = None) -> object:
    marks = [pytest.mark.ci] * ci + [pytest.mark.slow] * slow
    return pytest.param(*values, id=id or "/".join(map(str, values)), marks=marks)


def printed(folder: Path, *words: object, subcommand: str = "fit") -> Settings:
    """The resolved settings of a command."""
    outcome = lit_unlearn(folder, subcommand, *words, "--print_config")
    assert (outcome.status, outcome.err) == (0, "")
    settings: Settings = yaml.safe_load(outcome.out)
    return settings


def parts(words: list[str]) -> list[str]:
    return words[1::2]


@pytest.mark.parametrize("name", names_of("benchmark") + names_of("tune"))
def test_the_parsers_of_many_runs_read_it(name: str, tmp_path: Path) -> None:
    settings = printed(tmp_path, "--config", name, subcommand=name.partition("/")[0])
    assert settings["output"] == f"runs/{name}"
    grid = read_config(name)["grid"]
    runs = make_runs(Grid(**{**grid, "seeds": Seeds()}))
    assert {run.scenario.rpartition("/")[2] for run in runs if run.reports} == set(grid["bases"])


def test_a_benchmarks_parser_reads_the_cluster_on_top_of_it(tmp_path: Path) -> None:
    both = ("--config", "benchmark/digits", "--config", "cluster/slurm", "--launcher.slurm.partition=gpu")
    launcher = printed(tmp_path, *both, subcommand="benchmark")["launcher"]
    assert (launcher["workers"], launcher["slurm"]["partition"], launcher["slurm"]["gpus"]) == (16, "gpu", 1)


ON_TOP = names_of("attack") + names_of("data") + names_of("model")


@pytest.mark.parametrize("name", ON_TOP)
def test_a_config_is_read_on_top_of_the_quickstart(name: str, tmp_path: Path) -> None:
    read, own = printed(tmp_path, "--config", "quickstart", "--config", name), read_config(name)
    for part in own.keys() & {"model", "data"}:
        assert read[part]["init_args"].keys() >= own[part]["init_args"].keys()
    if "model" in own:
        assert read["model"]["class_path"].rpartition(".")[2] == own["model"]["class_path"]
        backbone = read["model"]["init_args"]["backbone"]["class_path"]
        assert backbone == "lit_unlearn.ResNet8", "backbone and weights are the quickstart's"
        same_options(read["model"]["init_args"], own["model"]["init_args"])


def same_options(read: Settings, own: Settings) -> None:
    """Nothing of the options below is left where a reference names its own."""
    for name, value in own.items():
        if isinstance(value, dict):
            assert read[name]["class_path"] == value["class_path"]
            assert {key: read[name]["init_args"][key] for key in value["init_args"]} == value["init_args"]
        else:
            assert read[name] == value


@pytest.mark.parametrize("name", names_of("model"))
def test_a_reference_names_every_option_of_its_method(name: str) -> None:
    """Else the options of what it is merged on top of would stay."""
    model = read_config(name)["model"]
    options = inspect.signature(getattr(methods, model["class_path"]).__init__).parameters.keys()
    assert model["init_args"].keys() | {"self", "backbone", "weights"} == options | {"weights"}


@pytest.mark.parametrize("name", names_of("base"))
def test_a_base_is_the_original_to_be_audited(name: str, tmp_path: Path) -> None:
    weights = () if "weights" in read_config(name)["model"]["init_args"] else ("--model.weights=original.pt",)
    settings = printed(tmp_path, "--config", name, *weights, subcommand="validate")
    assert settings["model"]["class_path"] == "lit_unlearn.Audit"


@pytest.mark.parametrize(("data", "scenario", "name"), sampled(EXPERIMENTS))
def test_an_experiment_of_a_grid_is_what_the_command_line_composes(
    data: str, scenario: str, name: str, tmp_path: Path
) -> None:
    words = experiment(name, data, scenario)
    experiments = Experiments({scenario: BASES[data, scenario]}, SETTINGS[data, scenario])
    text = json.dumps(experiments.settings(scenario, name))
    assert printed(tmp_path, *words) == printed(tmp_path, "--config", text)


SEARCHED = [
    case_of(scenario, name, ci=(scenario, name) not in (("class", "opc_features"), ("random", "pretrain")))
    for scenario, base in (("class", "base/fashion_mnist_class"), ("random", "base/fashion_mnist_memorised"))
    for name in ["pretrain", "retrain", *Experiments({scenario: base}, "experiments/fashion_mnist").names(scenario)]
]


@pytest.mark.parametrize(("scenario", "name"), SEARCHED)
def test_an_experiment_of_the_search_is_accepted(scenario: str, name: str, tmp_path: Path) -> None:
    bases = {"class": "base/fashion_mnist_class", "random": "base/fashion_mnist_memorised"}
    settings = Experiments(bases, "experiments/fashion_mnist").settings(scenario, name)
    settings["model"]["init_args"].setdefault("weights", "original.pt")
    read = printed(tmp_path, "--config", json.dumps(settings))
    assert read["trainer"]["max_epochs"] == settings["trainer"]["max_epochs"]


SLOW = {"amun", "cf_k", "dist_reg", "eu_k", "mode_connectivity", "weight_distortion"}
"""Where classes are forgotten these are in no table yet (docs/benchmark.md)."""


def test_the_search_on_digits_begins_with_every_method_at_its_reference() -> None:
    sections = read_config("experiments/digits")
    of_class, of_random = sections.pop("class"), sections.pop("random")
    assert {name for name, section in sections.items() if section} == {"opc_features", "pretrain", "retrain"}
    assert not any(of_class.values())
    assert not any(of_random.values())
    assert (sections | of_class).keys() == read_config("tuned/digits")["class"].keys()
    of_fashion = read_config("experiments/fashion_mnist")
    for scenario, own in (("class", of_class), ("random", of_random)):
        others = of_fashion[scenario].keys() | of_fashion.keys() - {"class", "random"}
        assert (sections | own).keys() == others, "the same methods as on Fashion-MNIST"


def test_the_search_begins_with_every_method_at_its_reference() -> None:
    """Only how the references are trained, and what has no reference of its own, is set in its experiments."""
    sections = read_config("experiments/fashion_mnist")
    of_class = sections.pop("class")
    of_random = sections.pop("random")
    references = {"pretrain", "retrain"}
    assert {name for name, section in sections.items() if section} == {"opc_features", *references}
    of_short = of_class["retrain_short"]
    assert of_short["trainer"]["max_epochs"] < sections["retrain"]["trainer"]["max_epochs"], "a short Retrain"
    assert of_short["model"]["init_args"]["lr_scheduler"]["init_args"]["T_max"] == of_short["trainer"]["max_epochs"]
    assert {name for name, section in of_class.items() if section} == {"retrain_short"}
    small = {"neggrad_plus_small", "scrub_small"}  # at their authors' settings for small sets
    assert of_random.keys() == {*references, *small}
    assert not any(of_random[name] for name in small)
    depth = read_config("experiments/depth")
    transformer = depth["vit"]
    assert transformer.keys() == references | {"ct", "distilled_retrain", "kernel_shuffle", "opc_deep", "retrain_short"}
    for name in transformer.keys() - references:
        reference, on_others = read_config(f"model/{name}")["trainer"]["max_epochs"], depth[name].get("trainer", {})
        assert transformer[name]["trainer"]["max_epochs"] == on_others.get("max_epochs", reference)
        assert (
            transformer[name]["model"]["init_args"]["optimizer"]
            == transformer["pretrain"]["model"]["init_args"]["optimizer"]
        )
    tuned = read_config("tuned/fashion_mnist_attack")
    assert sections.keys() | of_class.keys() == (tuned["class"].keys() - {"msg_90"}) | SLOW
    assert sections.keys() | of_random.keys() == tuned["random"].keys() - {"msg_90"}


def run(folder: Path, *args: object, epochs: int = 1) -> list[str]:
    """Runs ``fit`` and returns the methods of its rows; all must be complete."""
    outcome = lit_unlearn(folder, "fit", *args, *QUICK, f"--trainer.max_epochs={epochs}")
    assert (outcome.status, outcome.err) == (0, "")
    (results,) = folder.glob("runs/*/version_0/results.json")
    rows = read_rows(results)
    assert all(row.status == "ok" and row.metrics for row in rows)
    return [row.method for row in rows]


def composed(words: list[str]) -> Settings:
    settings: Settings = {}
    for name in parts(words):
        settings = merged(settings, read_config(name))
    return settings


def method_of(words: list[str]) -> str:
    return str(composed(words)["model"]["class_path"])


def least_epochs(words: list[str]) -> int:
    """Fewest epochs that the method can be run with."""
    return 1 + int(composed(words)["model"]["init_args"].get("suppress_epochs", 0))


@pytest.mark.parametrize(("data", "scenario", "name"), sampled([case for case in EXPERIMENTS if case[0] == "digits"]))
def test_an_experiment_on_digits_runs(data: str, scenario: str, name: str, tmp_path: Path) -> None:
    words = experiment(name, data, scenario)
    method = method_of(words)
    expected = {"Pretrain": ["Pretrain"], "Retrain": ["Original", "Retrain"]}
    assert run(tmp_path, *words, epochs=least_epochs(words)) == expected.get(method, ["Original", "Retrain", method])


def test_the_quickstart_has_the_attacks_of_the_quick_suite() -> None:
    own, quick = read_config("quickstart"), read_config("attack/quick")
    assert own["trainer"]["callbacks"] == quick["trainer"]["callbacks"]
    assert own["evaluation"]["suite"] == quick["evaluation"]["suite"]


def test_the_quickstart_unlearns_as_the_shipped_opc_deep_but_for_its_epochs() -> None:
    own, shipped = (read_config(name)["model"]["init_args"] for name in ("quickstart", "model/opc_deep"))
    defaults = {name: found.default for name, found in inspect.signature(methods.OPC).parameters.items()}
    shipped["lr_scheduler"]["init_args"]["T_max"] = read_config("quickstart")["trainer"]["max_epochs"]
    assert {**defaults, **shipped} == {**defaults, **own, "backbone": defaults["backbone"], "weights": None}


@pytest.fixture(scope="module")
def part_of_fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 600 images and labels of each file, as files of the same format."""
    if not FASHION.is_dir():
        pytest.skip(f"needs {FASHION}")
    folder = tmp_path_factory.mktemp("data")
    for path in FASHION.glob("*-ubyte.gz"):
        header, size = (16, 28 * 28) if "idx3" in path.name else (8, 1)
        with gzip.open(path) as file:
            head, body = file.read(header), file.read(600 * size)
        (folder / path.stem).write_bytes(head[:4] + (600).to_bytes(4, "big") + head[8:] + body)
    return folder


ON_FASHION_MNIST = [
    case_of(experiment(name, data, scenario), id=f"{scenario}/{name}", slow=(scenario, name) != ("class", "opc"))
    for data, scenario, name in EXPERIMENTS
    if data == "fashion_mnist"  # the tables are made of them, and each method runs on the digits, too
] + [
    case_of(
        ["--config", "base/fashion_mnist_class", "--config", f"experiments/depth#{name}"],
        id=f"depth/{name}",
        ci=True,
    )
    for name in ("only_both", "shuffled_all")  # one of each kind
]


@pytest.mark.parametrize("words", ON_FASHION_MNIST)
def test_an_experiment_on_fashion_mnist_runs_on_a_part(
    words: list[str], part_of_fashion_mnist: Path, tmp_path: Path
) -> None:
    args = [*words, "--data.train_limit=512", "--evaluation.retrain=null", "--data.source.root", part_of_fashion_mnist]
    if method_of(words) != "Pretrain":
        args += ["--model.weights=fashion_mnist_resnet8"]  # the base of memorised images names none
    assert run(tmp_path, *args, epochs=least_epochs(words))[-1] == method_of(words)
    (row, *_) = read_rows(next(tmp_path.glob("runs/*/version_0/results.json")))
    assert (row.data["train"], row.data["test"]) == (512, 600)


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training and 50 test images in the formats of CIFAR-10 and SVHN, and a narrow network's weights."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(7)  # another seed than any run's, which would draw the same weights
    torch.save(ResNet18(width=4).state_dict(), folder / "original.pt")
    write_cifar10(folder, batch=20, test=50)
    write_svhn(folder, train=100, test=50)
    return folder


REFERENCES = [
    case_of(scenario, name, ci=scenario == "class" and name not in ("scrub", "rescale"), slow=scenario != "class")
    for scenario in SCENARIOS
    for name in (name.partition("/")[2] for name in names_of("model"))
    if scenario == "class" or name not in CLASSES_ONLY
]


@pytest.mark.usefixtures("any_sum_is_right")
@pytest.mark.parametrize(("scenario", "name"), REFERENCES)
def test_a_reference_runs_on_small_files(scenario: str, name: str, small_files: Path, tmp_path: Path) -> None:
    words = ["--config", f"base/cifar10_{scenario}", "--config", f"model/{name}"]
    small = ("--data.source.root", small_files, "--model.backbone.width=4", "--report.page=false")
    weights = f"--model.weights={small_files / 'original.pt'}"
    assert run(tmp_path, *words, *small, weights, epochs=least_epochs(words))[-1] == method_of(words)
    (row, *_) = read_rows(next(tmp_path.glob("runs/*/version_0/results.json")))
    assert (row.data["source"], row.data["train"]) == ("CIFAR10", 100)
    batch = read_config(f"model/{name}").get("data", {}).get("init_args", {}).get("batch_size", 256)
    assert row.batch_size["per_device"] == batch


@pytest.mark.ci
@pytest.mark.usefixtures("any_sum_is_right")
def test_the_benchmark_of_the_papers_runs_on_its_second_data(small_files: Path, tmp_path: Path) -> None:
    grid = read_config("benchmark/paper")["grid"]
    grid["seeds"] = Seeds(**grid["seeds"])
    source = {"source": {"init_args": {"root": str(small_files)}}}
    small = {
        "model": {"init_args": {"backbone": {"init_args": {"width": 4}}}},
        "data": {"init_args": source},
        "trainer": {"max_epochs": 1},
    }
    full = make_runs(Grid(**grid))
    part = {"scenarios": ["class"], "methods": ["opc"], "seeds": Seeds(), "attacks": "attack/recovery"}
    runs = make_runs(Grid(**{**grid, **part, "overrides": small}))
    assert len(full) == 3 * 2 * (1 + (2 + 2 * 29) + (2 + 2 * 27))
    for each in (run for run in runs if run.scenario.startswith("svhn")):
        write_atomically(tmp_path / "run.yaml", yaml.safe_dump(each.config(tmp_path / "runs")))
        outcome = lit_unlearn(tmp_path, each.subcommand, "--config", tmp_path / "run.yaml")
        assert (outcome.status, outcome.err) == (0, "")
    rows = collect(runs, tmp_path / "runs")
    assert [row.method for row in rows] == ["Original", "Retrain", "OPC"]
    assert {(row.benchmark["scenario"], row.data["source"]) for row in rows} == {("svhn/class", "SVHN")}
    assert {row.data["augment"]["flip"] for row in rows} == {False}


@pytest.mark.parametrize("name", [case_of(name, ci=name != "attack/membership") for name in names_of("attack")])
def test_an_attack_runs_composed(name: str, tmp_path: Path) -> None:
    settings = read_config(name)
    wanted = settings["trainer"]["callbacks"]
    for attack in wanted:
        if attack["class_path"] in SHORTER:
            attack.setdefault("init_args", {}).update(SHORTER[attack["class_path"]])
    model = ("--config", "base/digits_class", "--config", "model/finetune", "--evaluation.retrain=null")
    assert run(tmp_path, *model, "--config", json.dumps(settings)) == ["Original", "FineTune"]
    for row in read_rows(tmp_path / "runs/FineTune/version_0/results.json"):
        done = {"/".join(name.split("/")[:2]) for name in row.attacks} | row.skipped.keys()
        assert len(done) == len(wanted)


@pytest.mark.parametrize("name", names_of("attack"))
def test_the_attacks_of_a_config_are_made_from_python(name: str) -> None:
    settings = read_config(name)
    attacks, suite = attacks_of_config(name)
    assert [type(attack).__name__ for attack in attacks] == [c["class_path"] for c in settings["trainer"]["callbacks"]]
    assert suite == settings.get("evaluation", {}).get("suite")
    assert not {*map(id, attacks)} & {*map(id, attacks_of_config(name)[0])}


def test_a_config_without_attacks_gives_none() -> None:
    with pytest.raises(UsageError, match="model/opc"):
        attacks_of_config("model/opc")


def test_a_file_counts_before_the_name_of_a_shipped_config(tmp_path: Path) -> None:
    assert shipped_config("attack/quick") == shipped_config("attack/quick.yaml") == CONFIGS / "attack/quick.yaml"
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack/quick").write_text("own: 1\n")
    (tmp_path / "odd#name.yaml").write_text("own: 2\n")
    with contextlib.chdir(tmp_path):
        assert read_config("attack/quick") == {"own": 1}
        assert read_config("odd#name.yaml") == {"own": 2}
        assert read_config("attack/quick.yaml") == read_config(CONFIGS / "attack/quick.yaml")


def test_a_section_is_named_by_its_keys(tmp_path: Path) -> None:
    tuned = read_config("tuned/fashion_mnist_attack")
    assert read_config("tuned/fashion_mnist_attack#class/salun") == tuned["class"]["salun"]
    for name in ("tuned/digits#class/salun/modle", "tuned/digits#salun"):
        with pytest.raises(UsageError, match="section"):
            read_config(name)
    (tmp_path / "numbers.yaml").write_text("rate: 1e-3\n")
    assert read_config(tmp_path / "numbers.yaml") == {"rate": 0.001}, "as the command line reads it"


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("model/retrain", True),
        ("tuned/digits#class/retrain", True),
        ("own.yaml", True),
        ("digits_resnet8", False),
        ("x.pt", False),
    ],
)
def test_a_name_is_of_a_config_or_of_weights(name: str, config: bool) -> None:
    assert is_config(name) == config


def test_a_file_of_weights_is_no_config_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "run#1.pt").touch()
    assert not is_config(tmp_path / "run#1.pt")
