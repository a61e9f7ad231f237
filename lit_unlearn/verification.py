"""Verifies a submission as a maintainer would: everything in its claim is measured again, on this machine.

The claim is measured with the attacks, the Retrains and the seed that its authors chose. For the row of a board others
may be taken: a whole suite, Retrains that the authors did not train, and a seed that they did not know.
"""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from jsonargparse import ArgumentParser

from lit_unlearn import __version__
from lit_unlearn.api import audit
from lit_unlearn.attacks import Attack
from lit_unlearn.claims import Claim, claim_of
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, check_seed, first_line
from lit_unlearn.explain import explain
from lit_unlearn.files import file_sha256
from lit_unlearn.reports.verdict import judge
from lit_unlearn.run_result import Result
from lit_unlearn.submissions import MODEL, ORIGINAL, Submission, backbone_of, read, unpacked
from lit_unlearn.suites import config_of_suite, suite_of_config

CLEAN, ATTACKED = 0.005, 0.03
"""By how much an accuracy without an attack, and what an attack gets, may differ: other machines round otherwise."""

_PLACES = ("root", "download")


@dataclass(frozen=True)
class Verified:
    """What came of it.

    Attributes:
        submission: the manifest.
        differences: a line for each number that is not the claim's within the tolerance; none: it is reproduced.
        flags: signs that the evaluation cannot be trusted, by name.
        result: rows, verdict and table of this machine, with the attacks, Retrains and seed that were asked for.
        suite: the attacks that were run, by name and version.
        seed: of the attacks.
        retrains: sha256 of each Retrain that was taken in place of the submission's.
        sha256: of the bundle.
        model_sha256: of the model's weights in it.
        level: of the verdict.
    """

    submission: Submission
    differences: list[str]
    flags: Mapping[str, str]
    result: Result
    suite: str
    seed: int
    retrains: list[str]
    sha256: str
    model_sha256: str
    level: str

    @property
    def reproduced(self) -> bool:
        """Whether the claim holds."""
        return not self.differences

    def board_row(self) -> dict[str, Any]:
        """What the board keeps of it, in plain types."""
        told = msgspec.to_builtins(self.submission)
        words = ("name", "method", "paper", "code", "threat_model", "licence")
        kept = (*words, "network", "gate", "source", "forget", "split")
        return {
            **{name: told[name] for name in kept},
            "verified": {
                "date": datetime.now(UTC).date().isoformat(),
                "suite": self.suite,
                "seed": self.seed,
                "retrains": self.retrains,
                "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
                "lit_unlearn": __version__,
                "bundle_sha256": self.sha256,
                "model_sha256": self.model_sha256,
                "reproduced": self.reproduced,
            },
            "rows": msgspec.to_builtins(self.result.rows),
        }


def verify(
    path: Path,
    suite: str = "quick",
    root: str | None = None,
    retrains: Sequence[str] = (),
    seed: int | None = None,
) -> Verified:
    """Measures a submission again.

    Args:
        path: the bundle. No code in it is run: there is none.
        suite: config of attacks of the result, ``quick`` or ``suite``; the claim is measured with its own suite.
        root: folder of the data set's files; None is the data set's own.
        retrains: weights of Retrains of the same network and split, in place of the submission's in the result.
        seed: of the attacks of the result; None is the submission's.

    Raises:
        UsageError: if the bundle is broken, forged or hostile: naming what.
    """
    if seed is not None:
        check_seed("seed", seed)
    suite_of_config(f"attack/{suite}")
    submission, contents = read(path)
    claimed = (config_of_suite(submission.suite) or suite).removeprefix("attack/")
    again = result = measured(path, submission, contents, claimed, root)
    if claimed != suite or retrains or seed not in (None, submission.seed):
        result = measured(path, submission, contents, suite, root, retrains, seed)
    lines = list(differences(submission.claim, claim_of(again.rows[-1], again.rows)))
    if (own := str(again.rows[-1].versions.get("suite") or "")) != submission.suite:
        lines.insert(0, f"suite: claimed {submission.suite!r}, measured {own!r}")
    row = result.rows[-1]
    judged = judge(row, result.rows)
    return Verified(
        submission,
        lines,
        {**row.flags, **judged.flags},
        result,
        str(row.versions.get("suite") or suite),
        submission.seed if seed is None else seed,
        [file_sha256(Path(each)) for each in retrains],
        file_sha256(path),
        hashlib.sha256(contents[MODEL]).hexdigest(),
        judged.level,
    )


