"""A small world for runs from Python: learnable images, a network trained on them, and a quiet Trainer."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from blobs import CLASSES, Blobs
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lit_unlearn.backbones import ResNet8
from lit_unlearn.data import ForgetSpec, UnlearnDataModule
from lit_unlearn.methods import callbacks

# One thread a worker: torch processes with several threads each slow each other down many times over.
torch.set_num_threads(1)
# For the processes that tests start: the same, and glibc keeps its memory, without which half the time are page faults.
for name, value in {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}.items():
    os.environ.setdefault(name, value)
torch.set_warn_always(True)  # otherwise once a process, in whichever test comes first

Batch = dict[str, tuple[Tensor, Tensor]]


class Recorder(Callback):
    """Keeps the network as it was when training began, and every batch that was trained on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = copy.deepcopy(pl_module.backbone)
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The commands of the pages take longest: last, one of them would be waited for."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


@pytest.fixture(autouse=True)
def _global_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test draws does not depend on the tests before it."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test finds does not depend on which memory format was faster just then."""
    monkeypatch.setattr(callbacks, "faster_format", lambda *_: "contiguous")


@pytest.fixture
def any_sum_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision compares files with the sums of the real ones; these tests bring their own."""

    def exists(path: str, md5: str | None = None) -> bool:
        return Path(path).is_file()

    for module in ("cifar", "svhn", "utils"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists)


@pytest.fixture
def make_data() -> Callable[..., UnlearnDataModule]:
    def make(classes: list[int] | None = None, fraction: float | None = None, **settings: Any) -> UnlearnDataModule:
        named = classes is not None or fraction is not None
        forget = ForgetSpec(classes=classes, fraction=fraction) if named else ForgetSpec(classes=[0, 1])
        given = {"source": Blobs(), "forget": forget, "batch_size": 8, "eval_batch_size": 10} | settings
        return UnlearnDataModule(**given)

    return make


@pytest.fixture
def one_image(make_data: Callable[..., UnlearnDataModule], tmp_path: Path) -> UnlearnDataModule:
    """Data of which a single training image is to be forgotten."""
    (tmp_path / "forget.txt").write_text("5\n")
    return make_data(forget=ForgetSpec(index_file=tmp_path / "forget.txt"))


def small_network(seed: int = 0) -> ResNet8:
    torch.manual_seed(seed)
    return ResNet8(num_classes=CLASSES, in_channels=1, width=4)


@pytest.fixture(scope="session")
def trained_state() -> dict[str, Tensor]:
    """Weights of a network that has learnt the blobs."""
    data, network = Blobs().load(), small_network().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.train_images / 255), data.train_labels).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@pytest.fixture
def make_backbone(trained_state: dict[str, Tensor]) -> Callable[..., ResNet8]:
    """Makes the trained network, or with ``seed`` a fresh one."""

    def make(seed: int | None = None) -> ResNet8:
        network = small_network(seed or 0)
        if seed is None:
            network.load_state_dict(trained_state)
        return network

    return make


@pytest.fixture
def trained_file(trained_state: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(trained_state, tmp_path / "trained.pt")
    return tmp_path / "trained.pt"


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(*callbacks: Callback, **settings: Any) -> Trainer:
        quiet: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": tmp_path,
            "logger": CSVLogger(tmp_path, name="logs"),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "max_epochs": 1,
        }
        return Trainer(callbacks=list(callbacks), **{**quiet, **settings})

    return make


@pytest.fixture
def fit(make_trainer: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """Fits quietly and returns the Trainer."""

    def run(module: LightningModule, data: UnlearnDataModule, *callbacks: Callback, **settings: Any) -> Trainer:
        trainer = make_trainer(*callbacks, **settings)
        trainer.fit(module, datamodule=data)
        return trainer

    return run


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def experiments(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes a grid of experiments that only the stand-in for the command line can run: its bases and experiments."""

    def make(scenarios: tuple[str, ...] = ("class", "random"), **methods: dict[str, object]) -> dict[str, Any]:
        folder = tmp_path / "experiments"
        folder.mkdir(exist_ok=True)
        sections = {
            name: {"model": {"class_path": name.upper(), "init_args": settings}, "trainer": {"max_epochs": 2}}
            for name, settings in methods.items()
        }
        (folder / "experiments.yaml").write_text(yaml.safe_dump(sections))
        model = {"class_path": "Audit", "init_args": {"backbone": {"class_path": "ResNet8"}}}
        for scenario in scenarios:
            base = {"model": model, "data": {"init_args": {}}, "evaluation": {"retrain": None}}
            (folder / f"{scenario}.yaml").write_text(yaml.safe_dump(base))
        bases = {scenario: str(folder / f"{scenario}.yaml") for scenario in scenarios}
        return {"bases": bases, "experiments": str(folder / "experiments.yaml")}

    return make
