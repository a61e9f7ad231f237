import html
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from browser import needs_browser, open_page

from lit_unlearn.artifacts import ImageGrid, PointMap
from lit_unlearn.reports.gallery import Artifacts
from lit_unlearn.reports.page import fragment, render, write_page
from lit_unlearn.reports.rows import Row

VOID = {"meta", "link", "br", "use", "path", "img"}


def artifacts() -> Artifacts:
    """A map and reconstructions of Original and of a method."""
    truth, guesses = torch.rand(3, 1, 2, 2), torch.rand(2, 3, 1, 2, 2)
    shown = {}
    for model, guess in zip(("Original", "GA"), guesses, strict=True):
        grid = ImageGrid(torch.stack([truth, guess]), ["image", "reconstruction"], [[""] * 3, ["9.1 dB"] * 3])
        points = PointMap(torch.eye(2), torch.tensor([0, 1]), ["class 0 (forgotten)", "class 1"])
        shown[model] = {"inversion/delta/pictures": grid, "representation/map/map": points}
    return shown


def plain(page: str) -> str:
    body = re.sub(r"<style.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", " ", body))
    return re.sub(r"\s+", " ", text)


class Nesting(HTMLParser):
    """Counts elements and insists that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_one_audit_says_its_verdict_with_the_numbers(original: Row, retrain: Row, shallow: Row) -> None:
    text = plain(render([shallow, original, retrain]))
    assert "recovery/worst classifies 91.0 % of unseen images" in text
    assert "The verdict names the attack with the largest lower bound." in text
    assert "Orange in the figure, red in the table: the lower bound is above the margin." in text
    assert "Utility is kept" in text
    assert "+58.0 (51.5 to 62.5)" in text
    assert "is above 2 points of accuracy or AUC (10 of IDI and of masked answers" in text
    assert "is below 5 points (25 of IDI and of masked answers)" in text
    assert "here 33.3 %" in text
    for word in (
        "3fa81c09e2d47b55",
        "class_path",
        "seed 42",
        "Retrain is the reference level",
        "25 % of Retrain",
    ):
        assert word in text
    assert "there is no verdict" not in text


def test_the_answers_that_decide_are_shown_once_and_relearning_is_explained(
    make_row: Callable[..., Row], original: Row, retrain: Row
) -> None:
    relearnt = {"relearn/few/test_forget_acc": 0.95, "relearn/few/auc": 0.5}
    row = make_row("GA", (0.6, 0.93, 0.6, 0.93), {"recovery/worst": (0.9, 0.9, 0.9, 0.9)})
    rows = [replace(each, attacks={**each.attacks, **relearnt}) for each in (original, retrain, row)]
    text = plain(render(rows))
    assert "Forgotten data, no attack 60.0" in text
    assert "decisive attack" not in text.partition("Scores")[0]
    assert "Relearning is shown at its end; the verdict compares the mean over its steps." in text
    assert "relearn/few mean accuracy, %" in text


def test_scores_are_those_of_the_definitions(original: Row, retrain: Row, shallow: Row) -> None:
    text = plain(render([original, retrain, shallow]))
    assert "Original reference \N{EN DASH} 7.0 94.0 92.6 " in text
    assert "GA Leaks +58.0 (51.5 to 62.5) recovery/worst 100.0 93.0 92.0 1.2 UA, RA, TA 50.0 25 % of Retrain" in text


def test_only_what_exceeds_retrain_is_marked(original: Row, retrain: Row, shallow: Row) -> None:
    shallow.metrics["test_retain_acc"] = 0.999
    page = render([original, retrain, shallow])
    marked = re.findall(r'<td class="above">([+\d.]+)', page)
    assert marked == ["+58.0", "+58.0", "91.0", "91.0"], "the scores, the comparisons, and two tables of accuracies"


def test_many_runs_are_counted_and_have_their_own_verdicts(
    make_row: Callable[..., Row], original: Row, retrain: Row, shallow: Row
) -> None:
    deep = make_row("OPC", (0.0, 0.93, 0.0, 0.93), {"recovery/worst": (0.33, 0.9, 0.33, 0.9)})
    failed = make_row("NegGrad", status="diverged", reason="loss was nan")
    text = plain(render([original, retrain, shallow, deep, failed]))
    assert "Runs that are as Retrain under their attacks and keep utility: 0 of 3." in text
    assert "No result diverged: loss was nan" in text


def test_missing_references_and_unknown_numbers_are_said(shallow: Row) -> None:
    text = plain(render([shallow]))
    assert "No Original and no Retrain row on the same split" in text
    assert "Without a Retrain there is no verdict." in text


def test_a_reference_of_another_network_is_said(original: Row, retrain: Row, shallow: Row) -> None:
    original.backbone = {"class_path": "ResNet18"}
    assert "GA is compared with Original of another backbone" in plain(render([original, retrain, shallow]))


def test_skipped_attacks_and_other_measurements_are_shown(original: Row, retrain: Row, shallow: Row) -> None:
    shallow.skipped = {"inversion": "no original"}
    shallow.attacks["membership/auc"] = 0.5125
    text = plain(render([original, retrain, shallow]))
    assert "inversion was not run: no original." in text
    shallow.skipped = {"x/y": "undefined: x/y/auc"}
    shown, _, _ = render([original, retrain, shallow]).partition("Settings of each run")
    assert "x/y has undefined numbers: auc." in shown
    assert "membership/auc \N{EN DASH} \N{EN DASH} 0.5125" in text


def test_everything_from_rows_is_escaped(make_row: Callable[..., Row]) -> None:
    evil = "<script>alert('x')</script>"
    row = make_row(
        evil,
        (0.5, 0.5),
        {evil: (0.5, 0.5)},
        status="diverged",
        reason=evil,
        hyperparameters={evil: evil},
        skipped={evil: evil},
        curves={evil: [[0, 1.0]]},
        split={"hash": evil},
        started=evil,
        versions={evil: [evil]},
    )
    shown = {
        "map": PointMap(torch.zeros(1, 2), torch.zeros(1).long(), [evil]),
        evil: ImageGrid(torch.zeros(1, 1, 1, 2, 2), [evil], [[evil]]),
    }
    row.attacks |= {f"{evil}/{evil}/{stage}/{evil}": 0.5 for stage in ("a", evil)}
    page = render([row, make_row("x"), make_row("x")], {evil: shown})
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_page_is_well_nested_and_needs_nothing_else(number: int, original: Row, retrain: Row, shallow: Row) -> None:
    shallow.attacks |= {f"recovery/stages/{stage}/forget_acc": 0.5 for stage in ("stem", "stage1", "stage2")}
    page = render([original, retrain, shallow][:number], artifacts())
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert parser.seen["h1"] == 1
    assert not re.search(
        r"""(src|href|action)=["'](?!#|data:(?:,|image/png;base64,))|url\((?!#)|@import|<script""", page
    )
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)


