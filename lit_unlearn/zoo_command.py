"""``lit-unlearn zoo``: list, load, check and build collections of models that were unlearned and measured."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from lit_unlearn.backbones.reading import read_state
from lit_unlearn.backbones.zoo import FORMAT, INDEX, PLACE, Entry, Zoo, check_name, load_model, open_zoo
from lit_unlearn.errors import UsageError, nearest
from lit_unlearn.files import file_sha256, part_of_settings, read_settings, write_atomically
from lit_unlearn.parsing import Parser
from lit_unlearn.reports.rows import Row, read_rows
from lit_unlearn.run_files import CONFIG, RESULTS, ROWS, WEIGHTS


def zoo(args: Sequence[str]) -> int:
    """Lists, loads, checks or builds, as the command line asks.

    Returns:
        The status to exit with: 1 where a model does not hold what the index says.

    Raises:
        UsageError: if what is asked for is unclear, or cannot be had.
    """
    parser = Parser("zoo", "Models that were unlearned and measured, by name.")
    actions = parser.add_subcommands(dest="action")
    for name, described in _ACTIONS.items():
        own = Parser()
        if name == "build":
            own.add_argument("runs", type=str, help="output folder of a benchmark")
            own.add_argument("--to", type=str, required=True, help="folder of the zoo; what it holds stays")
            own.add_argument("--data", type=str, required=True, help="what names begin with, such as fashion_mnist")
            own.add_argument("--licence", type=str, default="MIT", help="of the weights, an SPDX expression")
        else:
            own.add_argument("names", type=str, nargs="*", help="models, or beginnings of their names; all without any")
            own.add_argument("--place", type=str | None, default=None, help="folder, address, or hf-hub:owner/name")
        actions.add_subcommand(name, own, help=described)
    given = parser.parse_args(list(args))
    options = given[given.action]
    if given.action == "build":
        print(build(Path(options.runs), Path(options.to), options.data, options.licence))
        return 0
    found = open_zoo(options.place)
    names = _chosen(found, options.names)
    if given.action == "list":
        print("\n".join(_listed(found, names)) or "The zoo has no models yet.")
        return 0
    if given.action == "pull":
        for name in names:
            print(f"{name}: {found.weights(name)}")
        return 0
    wrong = 0
    for name in names:
        problem = _problem(found, name, options.place)
        wrong += problem is not None
        print(f"{name}: {problem or 'holds'}")
    return int(wrong > 0)


_ACTIONS = {
    "list": "print names, verdicts and accuracies",
    "pull": "load weights into the cache, and print where they lie",
    "check": "load each model, and compare it with what the index says",
    "build": "make a folder with an index from the runs of a benchmark, ready to be uploaded",
}


def build(runs: Path, to: Path, data: str, licence: str) -> str:
    """Copies the model of the lowest seed of every experiment of a benchmark, with its row, and writes the index.

    Args:
        runs: output folder of the benchmark.
        to: folder of the zoo; models that its index has already stay.
        data: what the names begin with; scenario and experiment follow.
        licence: of the weights.

    Returns:
        A line on what was written.

    Raises:
        UsageError: if there are no such runs, or a name is none that a zoo can have.
    """
    check_name(f"{data}/scenario/method", f"data is {data!r}")
    models = dict(open_zoo(to).models) if (to / INDEX).is_file() else {}
    made = [
        (folder, row, part_of_settings(read_settings(folder / CONFIG), "model.init_args.backbone", folder / CONFIG))
        for folder, row in _lowest_seeds(runs)
    ]
    for folder, row, network in made:
        name = f"{data}/{folder.parent.parent.name}/{folder.parent.name}"
        weights, described = to / f"{name}.safetensors", to / f"{name}.json"
        weights.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / WEIGHTS, weights)
        write_atomically(described, json.dumps(msgspec.to_builtins(row)) + "\n")
        models[name] = Entry(
            file=f"{name}.safetensors",
            sha256=file_sha256(weights),
            bytes=weights.stat().st_size,
            network=network,
            method=row.method,
            data=row.data,
            split=row.split,
            seed=row.seed or 0,
            licence=licence,
            metrics=row.metrics,
            verdict={name: value for name, value in row.verdict.items() if name != "intervals"},
            row=f"{name}.json",
            row_sha256=file_sha256(described),
        )
    if not made:
        raise UsageError(f"{runs}: no runs of a benchmark that ended well and left {WEIGHTS}")
    each = (f"{json.dumps(name)}: {msgspec.json.encode(models[name]).decode()}" for name in sorted(models))
    lines = ",\n".join(each)
    write_atomically(to / INDEX, f'{{"format": {FORMAT}, "place": null, "models": {{\n{lines}\n}}}}\n')
    return f"Written to {to}: {len(made)} models, {len(models)} in {INDEX}"


def _lowest_seeds(runs: Path) -> Iterator[tuple[Path, Row]]:
    """The folder of each experiment's model of the lowest seed, and its row: the table's, if it is in there.

    Of a folder with a table only models of its rows count: others are left from settings of before.
    """
    table = {row.benchmark.get("key"): row for row in read_rows(runs / ROWS)} if (runs / ROWS).is_file() else {}
    for experiment in sorted(path for path in runs.glob("*/*") if path.is_dir()):
        found = [(read_rows(path)[-1], path.parent) for path in sorted(experiment.glob(f"*/{RESULTS}"))]
        made = [(row, folder) for row, folder in found if row.status == "ok" and (folder / WEIGHTS).is_file()]
        for row, folder in sorted(made, key=lambda each: each[0].seed or 0):
            attacked = [(place, other) for other, place in found if other.attacks and _is_of(place, folder)]
            known = [table[key] for place, _ in attacked if (key := place.name.removeprefix("run-")) in table]
            if known or not table or not attacked:  # Retrain is attacked beside Original, in another folder
                yield folder, (known or [other for _, other in attacked] or [row])[0]
                break


def _is_of(attacked: Path, made: Path) -> bool:
    """Whether a run attacked the model that another has made."""
    config = read_settings(attacked / CONFIG)
    return Path(str(config.get("ckpt_path"))).parent.name == made.name


def _chosen(found: Zoo, names: Sequence[str]) -> list[str]:
    """The models whose names begin so; all where none is given."""
    chosen: list[str] = []
    for start in names:
        fits = [name for name in found.models if name == start or name.startswith(f"{start.rstrip('/')}/")]
        if not fits:
            raise UsageError(f"no model of the zoo is or begins with {start!r}{nearest(start, found.models)}")
        chosen += [name for name in fits if name not in chosen]
    return chosen if names else list(found.models)


def _listed(found: Zoo, names: Sequence[str]) -> Iterator[str]:
    width, absent = max(map(len, names), default=0), [name for name in names if not found.is_here(name)]
    for name in names:
        entry = found.models[name]
        accuracies = ", ".join(f"{key.removesuffix('_acc')} {value:.1%}" for key, value in entry.metrics.items())
        mark = " (not here)" if name in absent else ""
        yield f"{name:{width}}  {entry.method}, {entry.verdict.get('level') or 'not judged'}: {accuracies}{mark}"
    if absent:
        yield (
            f"{len(absent)} of {len(names)} models are not here and cannot be loaded: name the folder, address or "
            f"repository that holds them as --place, or as {PLACE} in the environment"
        )


def _problem(found: Zoo, name: str, place: str | None) -> str | None:
    """What does not hold of a model; None where all does."""
    try:
        model = load_model(name, place)
        kept = read_state(model.path)[1]
        if found.models[name].row:
            row = found.row(name)
            if (row["method"], row["split"].get("hash")) != (model.entry.method, model.entry.split.get("hash")):
                return "its row is of another model"
    except UsageError as error:
        return str(error)
    split = kept.get("split")
    split = split.get("hash") if isinstance(split, dict) else split
    if split is not None and split != model.entry.split.get("hash"):
        return f"its weights are of split {split}, the index says {model.entry.split.get('hash')}"
    shape: Any = (1, model.backbone.in_channels, *model.entry.data.get("image_shape", (0, 32, 32))[1:])
    with torch.no_grad():
        answers = model.backbone(torch.zeros(shape))
    return None if bool(torch.isfinite(answers).all()) else "its answers are not finite"
