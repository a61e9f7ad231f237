"""``lit-unlearn submit``, ``verify``, ``board`` and ``break``: models of others on a board, and attacks of others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_unlearn.attacks import Attack
from lit_unlearn.benchmark.placing import insert_texts
from lit_unlearn.board import BROKEN, markdown, read_board, write_badges, write_pages
from lit_unlearn.breaking import attempt
from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.parsing import Parser
from lit_unlearn.reports.wording import evidence, flag_sentences
from lit_unlearn.submissions import LICENCES, Submission, submit
from lit_unlearn.suites import suites_of_today
from lit_unlearn.verification import verify


def submit_command(args: Sequence[str]) -> None:
    """Writes a submission of a run."""
    parser = Parser("submit", "Write a model, its original, its Retrains and what is claimed of it as one zip file.")
    parser.add_argument("run", type=str, help="folder of a run of fit, or of validate with Audit, with attack/quick")
    parser.add_argument("--to", type=str, required=True, help="zip file to write")
    parser.add_argument("--name", type=str, required=True, help="of the row: lower-case letters, digits and _")
    parser.add_argument("--method", type=str, required=True, help="as its authors call it")
    parser.add_argument("--paper", type=str, default="", help="address of the paper")
    parser.add_argument("--code", type=str, default="", help="address of the code")
    parser.add_argument("--threat_model", type=str, required=True, help="who may attack it with what, one sentence")
    parser.add_argument("--licence", type=str, default="MIT", help=f"of the weights: {', '.join(LICENCES)}")
    given = parser.parse_args(list(args))
    if Path(given.to).suffix != ".zip":
        raise UsageError(f"{given.to}: a submission is a .zip file")
    told = {name: given[name] for name in ("name", "method", "paper", "code", "threat_model", "licence")}
    print(submit(Path(given.run), Path(given.to), told, suites_of_today()))


def verify_command(args: Sequence[str]) -> int:
    """Measures a submission again; returns the status to exit with: 1 where it differs from its claim."""
    parser = Parser("verify", "Check a submission, and measure everything in its claim again.")
    parser.add_argument("bundle", type=str, help="zip file of submit")
    parser.add_argument("--suite", type=str, default="quick", help="attacks of the row: quick, or suite for a board")
    parser.add_argument("--retrains", type=list[str], default=[], help="weights of Retrains to compare the row with")
    parser.add_argument("--seed", type=int | None, default=None, help="of the row's attacks, unknown to the authors")
    parser.add_argument("--root", type=str | None, default=None, help="folder of the data set's files")
    parser.add_argument("--to", type=str | None, default=None, help="folder of a board for a row that holds")
    given = parser.parse_args(list(args))
    _check_there(given.retrains)
    _check_board(given.to)
    found = verify(Path(given.bundle), given.suite, given.root, given.retrains, given.seed)
    print(found.result, end="")
    for line in found.differences:
        print(f"Differs: {line}")
    for line in flag_sentences(found.flags):
        print(line)
    print("Reproduced." if found.reproduced else f"Not reproduced: {len(found.differences)} differences.")
    if given.to is not None and found.reproduced:
        _put(given.to, found.submission, ".json", found.board_row())
    elif given.to is not None:
        print(f"Nothing is written to {given.to}: the claim goes back to its authors with these lines.")
    return int(not found.reproduced)


def break_command(args: Sequence[str]) -> int:
    """Runs an attack on a submission; returns the status to exit with: 1 where it does not break it."""
    parser = Parser("break", "Try an attack of your own on a submitted model and on its Retrains.")
    parser.add_argument("bundle", type=str, help="zip file of submit")
    parser.add_subclass_arguments(Attack, "attack", required=True)
    parser.add_argument("--author", type=str, required=True, help="of the attack")
    parser.add_argument("--retrains", type=list[str], default=[], help="weights of the board's, where the row has them")
    parser.add_argument("--root", type=str | None, default=None, help="folder of the data set's files")
    parser.add_argument("--to", type=str | None, default=None, help="folder of the board with the row to break")
    given = parser.parse_args(list(args))
    _check_there(given.retrains)
    _check_board(given.to)
    made = parser.instantiate_classes(given)
    board = None if given.to is None else Path(given.to)
    found = attempt(Path(given.bundle), made.attack, given.author, given.root, board, given.retrains)
    best, before = found.found, found.before
    print(evidence(best))
    whose = "Before, as its authors say" if board is None else "Before"
    print(
        f"{whose}: " + ("no attack" if before is None else f"{before.attack}, excess {100 * before.excess:+.1f} points")
    )
    print("It breaks the row." if found.breaks else "It does not break the row.")
    if given.to is not None and found.breaks:
        _put(given.to, found.submission, BROKEN, found.as_json())
    return int(not found.breaks)


def board_command(args: Sequence[str]) -> None:
    """Prints a board, or writes it."""
    parser = Parser("board", "The table of all verified models in a folder.")
    parser.add_argument("folder", type=str, help="with <data>/<scenario>/<name>.json")
    parser.add_argument("--markdown", type=str | None, default=None, help="page to put the tables into")
    parser.add_argument("--pages", type=str | None, default=None, help="folder to write a page of each model to")
    parser.add_argument("--badges", type=str | None, default=None, help="folder to write a badge of each model to")
    given = parser.parse_args(list(args))
    standings = read_board(Path(given.folder))
    text = markdown(standings)
    if given.markdown is None:
        print(text, end="")
    else:
        insert_texts(Path(given.markdown), "table", [("board", text.rstrip("\n"))])
        print(f"Written to {given.markdown}: {len(standings)} models")
    if given.pages is not None:
        paths = write_pages(standings, Path(given.pages))
        print(f"Written to {given.pages}: {len(paths)} pages")
    if given.badges is not None:
        paths = write_badges(standings, Path(given.badges))
        print(f"Written to {given.badges}: {len(paths)} badges")


def _check_there(paths: Sequence[str]) -> None:
    if missing := [each for each in paths if not Path(each).is_file()]:
        raise UsageError(f"retrains: there is no file {missing[0]}")


def _check_board(folder: str | None) -> None:
    """That a folder can be made of it, before minutes are spent on what it is to hold."""
    places = [] if folder is None else [Path(folder), *Path(folder).parents]
    if blocking := [place for place in places if place.exists() and not place.is_dir()]:
        raise UsageError(f"to is {folder}, but {blocking[0]} is a file, and not a folder")


def _put(board: str, submission: Submission, ending: str, content: dict[str, Any]) -> None:
    """Writes what is known of a submission to its place on a board."""
    path = Path(board) / submission.board / f"{submission.name}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)}: {_lines(value)}" for name, value in content.items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
    print(f"Written to {path}")


def _lines(value: object) -> str:
    """As JSON; where it is a list of rows, a line each."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in value) + "\n]"
