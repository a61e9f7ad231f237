"""Every figure of docs/performance.md that needs a GPU, in less than nine minutes on one card.

    python performance/on_gpu.py --write

Runs the other scripts with ``--device cuda``, the most wanted first, each with a share of the time; what does not end
in its share is stopped and named. ``--trial`` tries them all on the CPU on sizes that say nothing.
"""

import subprocess
import sys
import time
from pathlib import Path

from measuring import arguments

FOLDER = Path(__file__).parent
SECONDS = 530
SCRIPTS = (
    ("epoch.py", 70),
    ("suite.py", 70),
    ("throughput.py", 50),
    ("compiled.py", 60),
    ("pipeline.py", 25),
    ("memory.py", 40),
    ("startup.py --rounds 2", 35),
    ("epoch.py --streamed", 40),
    ("streaming.py --rounds 2 --workers 8", 40),
    ("formats.py", 40),
    ("inversion.py", 60),
)
"""Each with the seconds that it may take."""


def run(script: str, seconds: float, options: list[str]) -> tuple[bool, str]:
    """Whether it ended well, and how in words."""
    name, *own = script.split()
    started = time.perf_counter()
    try:
        done = subprocess.run([sys.executable, str(FOLDER / name), *own, *options], timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return False, f"stopped after {seconds:.0f} s"
    spent = time.perf_counter() - started
    if done.returncode:
        return False, f"failed with status {done.returncode} after {spent:.0f} s"
    return True, f"{spent:.0f} s"


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.set_defaults(device="cuda")
    options = parser.parse_args(argv)
    device = "cpu" if options.trial else options.device
    given = ["--device", device, *(["--trial"] if options.trial else []), *(["--write"] if options.write else [])]
    ends, told = time.perf_counter() + SECONDS, []
    for script, share in SCRIPTS:
        left = ends - time.perf_counter()
        told.append((script, *(run(script, min(share, left), given) if left > 1 else (False, "no time left"))))
    for script, _, how in told:
        print(f"{script}: {how}")
    return sum(not well for _, well, _ in told)


if __name__ == "__main__":
    sys.exit(main())
