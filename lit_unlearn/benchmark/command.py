"""``lit-unlearn benchmark``, ``tune`` and ``report``: their options, and what they show while they run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from lit_unlearn.benchmark.calibration import calibrate
from lit_unlearn.benchmark.checks import Check, OnlyClasses, check_runs, fitted
from lit_unlearn.benchmark.execution import Launcher, More, Progress, execute
from lit_unlearn.benchmark.failures import failures, read_failures, with_failures, write_failures
from lit_unlearn.benchmark.gathering import collect
from lit_unlearn.benchmark.grid import Grid
from lit_unlearn.benchmark.grid_runs import make_runs
from lit_unlearn.benchmark.leaderboard import frontier, resistance, scatter, write_leaderboard
from lit_unlearn.benchmark.local import RunCommand
from lit_unlearn.benchmark.placing import insert_texts, write_drawings
from lit_unlearn.benchmark.reading import of_benchmark, read_all, read_shown
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.search import Tuning
from lit_unlearn.benchmark.summary import Summary, summarise
from lit_unlearn.benchmark.tables import comma_separated, markdown, terminal_tables
from lit_unlearn.benchmark.tuning import Declared, Trials, searches_of
from lit_unlearn.benchmark.tuning_log import LOG, TUNED, write_log
from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.parsing import Parser
from lit_unlearn.reports.comparisons import MARGINS, Margins
from lit_unlearn.reports.figures import power_lines
from lit_unlearn.reports.rows import Row
from lit_unlearn.run_files import CHECKPOINT, ROWS, WEIGHTS
from lit_unlearn.shipped import with_configs

BOARD = "leaderboard.html"
_ENDINGS = {"html": (".html", ".htm"), "csv": (".csv",), "markdown": (".md", ".markdown")}
_NO_FIGURE = (
    "no method has both accuracy on retained test images and the worst recovery, both relearning and the distance of "
    "the weights, or several numbers of epochs"
)


def benchmark(args: Sequence[str], command: RunCommand, check: Check, only_classes: OnlyClasses) -> None:
    """Runs a grid, skipping what is finished, and shows its rows as a table and a page.

    Args:
        args: the words of the command line.
        command: runs one command line.
        check: parses the settings of a run.
        only_classes: whether a method can only forget whole classes.

    Raises:
        UsageError: if a setting is wrong, or a run has failed.
    """
    parser = _parser("benchmark", "Run every experiment of a grid, for every seed, and collect the rows.")
    settings = parser.instantiate(parser.parse_args(with_configs(args)))
    root = Path(settings.output)
    grid, lines = fitted(settings.grid, only_classes)
    for line in lines:
        print(line)
    runs = make_runs(grid)
    check_runs(runs, root, check, "benchmark")
    failed = _execute(runs, root, command, settings.launcher)
    write_failures(root, lost := failures(runs, failed))
    rows = collect(runs, root, lost)
    summaries = with_failures(summarise(rows), lost, rows)
    print_tables(summaries)
    if grid.original is not None:
        print_places(runs, root, summaries)
    print(f"Written to {root / ROWS}: {len(rows)} rows")
    if summaries:
        title = "" if grid.original is None else f"Methods of unlearning on {Path(grid.original).name}"
        shown = dict(read_shown(of_benchmark(root, rows)))
        write_leaderboard(root / BOARD, summaries, title, artifacts=shown)
        print(f"Written to {root / BOARD}")
    _complain(failed)


def tune(args: Sequence[str], command: RunCommand, check: Check, declared: Declared) -> None:
    """Searches the ranges of every method, and writes log and best settings whenever all trials of one have ended.

    A trial that failed is not tried again before the next call.

    Args:
        args: the words of the command line.
        command: runs one command line.
        check: parses the settings of a run.
        declared: what a method declares.

    Raises:
        UsageError: if a setting is wrong, or a run has failed.
    """
    parser = _parser("tune", "Try the same number of settings of every method, on images held out of the training set.")
    parser.add_argument("--tuning", type=Tuning, default=Tuning())
    settings = parser.instantiate(parser.parse_args(with_configs(args)))
    root = Path(settings.output)
    grid, tuning = settings.grid, settings.tuning
    searches = searches_of(grid, tuning, declared)
    search, checked, failed = Trials(grid, tuning, searches), set[str](), dict[str, str]()

    def more(rows: Sequence[Row], lost: Mapping[str, str]) -> list[Run]:
        if search.grow(rows, {**failed, **lost}):
            write_log(grid, tuning, search.runs, search.ended, searches, rows, root)
        check_runs([run for run in search.runs if run.key not in checked], root, check, "tune")
        checked.update(run.key for run in search.runs)
        return [run for run in search.runs if run.key not in failed]

    planned, count = more([], {}), 0
    while len(search.runs) > count:
        failed |= _execute(planned, root, command, settings.launcher, more)
        count = len(search.runs)
        planned = more(collect(search.runs, root), {})
    if search.ended:
        names = " and ".join(TUNED[criterion] for criterion in tuning.criteria)
        print(f"Written to {root}: {LOG}, and the winners as experiments in {names}")
    _complain(failed)


def report(args: Sequence[str]) -> None:
    """Prints the tables of the rows of benchmarks and runs, and writes them as a page, as CSV, or into a Markdown page.

    Raises:
        UsageError: if a file cannot be read, or a page has no place for a table; after all is written, if a row could
            not be read.
    """
    parser = _report_parser()
    settings = parser.instantiate(parser.parse_args(list(args)))
    for option, endings in _ENDINGS.items():
        _check_written(option, settings[option], endings)
    damaged: list[str] = []
    found = read_all([Path(name) for name in settings.rows], damaged)
    if not found and not damaged:
        raise UsageError(f"{', '.join(settings.rows)}: there is no row to report")
    summaries = summarise([row for row, _ in found], margins=settings.margins)
    for place in map(Path, dict.fromkeys(settings.rows)):
        if lost := read_failures(place):
            summaries = with_failures(summaries, lost, [row for row, _ in read_all([place], [])])
    print_tables(summaries)
    if settings.csv is not None:
        write_atomically(Path(settings.csv), comma_separated(summaries))
        print(f"Written to {settings.csv}")
    if settings.calibration:
        rates = [(summary.scenario, calibrate(summary, settings.margins)) for summary in summaries]
        print(*(found for _, found in rates), sep="\n")
        kind, texts = "calibration", [(name, f"```text\n{found}\n```") for name, found in rates]
        drawings = [(f"power-{name}", power_lines(found.power)) for name, found in rates]
    else:
        kind, texts = "table", [(summary.scenario, markdown(summary)) for summary in summaries]
        drawings = [(summary.scenario, scatter(summary)) for summary in summaries]
        drawings += [(f"{summary.scenario}-distance", resistance(summary)) for summary in summaries]
        drawings += [(f"{summary.scenario}-cost", frontier(summary)) for summary in summaries]
    if settings.markdown is not None:
        insert_texts(Path(settings.markdown), kind, texts)
        print(f"Written to {settings.markdown}")
    if settings.figures is not None:
        written = write_drawings(Path(settings.figures), drawings)
        print("\n".join(f"Written to {path}" for path in written) or f"No figure in {settings.figures}: {_NO_FIGURE}")
    if settings.html is not None:
        write_leaderboard(settings.html, summaries, settings.title, damaged, dict(read_shown(found)))
        print(f"Written to {settings.html}")
    if damaged:
        raise UsageError(f"{len(damaged)} row(s) could not be read and are not in the tables; {damaged[0]}")


def _check_written(option: str, given: str | None, endings: Sequence[str]) -> None:
    """Refuses to write a page or a table over a file of another kind, such as the rows that it is made of."""
    if given is not None and Path(given).is_file() and Path(given).suffix.lower() not in endings:
        raise UsageError(f"{option}: {given} is there already, and no {endings[0]} file: name another one")


def print_tables(summaries: Sequence[Summary]) -> None:
    """Prints the table of each scenario."""
    console = Console()
    for summary in summaries:
        console.print(*terminal_tables(summary, console.width))


def print_places(runs: Sequence[Run], root: Path, summaries: Sequence[Summary]) -> None:
    """Prints a line on each method of each scenario: the verdict, and where its unlearned weights lie.

    Of several seeds it names the first that has weights.
    """
    verdicts = {
        (row.benchmark["scenario"], row.benchmark["experiment"]): line.title
        for summary in summaries
        for line in summary.lines
        for row in line.rows
    }
    places: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        if run.subcommand == "fit" and "unlearning" in run.seeds:
            found = [file for name in (WEIGHTS, CHECKPOINT) if (file := root / run.folder / name).exists()]
            places.setdefault((run.scenario, run.name), []).extend(found[:1])
    for place, files in places.items():
        more = f" (and of {len(files) - 1} more seeds)" if len(files) > 1 else ""
        told = verdicts.get(place) or "No result"
        print(f"{'/'.join(place)}: {told}; {f'weights: {files[0]}{more}' if files else 'no weights'}")


def _report_parser() -> Parser:
    words = "Mean and deviation over seeds, as a table."
    parser = Parser("report", words)
    parser.add_argument(
        "rows",
        type=str,
        nargs="+",
        help="Folders of benchmarks (rows.json), of runs of fit (results.json) or of several runs, or these files.",
    )
    parser.add_argument("--html", type=str | None, default=None, help="Page for a browser to write.")
    parser.add_argument("--title", type=str, default="", help="What that page compares.")
    parser.add_argument(
        "--figures",
        type=str | None,
        default=None,
        help="Folder for figures: <scenario>.svg, utility against depth; <scenario>-distance.svg, relearning against "
        "distance in the weights; <scenario>-cost.svg, depth and utility against cost, of a grid with epochs; with "
        "--calibration power-<scenario>.svg.",
    )
    parser.add_argument("--csv", type=str | None, default=None, help="File to write all numbers to.")
    parser.add_argument(
        "--markdown",
        type=str | None,
        default=None,
        help="Page to write the tables into, or the calibration; made where there is none.",
    )
    parser.add_argument(
        "--calibration", action="store_true", help="Print how often the verdict is wrong on these rows."
    )
    parser.add_argument("--margins", type=Margins, default=MARGINS, help="What counts as a difference from Retrain.")
    return parser


def _parser(command: str, description: str) -> Parser:
    parser = Parser(command, description)
    parser.add_argument("--config", action="config", help="A file, or the name of a shipped config.")
    parser.add_argument("--grid", type=Grid)
    parser.add_argument("--launcher", type=Launcher, default=Launcher())
    parser.add_argument("--output", type=str, required=True, help="Folder of everything that the command writes.")
    return parser


def _execute(
    runs: Sequence[Run], root: Path, command: RunCommand, launcher: Launcher, more: More | None = None
) -> dict[str, str]:
    with _progress_bar() as notify:
        return execute(runs, root, command, launcher, notify, more)


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns) as bar:
        task = bar.add_task("", total=None)

        def notify(progress: Progress) -> None:
            running = ", ".join(progress.running) or "finished"
            lost = f" [red]{len(progress.failed)} failed" if progress.failed else ""
            bar.update(task, completed=progress.done, total=progress.total, description=f"{running}{lost}")

        yield notify


def _complain(failed: Mapping[str, str]) -> None:
    if failed:
        key, reason = next(iter(failed.items()))
        raise UsageError(f"{len(failed)} of the runs failed; the same command tries them again; {key}: {reason}")
