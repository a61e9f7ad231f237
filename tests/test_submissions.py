"""A model goes through submit, verify and board; bundles that are broken, forged or hostile are refused in one line."""

import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
import torch
from command_line import lit_unlearn
from safetensors.torch import load, save

from lit_unlearn import archives, verification
from lit_unlearn.board import markdown, read_board
from lit_unlearn.claims import Claim, claim_of
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import Row, rows_of, write_rows
from lit_unlearn.submissions import MANIFEST, MODEL, ORIGINAL, read
from lit_unlearn.suites import suites_of_today
from lit_unlearn.verification import differences, verify

RETRAIN = "digits_resnet8_retrain_classes_0_1_2"
AUDIT = (
    *("validate", "--model", "Audit", "--model.backbone", "ResNet8", "--model.backbone.in_channels", "1"),
    *("--model.original", "digits_resnet8", "--data.source", "Digits", "--data.forget", "{classes: [0, 1, 2]}"),
    *("--config", "attack/detectability", "--evaluation.retrain", f"[{RETRAIN}, {RETRAIN}_seed_1]"),
    *("--trainer.enable_progress_bar=false", "--memory_format=contiguous"),
)
TOLD = (
    *("--name", "plain", "--method", "Plain [PyTorch]", "--paper", "https://arxiv.org/abs/2507.07754"),
    *("--threat_model", "White box."),
)
Contents = dict[str, bytes]
Change = Callable[[dict[str, Any], Contents], None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that plain PyTorch left, here a Retrain's weights under plain names, after validate with Audit."""
    from lit_unlearn.shipped import CHECKPOINTS

    folder = tmp_path_factory.mktemp("run")
    state = torch.load(CHECKPOINTS / f"{RETRAIN}_seed_2.pt", weights_only=True)["state_dict"]
    torch.save(state, folder / "mine.pt")
    outcome = lit_unlearn(folder, *AUDIT, "--model.weights", "mine.pt")
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    outcome = lit_unlearn(run, "submit", "runs/Audit/version_0", "--to", "plain.zip", *TOLD)
    assert outcome.status == 0, outcome.err
    nameless = "its attacks are of no suite, so tell the maintainer which config of attack/ they are"
    assert outcome.out == f"Written to plain.zip: digits/classes_0_1_2/plain, 2 Retrains; {nameless}\n"
    return run / "plain.zip"


def changed(bundle: Path, to: Path, change: Change) -> Path:
    """Another bundle, whose hashes agree with what it holds."""
    with zipfile.ZipFile(bundle) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(contents.pop(MANIFEST))
    change(manifest, contents)
    manifest.setdefault("files", {})
    manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()} | {
        name: value for name, value in manifest["files"].items() if value == "0" * 64
    }
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps(manifest))
        for name, content in contents.items():
            archive.writestr(name, content)
    return to


