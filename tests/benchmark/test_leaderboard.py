import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from browser import needs_browser, open_page

from lit_unlearn.artifacts import ImageGrid, PointMap
from lit_unlearn.benchmark.command import report
from lit_unlearn.benchmark.leaderboard import frontier, render, resistance, scatter, write_leaderboard
from lit_unlearn.benchmark.runs import folder_of
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.reports import Row, write_rows
from lit_unlearn.reports.gallery import write_artifacts
from lit_unlearn.run_files import ARTIFACTS

COUNTS = {"forget": 4000, "test_forget": 2000, "test_retain": 8000}


def row(method: str, seed: int, test: float, worst: float, scenario: str = "class", **numbers: float) -> Row:
    told = {"key": f"{method}{seed}", "scenario": scenario, "experiment": method.lower(), "seeds": {"original": seed}}
    attacks = {"recovery/worst/forget_acc": worst, "recovery/worst/test_forget_acc": worst}
    stages = {f"representation/stages/stage{n}/forget_cka_original": 1 - 0.1 * n for n in range(3)}
    return Row(
        method,
        "ok",
        metrics={"forget_acc": 0.0, "retain_acc": 0.99, "test_retain_acc": test, "test_forget_acc": 0.0},
        attacks={**attacks, **stages, **numbers},
        benchmark=told,
        split={"hash": scenario, "forgotten_classes": [0, 1] if scenario == "class" else [], "counts": COUNTS},
        data={"source": "Digits", "train": 1437},
        versions={"suite": "suite 2"},
        hyperparameters={"weight": 0.5},
        seconds={"unlearn": 10.0 + seed},
    )


def rows(scenario: str = "class") -> list[Row]:
    found = []
    for seed in (0, 1):
        found += [row("Original", seed, 0.90, 0.95, scenario), row("Retrain", seed, 0.91, 0.60, scenario)]
        found += [row("OPC", seed, 0.90 + 0.004 * seed, 0.55, scenario), row("HeadOnly", seed, 0.91, 0.95, scenario)]
        found += [row("GradientAscent", seed, 0.30, 0.40, scenario)]
    return found


def page(found: list[Row], **told: object) -> str:
    settings: dict = {"title": "Digits", "damaged": [], "artifacts": {}} | told
    return render(summarise(found), **settings)


