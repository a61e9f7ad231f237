import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lit_unlearn.benchmark.command import report
from lit_unlearn.benchmark.failures import Failure, with_failures
from lit_unlearn.benchmark.gathering import add_verdicts, compact
from lit_unlearn.benchmark.placing import insert_texts
from lit_unlearn.benchmark.summary import Value, summarise
from lit_unlearn.benchmark.tables import comma_separated, markdown, terminal_tables, text_of
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, write_rows


def row(method, seed, test=0.9, experiment="x", scenario="class", status="ok", forget=0.0, **attacks):
    told = {"key": f"{method}{seed}", "scenario": scenario, "experiment": experiment, "seeds": {"original": seed}}
    metrics = {"forget_acc": forget, "retain_acc": 1.0, "test_retain_acc": test, "test_forget_acc": 0.0}
    counts = {"forget": 4000, "test_forget": 2000, "test_retain": 8000}
    split = {"hash": scenario, "forgotten_classes": [0, 1] if scenario == "class" else [], "counts": counts}
    return Row(
        method, status, metrics=metrics, attacks=attacks, benchmark=told, split=split, seconds={"unlearn": 10.0 + seed}
    )


def numbers(summary, label):
    (line,) = [line for line in summary.lines if line.label == label]
    return {column.title: value for column, value in zip(summary.columns, line.values, strict=True)}


def test_mean_and_deviation_are_over_seeds_and_the_gap_is_to_the_retrain_of_the_same_seed():
    rows = [row("OPC", 0, 0.8), row("OPC", 1, 0.7), row("Retrain", 0, 0.86), row("Retrain", 1, 0.94)]
    rows += [row("Original", seed, 0.9, forget=1.0) for seed in (0, 1)]
    (summary,) = summarise(rows)
    assert [line.label for line in summary.lines] == ["Original", "Retrain", "OPC"]
    opc = numbers(summary, "OPC")
    assert (opc["TA"].mean, opc["TA"].std, opc["TA"].n) == (pytest.approx(75), pytest.approx(50**0.5), 2)
    assert opc["Gap (UA, RA, TA)"].mean == pytest.approx((6 / 3 + 24 / 3) / 2)
    assert numbers(summary, "Original")["UA"].mean == 0
    assert opc["Seconds"].mean == 10.5
    assert "FM test forgotten" not in opc
    assert not summary.notes


def test_models_of_one_original_count_once_in_the_mean_as_in_the_verdict():
    rows = [row("OPC", 0, 0.9), row("OPC", 1, 0.94), row("Retrain", 0, 0.95), row("Retrain", 1, 0.95)]
    for seed in (1, 2, 3):
        again = row("OPC", 0, 0.9)
        again.benchmark["seeds"] = {"original": 0, "method": seed}
        rows.append(again)
    (summary,) = summarise(rows)
    opc = numbers(summary, "OPC")["TA"]
    assert (opc.mean, opc.std, opc.n) == (pytest.approx(92), pytest.approx(2 * 2**0.5), 2)
    (line,) = [line for line in summary.lines if line.label == "OPC"]
    assert line.verdict.models == opc.n
    assert line.verdict.lost["Retrain"].mean == pytest.approx(-opc.delta / 100)


def test_no_line_is_as_retrain_of_which_a_run_has_left_no_row():
    attacks = {
        **{"recovery/worst/test_forget_acc": 0.6, "recovery/worst/stages/test_forget_acc": 0.6},
        **{"relearn/few/auc": 0.4, "relearn/few/test_forget_acc": 0.5, "detectability/samples/test_forget_auc": 0.5},
    }
    rows = [row("OPC", seed, **attacks) for seed in (0, 1)]
    rows += [row("Retrain", seed, **{name: value + 0.1 for name, value in attacks.items()}) for seed in range(5)]
    rows += [row("Original", 0, forget=1.0, **dict.fromkeys(attacks, 1.0))]
    add_verdicts(rows)
    assert rows[0].verdict["level"] == "as Retrain"
    lost = [Failure("class", "x", 1, 3, ["out of memory"])]
    add_verdicts(rows, lost)
    assert rows[0].verdict["level"] == "inconclusive"
    assert rows[0].verdict["reason"].endswith("1 run of the method did not end: no claim is made on those that did.")
    add_verdicts(rows, [Failure("random", "x", 1, 3, ["of another scenario"])])
    assert rows[0].verdict["level"] == "as Retrain"
    (summary,) = with_failures(summarise(rows), lost, rows)
    assert [line.title for line in summary.lines if line.verdict] == ["Inconclusive"]


