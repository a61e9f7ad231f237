"""Every value of configs/model is that of the table of references, which says where it comes from."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_unlearn.shipped import CONFIGS, read_config

FILE = Path(__file__).parent / "reference_settings.yaml"
TABLE: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(FILE.read_text("utf-8"))
NAMES = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
SOURCE = re.compile(
    r"(ours|not public): \S.*"
    r"|arXiv \d{4}\.\d{5}\b.*"
    r"|[\w-]+/[\w-]+ (\S+/)*[\w-]+\.(py|sh|yaml|md|MD|ipynb)(:\d+| cell \d+).*"
)
"""A reason, a paper, or a repository with a file and a line or cell of it."""


def places(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Every value by its dotted place, without ``init_args``; which method it is is no setting."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        place = above if name == "init_args" else f"{above}.{name}".removeprefix(".")
        found |= places(value, place) if isinstance(value, dict) else {place: value}
    return {place: value for place, value in found.items() if place != "model.class_path"}


def test_every_config_is_in_the_table() -> None:
    assert sorted(TABLE) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_config_sets_what_the_table_says(name: str) -> None:
    expected = {place: entry["value"] for place, entry in TABLE[name].items()}
    found = places(read_config(f"model/{name}"))
    assert found == expected
    assert {place: type(value) for place, value in found.items()} == {p: type(v) for p, v in expected.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_a_source_which_stands_beside_it_in_the_config(name: str) -> None:
    lines = (CONFIGS / f"model/{name}.yaml").read_text(encoding="utf-8").splitlines()
    for place, entry in TABLE[name].items():
        assert SOURCE.fullmatch(entry["source"]), f"{place}: {entry['source']}"
        option = place.rpartition(".")[2]
        beside = [i for i, line in enumerate(lines) if line.strip().startswith(f"{option}:")]
        comment = f"# {entry['source']}"
        assert any(lines[i].endswith(f"  {comment}") or lines[i - 1].strip() == comment for i in beside), place


@pytest.mark.parametrize("text", ["", "the paper", "ours:", "OPTML-Group/Unlearn-Sparse", "owner/name file.py"])
def test_a_source_names_a_place(text: str) -> None:
    assert not SOURCE.fullmatch(text)