class Nesting(HTMLParser):
    """Insists that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in {"meta", "link", "br", "use", "path", "img", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"use", "path"}:
            assert self.open.pop() == tag


def models(text: str) -> list[str]:
    return re.findall(r'<tr data-model="([^"]*)"', text)


def test_methods_stand_by_depth_with_both_ranks_and_the_distance_to_retrain():
    text = page(rows())
    assert models(text) == ["Original", "Retrain", "OPC", "HeadOnly", "GradientAscent"]
    assert "Methods that are as Retrain under every attack and keep utility: 0 of 3." in text
    assert "HeadOnly has the smallest gap and rank 2 of 2 by depth." in text
    line = text[text.index('<tr data-model="HeadOnly"') :]
    line = line[: line.index("</tr>")]
    assert re.findall(r'class="rank" data-sort="(\d*)"', line) == ["1", "2"]
    assert re.search(
        r'class="left above" data-sort="[\d.]+">\+35.0 \([\d.]+ to [\d.]+\)<small>recovery/worst</small>', line
    )
    below, compared = re.search(r'<td data-sort="([\d.]+)">(\d+ of \d+)</td>', line).groups()
    number, count = map(int, compared.split(" of "))
    assert float(below) == pytest.approx(number / count, rel=1e-5)
    assert 0 < number < count
    assert "95.0 ± 0.0<small>+35.0</small>" in line
    ruined = text[text.index('<tr data-model="GradientAscent"') :]
    assert 'data-utility="damaged"' in ruined[:200]
    assert ruined.count('data-sort="">–</td>') >= 2
    assert "2 training seeds: mean ± standard deviation; suite of attacks <code>suite 2</code>" in text


def test_the_headline_says_that_the_nearest_to_retrain_has_not_forgotten():
    found = [row("Original", 0, 0.9, 0.9), row("Retrain", 0, 0.9, 0.5), row("FineTune", 0, 0.9, 0.1)]
    for each in (found[0], found[2]):
        each.metrics = each.metrics | {"forget_acc": 1.0, "test_forget_acc": 1.0}
    text = page(found)
    assert "FineTune has the smallest gap and has not forgotten." in text
    line = text[text.index('<tr data-model="FineTune"') :]
    assert re.findall(r'class="rank" data-sort="(\d*)">(.)', line)[:2] == [("1", "1"), ("", "–")]


def test_every_card_has_its_figures_pictures_and_settings():
    grid = ImageGrid(torch.rand(2, 3, 1, 2, 2), ["image", "reconstruction"])
    points = PointMap(torch.eye(2), torch.tensor([0, 1]), ["class 0 (forgotten)", "class 1"])
    shown = {"OPC1/OPC": {"inversion/delta/pictures": grid, "representation/map/map": points}}
    text = page(rows(), artifacts=shown)
    nesting = Nesting()
    nesting.feed(text)
    assert not nesting.open
    cards = re.findall(r'<details class="card".*?</details>', text, re.S)
    assert [re.search(r'data-model="(.*?)"', card)[1] for card in cards] == ["OPC", "HeadOnly", "GradientAscent"]
    for card in cards:
        assert card.count("<svg") >= 2
        assert "forget_cka_original" in card
        assert "0.5" in card[card.index("Settings") :]
    assert cards[0].count("<img") == 6
    assert "Feature maps" in cards[0]
    assert "<img" not in cards[1]


def test_nothing_from_a_row_becomes_markup_and_nothing_is_fetched():
    evil = row("<script>alert(1)</script>", 0, 0.9, 0.9, scenario='"><u>x')
    text = page([evil], title="<i>t</i>", damaged=["<u>file</u>"])
    assert "<script>alert" not in text
    assert "<i>t" not in text
    assert "<u>file" not in text
    assert '"><u>x' not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)


def test_what_is_missing_or_left_out_is_a_note_on_the_page():
    found = [each for each in rows() if each.method != "Retrain"]
    found[0].versions["suite"] = "suite 1"
    text = page(found, damaged=["rows.json: row 3 is damaged"])
    assert "Left out: 1 row(s) of the suite &#39;suite 1&#39;; this table is of &#39;suite 2&#39;." in text
    assert "No Retrain of training seed 0, 1: its rows have no gap." in text
    assert "<b>Not read:</b> rows.json: row 3 is damaged" in text
    assert " notes: what was left out, and flags" not in text
    for number, each in enumerate(found):
        each.warnings = [f"something else {number}"]
    assert " notes: what was left out, and flags</summary>" in page(found), "many of them are folded"


def test_report_finds_the_artifacts_in_the_folders_of_the_runs_and_in_no_other(tmp_path):
    root, outside = tmp_path / "runs", tmp_path / "class" / "opc" / "run-OPC0"
    found = rows()
    folder = root / folder_of("class", "opc", "OPC0")
    shown = {"OPC": {"inversion/delta/pictures": ImageGrid(torch.rand(1, 1, 1, 2, 2), ["image"])}}
    for each in (folder, outside):
        each.mkdir(parents=True)
        write_artifacts(each / ARTIFACTS, shown)
    write_rows(root / "rows.json", found)
    target = tmp_path / "page.html"
    report([str(root), "--html", str(target), "--title", "All"])
    assert target.read_text().count("<img") == 1
    for each in found:
        each.benchmark["scenario"] = "../class" if each.method == "OPC" else "class"
    write_rows(root / "rows.json", found)
    report([str(root), "--html", str(target)])
    assert "<img" not in target.read_text()


def test_only_what_is_as_retrain_and_useful_is_drawn_as_such():
    (summary,) = summarise(rows())
    lines = {line.label: line for line in summary.lines}
    assert (lines["GradientAscent"].verdict.level, lines["OPC"].verdict.level) == ("ruined", "not attacked enough")
    assert scatter(summary).count("var(--c2") == 0
    near = replace(lines["OPC"], verdict=replace(lines["OPC"].verdict, level="as Retrain"))
    assert scatter(replace(summary, lines=[near])).count("var(--c2") > 0
    damaged = replace(near, verdict=replace(near.verdict, utility="damaged"))
    assert scatter(replace(summary, lines=[damaged])).count("var(--c2") == 0


def test_figures_are_files_of_their_own_a_scenario(tmp_path):
    write_rows(tmp_path / "rows.json", rows() + rows("random"))
    report([str(tmp_path), "--figures", str(tmp_path / "figures")])
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "class.svg"
    ]  # of random, depth is unknown
    text = (tmp_path / "figures" / "class.svg").read_text()
    assert text.startswith("<svg ")
    assert "prefers-color-scheme:dark" in text
    assert "HeadOnly" in text
    found = rows("../class")
    for each in found:
        each.split["forgotten_classes"] = [0]
    write_rows(tmp_path / "rows.json", found)
    report([str(tmp_path), "--figures", str(tmp_path / "figures")])
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["..-class.svg", "class.svg"]


def test_relearning_is_drawn_against_the_distance_of_the_weights_where_both_are_known(tmp_path):
    found = rows()
    assert resistance(summarise(found)[0]) == ""
    for each, ratio in zip(found, 2 * (0.0, 1.0, 0.4, 0.1, 0.5), strict=True):
        each.attacks |= {"representation/distance/retrain_ratio": ratio, "relearn/few/auc": 0.9 - 0.3 * ratio}
    write_rows(tmp_path / "rows.json", found)
    report([str(tmp_path), "--figures", str(tmp_path / "figures"), "--html", str(tmp_path / "page.html")])
    drawn = (tmp_path / "figures/class-distance.svg").read_text()
    assert "Distance from Original in the weights, % of Retrain" in drawn
    assert all(label in drawn for label in ("Original", "Retrain", "OPC", "HeadOnly"))
    assert "what is near Original was found to relearn soon" in (tmp_path / "page.html").read_text()
    assert "Relearnt, %" in drawn
    alone = [each for each in found if each.method in ("Original", "Retrain")]
    assert resistance(summarise(alone)[0]) == ""
    for each in found:
        each.split["forgotten_classes"] = []
        each.attacks |= {"relearn/few/forget_acc": 0.9, "relearn/few/test_retain_acc": 0.8}
    assert "Relearnt lead, %" in resistance(summarise(found)[0])


def test_depth_and_utility_are_drawn_against_cost_where_methods_were_run_for_several_numbers_of_epochs(tmp_path):
    found = rows()
    assert frontier(summarise(found)[0]) == ""
    for each in found:
        each.images_seen = 1000
    references = [each for each in found if each.method in ("Original", "Retrain")]
    for method, epochs, test, worst in (
        ("CT", 1, 0.86, 0.9),
        ("CT", 3, 0.9, 0.8),
        ("MSG", 1, 0.88, 0.62),
        ("MSG", 3, 0.9, 0.58),
        ("GradientAscent", 1, 0.3, 0.4),
    ):
        for seed in (0, 1):
            own = row(method, seed, test, worst)
            own.benchmark |= {"experiment": f"{method.lower()}@{epochs}", "key": f"{method}{epochs}{seed}"}
            own.images_seen = 100 * epochs
            references.append(own)
    write_rows(tmp_path / "rows.json", references)
    report([str(tmp_path), "--figures", str(tmp_path / "figures"), "--html", str(tmp_path / "page.html")])
    drawn = (tmp_path / "figures/class-cost.svg").read_text()
    assert "worst excess, points" in drawn
    assert all(label in drawn for label in (">CT<", ">MSG<", ">GradientAscent<"))
    assert "What more epochs buy" in (tmp_path / "page.html").read_text()
    assert "What more epochs buy" not in page(rows())


ACTIONS = """
const say = (name, value) => document.body.setAttribute("data-" + name, value);
const shown = () => [...document.querySelectorAll("section:not([hidden]) tr[data-model]:not([hidden])")];
const names = (root) => [...root.querySelectorAll("tr[data-model]")].map((line) => line.dataset.model).join(" ");
const set = (id, value, key = "value") => {
  const field = document.getElementById(id);
  field[key] = value;
  field.dispatchEvent(new Event("input"));
};
window.addEventListener("load", () => {
  say("first", document.getElementById("count").textContent);
  const board = document.querySelector(".board");
  const gap = [...board.querySelectorAll("th button")].find((button) => button.textContent.startsWith("Gap"));
  gap.click(); say("up", names(board));
  gap.click(); say("down", names(board)); say("sorted", gap.closest("th").getAttribute("aria-sort"));
  say("all", shown().length);
  set("scenario", "random"); say("random", shown().length);
  set("useful", true, "checked"); say("useful", shown().length); set("useful", false, "checked");
  set("text", "head"); say("text", shown().map((line) => line.dataset.model).join(" "));
  say("count", document.getElementById("count").textContent);
  set("scenario", ""); set("text", "");
  document.querySelector("a[data-card]").click();
  say("opened", document.querySelectorAll("details[open]").length);
  window.dispatchEvent(new Event("beforeprint"));
  say("printed", document.querySelectorAll("details:not([open])").length);
  const wide = [...document.querySelectorAll("figure svg")].filter((svg) => svg.getBoundingClientRect().width === 0);
  say("figures", document.querySelectorAll("figure svg").length + " " + wide.length);
});
"""


@needs_browser
@pytest.mark.timeout(180)
def test_a_browser_opens_the_page_without_a_complaint_sorts_filters_and_shows_every_figure(tmp_path: Path):
    path = tmp_path / "page.html"
    write_leaderboard(path, summarise(rows() + rows("random")), "Digits")
    digest = base64.b64encode(hashlib.sha256(ACTIONS.encode()).digest()).decode()
    text = path.read_text().replace("; script-src ", f"; script-src 'sha256-{digest}' ")  # beside the page's own script
    path.write_text(text.replace("</body>", f"<script>{ACTIONS}</script></body>"))
    dumped, log = open_page(path, tmp_path)
    assert "CONSOLE" not in log
    found = dict(re.findall(r'data-([a-z]+)="([^"]*)"', dumped[dumped.index("<body") :].partition(">")[0]))
    assert found == {
        "first": "10 rows shown",  # the page's policy lets its own script run
        "up": "Retrain HeadOnly OPC Original GradientAscent",
        "down": "GradientAscent Original OPC Retrain HeadOnly",
        "sorted": "descending",
        "all": "10",
        "random": "5",
        "useful": "4",
        "text": "Original Retrain HeadOnly",
        "count": "3 rows shown",
        "opened": "1",
        "printed": "0",
        "figures": found["figures"],
    }
    count, unseen = map(int, found["figures"].split())
    assert count == path.read_text().count("<svg")
    assert unseen == 0


def test_each_file_of_a_report_is_named_and_why_there_is_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, places = tmp_path / "out", {name: str(tmp_path / name) for name in ("t.md", "t.csv", "p.html", "figs")}
    words = ["--markdown", places["t.md"], "--csv", places["t.csv"], "--html", places["p.html"]]
    write_rows(root / "rows.json", [row("Original", 0, 0.9, 0.9), row("Retrain", 0, 0.9, 0.1), row("OPC", 0, 0.9, 0.2)])
    report([str(root), *words, "--figures", places["figs"]])
    said = capsys.readouterr().out
    files = [str(path) for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.parent != root]
    assert [f"Written to {path}\n" in said for path in files] == [True] * 4
    assert said.count("Written to ") == 4
    bare = [replace(each, attacks={}) for each in (row("Original", 0, 0.9, 0.9), row("Retrain", 0, 0.9, 0.1))]
    write_rows(root / "rows.json", bare)
    report([str(root), "--figures", places["figs"]])
    assert f"No figure in {places['figs']}: no method has both " in capsys.readouterr().out


@needs_browser
@pytest.mark.timeout(180)
def test_a_table_that_is_wider_than_the_window_says_so_and_is_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_leaderboard(path, summarise(rows()), "Digits")
    text = path.read_text()
    assert '<p class="hint" hidden>The table is wider than the window' in text
    assert "@page { size: landscape;" in text
    assert '<p class="hint">The table is wider' in open_page(path, tmp_path)[0]
    narrow = re.sub(r"<th scope=\"col\"><button.*?</th>|<td data-sort.*?</td>", "", text)
    path.write_text(narrow)
    assert '<p class="hint" hidden="">' in open_page(path, tmp_path)[0]