def test_a_line_says_of_how_many_numbers_the_upper_bound_is_below_the_margin():
    def attacks(share):
        names = ("recovery/worst", "recovery/fm", "relearn/few")
        return dict(zip((f"{name}/test_forget_acc" for name in names), share, strict=True)) | {"relearn/few/auc": 0.4}

    rows = [row("OPC", seed, **attacks((0.6, 0.9, 0.5))) for seed in range(3)]
    rows += [row("Retrain", seed, **attacks((0.6, 0.6, 0.5))) for seed in range(8)]
    rows += [row("Original", 0, forget=1.0, **attacks((1.0, 1.0, 1.0)))]
    (summary,) = summarise(rows)
    (line,) = (line for line in summary.lines if line.verdict)
    not_below = [each.attack for each in line.verdict.comparisons if not each.as_retrain]
    assert not_below == ["recovery/fm"]
    assert line.below == f"{len(line.verdict.comparisons) - 1} of {len(line.verdict.comparisons)}" == "3 of 4"
    assert [line.below for line in summary.lines if not line.verdict] == ["", ""]
    headings, _, *cells = ([cell.strip() for cell in text.split("|")] for text in markdown(summary).splitlines())
    place = headings.index("Bounds below margin")
    assert [each[place] for each in cells] == ["–", "–", "3 of 4"]


def test_every_row_of_a_method_gets_the_verdict_on_all_its_models_and_stays_small(tmp_path):
    attacks = {"recovery/worst/test_forget_acc": 0.123456789, "recovery/worst/test_forget_acc/hr_raw": 0.1}
    rows = [row("OPC", seed, **attacks) for seed in (0, 1)] + [row("Retrain", seed, **attacks) for seed in (0, 1)]
    rows = [compact(each, tmp_path) for each in [*rows, row("Original", 0, forget=1.0)]]
    add_verdicts(rows)
    assert rows[0].attacks == {"recovery/worst/test_forget_acc": 0.123457}, "six digits, and no single readout"
    assert rows[0].verdict == rows[1].verdict
    assert (rows[0].verdict["models"], rows[0].verdict["retrains"]) == (2, 2)
    assert rows[0].verdict["intervals"]["recovery/worst"]["excess"] == 0
    assert not rows[2].verdict


def test_cost_is_a_share_of_the_retrain_of_the_same_seed():
    rows = [row("OPC", seed) for seed in (0, 1)] + [row("Retrain", seed) for seed in (0, 1)]
    for each, images in zip(rows, (500, 700, 1000, 1000), strict=True):
        each.images_seen = images
    rows[0].seconds["unlearn"] = 5.0
    (summary,) = summarise(rows)
    opc = numbers(summary, "OPC")
    assert (opc["Images seen"].mean, opc["Images seen"].delta) == (pytest.approx(60), None)
    assert opc["Time"].mean == pytest.approx(100 * (5 / 10 + 11 / 11) / 2)
    assert numbers(summary, "Retrain")["Images seen"].mean == 100
    assert "60 ± 14" in markdown(summary)


def test_two_experiments_of_one_method_have_their_own_lines_and_scenarios_are_tables_of_their_own():
    rows = [row("OPC", 0, experiment="opc"), row("OPC", 0, experiment="opc_deep"), row("OPC", 0, scenario="random")]
    first, second = summarise(rows)
    assert [line.label for line in first.lines] == ["OPC (opc)", "OPC (opc_deep)"]
    assert [line.label for line in second.lines] == ["OPC"]
    assert "Test forgotten" in [column.title for column in first.columns]
    assert "Test forgotten" not in [column.title for column in second.columns]


def test_a_run_that_diverged_gives_no_number_and_is_counted():
    rows = [row("GA", 0, 0.5), row("GA", 1, 0.1, status="diverged"), row("GA", 2, 0.7)]
    (summary,) = summarise(rows)
    assert numbers(summary, "GA")["TA"].mean == pytest.approx(60)
    assert summary.lines[0].note == "1 of 3 diverged"
    assert "| GA [1 of 3 diverged] |" in markdown(summary)
    alone = summarise([row("GA", 0, status="diverged")])[0]
    assert not alone.columns


