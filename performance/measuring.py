"""What the scripts of this folder share: clocks, the name of the machine, and the table in docs/performance.md."""

import argparse
import logging
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
HEADINGS = ("What", "Against", "Plain", "lit_unlearn", "Ratio", "Wanted", "On")


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Args:
        what: what was measured.
        against: the plain baseline of the same run.
        plain: the baseline's figure, with its unit.
        ours: the package's figure, with its unit.
        ratio: of the two.
        wanted: such as ``≤ 1.05``, or nothing where there is no target.
        on: the machine, see :func:`machine`.
    """

    what: str
    against: str
    plain: str
    ours: str
    ratio: float
    wanted: str
    on: str

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return self.what, self.against, self.plain, self.ours, f"{self.ratio:.3g} ×", self.wanted, self.on


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", action="store_true", help="sizes so small that only the script itself is tried")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/performance.md")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    return parser


def begin(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parses, sets the number of threads, and refuses a device that is not there or a trial that would be kept."""
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    if options.trial and options.write:
        parser.error("--write keeps a measurement, which a --trial is not")
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning|lit_unlearn")
    return options


def clock(device: str) -> float:
    """Seconds of the processor on a CPU, so that what else runs there counts for less; of the wall on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], device: str) -> float:
    """How long it takes."""
    started = clock(device)
    work()
    return clock(device) - started


def least(rounds: list[tuple[float, ...]]) -> list[float]:
    """The smallest of each column: what was measured in turn, less what disturbed it."""
    return [min(column) for column in zip(*rounds, strict=True)]


def machine(device: str) -> str:
    """The card, or the processor and the threads used."""
    from lit_unlearn.reports.run_metadata import device_name  # here: a bare loop is measured without the package

    name = device_name(torch.device(device))
    if device == "cuda":
        return name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''} of {os.cpu_count()}"


def peak_bytes(of: int = resource.RUSAGE_SELF) -> int:
    """The most memory that this process, or the largest of its children, has held so far."""
    return resource.getrusage(of).ru_maxrss * 1024


def of_one_run(script: str, *options: str) -> str:
    """The last word that a script prints in a process of its own, whose allocator has glibc's own settings.

    Raises:
        RuntimeError: with what it said, if it fails.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, env=own)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.split()[-1]


def show(results: list[Result], write: bool) -> None:
    """Prints the rows, and writes them into the page, in place of those of the same two measures and machine."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADINGS, *(result.cells() for result in results))]
    print("\n".join([lines[0], "|---" * len(HEADINGS) + "|", *lines[1:]]), flush=True)
    if write:
        text = PAGE.read_text(encoding="utf-8")
        for result in results:
            text = with_row(text, result)
        PAGE.write_text(text, encoding="utf-8")


def with_row(page: str, result: Result) -> str:
    """The page with one row more in its table, or in place of that of the same two measures on the same machine.

    Raises:
        ValueError: if the page has no table.
    """
    lines = page.splitlines()
    heads = [number for number, line in enumerate(lines) if line == f"| {' | '.join(HEADINGS)} |"]
    if not heads:
        raise ValueError(f"{PAGE} has no table of results")
    end = next((number for number in range(heads[0], len(lines)) if not lines[number].startswith("|")), len(lines))
    rows = list(range(heads[0] + 2, end))
    new = "| " + " | ".join(result.cells()) + " |"
    for number in rows:
        cells = [cell.strip() for cell in lines[number].strip("|").split("|")]
        if (*cells[:2], cells[-1]) == (result.what, result.against, result.on):
            lines[number] = new
            break
    else:
        same = [number for number in rows if lines[number].startswith(f"| {result.what} |")]
        lines.insert(same[-1] + 1 if same else end, new)
    return "\n".join(lines) + "\n"
