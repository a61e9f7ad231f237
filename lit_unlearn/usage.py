"""The commands, and what is printed about them before anything large is imported."""

from collections.abc import Mapping

from lit_unlearn import __version__

COMMANDS: Mapping[str, str] = {
    "fit": "unlearn, attack the result, and write the report",
    "validate": "attack weights that exist: of an earlier run, or of other code",
    "test": "measure the accuracy on each split, without an attack",
    "benchmark": "run many methods and seeds, and make one table",
    "tune": "search the settings of every method, with one budget for each",
    "report": "make tables, pages and figures of rows that exist",
    "export": "write weights for your own code, or evidence for an auditor",
    "zoo": "list, check, load and build collections of unlearned models",
    "submit": "pack a model and what is claimed of it",
    "verify": "measure again what a submission claims",
    "board": "make the tables of verified submissions",
    "break": "attack a verified submission with an attack of your own",
}
"""Each command, and what it does."""

_LINES = """\
usage: lit-unlearn COMMAND [--config CONFIG] [--OPTION VALUE ...]

Make a trained image classifier forget, attack the result, and say whether it forgot.

commands:
{commands}

Each command has its own help: lit-unlearn fit --help. Options of a class: lit-unlearn fit --model.help OPC.
--config takes a file or the name of a config of the package, such as quickstart, attack/suite or model/scrub.
First steps: lit-unlearn fit --config quickstart. Completion for your shell: lit-unlearn --print_completion shtab-bash.
"""


def usage() -> str:
    """What ``lit-unlearn --help`` prints."""
    return _LINES.format(commands="\n".join(f"  {name:<10} {words}" for name, words in COMMANDS.items()))


def answer(words: list[str]) -> tuple[str, int] | None:
    """What the words ask for that needs no import, with the exit status; None where a command is to be run."""
    match words:
        case ["-h" | "--help" | "help"]:
            return usage(), 0
        case ["--version"]:
            return f"lit-unlearn {__version__}\n", 0
        case []:
            return usage(), 2
    return None
