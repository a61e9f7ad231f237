"""``python -m lit_unlearn``, and the console script: Ctrl-C ends it with one line, also while torch is imported.

Where what it prints is read by a program that ends, such as ``head``, it ends as other commands do, with status 141.
"""

import os
import signal
import sys

from lit_unlearn.usage import answer


def main() -> None:
    """Runs the command line; interrupted before a run has begun, it exits with status 130."""
    if (told := answer(sys.argv[1:])) is not None:
        text, status = told
        print(text, end="", file=sys.stderr if status else sys.stdout)
        sys.exit(status)
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell may have it ignored
    if ours:
        signal.signal(signal.SIGINT, _exit)  # what is being imported may not let an exception through
    from lit_unlearn.cli import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while it ends
        sys.exit(141)
    except KeyboardInterrupt:
        print("lit-unlearn: interrupted", file=sys.stderr)
        sys.exit(130)


def _exit(*_: object) -> None:
    os.write(2, b"lit-unlearn: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