def test_a_flag_of_all_methods_names_none_of_them():
    rows = [row("Retrain", 0), row("Original", 0, forget=1.0), row("OPC", 0), row("SCRUB", 0, experiment="y")]
    for each in rows[2:]:
        each.flags["cut short"] = "training ended early"
    rows[3].flags["small change"] = "hardly changed"
    (summary,) = summarise(rows)
    assert "All methods: Flag, cut short: training ended early." in summary.notes
    assert "SCRUB: Flag, small change: hardly changed." in summary.notes


def test_a_missing_retrain_and_mixed_commits_are_notes():
    rows = [row("OPC", 0), row("OPC", 1), row("Retrain", 0)]
    rows[0].commit, rows[1].commit, rows[2].commit = "a" * 40, "b" * 40, "b" * 40 + "+changes"
    (summary,) = summarise(rows)
    assert summary.notes[0] == "No Retrain of training seed 1: its rows have no gap."
    assert summary.notes[1] == "No Original: the loss of utility is unknown."
    assert summary.notes[2] == f"The rows come from 3 commits: {'a' * 12}, {'b' * 12}, {'b' * 12}+changes."
    assert numbers(summary, "OPC")["Gap (UA, RA, TA)"].n == 1


def test_the_three_forms_hold_the_same_numbers():
    rows = [row("OPC", 0, 0.8, **{"recovery/fm/test_forget_acc": 0.354}), row("OPC", 1, 0.7)]
    (summary,) = summarise(rows)
    table = markdown(summary).splitlines()
    assert table[0] == "| Model | Verdict | UA ≈ | RA ↑ | TA ↑ | Test forgotten ≈ | FM test forgotten ↓ | Seconds ↓ |"
    assert table[2] == "| OPC | Not judged | 100.0 ± 0.0 | 100.0 ± 0.0 | 75.0 ± 7.1 | 0.0 ± 0.0 | 35.4 | 10 ± 1 |"
    read = {line["quantity"]: line for line in csv.DictReader(io.StringIO(comma_separated([summary])))}
    assert (float(read["TA"]["mean"]), read["TA"]["n"]) == (pytest.approx(75), "2")
    assert (read["FM test forgotten"]["std"], read["FM test forgotten"]["n"]) == ("", "1")
    console = Console(file=io.StringIO(), width=200)
    console.print(*terminal_tables(summary, 200))
    assert "75.0 ± 7.1" in console.file.getvalue()
    assert text_of(None, "%") == "–"


def test_report_prints_writes_and_refuses_a_page_without_a_place(tmp_path, capsys):
    write_rows(tmp_path / "rows.json", [row("OPC", 0), row("Retrain", 0)])
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table: class -->\nold\n<!-- /table -->\nbelow\n")
    report([str(tmp_path), "--markdown", str(page), "--csv", str(tmp_path / "all.csv")])
    assert "Retrain" in capsys.readouterr().out
    text = page.read_text()
    assert text.startswith("above\n<!-- table: class -->\n| Model |")
    assert text.endswith("|\n<!-- /table -->\nbelow\n")
    assert "old" not in text
    assert (tmp_path / "all.csv").read_text().startswith("data,scenario,model,")
    report([str(tmp_path), "--markdown", str(page)])
    assert page.read_text() == text
    report([str(tmp_path), "--markdown", str(tmp_path / "new.md")])
    assert (tmp_path / "new.md").read_text() == text.removeprefix("above\n").removesuffix("below\n")
    kept = (tmp_path / "rows.json").read_bytes()
    for option in ("html", "csv", "markdown"):
        with pytest.raises(UsageError, match=rf"{option}: .*rows\.json is there already, and no \.{option[0]}"):
            report([str(tmp_path), f"--{option}", str(tmp_path / "rows.json")])
    assert (tmp_path / "rows.json").read_bytes() == kept
    with pytest.raises(UsageError, match=f"{tmp_path}: is no file that a table can be put into"):
        insert_texts(tmp_path, "table", [("class", "|")])
    with pytest.raises(UsageError, match="has no place for a table: <!-- table: random -->"):
        insert_texts(page, "table", [("random", "|")])
    with pytest.raises(UsageError, match="one place for the scenario 'class', and the rows are of two data sets"):
        insert_texts(page, "table", [("class", "|"), ("class", "|")])
    with pytest.raises(UsageError, match="of no benchmark"):
        summarise([Row("OPC", "ok")])


