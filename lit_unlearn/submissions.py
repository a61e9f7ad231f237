"""A submission: one model that was made to forget, with all that others need to check it, as one zip file.

It holds weights alone and no code: networks are those of this package, torchvision and timm, data sets those that
anybody can have. Whoever verifies it trains nothing: the original and the Retrains come with it.
"""

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from lit_unlearn import __version__
from lit_unlearn.archives import read_archive, write_archive
from lit_unlearn.backbones import Backbone, load_weights
from lit_unlearn.backbones.gate import CHANGE, add_gate
from lit_unlearn.backbones.reading import read_state
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.backbones.zoo import NETWORKS, network_of
from lit_unlearn.claims import Claim, check_claim, claim_of
from lit_unlearn.errors import UsageError, first_line, unknown
from lit_unlearn.files import part_of_settings, read_settings
from lit_unlearn.reports.rows import RETRAIN, Row, read_rows
from lit_unlearn.run_files import CONFIG, RESULTS, WEIGHTS

FORMAT, MANIFEST = "lit_unlearn submission 1", "submission.json"
MODEL, ORIGINAL = "model.safetensors", "original.safetensors"
LICENCES = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "MIT", "MPL-2.0")
"""Under which others may use the weights, SPDX identifiers."""

SOURCES = ("CIFAR10", "CIFAR100", "Digits", "FashionMNIST", "MNIST", "SVHN")
"""Data that anybody can have."""

_NAME = re.compile(r"[a-z0-9_]{1,60}")
_SPLIT_SETTINGS = ("split_seed", "train_limit", "test_from_train")
_RULE = ("classes", "fraction")
_MOST_RETRAINS = 20
_LONGEST = 300


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the manifest says.

    Attributes:
        format: of the manifest.
        name: of the row, lower-case letters, digits and ``_``.
        method: as its authors call it.
        paper: address of the paper, or empty.
        code: address of the code, or empty.
        threat_model: who may attack it with what, a sentence.
        licence: of the weights, one of :data:`LICENCES`.
        network: ``class_path``, one of :data:`~lit_unlearn.backbones.zoo.NETWORKS`, and ``init_args``.
        gate: whether the model, beside that network, has a gate of this package (:mod:`lit_unlearn.backbones.gate`).
        source: ``class_path``, one of :data:`SOURCES`, and ``init_args``.
        forget: ``classes`` or ``fraction``.
        settings: what else decides the split: ``split_seed``, ``train_limit``, ``test_from_train``.
        split: the hash that these must give.
        seed: of the attacks.
        suite: name and version of the attacks of the claim.
        claim: in numbers.
        retrains: how many Retrains there are.
        lit_unlearn: the version that wrote it.
    """

    format: str
    name: str
    method: str
    paper: str
    code: str
    threat_model: str
    licence: str
    network: dict[str, Any]
    source: dict[str, Any]
    forget: dict[str, Any]
    settings: dict[str, int | float | None]
    split: str
    seed: int
    suite: str
    claim: Claim
    retrains: int
    lit_unlearn: str
    gate: bool = False

    @property
    def board(self) -> str:
        """The place on the board: data and scenario, such as ``fashion_mnist/classes_0_1_2``."""
        data = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", _kind(self.source)).lower()
        rule = "_".join(map(str, self.forget.get("classes") or [self.forget.get("fraction")]))
        limit = self.settings.get("train_limit")
        return f"{data}{f'_{limit}' if limit else ''}/{'classes' if self.forget.get('classes') else 'random'}_{rule}"


def submit(run: Path, to: Path, told: Mapping[str, str], suites: Collection[str]) -> str:
    """Writes a submission of a run, and checks that it can be read.

    Args:
        run: folder of a run of ``fit`` or ``validate`` with attacks, whose Original and Retrains can be read.
        to: the zip file.
        told: ``name``, ``method``, ``paper``, ``code``, ``threat_model`` and ``licence`` of a :class:`Submission`.
        suites: name and version of each suite that can be verified today.

    Returns:
        A line on what was written.

    Raises:
        UsageError: if the run lacks something, or is of a network, data or suite that cannot be submitted.
    """
    rows, config = _attacked(run)
    model, data = (part_of_settings(config, f"{name}.init_args", run / CONFIG) for name in ("model", "data"))
    network, source = (part_of_settings(*each, run / CONFIG) for each in ((model, "backbone"), (data, "source")))
    weights, row = _weights_of(run, rows, model), rows[-1]
    forget = {key: value for key, value in (data.get("forget") or {}).items() if key in _RULE and value is not None}
    submission = Submission(
        format=FORMAT,
        **told,
        network=network,
        gate=bool(_change(row)),
        source=source,
        forget=forget,
        settings={key: data[key] for key in _SPLIT_SETTINGS if data.get(key) is not None},
        split=str(row.split.get("hash")),
        seed=row.seed or 0,
        suite=str(row.versions.get("suite") or ""),
        claim=claim_of(row, rows),
        retrains=len(weights) - len((MODEL, ORIGINAL)),
        lit_unlearn=__version__,
    )
    check(submission, str(run))
    if submission.suite and submission.suite not in suites:
        raise unknown(f"suite of {run}, which nobody can verify:", submission.suite, suites)
    replaces = ", in place of the file that was there" if to.exists() else ""
    _write(to, submission, run / RESULTS, weights, row)
    read(to)
    line = f"Written to {to}{replaces}: {submission.board}/{submission.name}, {submission.retrains} Retrains"
    nameless = "; its attacks are of no suite, so tell the maintainer which config of attack/ they are"
    return line if submission.suite else line + nameless


def _attacked(run: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows and config of a run whose model was attacked, and has the original's architecture or a gate more."""
    for needed in (RESULTS, CONFIG):
        if not (run / needed).is_file():
            raise UsageError(f"{run}: no run: there is no {needed}")
    rows, config = read_rows(run / RESULTS), read_settings(run / CONFIG)
    if not rows:
        raise UsageError(f"{run / RESULTS}: has no row")
    if rows[-1].status != "ok" or not rows[-1].attacks:
        raise UsageError(f"{run}: its model was not attacked: run it with --config attack/quick")
    if (change := _change(rows[-1])) not in (None, CHANGE):
        raise UsageError(f"{run}: the method changes the architecture ({change}), which a submission cannot hold")
    return rows, config


