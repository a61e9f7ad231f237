"""A folder of experiments that only the stand-in for the command line can run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def experiments(tmp_path: Path) -> Callable[..., Path]:
    def make(scenarios: tuple[str, ...] = ("class", "random"), **methods: dict[str, object]) -> Path:
        folder = tmp_path / "experiments"

        def write(path: str, method: str, **settings: object) -> None:
            model = {"class_path": method, "init_args": {"backbone": {"class_path": "ResNet8"}, **settings}}
            whole = {"model": model, "data": {"init_args": {}}, "trainer": {"max_epochs": 2}, "evaluation": {}}
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(yaml.safe_dump(whole | {"evaluation": {"retrain": None}}))

        write("pretrain.yaml", "Pretrain")
        for scenario in scenarios:
            write(f"{scenario}/retrain.yaml", "Retrain")
            for name, settings in methods.items():
                write(f"{scenario}/{name}.yaml", name.upper(), **settings)
        return folder

    return make