def test_rows_of_another_suite_or_data_set_are_never_averaged_with_these():
    rows = [row("OPC", seed, 0.8, **{"recovery/fm/test_forget_acc": 0.2}) for seed in (0, 1)]
    rows.append(row("OPC", 2, 0.2, **{"recovery/fm/test_forget_acc": 0.9}))
    for each, suite in zip(rows, ("suite 2", "suite 2", "suite 1"), strict=True):
        each.versions["suite"] = suite
        each.data["source"] = "Digits"
    rows.append(replace(rows[0], data={"source": "Digits", "train": 1437}))
    first, second = summarise(rows)
    assert (first.title, second.title) == ("Digits, class", "Digits (1,437 images), class")
    assert (first.suite, numbers(first, "OPC")["TA"].mean, len(first.lines[0].rows)) == ("suite 2", 80, 2)
    assert first.notes[0] == "Left out: 1 row(s) of the suite 'suite 1'; this table is of 'suite 2'."


def test_rows_of_other_images_have_a_table_of_their_own():
    rows = [
        replace(row(method, 0), data={"source": "Digits", "sha256": name * 64})
        for name in "ab"
        for method in ("OPC", "Retrain")
    ]
    found = summarise(rows)
    assert [summary.title for summary in found] == [
        "Digits, images aaaaaaaaaaaa, class",
        "Digits, images bbbbbbbbbbbb, class",
    ]
    assert [[line.label for line in summary.lines] for summary in found] == [["Retrain", "OPC"]] * 2


def test_each_suite_has_a_table_of_its_own():
    rows = [row(method, 0, 0.8, **{"recovery/fm/test_forget_acc": 0.2}) for method in ("OPC", "Retrain")]
    for each in rows:
        each.versions["suite"] = "suite 3"
    others = [replace(each, versions={"suite": version}) for each in rows for version in ("quick 1", "quick 2", None)]
    ruined = replace(rows[0], method="DELETE", status="diverged", attacks={}, versions={})
    found = summarise([*rows, *others, ruined])
    assert [summary.title for summary in found] == ["class, suite 3", "class, quick 2", "class, no named suite"]
    for summary in found:
        assert [line.label for line in summary.lines] == ["Retrain", "OPC", "DELETE"]
        assert all(len(line.rows) == 1 for line in summary.lines)
    assert found[1].notes[0] == "Left out: 2 row(s) of the suite 'quick 1'; this table is of 'quick 2'."


def test_a_damaged_row_is_left_out_and_named_after_everything_is_written(tmp_path, capsys):
    path = tmp_path / "rows.json"
    write_rows(path, [row("OPC", 0), row("Retrain", 0)])
    told = json.loads(path.read_text())
    told["rows"][0]["metrics"]["forget_acc"] = "half"
    path.write_text(json.dumps(told))
    page = tmp_path / "page.html"
    with pytest.raises(UsageError, match=r"1 row\(s\) could not be read and are not in the tables; .*rows.json"):
        report([str(tmp_path), "--html", str(page)])
    assert "OPC" not in capsys.readouterr().out
    assert "Not read:" in page.read_text()


def test_the_distance_to_retrain_is_of_the_same_seed_and_ranks_skip_what_is_of_no_use():
    def worst(method, seed, test, depth):
        return row(method, seed, test, **{"recovery/worst/test_forget_acc": depth})

    rows = [worst("Original", seed, 0.9, 0.95) for seed in (0, 1)]
    rows += [worst("Retrain", 0, 0.9, 0.6), worst("Retrain", 1, 0.9, 0.8)]
    rows += [worst("OPC", 0, 0.89, 0.5), worst("OPC", 1, 0.89, 0.6)]
    rows += [worst("HeadOnly", seed, 0.9, 0.95) for seed in (0, 1)]
    rows += [worst("Ruin", seed, 0.1, 0.1) for seed in (0, 1)]
    (summary,) = summarise(rows)
    assert numbers(summary, "OPC")["Worst test forgotten"].delta == pytest.approx(-15)
    assert numbers(summary, "Retrain")["Worst test forgotten"].delta is None
    assert numbers(summary, "OPC")["Gap (UA, RA, TA)"].delta is None
    places = {line.label: (line.gap_rank, line.depth_rank) for line in summary.lines}
    none = (None, None)
    assert places == {"Original": none, "Retrain": none, "OPC": (2, 1), "HeadOnly": (1, 2), "Ruin": none}


