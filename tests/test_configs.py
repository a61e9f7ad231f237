"""Every config is read by the parser, and those of the experiments run."""

import contextlib
import gzip
from pathlib import Path

import pytest
import torch
import yaml
from command_line import lit_unlearn
from image_files import write_cifar10, write_svhn

from lit_unlearn.backbones import ResNet18
from lit_unlearn.backbones.weights import resolve
from lit_unlearn.benchmark import Grid, Seeds, make_cells
from lit_unlearn.benchmark.gathering import collect
from lit_unlearn.benchmark.settings import read_settings
from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.reports import read_rows

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
QUICK = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=1")
FASHION = Path("/usr/share/datasets/fashion-mnist")
SMALL = ("--model.backbone", "ResNet8", "--model.backbone.in_channels=1", "--data", CONFIGS / "data/digits.yaml")


def configs(folder: str) -> list[object]:
    found = sorted(CONFIGS.glob(folder))
    assert found, folder
    return [pytest.param(path, id=str(path.relative_to(CONFIGS).with_suffix(""))) for path in found]


def composed(path: Path) -> list[object]:
    """The arguments that read a config, alone or with what it needs beside it."""
    experiment = CONFIGS / "quickstart.yaml"
    folder = path.relative_to(CONFIGS).parts[0]
    needed = ["--model.weights=digits_resnet8"] if path.stem == "audit" else []
    return {
        "data": ["--config", experiment, "--data", path],
        "model": ["--model", path, "--data", CONFIGS / "data/digits.yaml", *needed],
        "experiment": ["--config", path],
    }.get(folder, ["--config", experiment, "--config", path])


def runs() -> list[object]:
    """Every config but those of many runs, which have parsers of their own, and those that are read when they run."""
    elsewhere = ("benchmark", "cluster", "tune", "paper")
    return [p for p in configs("**/*.yaml") if not {*elsewhere} & {*p.values[0].relative_to(CONFIGS).parts}]


@pytest.mark.parametrize("path", configs("benchmark/*.yaml") + configs("tune/*.yaml"))
def test_the_parsers_of_many_runs_read_it(path: Path, tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, path.parent.name, "--config", path, "--print_config")
    assert (outcome.status, outcome.err) == (0, "")
    said = yaml.safe_load(path.read_text())
    assert said["output"] == f"runs/{path.parent.name}/{path.stem}"
    files = [str(CONFIGS.parent / file) for file in said["grid"].get("data", [])]
    assert make_cells(Grid(str(CONFIGS.parent / said["grid"]["experiments"]), data=files or None))


def test_a_benchmarks_parser_reads_the_cluster_above_it(tmp_path: Path) -> None:
    both = ("--config", CONFIGS / "benchmark/digits.yaml", "--config", CONFIGS / "cluster/slurm.yaml")
    outcome = lit_unlearn(tmp_path, "benchmark", *both, "--launcher.slurm.partition=gpu", "--print_config")
    assert (outcome.status, outcome.err) == (0, "")
    launcher = yaml.safe_load(outcome.out)["launcher"]
    assert (launcher["workers"], launcher["slurm"]["partition"], launcher["slurm"]["gpus"]) == (16, "gpu", 1)


@pytest.mark.parametrize("path", runs())
def test_the_parser_reads_it(path: Path, tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "fit", *composed(path), "--print_config")
    assert (outcome.status, outcome.err) == (0, "")
    read, said = yaml.safe_load(outcome.out), yaml.safe_load(path.read_text())
    for part in ("model", "data"):
        wanted = said if path.parent.name == part else said.get(part)
        if wanted is not None:
            assert read[part]["class_path"].rpartition(".")[2] == wanted["class_path"]
            assert wanted["init_args"].keys() <= read[part]["init_args"].keys()


def run(folder: Path, *args: object) -> list[str]:
    """Runs ``fit`` and returns the methods of its rows; all must be whole."""
    outcome = lit_unlearn(folder, "fit", *args, *QUICK)
    assert (outcome.status, outcome.err) == (0, "")
    (results,) = folder.glob("runs/*/version_0/results.json")
    rows = read_rows(results)
    assert all(row.status == "ok" and row.metrics for row in rows)
    return [row.method for row in rows]


@pytest.mark.parametrize("path", configs("experiment/digits/**/*.yaml") + configs("quickstart.yaml"))
def test_an_experiment_on_digits_runs(path: Path, tmp_path: Path) -> None:
    method = yaml.safe_load(path.read_text())["model"]["class_path"]
    expected = {"Pretrain": ["Pretrain"], "Retrain": ["Original", "Retrain"]}
    assert run(tmp_path, "--config", path) == expected.get(method, ["Original", "Retrain", method])


def there(weights: str | None) -> bool:
    try:
        return weights is not None and resolve(weights).is_file()
    except UsageError:
        return False


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


