"""``lit-unlearn export``: weights under the user's own names, and the evidence of a run as one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_unlearn.backbones.reading import read_state
from lit_unlearn.backbones.saving import names_of_network, write_state
from lit_unlearn.backbones.weights import resolve
from lit_unlearn.errors import UsageError
from lit_unlearn.evidence import verify_evidence, write_evidence
from lit_unlearn.parsing import Parser
from lit_unlearn.run_files import CHECKPOINT, WEIGHTS


def export(args: Sequence[str]) -> None:
    """Writes weights or evidence, or verifies evidence, as the command line asks.

    Raises:
        UsageError: if what is asked for is unclear, a file cannot be read or written, or evidence does not hold.
    """
    parser = Parser("export", "Write weights under the names of your own network, or the evidence of a run.")
    parser.add_argument("source", type=str, help="a run's folder, a checkpoint, a file of weights, or evidence")
    parser.add_argument("--to", type=str | None, default=None, help=".pt or .safetensors file to write weights to")
    parser.add_argument("--evidence", type=str | None, default=None, help="zip file to write the run's evidence to")
    parser.add_argument("--verify", type=bool, nargs="?", const=True, default=False, help="verify source, an evidence")
    parser.add_argument("--weights", type=str | None, default=None, help="weights that the evidence must be of")
    given = parser.parse_args(list(args))
    asked = [name for name in ("to", "evidence", "verify") if getattr(given, name)]
    if not asked or (given.verify and len(asked) > 1):
        raise UsageError("export: give --to FILE, --evidence FILE, or --verify alone with an evidence as source")
    if given.weights is not None and not given.verify:
        raise UsageError("export: --weights goes with --verify")
    if given.verify:
        print("\n".join(verify_evidence(Path(given.source), given.weights)))
    if given.to is not None:
        print(export_weights(given.source, given.to))
    if given.evidence is not None:
        print(write_evidence(Path(given.source), Path(given.evidence)))


def export_weights(source: str | Path, to: str | Path) -> str:
    """Writes weights under the names of the user's own network, and returns a line that says what was written.

    Args:
        source: a run's folder, a checkpoint of a run, or any other file of weights.
        to: a ``.pt`` file, a plain state dict; or a ``.safetensors`` file, which also says where the weights come from.

    Raises:
        UsageError: if there are no weights, or the file cannot be written, or is one of the run's own.
    """
    path = weights_of(source)
    if Path(to).name in (CHECKPOINT, WEIGHTS) and Path(to).resolve().parent == Path(source).expanduser().resolve():
        raise UsageError(f"{to} is the run's own file, which its evidence and its report name: name another one")
    state, metadata = read_state(path)
    network: Mapping[str, Any] = metadata.get("network") or {}
    names = names_of_network(state, metadata)
    sha256 = write_state(to, names, metadata)
    said = f"Written to {to} (sha256 {sha256}): {len(names)} tensors"
    if network:
        said += f" under the names of {network['network']}; {preprocessing(network)}"
    change = metadata.get("architecture_change")
    return said + (f". The method changed the architecture: {change}" if change else "")


def weights_of(source: str | Path) -> Path:
    """The file of weights that a run's folder, a checkpoint or a name means.

    Raises:
        UsageError: if there is none.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return resolve(source)
    for name in (CHECKPOINT, WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{folder}: no run with weights: there is no {CHECKPOINT} and no {WEIGHTS}")


def preprocessing(network: Mapping[str, Any]) -> str:
    """What must be done to images in [0, 1] before the network takes them."""
    if network.get("normalises"):
        return "it takes images in [0, 1]"
    return f"it takes images in [0, 1] minus {network['mean']}, divided by {network['std']}, per channel"