def test_what_has_not_forgotten_has_no_rank_by_depth_whatever_an_attack_gets():
    def depth(method, forget, worst):
        return row(method, 0, 0.9, forget=forget, **{"recovery/worst/test_forget_acc": worst})

    rows = [depth("Original", 1.0, 0.95), depth("Retrain", 0.0, 0.6), depth("FineTune", 0.95, 0.1)]
    for each in (rows[0], rows[2]):
        each.metrics["test_forget_acc"] = 0.9
    (summary,) = summarise([*rows, depth("OPC", 0.0, 0.6), depth("HeadOnly", 0.0, 0.9)])
    found = {line.label: (line.verdict.level, line.depth_rank) for line in summary.lines if line.verdict}
    assert found == {"FineTune": ("not forgotten", None), "OPC": ("not attacked enough", 1), "HeadOnly": ("leaks", 2)}
    table = markdown(summary)
    assert "| HeadOnly | Leaks | +30.0 (" in table
    assert ") recovery/worst | 1 of 2 | 100.0" in table
    assert all(line.gap_rank for line in summary.lines if line.verdict)


def test_what_only_the_whole_suite_measures_has_columns_where_it_was_run():
    numbers_of_suite = {
        "relearn/few/auc": 0.5,
        "representation/idi/index": 0.25,
        "inversion/delta/psnr": 12.34,
        "detectability/samples/forget_auc": 0.7,
        "detectability/samples/test_forget_auc": 0.8,
    }
    alike = row(
        "CT", 0, scenario="random", **{"relearn/few/mean_forget_acc": 0.9, "relearn/few/mean_test_retain_acc": 0.5}
    )
    alike.metrics["test_matched_acc"] = 0.8
    alike.attacks["relearn/few/mean_test_matched_acc"] = 0.87
    by_class, single = summarise(
        [
            row("OPC", 0, **numbers_of_suite),
            row("OPC", 0, scenario="random", **{"detectability/samples/forget_auc": 0.7}),
            row("GA", 0, scenario="random", **{"relearn/few/forget_acc": 0.9, "relearn/few/test_retain_acc": 0.84}),
            alike,
        ]
    )
    found = numbers(by_class, "OPC")
    assert [found[name].mean for name in ("Relearnt", "IDI", "Inverted", "Detected")] == pytest.approx(
        [50, 25, 12.34, 80]
    )
    assert "| 50.0 | 25.0 | 12.3 | 80.0 |" in markdown(by_class)
    assert numbers(single, "OPC")["Detected"].mean == pytest.approx(70)
    assert "Relearnt" not in numbers(single, "OPC"), "the useful accuracy says nothing of single images"
    assert numbers(single, "OPC")["Relearnt lead"] is None
    assert numbers(single, "GA")["Relearnt lead"].mean == pytest.approx(6)
    assert numbers(single, "CT")["Relearnt lead"].mean == pytest.approx(3), (
        "over unseen images of the same class shares"
    )


def test_weights_below_the_root_are_named_from_there(tmp_path):
    model = row("OPC", 0)
    for given, kept in ((tmp_path / "pretrain/a.pt", "pretrain/a.pt"), ("elsewhere/a.pt", "elsewhere/a.pt")):
        made = compact(replace(model, weights={"source": str(given), "sha256": "0"}), tmp_path)
        assert made.weights == {"source": kept, "sha256": "0"}
    assert compact(model, Path(".")).weights == model.weights


@pytest.mark.parametrize(("lead", "shown"), [(0.2, True), (0.01, False)])
def test_idi_is_shown_only_where_a_verdict_compares_it(lead: float, shown: bool):
    def told(bits: float) -> dict[str, float]:
        idi = "representation/idi"
        return {f"{idi}/index": 1.0, f"{idi}/error": 0.1, f"{idi}/lead_error": 0.1, f"{idi}/head/bits": bits}

    rows = [
        row("Original", 0, forget=1.0, **told(0.5 + lead)),
        row("Retrain", 0, **told(0.5)),
        row("OPC", 0, **told(0.6)),
    ]
    (summary,) = summarise(rows)
    assert ("IDI" in numbers(summary, "OPC")) is shown
    assert any(note.startswith("IDI is not shown") for note in summary.notes) is not shown