def measured(
    path: Path,
    submission: Submission,
    contents: Mapping[str, bytes],
    attacks: str | Sequence[Attack],
    root: str | None = None,
    retrains: Sequence[str] = (),
    seed: int | None = None,
) -> Result:
    """Attacks the model of a submission beside its original and its Retrains.

    Args:
        path: of the bundle, for errors.
        submission: its manifest.
        contents: its files.
        attacks: a config of attacks, or attacks.
        root: folder of the data set's files; None is the data set's own.
        retrains: weights that are compared with, in place of those of the submission.
        seed: of the attacks; None is the submission's.

    Raises:
        UsageError: if weights do not fit, or data and rule give another split than the manifest says.
    """
    with unpacked(submission, contents) as weights:
        data = data_of(submission, root)
        if (found := data.split.hash) != submission.split:
            raise UsageError(f"{path}: its split is {submission.split}, but its data and rule give {found}")
        theirs = [str(weights[name]) for name in sorted(weights) if name not in (MODEL, ORIGINAL)]
        model, original = (backbone_of(submission, name, weights[name]) for name in (MODEL, ORIGINAL))
        taken, number = list(retrains) or theirs, submission.seed if seed is None else seed
        result = audit(model, data, original, taken, attacks, number, enable_progress_bar=False)
    for row in result.rows:
        if row.weights.get("source") in theirs:  # a place that is gone
            row.weights["source"] = Path(row.weights["source"]).name
    return result


def data_of(submission: Submission, root: str | None = None) -> UnlearnDataModule:
    """The data of a submission: a data set that anybody can have, and a rule.

    Raises:
        UsageError: if it cannot be made or loaded.
    """
    given = (submission.source.get("init_args") or {}).items()
    plain = {name: value for name, value in given if name not in _PLACES and isinstance(value, bool | int | float)}
    source = {"class_path": submission.source["class_path"].rpartition(".")[2], "init_args": plain}
    if root is not None:
        source["init_args"]["root"] = root
    settings = {**submission.settings, "source": source, "forget": submission.forget, "eval_batch_size": 500}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(UnlearnDataModule, "data", required=True)
    try:
        parsed = parser.parse_object({"data": {"class_path": "UnlearnDataModule", "init_args": settings}})
        made: UnlearnDataModule = parser.instantiate_classes(parsed).data
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"the data of the submission cannot be made: {explain(error) or first_line(error)}") from error
    return made


def differences(claim: Claim, found: Claim) -> list[str]:
    """What of a claim does not hold, a line each.

    Args:
        claim: of the submission.
        found: the same of this machine.
    """
    lines = []
    for claimed, measured, most in (
        (claim.metrics, found.metrics, CLEAN),
        (claim.values, found.values, ATTACKED),
    ):
        for name in sorted(claimed.keys() | measured.keys()):
            one, two = claimed.get(name), measured.get(name)
            if one is None:
                lines.append(f"{name}: not claimed, measured {two:.3f}")
            elif two is None:
                lines.append(f"{name}: claimed {one:.3f}, not measured")
            elif not abs(one - two) <= most:
                lines.append(f"{name}: claimed {one:.3f}, measured {two:.3f} (allowed: {most:g} apart)")
    if claim.level != found.level:
        lines.append(f"verdict: claimed {claim.level!r}, measured {found.level!r}")
    return lines
