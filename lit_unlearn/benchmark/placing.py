"""Texts and drawings of several scenarios, put into a page and a folder that have one place for each."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.figures import standalone


def insert_texts(page: Path, kind: str, texts: Sequence[tuple[str, str]]) -> None:
    """Puts each scenario's text between ``<!-- <kind>: <scenario> -->`` and ``<!-- /<kind> -->`` of a page.

    Args:
        page: a Markdown file; one that is not there is made, with a place for each.
        kind: of the texts, such as ``table``.
        texts: scenario and text of each.

    Raises:
        UsageError: naming the page and the place that it lacks, or the scenario that two texts are of.
    """
    _refuse_two(page, texts)
    marks = {scenario: (f"<!-- {kind}: {scenario} -->\n", f"<!-- /{kind} -->") for scenario, _ in texts}
    text = _text(page) if page.exists() else "\n".join(f"{start}{end}\n" for start, end in marks.values())
    for scenario, inserted in texts:
        start, end = marks[scenario]
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise UsageError(f"{page}: has no place for a {kind}: {start.strip()} … {end}")
        text = f"{before}{start}{inserted}\n{closed}{after}"
    write_atomically(page, text)


def _text(page: Path) -> str:
    if not page.is_file():
        raise UsageError(f"{page}: is no file that a table can be put into")
    try:
        return page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{page}: cannot be read ({error})") from error


def write_drawings(folder: Path, drawings: Sequence[tuple[str, str]]) -> list[Path]:
    """Writes each drawing that is not empty as ``<name>.svg``, a dash for each slash of its name.

    Returns:
        The files that were written.

    Args:
        folder: made where it is missing.
        drawings: name and SVG text of each.

    Raises:
        UsageError: naming what two drawings are of.
    """
    _refuse_two(folder, drawings)
    drawn = {folder / f"{name.replace('/', '-')}.svg": text for name, svg in drawings if (text := standalone(svg))}
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in drawn.items():
        write_atomically(path, text)
    return list(drawn)


def _refuse_two(place: Path, named: Sequence[tuple[str, str]]) -> None:
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise UsageError(f"{place}: has one place for the scenario {twice[0]!r}, and the rows are of two data sets")