@pytest.mark.parametrize(
    "path", configs("experiment/fashion_mnist/**/*.yaml") + configs("experiment/opc_depth/**/*.yaml")
)
def test_an_experiment_on_fashion_mnist_runs_on_a_part(path: Path, part_of_fashion_mnist: Path, tmp_path: Path) -> None:
    model = yaml.safe_load(path.read_text())["model"]
    args: list[object] = ["--config", path, "--data.train_limit=512", "--evaluation.retrain=null"]
    args += ["--data.source.root", part_of_fashion_mnist]
    if not there(model["init_args"].get("weights")):
        args += ["--model.weights=null"]
    assert run(tmp_path, *args)[-1] == model["class_path"]
    (row, *_) = read_rows(next(tmp_path.glob("runs/*/version_0/results.json")))
    assert (row.data["train"], row.data["test"]) == (512, 600)


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training and 50 test images in the formats of CIFAR-10 and SVHN, and a narrow network's weights."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(7)  # another than any run's, which would draw the same weights anew
    torch.save(ResNet18(width=4).state_dict(), folder / "original.pt")
    write_cifar10(folder, batch=20, test=50)
    write_svhn(folder, train=100, test=50)
    return folder


@pytest.mark.usefixtures("any_sum_is_right")
@pytest.mark.parametrize("path", configs("experiment/paper/**/*.yaml"))
def test_an_experiment_of_the_papers_runs_on_small_files(path: Path, small_files: Path, tmp_path: Path) -> None:
    settings = read_settings(path)
    model, backbone = settings["model"]["class_path"], settings["model"]["init_args"]["backbone"]
    assert (backbone["class_path"], backbone["init_args"]) == ("ResNet18", {"num_classes": 10, "in_channels": 3})
    small = ("--data.source.root", small_files, "--model.backbone.width=4", "--report.page=false")
    weights = f"--model.weights={small_files / 'original.pt'}"
    assert run(tmp_path, "--config", path, *small, weights)[-1] == model
    (row, *_) = read_rows(next(tmp_path.glob("runs/*/version_0/results.json")))
    assert (row.data["source"], row.data["train"]) == ("CIFAR10", 100)
    assert row.batch_size["per_device"] == settings["data"]["init_args"]["batch_size"]


@pytest.mark.usefixtures("any_sum_is_right")
def test_the_benchmark_of_the_papers_runs_on_its_second_data(small_files: Path, tmp_path: Path) -> None:
    grid = yaml.safe_load((CONFIGS / "benchmark/paper.yaml").read_text())["grid"]
    grid["seeds"] = Seeds(**grid["seeds"])
    source = {"source": {"init_args": {"root": str(small_files)}}}
    small = {
        "model": {"init_args": {"backbone": {"init_args": {"width": 4}}}},
        "data": {"init_args": source},
        "trainer": {"max_epochs": 1},
    }
    with contextlib.chdir(CONFIGS.parent):
        whole = make_cells(Grid(**grid))
        part = {"scenarios": ["class"], "methods": ["opc"], "seeds": Seeds(), "attacks": "configs/attack/recovery.yaml"}
        cells = make_cells(Grid(**{**grid, **part, "overrides": small}))
    assert len(whole) == 3 * 2 * (1 + (2 + 2 * 21) + (2 + 2 * 19))
    for cell in (cell for cell in cells if cell.scenario.startswith("svhn")):
        write_atomically(tmp_path / "cell.yaml", yaml.safe_dump(cell.config(tmp_path / "runs")))
        outcome = lit_unlearn(tmp_path, cell.subcommand, "--config", tmp_path / "cell.yaml")
        assert (outcome.status, outcome.err) == (0, "")
    rows = collect(cells, tmp_path / "runs")
    assert [row.method for row in rows] == ["Original", "Retrain", "OPC"]
    assert {(row.benchmark["scenario"], row.data["source"]) for row in rows} == {("svhn/class", "SVHN")}
    assert {row.data["augment"]["flip"] for row in rows} == {False}


@pytest.mark.parametrize("path", configs("model/*.yaml"))
def test_a_model_runs_composed(path: Path, tmp_path: Path) -> None:
    method = yaml.safe_load(path.read_text())["class_path"]
    if method == "Audit":
        pytest.skip("trains nothing: its example is run with the README's")
    weights = () if method == "Pretrain" else ("--model.weights=digits_resnet8",)
    assert run(tmp_path, "--model", path, *SMALL, *weights)[-1] == method


@pytest.mark.parametrize("path", configs("attack/*.yaml"))
def test_an_attack_runs_composed(path: Path, tmp_path: Path) -> None:
    model = ("--model", CONFIGS / "model/finetune.yaml", *SMALL, "--model.weights=digits_resnet8")
    settings = yaml.safe_load(path.read_text())
    wanted = settings["trainer"]["callbacks"]
    for attack in wanted:
        if attack["class_path"] == "GradientInversion":
            attack["init_args"]["steps"] = 20
    (tmp_path / "attack.yaml").write_text(yaml.safe_dump(settings))
    assert run(tmp_path, *model, "--config", tmp_path / "attack.yaml") == ["Original", "FineTune"]
    for row in read_rows(tmp_path / "runs/FineTune/version_0/results.json"):
        done = {"/".join(name.split("/")[:2]) for name in row.attacks} | row.skipped.keys()
        assert len(done) == len(wanted)