def test_pictures_and_maps_are_shown_with_the_truth_once(original: Row, retrain: Row, shallow: Row) -> None:
    page = render([original, retrain, shallow], artifacts())
    assert page.count('<img src="data:image/png;base64,') == 3 + 2 * 3
    text = plain(page)
    assert "image Original: reconstruction 9.1 dB 9.1 dB 9.1 dB GA: reconstruction" in text
    assert "Feature maps" in text
    assert 'aria-label="Feature maps of Original, GA"' in page


def test_rows_read_back_without_artifacts_give_a_page_without_them(original: Row, retrain: Row, shallow: Row) -> None:
    text = plain(render([original, retrain, shallow]))
    for heading in ("Feature maps", "Images from attacks", "Results by stage"):
        assert heading not in text


def test_numbers_by_stage_are_lines_and_a_table_of_their_own(original: Row, retrain: Row, shallow: Row) -> None:
    for row, value in ((original, 1.0), (shallow, 0.25)):
        row.attacks |= {
            f"representation/stages/{stage}/forget_cka_original": value for stage in ("stem", "stage1", "stage2")
        }
    shallow.attacks["membership/auc"] = 0.5125
    page = render([original, retrain, shallow])
    assert 'aria-label="representation/stages, forget_cka_original, by stage: Original, GA"' in page
    text = plain(page)
    assert text.index("membership/auc") < text.index("Every readout and every stage, in numbers")
    dash = "\N{EN DASH}"
    assert f"representation/stages/stage1/forget_cka_original 1 {dash} 0.25" in text
    two = render([original, retrain, shallow, Row("GA", "ok", seed=7, attacks=shallow.attacks)])
    assert two.count("<summary>GA (seed") >= 2  # each method folds away its own