def _change(row: Row) -> str | None:
    """How the network differs from the original's architecture."""
    return (row.weights.get("result") or {}).get("change") or None


def _weights_of(run: Path, rows: Sequence[Row], model: Mapping[str, Any]) -> dict[str, str | Path]:
    """The weights of a run by their name in the bundle: the model's, its original's, and those of each Retrain."""
    retrains = [str(each.weights["source"]) for each in rows if each.method == RETRAIN and each.weights.get("source")]
    if not retrains:
        raise UsageError(f"{run}: no Retrain was given to it (evaluation.retrain), and none can be compared with")
    original = model.get("original") or model.get("weights")
    own = model.get("weights") if "original" in model else run / WEIGHTS
    if original is None or own is None or not Path(str(own)).is_file():
        raise UsageError(f"{run}: its weights or those of its original are not there any more")
    named = {f"retrain_{number}.safetensors": each for number, each in enumerate(retrains)}
    return {MODEL: own, ORIGINAL: original, **named}


def _write(to: Path, submission: Submission, results: Path, weights: Mapping[str, str | Path], row: Row) -> None:
    """Writes the bundle, with what of the split each Retrain left out."""
    without = {"split": row.split.get("hash"), "left_out": row.split.get("left_out")}
    with tempfile.TemporaryDirectory() as folder:
        files = {RESULTS: results}
        for name, source in weights.items():
            files[name] = Path(folder) / name
            backbone = backbone_of(submission, name, source)
            said = without if name not in (MODEL, ORIGINAL) else {}
            save_weights(backbone, files[name], {"network": backbone.describe()} | said)
        write_archive(to, MANIFEST, msgspec.to_builtins(submission), files)


