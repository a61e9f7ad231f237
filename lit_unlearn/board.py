"""The board: verified rows of others, one file a model, as a page and as Markdown.

Rows lie in ``<board>/<data>/<scenario>/<name>.json``. Only rows of one suite are compared: those of an earlier one
stand apart, and say so. An evaluation that breaks a row lies beside it, ``<name>.broken.json``: its attack is the row's
worst from then on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from lit_unlearn.errors import UsageError, first_line
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.figures.badge import badge
from lit_unlearn.reports.page import write_page
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row
from lit_unlearn.reports.verdict import Verdict, judge
from lit_unlearn.reports.wording import bounds, interval, title_with_utility
from lit_unlearn.shipped import read_config, shipped_names

BROKEN = ".broken.json"
_NUMBERS = ("excess", "low", "high", "scale")
_OF_A_BREAK = ("author", "attack", "date", *_NUMBERS)
_NEEDED = ("name", "method", "paper", "code", "licence", "threat_model", "verified", "rows")
_VERIFIED = (
    *("date", "suite", "seed", "retrains", "machine", "lit_unlearn", "reproduced"),
    *("bundle_sha256", "model_sha256"),
)
_COLUMNS = (
    *("Model", "Method", "Verdict", "Decisive attack", "Excess over Retrain", "Test-retained", "Retrains", "Flags"),
    "Verified",
)
_BROKEN_LEVEL = "leaks"
_TONES = {"as Retrain": "good", "leaks": "bad", "not forgotten": "bad", "ruined": "bad"}
_ORDER = (
    *("as Retrain", "inconclusive", "cannot tell", "not attacked enough", "leaks", "not forgotten", "ruined"),
    *("not judged", "failed"),
)


@dataclass(frozen=True)
class Standing:
    """One model on the board.

    Attributes:
        place: data and scenario, such as ``fashion_mnist/classes_0_1_2``.
        told: what its authors say of it: ``name``, ``method``, ``paper``, ``code``, ``licence``, ``threat_model``.
        verified: date, suite, machine and version of the verification.
        rows: Original, Retrains and the model.
        broken: what broke it: ``author``, ``attack``, ``date``, ``excess`` with its bounds ``low`` and ``high``, its
            ``unit``, and ``scale``, what the margins of this number are multiplied by; None while it stands.
    """

    place: str
    told: Mapping[str, str]
    verified: Mapping[str, Any]
    rows: Sequence[Row]
    broken: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """Of the model, beside the Retrains that came with it."""
        return judge(self.rows[-1], self.rows)

    @property
    def flags(self) -> dict[str, str]:
        """Signs that its evaluation cannot be trusted."""
        return {**self.rows[-1].flags, **self.verdict.flags}


def read_board(folder: Path) -> list[Standing]:
    """All models of a board, by place, the best verdict first.

    Raises:
        UsageError: if there is none, a file is none of a board, or two rows of a place are of the same weights.
    """
    paths = sorted(path for path in folder.glob("*/*/*.json") if not path.name.endswith(BROKEN))
    found = [_standing(path, folder) for path in paths]
    if not found:
        raise UsageError(f"{folder}: no board: there is no <data>/<scenario>/<name>.json in it")
    known: dict[tuple[str, ...], str] = {}
    for each in found:
        key = each.place, str(each.verified["suite"]), str(each.verified["model_sha256"])
        if key in known:
            raise UsageError(f"{folder}/{each.place}: {known[key]} and {each.told['name']} have the same weights")
        known[key] = each.told["name"]

    def place(each: Standing) -> tuple[str, int, float]:
        judged = each.verdict
        level = _BROKEN_LEVEL if each.broken else judged.level
        return each.place, max(map(_ORDER.index, (level, judged.level))), judged.depth or 0.0

    return sorted(found, key=place)


def standing_at(folder: Path, place: str, name: str) -> Standing:
    """One model of a board.

    Args:
        folder: of the board.
        place: data and scenario, such as ``fashion_mnist/classes_0_1_2``.
        name: of the row.

    Raises:
        UsageError: if there is none, or its file is none of a board.
    """
    path = folder / place / f"{name}.json"
    if not path.is_file():
        raise UsageError(f"{folder}: there is no row {place}/{name}: verify with --to puts it there")
    return _standing(path, folder)


def markdown(standings: Sequence[Standing]) -> str:
    """A table for each place and suite."""
    parts = []
    newest: dict[str, str] = {}
    for each in standings:
        suite = str(each.verified["suite"])
        newest[each.place] = max(newest.get(each.place, suite), suite, key=_age)
    groups: dict[tuple[str, str], list[Standing]] = {}
    for each in standings:
        groups.setdefault((each.place, str(each.verified["suite"])), []).append(each)
    latest_first = sorted(groups, key=lambda key: _age(key[1]), reverse=True)
    for place, suite in sorted(latest_first, key=lambda key: key[0]):
        kind = "an earlier" if _age(suite)[:2] == _age(newest[place])[:2] else "another"
        older = "" if suite == newest[place] else f", {kind} suite: not compared with the rows above"
        if not older and _age(suite) < _age(today := _today(suite)):
            older = f", an earlier suite: today's is `{today}`"
        head = f"## {place}\n\nSuite `{suite}`{older}.\n"
        lines = [
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'---|' * len(_COLUMNS)}",
            *(f"| {' | '.join(_cells(each))} |" for each in groups[place, suite]),
        ]
        parts.append(head + "\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def write_pages(standings: Sequence[Standing], folder: Path) -> list[Path]:
    """The report of every model, ``<folder>/<data>/<scenario>/<name>.html``."""
    paths = []
    for each in standings:
        path = folder / each.place / f"{each.told['name']}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = replace(each.rows[-1], method=each.told["method"])  # where its own row says Audit
        write_page(path, [*each.rows[:-1], named], {})
        paths.append(path)
    return paths


def write_badges(standings: Sequence[Standing], folder: Path) -> list[Path]:
    """A badge of every model, ``<folder>/<data>/<scenario>/<name>.svg``: the suite and the verdict."""
    paths = []
    for each in standings:
        path = folder / each.place / f"{each.told['name']}.svg"
        level = each.verdict.level
        value, tone = ("broken", "bad") if each.broken else (level, _TONES.get(level, "open"))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, badge(f"lit_unlearn {each.verified['suite']}", value, tone))
        paths.append(path)
    return paths


def _today(suite: str) -> str:
    """This package's version of a suite; the suite as it is where the package has none of its name."""
    config = f"attack/{suite.rpartition(' ')[0]}"
    return str(read_config(config)["evaluation"]["suite"]) if config in shipped_names() else suite