def test_the_file_is_replaced_whole(tmp_path: Path, shallow: Row) -> None:
    path = tmp_path / "new" / "report.html"
    path.parent.mkdir()
    path.write_text("old")
    write_page(path, [shallow])
    assert path.read_text().startswith("<!doctype html>")
    assert path.read_text().rstrip().endswith("</html>")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_importing_reports_draws_in_nothing_heavy() -> None:
    code = "import sys, lit_unlearn.reports; print({'matplotlib', 'jinja2', 'rich', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


NOTEBOOK = """<table><tr><td id="outside">1</td></tr></table>{fragment}<iframe src="report.html"></iframe>
<iframe src="broken.html"></iframe><script>
const style = (cell) => {{ const found = getComputedStyle(cell); return found.padding + " " + found.textAlign; }};
document.body.dataset.outside = style(document.getElementById("outside"));
document.body.dataset.inside = style(document.querySelector(".lit-unlearn td"));
document.body.dataset.width = document.querySelector(".lit-unlearn table").getBoundingClientRect().width;
</script>"""


@needs_browser
def test_a_browser_opens_page_and_fragment_without_a_complaint(
    tmp_path: Path, original: Row, retrain: Row, shallow: Row
) -> None:
    rows = [original, retrain, shallow]
    write_page(tmp_path / "report.html", rows, artifacts())
    text = (tmp_path / "report.html").read_text()
    (tmp_path / "broken.html").write_text(text.replace("</body>", '<img src="missing.png"></body>'))
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html>" + NOTEBOOK.format(fragment=fragment(rows)))
    dumped, log = open_page(path, tmp_path)
    sources = re.findall(r"CONSOLE.*source: file:\S*/(\S+)", log)
    assert sources == ["broken.html"], "the browser finds a fault where there is one, and nowhere else"
    found = dict(re.findall(r'data-([a-z]+)="([^"]*)"', dumped[dumped.index("<body") :].partition(">")[0]))
    assert found["outside"] == "1px start", "the fragment's style stays in the fragment"
    assert found["inside"].endswith(" right")
    assert float(found["width"]) > 300


def test_the_fragment_is_the_first_part_of_the_page(original: Row, retrain: Row, shallow: Row) -> None:
    shallow.skipped = {"inversion": "no original"}
    part, page = fragment([original, retrain, shallow]), render([original, retrain, shallow])
    parser = Nesting()
    parser.feed(part)
    assert parser.open == []
    assert not parser.seen.keys() & {"html", "head", "body", "script", "h1", "svg", "iframe", "link"}
    assert parser.seen["table"] == parser.seen["style"] == 1
    text = plain(part)
    for sentence in (
        "recovery/worst classifies 91.0 % of unseen images",
        "Leaks GA",
        "Utility is kept",
        "inversion was not run: no original.",
        "GA no attack 0.0 +0.0 93.0 \N{MINUS SIGN}2.0 0.0 +0.0 (\N{MINUS SIGN}0.1 to 1.5) 92.0 \N{MINUS SIGN}1.7",
        "recovery/worst 90.0 +57.0",
    ):
        assert sentence in text
        assert sentence in plain(page)
    assert "No Original and no Retrain row" in plain(fragment([shallow]))
    evil = "<script>alert(1)</script>"
    assert "<script" not in fragment([replace(shallow, method=evil, reason=evil, skipped={evil: evil})])


def test_a_model_that_was_not_attacked_enough_has_no_colour_of_success(make_row: Callable[..., Row]) -> None:
    passed = {"recovery/hr": (0.3, 0.9, 0.3, 0.9), "recovery/fm": (0.3, 0.9, 0.3, 0.9)}
    rows = [make_row(name, (0.0, 0.9, 0.0, 0.92), passed) for name in ("Original", "Retrain", "GA")]
    page = render(rows)
    assert '<span class="mark none">Cannot tell</span>' in page
    assert not re.search(r'class="mark (good|bad|warn)"', page)
    assert '<section class="tile good">' not in page.partition("Forgotten data, decisive attack")[0]