def check(submission: Submission, where: str) -> None:
    """Refuses what cannot be verified by others.

    Raises:
        UsageError: naming the field, its value and what is allowed.
    """
    if not _NAME.fullmatch(submission.name):
        raise UsageError(f"{where}: name is {submission.name!r}, allowed: up to 60 lower-case letters, digits and _")
    if submission.licence not in LICENCES:
        raise unknown(f"licence of {where}:", submission.licence, LICENCES)
    for field in ("paper", "code"):
        address = getattr(submission, field)
        if address and not re.fullmatch(r"https?://[^\s<>\"']+", address):
            raise UsageError(f"{where}: {field} is {address!r}, but must be an address, https://…, or empty")
    for field in ("method", "threat_model"):
        text = getattr(submission, field)
        if not 0 < len(text) <= _LONGEST or not text.isprintable():
            raise UsageError(f"{where}: {field} must be one line of 1 to {_LONGEST} characters")
    if _kind(submission.network) not in NETWORKS:
        raise unknown(f"network of {where}:", submission.network.get("class_path"), NETWORKS)
    if _kind(submission.source) not in SOURCES:
        raise unknown(f"data source of {where}:", submission.source.get("class_path"), SOURCES)
    for spec in (submission.network, submission.source):
        if not isinstance(given := spec.get("init_args") or {}, dict):
            raise UsageError(f"{where}: the arguments of {_kind(spec)} are {given!r}, but must be named")
    if len(submission.forget) != 1 or not submission.forget.keys() <= set(_RULE):
        raise UsageError(f"{where}: forget is {submission.forget}, but must be classes or a fraction")
    if strange := submission.settings.keys() - set(_SPLIT_SETTINGS):
        raise unknown(f"setting of {where}:", sorted(strange)[0], _SPLIT_SETTINGS)
    if not 1 <= submission.retrains <= _MOST_RETRAINS:
        raise UsageError(f"{where}: retrains is {submission.retrains}, allowed: 1 to {_MOST_RETRAINS}")


def read(path: Path) -> tuple[Submission, dict[str, bytes]]:
    """What a bundle holds, once it is known to be whole and to be one; nothing is unpacked or run.

    Raises:
        UsageError: naming what is wrong.
    """
    manifest, contents = read_archive(path, MANIFEST, FORMAT, "submission", [MODEL, ORIGINAL, RESULTS])
    try:
        submission = msgspec.convert(manifest, Submission)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {MANIFEST}: {first_line(error)}") from error
    check(submission, str(path))
    wanted = {MODEL, ORIGINAL, RESULTS, *(f"retrain_{number}.safetensors" for number in range(submission.retrains))}
    if wanted != contents.keys():
        raise UsageError(f"{path}: it must hold {', '.join(sorted(wanted))}, and nothing else")
    check_claim(submission.claim, contents[RESULTS], path)
    return submission, contents


@contextmanager
def unpacked(submission: Submission, contents: Mapping[str, bytes]) -> Iterator[dict[str, Path]]:
    """Files with the weights of a submission, by name, in a folder of their own that is removed afterwards.

    Raises:
        UsageError: if any of them is not of the network that the submission names.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, content) in enumerate(sorted(contents.items())):
            if name.endswith(".safetensors"):
                paths[name] = Path(folder) / f"{number}.safetensors"  # no name of a stranger's becomes a path
                paths[name].write_bytes(content)
                _check_sizes(submission, name, paths[name])
        yield paths


def _check_sizes(submission: Submission, name: str, path: Path) -> None:
    """Before a network takes memory, it must have as many numbers as the file; then names, shapes and values agree."""
    held = sum(value.numel() for value in read_state(path)[0].values())
    with torch.device("meta"):
        planned = _network(submission, name)
    wanted = sum(value.numel() for value in planned.state_dict().values())
    if not held <= wanted <= held + 2 * planned.in_channels:  # a network that was split has its mean and deviation
        raise UsageError(f"{name}: it holds {held:,} numbers, but its network has {wanted:,}")
    backbone_of(submission, name, path)


def backbone_of(submission: Submission, name: str, path: str | Path) -> Backbone:
    """The network of a file of a submission, by its name there, with the weights that lie at ``path``."""
    backbone = _network(submission, name)
    load_weights(backbone, path)
    return backbone


def _network(submission: Submission, name: str) -> Backbone:
    if (submission.network.get("init_args") or {}).get("stages") is not None:
        raise UsageError(f"{submission.name}: its network names stages, but a board reads all of them: leave them out")
    backbone = network_of(submission.name, submission.network)
    if submission.gate and name == MODEL:
        add_gate(backbone, [], 1.0)
    return backbone


def _kind(spec: Mapping[str, Any]) -> str:
    return str(spec.get("class_path")).rpartition(".")[2]