def test_a_narrow_terminal_gets_the_table_in_pieces_and_no_number_is_cut():
    rows = [row("BoundaryExpanding", seed, 0.8, **{"recovery/fm/test_forget_acc": 0.354}) for seed in (0, 1)]
    (summary,) = summarise(rows)
    console = Console(file=io.StringIO(), width=60)
    pieces = terminal_tables(summary, console.width)
    console.print(*pieces)
    said = console.file.getvalue()
    assert len(pieces) > 1
    assert said.count("BoundaryExpanding") == len(pieces)
    assert all(text in said for text in ("100.0 ± 0.0", "80.0 ± 0.0", "35.4 ± 0.0", "10 ± 1"))
    assert max(map(len, said.splitlines())) <= 60
    assert (said.count("class"), said.count("No Retrain")) == (1, 1)
    assert len(terminal_tables(summary, 400)) == 1


def test_a_heading_goes_over_several_lines_and_is_never_cut():
    attacks = {f"recovery/{name}/forget_acc": 1.0 for name in ("fm", "hr", "worst")}
    attacks |= {"recovery/worst/gap": 0.1, "detectability/samples/forget_auc": 0.6}
    (summary,) = summarise([row(name, 0, scenario="random", **attacks) for name in ("OPC", "GradientAscent")])
    for width in range(60, 160, 5):
        console = Console(file=io.StringIO(), width=width)
        console.print(*terminal_tables(summary, width))
        assert "…" not in console.file.getvalue(), width
        assert max(map(len, console.file.getvalue().splitlines())) <= width


def test_a_warning_is_said_once_with_the_models_that_it_is_of():
    rows = [row("OPC", 0), row("SSD", 0), row("Retrain", 0), row("Original", 0)]
    rows[0].warnings = ["Original names only 21 % of its own training images", "training ended after 1 of 3 epochs"]
    rows[1].warnings = rows[0].warnings[:1]
    (summary,) = summarise(rows)
    said = [
        "OPC, SSD: Original names only 21 % of its own training images.",
        "OPC: training ended after 1 of 3 epochs.",
    ]
    assert [note for note in summary.notes if "OPC" in note] == said


def test_another_network_and_another_split_are_tables_of_their_own():
    rows = [row("OPC", 0, 0.8), row("Retrain", 0), row("OPC", 1, 0.6), row("Retrain", 1)]
    for each in rows:
        each.backbone = {"class": "ResNet8"}
    rows[2].backbone = rows[3].backbone = {"class": "ResNet18"}
    first, second = summarise(rows)
    assert (first.title, second.title) == (", ResNet8, class", ", ResNet18, class")
    assert numbers(first, "OPC")["TA"].n == 1
    for each in rows:
        each.backbone = {}
    rows[2].split = rows[3].split = {**rows[2].split, "hash": "another"}
    first, second = summarise(rows)
    assert (first.title, second.title) == (", split class, class", ", split another, class")
    assert numbers(second, "OPC")["TA"].mean == pytest.approx(60)


def test_rows_at_other_settings_than_most_are_left_out_and_named():
    rows = [row("OPC", seed, test) for seed, test in enumerate((0.5, 0.8, 0.8))]
    for each, weight in zip(rows, (3.0, 1.0, 1.0), strict=True):
        each.hyperparameters = {"weight": weight}
        schedule = {"class": "CosineAnnealingLR", "last_epoch": each.benchmark["seeds"]["original"]}
        each.optimizer = {"lr": 0.1, "lr_scheduler": schedule}
    del rows[2].hyperparameters["weight"]  # an older row, from before there was this option
    (summary,) = summarise(rows)
    assert (numbers(summary, "OPC")["TA"].mean, numbers(summary, "OPC")["TA"].n) == (pytest.approx(80), 2)
    assert "Left out: 1 row(s) of OPC (x) at other settings than most of its rows." in summary.notes


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert [text_of(Value(mean, None, 1), "%") for mean in (-0.04, 0.04, -0.06)] == ["0.0", "0.0", "-0.1"]