def _age(suite: str) -> tuple[bool, str, int]:
    """What sorts suites: the quick one before any other, then by name, then by version."""
    name, _, version = suite.rpartition(" ")
    return name != "quick", name, int(version) if version.isdigit() else 0


def _cells(each: Standing) -> list[str]:
    judged, row = each.verdict, each.rows[-1]
    worst = judged.worst
    excess = "" if worst is None else bounds(worst)
    name, title = "" if worst is None else worst.attack, title_with_utility(judged)
    if (by := each.broken) is not None:
        excess = interval(by["excess"], by["low"], by["high"], by["unit"])
        name = f"{_inert(by['attack'])} of {_inert(by['author'])}, {_inert(by['date'])}"
        title = f"Broken (was: {title})"
    links = [f"[{link}]({each.told[link]})" for link in ("paper", "code") if each.told[link]]
    retained = row.metrics.get("test_retain_acc")
    return [
        each.told["name"],
        " ".join([_inert(each.told["method"]), *links]),
        title,
        name,
        excess,
        "" if retained is None else f"{retained:.1%}",
        f"{judged.retrains}{', the board’s' if each.verified['retrains'] else ''}",
        ", ".join(each.flags),
        f"{each.verified['date']}{'' if each.verified['reproduced'] else ', not reproduced'}",
    ]


def _inert(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _standing(path: Path, folder: Path) -> Standing:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in _NEEDED if name not in held]:
            raise UsageError(f"{path}: no row of a board: it lacks {missing[0]}")
        if missing := [name for name in _VERIFIED if name not in held["verified"]]:
            raise UsageError(f"{path}: no row of a board: it lacks verified.{missing[0]}")
        rows = [msgspec.convert(row, Row) for row in held["rows"]]
        methods = [row.method for row in rows]
        if not {ORIGINAL, RETRAIN} <= set(methods[:-1]) or held["name"] != path.stem:
            raise UsageError(f"{path}: no row of a board: it must have Original, Retrain and {path.stem}")
        told = {name: str(held[name]) for name in _NEEDED[:-2]}
        verified = {name: held["verified"][name] for name in _VERIFIED}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: no row of a board: {first_line(error)}") from error
    return Standing(path.parent.relative_to(folder).as_posix(), told, verified, rows, _broken(path))


def _broken(path: Path) -> dict[str, Any] | None:
    """The evaluation that broke a row, if there is one beside it."""
    beside = path.with_name(f"{path.stem}{BROKEN}")
    if not beside.is_file():
        return None
    try:
        held = json.loads(beside.read_text(encoding="utf-8"))
        if held["name"] != path.stem:
            raise UsageError(f"{beside}: it is of {held['name']}")
        found = {"unit": held.get("unit", ""), **{name: held[name] for name in _OF_A_BREAK}}
        return {name: float(value) if name in _NUMBERS else str(value) for name, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{beside}: no evaluation of a break: {first_line(error)}") from error