def with_its_claim(
    manifest: dict[str, Any], contents: Contents, change: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Changes the rows of a bundle, and its claim with them."""
    results = json.loads(contents["results.json"])
    change(results["rows"])
    contents["results.json"] = json.dumps(results).encode()
    rows = rows_of(contents["results.json"], "results.json")
    manifest["claim"] = msgspec.to_builtins(claim_of(rows[-1], rows))


def test_a_bundle_holds_weights_and_words_alone(bundle: Path) -> None:
    submission, contents = read(bundle)
    assert set(contents) == {MODEL, ORIGINAL, "results.json", "retrain_0.safetensors", "retrain_1.safetensors"}
    assert (submission.board, submission.name, submission.licence) == ("digits/classes_0_1_2", "plain", "MIT")
    assert submission.network["class_path"].endswith("ResNet8")
    assert submission.claim.metrics["test_forget_acc"] == 0.0
    assert "detectability/samples" in submission.claim.values


def test_three_commands_lead_to_the_board(bundle: Path, tmp_path: Path) -> None:
    words = ("verify", str(bundle), "--suite", "detectability", "--to", "board")
    outcome = lit_unlearn(tmp_path, *words)
    assert outcome.status == 0, outcome.err + outcome.out
    assert "Reproduced." in outcome.out
    held = json.loads((tmp_path / "board/digits/classes_0_1_2/plain.json").read_text())
    assert held["verified"]["reproduced"]
    assert held["verified"]["bundle_sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    shown = lit_unlearn(tmp_path, "board", "board", "--pages", "pages", "--badges", "badges")
    badge = ElementTree.parse(tmp_path / "badges/digits/classes_0_1_2/plain.svg").getroot()
    suite = held["verified"]["suite"]
    assert f"Suite `{suite}`.\n" in shown.out
    (standing,) = read_board(tmp_path / "board")
    said = [text.text for text in badge.iter("{http://www.w3.org/2000/svg}text")]
    assert said == [f"lit_unlearn {standing.verified['suite']}", standing.verdict.level]
    assert "## digits/classes_0_1_2" in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith("| plain |")]
    assert r"Plain \[PyTorch\] [paper](https://arxiv.org/abs/2507.07754)" in line
    page = (tmp_path / "pages/digits/classes_0_1_2/plain.html").read_text(encoding="utf-8")
    assert "Plain [PyTorch]" in page
    assert ">Audit<" not in page
    lit_unlearn(tmp_path, "board", "board", "--markdown", "board.md")
    marks = "<!-- table: board -->\n", "<!-- /table -->\n"
    made = (tmp_path / "board.md").read_text()
    assert made.removeprefix(marks[0]).removesuffix(marks[1]) in shown.out
    (tmp_path / "own.md").write_text(f"# Mine\n\n{marks[0]}old\n{marks[1]}\nThe end.\n")
    lit_unlearn(tmp_path, "board", "board", "--markdown", "own.md")
    assert (tmp_path / "own.md").read_text() == f"# Mine\n\n{made}\nThe end.\n"
    (tmp_path / "other.md").write_text("# Mine\n")
    refused = lit_unlearn(tmp_path, "board", "board", "--markdown", "other.md")
    assert "other.md: has no place for a table" in refused.err
    assert (tmp_path / "other.md").read_text() == "# Mine\n"


def test_rows_of_an_earlier_suite_stand_apart(bundle: Path, tmp_path: Path) -> None:
    row = verify(bundle, "detectability").board_row()
    named = [each["weights"]["source"] for each in row["rows"] if each["method"] == "Retrain"]
    assert named == [Path(each).name for each in named] != [], "the folder that they were unpacked in is gone"
    place = tmp_path / "digits/classes_0_1_2"
    place.mkdir(parents=True)
    for name, suite in (("new", "suite 10"), ("small", "quick 11"), ("early", "suite 9")):
        row["name"], row["verified"]["suite"] = name, suite
        (place / f"{name}.json").write_text(json.dumps(row))
    text = markdown(read_board(tmp_path))
    wanted = ["Suite `suite 10`.", "| new |", "Suite `suite 9`, an earlier suite", "| early |"]
    wanted += ["Suite `quick 11`, another suite", "| small |"]
    assert [text.index(each) for each in wanted] == sorted(text.index(each) for each in wanted)
    assert "today's" not in text, "no suite of this package is newer"
    row["verified"]["suite"], row["name"] = "quick 2", "early"
    (place / "early.json").write_text(json.dumps(row))
    (place / "new.json").unlink()
    (place / "small.json").unlink()
    (today,) = [suite for suite, config in suites_of_today().items() if config == "attack/quick"]
    assert f"Suite `quick 2`, an earlier suite: today's is `{today}`.\n" in markdown(read_board(tmp_path))
    row["name"] = "again"
    (place / "again.json").write_text(json.dumps(row))
    with pytest.raises(UsageError, match=r"digits/classes_0_1_2: again and early have the same weights"):
        read_board(tmp_path)
    (place / "again.json").unlink()
    (place / "early.json").write_text("{}")
    with pytest.raises(UsageError, match=r"early\.json: no row of a board: it lacks name"):
        read_board(tmp_path)
    with pytest.raises(UsageError, match="no board"):
        read_board(tmp_path / "nowhere")


def test_a_claim_that_does_not_hold_is_named(bundle: Path, tmp_path: Path) -> None:
    def less(rows: list[dict[str, Any]]) -> None:
        rows[-1]["attacks"]["detectability/samples/test_forget_auc"] -= 0.2

    def flatter(manifest: dict[str, Any], contents: Contents) -> None:
        with_its_claim(manifest, contents, less)
        manifest["claim"]["level"] = "as Retrain"

    forged = changed(bundle, tmp_path / "forged.zip", flatter)
    outcome = lit_unlearn(tmp_path, "verify", str(forged), "--suite", "detectability", "--to", "board")
    assert outcome.status == 1
    assert "Differs: detectability/samples: claimed" in outcome.out
    assert "Differs: verdict: claimed 'as Retrain'" in outcome.out
    assert "Not reproduced: 2 differences.\nNothing is written to board: the claim goes back" in outcome.out
    assert not (tmp_path / "board").exists()


def test_a_claim_that_its_own_rows_do_not_bear_out_is_refused(bundle: Path, tmp_path: Path) -> None:
    def other_rows(_: dict[str, Any], contents: Contents) -> None:
        results = json.loads(contents["results.json"])
        for row in results["rows"]:
            row["metrics"]["test_forget_acc"] = 0.1
        contents["results.json"] = json.dumps(results).encode()

    def no_rows(_: dict[str, Any], contents: Contents) -> None:
        contents["results.json"] = json.dumps(json.loads(contents["results.json"]) | {"rows": []}).encode()

    message = "the claim says test_forget_acc is 0, but results.json says 0.1"
    for change, told in ((other_rows, message), (no_rows, "results.json cannot be judged")):
        forged = changed(bundle, tmp_path / "forged.zip", change)
        for words in (("verify", "--to", "board"), ("break", "--attack", "Prune", "--author", "Other")):
            outcome = lit_unlearn(tmp_path, words[0], str(forged), *words[1:])
            assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
            assert told in outcome.err
        assert not (tmp_path / "board").exists()


def test_a_suite_that_nobody_can_run_is_refused(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(run / "runs/Audit/version_0", folder)
    results = json.loads((folder / "results.json").read_text())
    results["rows"][-1]["versions"]["suite"] = "mine 1"
    (folder / "results.json").write_text(json.dumps(results))
    outcome = lit_unlearn(run, "submit", str(folder), "--to", "own.zip", *TOLD)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "which nobody can verify: 'mine 1'" in outcome.err
    assert f"(allowed: {', '.join(suites_of_today())})" in outcome.err
    assert not (run / "own.zip").exists()


def test_a_bundle_that_takes_the_place_of_another_says_so(run: Path, tmp_path: Path) -> None:
    words = ("submit", "runs/Audit/version_0", "--to", str(tmp_path / "a.zip"), *TOLD)
    said = [lit_unlearn(run, *words).out for _ in range(2)]
    assert [", in place of the file that was there: digits/" in each for each in said] == [False, True]


def test_a_row_may_stand_beside_other_retrains_under_a_seed_that_its_authors_did_not_know(
    bundle: Path, tmp_path: Path
) -> None:
    def kind(_: dict[str, Any], contents: Contents) -> None:
        """The model stands beside itself, hardly changed, so that nothing is found beyond Retrain."""
        for number, name in enumerate(("retrain_0.safetensors", "retrain_1.safetensors"), start=1):
            length = int.from_bytes(contents[name][:8], "little")
            said = json.loads(contents[name][8 : 8 + length])["__metadata__"]
            state = load(contents[ORIGINAL])
            state["head.bias"] += number * 1e-4
            contents[name] = save(state, said)
        weights(contents, MODEL, lambda state: state.update(load(contents[ORIGINAL])))
        weights(contents, MODEL, lambda state: state["head.bias"].add_(1e-3))

    from lit_unlearn.shipped import CHECKPOINTS

    others = [str(CHECKPOINTS / f"{RETRAIN}{end}.pt") for end in ("_seed_3", "_seed_4")]
    found = verify(bundle, "detectability", retrains=others, seed=7)
    assert found.reproduced  # the claim, beside the Retrains and with the seed of its authors
    row = found.board_row()
    assert row["verified"]["seed"] == 7
    assert row["verified"]["retrains"] == [hashlib.sha256(Path(each).read_bytes()).hexdigest() for each in others]
    assert [each.weights.get("source") for each in found.result.rows if each.method == "Retrain"] == others
    place = tmp_path / "board/digits/classes_0_1_2"
    place.mkdir(parents=True)
    (place / "plain.json").write_text(json.dumps(row))
    assert "| 2, the board’s |" in markdown(read_board(tmp_path / "board"))
    flattered = changed(bundle, tmp_path / "kind.zip", kind)
    theirs, ours = (verify(flattered, "detectability", retrains=each) for each in ((), others))
    assert theirs.result.rows[-1].metrics["forget_acc"] == ours.result.rows[-1].metrics["forget_acc"] == 1.0
    assert {each.metrics["forget_acc"] for each in theirs.result.rows if each.method == "Retrain"} == {1.0}
    assert {each.metrics["forget_acc"] for each in ours.result.rows if each.method == "Retrain"} == {0.0}
    outcome = lit_unlearn(tmp_path, "verify", str(bundle), "--retrains", "[nowhere.pt]")
    assert outcome.status == 2
    assert outcome.err == "lit-unlearn: error: retrains: there is no file nowhere.pt\n"


def test_a_claim_is_measured_with_its_own_suite(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suites: list[str] = []

    def measured(path: Path, submission: Any, contents: Contents, attacks: str, *rest: Any) -> Any:
        suites.append(attacks)
        return again(path, submission, contents, "detectability", *rest)

    again = verification.measured
    monkeypatch.setattr(verification, "measured", measured)
    quick = changed(bundle, tmp_path / "quick.zip", lambda manifest, _: manifest.update(suite="quick 4"))
    assert verify(quick, "suite").differences == ["suite: claimed 'quick 4', measured ''"]
    old = changed(bundle, tmp_path / "old.zip", lambda manifest, _: manifest.update(suite="quick 1"))
    assert verify(old, "quick").differences == ["suite: claimed 'quick 1', measured ''"]
    assert suites == ["quick", "suite", "quick"]


def test_the_board_of_the_repository_is_shown_as_it_is() -> None:
    folder = Path(__file__).parents[1] / "board"
    standings = read_board(folder)
    assert markdown(standings) in (folder / "README.md").read_text(encoding="utf-8")
    assert all(each.verified["reproduced"] for each in standings)
    assert len([each for each in standings if each.told["name"].startswith("supreme_")]) >= 3


TURNED = """
from lit_unlearn.attacks import Attack, AttackResult

class {name}(Attack):
    family = "recovery"
    def __init__(self, name: str = "own", mark: int = 0) -> None:
        super().__init__(name)
        self.mark = mark
    def evaluate(self, target):
        known = float(target.model.backbone.encoder.stem.conv.weight[0, 0, 0, 0]) == {weight!r}
        return AttackResult({numbers})
"""


def test_an_attack_of_ones_own_breaks_a_row_or_does_not(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that is right on the submitted model alone breaks it; one that gets as much from Retrain does not."""
    monkeypatch.syspath_prepend(tmp_path)
    weight = float(load(read(bundle)[1][MODEL])["encoder.stem.conv.weight"][0, 0, 0, 0])
    for name, numbers in (
        ("Breaks", '{"test_forget_acc": 0.9 if known else 0.1}'),
        ("Withstood", '{"test_forget_acc": 0.9}'),
        ("Says", '{"of_no_use": 1.0}'),
    ):
        (tmp_path / f"own_{name.lower()}.py").write_text(TURNED.format(name=name, weight=weight, numbers=numbers))
    words = ("break", str(bundle), "--author", "A. [Nother]", "--to", "board", "--attack")
    nowhere = lit_unlearn(tmp_path, *words, "own_breaks.Breaks")
    assert nowhere.status == 2
    assert "board: there is no row digits/classes_0_1_2/plain: verify with --to puts it there" in nowhere.err
    lit_unlearn(tmp_path, "verify", str(bundle), "--suite", "detectability", "--to", "board")
    held = lit_unlearn(tmp_path, *words, "own_withstood.Withstood")
    assert (held.status, "It does not break the row." in held.out) == (1, True)
    assert not list(tmp_path.glob("board/*/*/*.broken.json"))
    silent = lit_unlearn(tmp_path, *words, "own_says.Says")
    assert (silent.status, "gives no number that is compared" in silent.err) == (2, True)
    broken = lit_unlearn(tmp_path, *words, "own_breaks.Breaks", "--attack.mark", "3")
    assert broken.status == 0, broken.err
    assert "recovery/own classifies 90.0\xa0% of " in broken.out
    evaluation = json.loads((tmp_path / "board/digits/classes_0_1_2/plain.broken.json").read_text())
    assert (evaluation["author"], evaluation["attack"]) == ("A. [Nother]", "own_breaks.Breaks")
    (line,) = [
        text for text in lit_unlearn(tmp_path, "board", "board").out.splitlines() if text.startswith("| plain |")
    ]
    assert "Broken (was: " in line
    assert r"own\_breaks.Breaks of A. \[Nother\]" in line
    assert "+80.0 (" in line
    as_auc = {"unit": "AUC", "excess": 0.3, "low": 0.2, "high": 0.4}
    file = tmp_path / "board/digits/classes_0_1_2/plain.broken.json"
    file.write_text(json.dumps(evaluation | as_auc))
    assert "+0.30 (0.20 to 0.40)" in lit_unlearn(tmp_path, "board", "board").out
    file.write_text(json.dumps(evaluation))
    again = lit_unlearn(tmp_path, *words, "own_breaks.Breaks")
    assert again.status == 1
    assert "Before: own_breaks.Breaks of A. [Nother], excess +80.0 points\n" in again.out
    (tmp_path / "board/digits/classes_0_1_2/plain.broken.json").write_text(json.dumps(evaluation | {"excess": -1.0}))
    verified_again = lit_unlearn(tmp_path, *words, "own_breaks.Breaks")
    assert "Before: detectability/samples, excess " in verified_again.out  # the suite gets more than that break did
    (tmp_path / "board/digits/classes_0_1_2/plain.broken.json").write_text('{"name": "other"}')
    with pytest.raises(UsageError, match="it is of other"):
        read_board(tmp_path / "board")


def test_what_a_break_is_measured_against_comes_from_the_board(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle whose authors say that an attack of theirs gets everything cannot be broken by their words alone."""
    monkeypatch.syspath_prepend(tmp_path)
    weight = float(load(read(bundle)[1][MODEL])["encoder.stem.conv.weight"][0, 0, 0, 0])
    numbers = '{"test_forget_acc": 0.9 if known else 0.1}'
    (tmp_path / "own_other.py").write_text(TURNED.format(name="Breaks", weight=weight, numbers=numbers))

    def everything(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["attacks"] = {name: float(row is rows[-1]) / 2 + 0.5 for name in row["attacks"]}

    forged = changed(bundle, tmp_path / "forged.zip", lambda *held: with_its_claim(*held, everything))
    words = ("--author", "Other", "--attack", "own_other.Breaks")
    alone = lit_unlearn(tmp_path, "break", str(forged), *words)
    assert "Before, as its authors say: detectability/samples, excess +50.0 points\n" in alone.out
    from lit_unlearn.shipped import CHECKPOINTS

    others = f"[{CHECKPOINTS / f'{RETRAIN}_seed_3.pt'}, {CHECKPOINTS / f'{RETRAIN}_seed_4.pt'}]"
    put = ("verify", str(bundle), "--suite", "detectability", "--seed", "7", "--to", "board", "--retrains", others)
    assert lit_unlearn(tmp_path, *put).status == 0
    theirs = lit_unlearn(tmp_path, "break", str(bundle), *words, "--to", "board")
    assert theirs.status == 2
    assert "retrains: 0 are given, but the row is compared with the board's Retrains, sha256 " in theirs.err
    other = lit_unlearn(tmp_path, "break", str(forged), *words, "--to", "board", "--retrains", others)
    assert other.status == 2
    assert "the row of the board is of another bundle, sha256 " in other.err
    broken = lit_unlearn(tmp_path, "break", str(bundle), *words, "--to", "board", "--retrains", others)
    assert broken.status == 0, broken.err + broken.out
    assert "Before: detectability/samples, excess +" in broken.out


def test_a_gate_comes_with_its_model_and_the_original_has_none(tmp_path: Path) -> None:
    words = ("--config", "base/digits_class", "--config", "model/rescale", "--config", "attack/detectability")
    more = ("--trainer.enable_progress_bar=false", "--memory_format=contiguous")
    made = lit_unlearn(tmp_path, "fit", *words, *more, "--evaluation.retrain", f"[{RETRAIN}]")
    assert made.status == 0, made.err
    told = ("--name", "gated", "--method", "Rescale", "--threat_model", "White box.")
    assert lit_unlearn(tmp_path, "submit", "runs/Rescale/version_0", "--to", "gated.zip", *told).status == 0
    submission, contents = read(tmp_path / "gated.zip")
    held = {name for name, content in contents.items() if name != "results.json" and "gate.factors" in load(content)}
    assert submission.gate
    assert held == {MODEL}
    found = verify(tmp_path / "gated.zip", "detectability")
    assert found.reproduced
    assert found.board_row()["gate"]
    changed(tmp_path / "gated.zip", tmp_path / "without.zip", lambda manifest, _: manifest.update(gate=False))
    refused = lit_unlearn(tmp_path, "verify", "without.zip")
    assert refused.status == 2
    assert "it holds" in refused.err
    assert refused.err.count("\n") == 1


def test_what_counts_as_a_difference() -> None:
    found = Claim({"forget_acc": 0.5}, {"recovery/hr": 0.30}, "leaks")
    assert differences(Claim({"forget_acc": 0.504}, {"recovery/hr": 0.28}, "leaks"), found) == []
    lines = differences(Claim({"forget_acc": 0.51}, {"recovery/hr": float("nan"), "other": 0.1}, "ruined"), found)
    assert [line.partition(":")[0] for line in lines] == ["forget_acc", "other", "recovery/hr", "verdict"]
    assert differences(Claim({}, {}, "leaks"), found)[0] == "forget_acc: not claimed, measured 0.500"


def test_a_claim_is_of_numbers_as_they_are_on_whichever_side_of_retrain() -> None:
    """Beside Retrains of .4 an AUC of .3995 is below or above by chance; where it is below, the verdict turns it."""
    own = {"metrics": {"forget_acc": 0.0, "test_forget_acc": 0.0, "test_retain_acc": 0.9}, "status": "ok"}
    own |= {"split": {"hash": "x", "forgotten_classes": [0, 1], "counts": {"forget": 50, "test_forget": 50}}}

    def row(method: str, auc: float, seed: int = 0) -> Row:
        attacks = {"membership/rmia/auc": 1 - auc, "membership/rmia/direction": -1.0}
        return Row(method, **own, attacks=attacks, seed=seed)

    claims = []
    for of_retrain in (0.4, 0.399):
        rows = [*(row("Retrain", of_retrain + seed / 1000, seed) for seed in (-1, 0, 1)), row("GA", 0.3995)]
        claims.append(claim_of(rows[-1], rows))
    assert [claim.values["membership/rmia"] for claim in claims] == pytest.approx([0.3995, 0.3995], abs=1e-4)
    assert differences(*claims) == []


def weights(contents: Contents, name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load(contents[name])
    change(state)
    contents[name] = save(state)


def nan(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"][0, 0] = torch.nan


def pickled() -> bytes:
    class Evil:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('code of a stranger ran')",))

    buffer = io.BytesIO()
    torch.save({"state_dict": Evil()}, buffer, pickle_module=pickle)
    return buffer.getvalue()


def timm(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "Timm", "init_args": {"name": "test_vit", "num_classes": 10, **arguments}}


HOSTILE: dict[str, tuple[Change, str]] = {
    "NaN weights": (lambda m, c: weights(c, MODEL, nan), "not finite"),
    "weights of another architecture": (
        lambda m, c: m["network"]["init_args"].update(width=8),
        "model.safetensors: it holds",
    ),
    "a network that fills the memory": (
        lambda m, c: m["network"]["init_args"].update(width=10**6),
        r"it holds 7\d,\d+ numbers, but its network has",
    ),
    "arguments without names": (
        lambda m, c: m["network"].update(init_args=5),
        "arguments of ResNet8 are 5, but must be named",
    ),
    "an argument of another type": (
        lambda m, c: m["network"]["init_args"].update(num_classes="x"),
        "num_classes of ResNet8 is 'x', but must be a whole number",
    ),
    "a network of the stranger's": (lambda m, c: m["network"].update(class_path="os.system"), "unknown network"),
    "a network that reads a file": (
        lambda m, c: m.update(network=timm(options={"checkpoint_path": "/etc/passwd"})),
        "would read other files",
    ),
    "a place to look at": (lambda m, c: m.update(network=timm(stages=["blocks.0"])), "names stages, but a board reads"),
    "a network from elsewhere": (lambda m, c: m.update(network=timm(name="hf-hub:evil/net")), "lies elsewhere"),
    "pickled code": (lambda m, c: c.update({MODEL: pickled()}), "corrupt, or no file of weights"),
    "an empty file of weights": (lambda m, c: c.update({ORIGINAL: b""}), "corrupt, or no file of weights"),
    "a file more": (lambda m, c: c.update({"run.py": b"print()"}), "and nothing else"),
    "a path that leaves the folder": (lambda m, c: c.update({"../../evil.safetensors": b"x"}), "and nothing else"),
    "an absolute path": (lambda m, c: c.update({"/tmp/evil": b"x"}), "and nothing else"),
    "a Retrain less": (lambda m, c: c.pop("retrain_1.safetensors"), "it must hold"),
    "no Retrain": (lambda m, c: m.update(retrains=0), "retrains is 0"),
    "another licence": (lambda m, c: m.update(licence="all rights reserved"), "unknown licence"),
    "a name that is a path": (lambda m, c: m.update(name="../x"), "name is '../x'"),
    "an address that is none": (lambda m, c: m.update(code="javascript:alert(1)"), "must be an address"),
    "a text of two lines": (lambda m, c: m.update(threat_model="a\nb"), "must be one line"),
    "data that nobody has": (lambda m, c: m["source"].update(class_path="ImageFolder"), "unknown data source"),
    "a rule that names a file": (lambda m, c: m.update(forget={"index_file": "/etc/passwd"}), "forget is"),
    "a field more": (lambda m, c: m.update(run="rm -rf"), "submission.json: "),
    "a number that is none": (lambda m, c: m.update(seed="zero"), "submission.json: "),
    "another format": (lambda m, c: m.update(format="2"), "does not list exactly"),
    "another split": (lambda m, c: m.update(split="0" * 16), "its split is 0000"),
    "other classes": (lambda m, c: m.update(forget={"classes": [3]}), "its split is"),
    "a class that is not there": (lambda m, c: m.update(forget={"classes": ["x"]}), "x"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_line(case: str, bundle: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    forged = changed(bundle, tmp_path / "forged.zip", change)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=message) as caught:
        verify(forged, "detectability")
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "evil.safetensors").exists()


def test_a_zip_that_is_a_bomb_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = changed(bundle, tmp_path / "bomb.zip", lambda m, c: c.update({MODEL: bytes(2**26)}))
    assert bomb.stat().st_size < 2**22
    monkeypatch.setattr(archives, "MOST_BYTES", 2**25)
    with pytest.raises(UsageError, match="larger than 32 MiB"):
        read(bomb)


def test_a_file_that_was_changed_afterwards_is_named(bundle: Path, tmp_path: Path) -> None:
    wrong = changed(bundle, tmp_path / "wrong.zip", lambda m, c: m.update(files={MODEL: "0" * 64}))
    with pytest.raises(UsageError, match=r"model\.safetensors was changed"):
        read(wrong)
    (tmp_path / "text.zip").write_text("no zip")
    outcome = lit_unlearn(tmp_path, "verify", "text.zip")
    assert (outcome.status, "no submission" in outcome.err, outcome.err.count("\n")) == (2, True, 1)
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile(tmp_path / "twice.zip", "w") as twice:
        for name in [*archive.namelist(), MODEL]:
            with pytest.warns(UserWarning, match="Duplicate name") if name in twice.namelist() else _nothing():
                twice.writestr(name, archive.read(name))
    with pytest.raises(UsageError, match="each file once"):
        read(tmp_path / "twice.zip")


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "nothing"), "attack/nothing"),
        (("--seed", "-1"), "seed is -1, but must lie in 0 to 4294967295"),
        (("--to", "afile"), "to is afile, but afile is a file, and not a folder"),
        (("--to", "afile/board"), "to is afile/board, but afile is a file, and not a folder"),
    ],
)
def test_what_verify_cannot_do_is_said_before_it_attacks(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "afile").touch()
    monkeypatch.setattr("lit_unlearn.verification.measured", lambda *_: pytest.fail("it attacks"))
    outcome = lit_unlearn(tmp_path, "verify", str(bundle), *words)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


def test_data_without_a_folder_take_none(bundle: Path, tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "verify", str(bundle), "--suite", "detectability", "--root", "/nope")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "the data of the submission cannot be made: " in outcome.err
    assert "root" in outcome.err


def test_a_run_that_cannot_be_submitted_says_why(run: Path, tmp_path: Path) -> None:
    for folder, words, message in (
        (tmp_path, (), "no run: there is no results.json"),
        (run / "runs/Audit/version_0", ("--name", "Not A Name"), "name is 'Not A Name'"),
        (run / "runs/Audit/version_0", ("--licence", "mine"), "unknown licence"),
        (run / "runs/Audit/version_0", ("--to", "a.tar"), "a submission is a .zip file"),
    ):
        outcome = lit_unlearn(run, "submit", str(folder), "--to", "b.zip", *TOLD, *words)
        assert (outcome.status, message in outcome.err) == (2, True), outcome.err
        assert not (run / "b.zip").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("a: [", "cannot read"),
        ("- 1", "must hold settings by name, not list"),
        ("model: {}", "has no settings model.init_args"),
        ("{model: {init_args: {}}, data: {init_args: {}}}", "has no settings backbone"),
        (None, "results.json: has no row"),
    ],
)
def test_a_run_whose_files_were_changed_is_refused_in_one_line(
    run: Path, tmp_path: Path, settings: str | None, said: str
) -> None:
    shutil.copytree(run / "runs/Audit/version_0", tmp_path / "run")
    if settings is None:
        write_rows(tmp_path / "run/results.json", [])
    else:
        (tmp_path / "run/config.yaml").write_text(settings)
    outcome = lit_unlearn(tmp_path, "submit", "run", "--to", "x.zip", *TOLD)
    assert outcome.status == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "x.zip").exists()
