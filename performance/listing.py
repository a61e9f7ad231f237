"""From the shell to the first training step on a folder of 200,000 files, beyond what it takes on 2,000.

    python performance/listing.py

Names below 100 class folders, linked to a few JPEGs of 64×64 that are streamed. The first run lists all folders, the
next reads the list that the first has kept (``listing``). Seconds of the wall, without what the same command takes on
2,000 files: starting Python, importing torch, and looking at the original.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Result, arguments, begin, machine, show
from streaming import write

ROOT = Path(__file__).resolve().parents[1]
CLASSES, CONTENTS = 100, 40
RECENT = 3
FEW = 2_000
"""As many at least as are looked at before a run, to see whether the original knows its images."""


def fill(root: Path, count: int) -> None:
    """So many names to train on, and one a class to test on."""
    write(root / "contents", CONTENTS, 64)
    contents = sorted((root / "contents").rglob("*.jpg"))
    for number in range(count + CLASSES):
        part = "train" if number < count else "test"
        folder = root / part / f"{number % CLASSES:03}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(contents[number % len(contents)], folder / f"{number:06}.jpg")
    time.sleep(RECENT)  # a folder that has just changed is not kept


def to_the_first_step(root: Path, listing: Path, device: str) -> float:
    settings = [
        *("--model", "FineTune", "--model.backbone", "ResNet8", f"--model.backbone.num_classes={CLASSES}"),
        *("--model.weights", "fresh", "--data.source", "ImageFolder", f"--data.source.root={root}"),
        *("--data.source.memory=0", f"--data.source.listing={listing}", "--data.forget.classes=['000']"),
        *(f"--trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}", "--trainer.max_epochs=1"),
        *("--data.workers=0", "--memory_format=contiguous", "--trainer.enable_progress_bar=false"),
        "--trainer.callbacks+=startup.Stop",
    ]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "performance")])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "lit_unlearn", "fit", *settings],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        spent = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    return spent


def measure(count: int, device: str) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        fill(few, FEW)
        fill(many, count)
        lists = [Path(folder) / f"{name}.json" for name in ("few", "many")]
        least = min(to_the_first_step(few, lists[0], device) for _ in range(2))
        spent = [to_the_first_step(many, lists[1], device) - least for _ in range(2)]
    bounds = zip(("listed anew", "with a list that is kept"), (20.0, 3.0), spent, strict=True)
    return [
        Result(
            f"to the first training step on {count:,} files, {how}",
            f"the bound, beyond the {least:.1f} s that {FEW:,} files take",
            f"{bound:.1f} s",
            f"{seconds:.1f} s",
            seconds / bound,
            "≤ 1",
            machine(device),
        )
        for how, bound, seconds in bounds
    ]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    options = begin(parser, argv)
    show(measure(400 if options.trial else options.files, options.device), options.write)


if __name__ == "__main__":
    main()
