import io
from collections.abc import Callable

from rich.console import Console

from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.table import plain_table, results_table


def shown(rows: list[Row], width: int = 120) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width).print(results_table(rows))
    return written.getvalue().splitlines()


def cells(rows: list[Row]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in shown(rows) if line.startswith("│")]


def test_references_come_first_and_each_attack_has_its_line(original: Row, retrain: Row, shallow: Row) -> None:
    assert cells([shallow, retrain, original]) == [
        ["Original", "no attack", "93.0", "94.0", "91.0", "92.6"],
        ["", "recovery/worst", "93.0", "94.0", "91.7", "92.0"],
        ["Retrain", "no attack", "0.0", "95.0", "0.0", "93.7"],
        ["", "recovery/worst", "33.0", "93.0", "33.0", "92.0"],
        ["", "relearn", "25.0", "93.0", "24.0", "92.0"],
        ["GA", "no attack", "0.0", "93.0", "0.0", "92.0"],
        ["", "recovery/worst", "90.0", "90.0", "91.0", "90.0"],
        ["", "relearn", "25.0", "93.0", "24.0", "92.0"],
    ]
    text = "\n".join(shown([shallow, retrain, original]))
    assert "33.3 %" in text
    assert "No " not in text


def test_a_narrow_terminal_breaks_names_of_attacks_between_their_words(make_row: Callable[..., Row]) -> None:
    row = make_row("GA", (0.0, 0.9, 0.0, 0.9), {"recovery/worst/within_forget_classes": (0.5, None, 0.5, None)})
    for width in (62, 70, 80, 200):
        lines = [line.split("│")[2].strip() for line in shown([row], width) if line.startswith("│")]
        assert "".join(lines[1:]) == "recovery/worst/within_forget_classes"
        assert all(line[-1] in "/_" for line in lines[1:-1]), lines
        assert len(lines) == 2 or width < 200


def test_of_several_retrains_the_mean_is_shown_and_says_of_how_many_it_is(make_row: Callable[..., Row]) -> None:
    models = [
        make_row("Retrain", (0.0, 0.9, 0.0, accuracy), seed=seed) for seed, accuracy in enumerate((0.9, 0.92, 0.97))
    ]
    assert cells([*models, make_row("GA", (0.0, 0.9, 0.0, 0.9))]) == [
        ["Retrain (mean of 3)", "no attack", "0.0", "90.0", "0.0", "93.0"],
        ["GA", "no attack", "0.0", "90.0", "0.0", "90.0"],
    ]


def test_the_unknown_is_a_dash_and_the_failed_is_marked() -> None:
    lines = cells([Row("GA", "diverged", reason="loss was nan [bold]")])
    assert lines == [["GA", "no attack", *["\N{EN DASH}"] * 4], ["", "diverged: loss was nan [bold]", "", "", "", ""]]


def test_missing_references_are_named(original: Row, retrain: Row, shallow: Row) -> None:
    assert "No Original and no Retrain row" in "\n".join(shown([shallow]))
    assert "No Retrain row" in "\n".join(shown([shallow, original]))
    elsewhere = Row("Retrain", "ok", split={"hash": "other"})
    assert "No Original and no Retrain row" in "\n".join(shown([shallow, original, elsewhere]))
    assert "No Original and no Retrain row" in "\n".join(shown([]))


def test_nothing_is_cut_on_a_narrow_terminal(original: Row, retrain: Row) -> None:
    original.attacks["recovery/a_name_that_is_much_too_long/forget_acc"] = 0.5
    text = "\n".join(shown([original, retrain], width=80))
    assert "…" not in text
    assert all(number in text for number in ("93.0", "91.7", "33.0"))


def test_the_text_has_table_and_verdict(original: Row, retrain: Row, shallow: Row) -> None:
    text = plain_table([shallow, retrain, original])
    assert all(number in text for number in ("91.7", "33.0", "93.7"))
    last = text.splitlines()[-1]
    assert last.startswith("GA: Leaks. The model still shows what it was to forget. recovery/worst classifies 91.0 %")
    assert text.count("Leaks") == 1
    assert "\x1b" not in plain_table([Row("\x1b[2J", "ok"), original])


def test_attacks_that_were_left_out_are_named_below_the_table(original: Row, retrain: Row, shallow: Row) -> None:
    shallow.skipped = {"recovery/fm": "it needs the original model", "membership/lira": UNDEFINED}
    original.skipped = retrain.skipped = {"membership/u_lira": "it needs 3 Retrains"}
    text = plain_table([original, retrain, shallow])
    name = shallow.method
    assert f"{name}: recovery/fm was not run: it needs the original model.\n" in text
    assert f"{name}: membership/lira has undefined numbers: a, b, c and 1 more.\n" in text
    assert "u_lira" not in text
    shallow.attacks["membership/lira/b"] = 0.5
    assert "membership/lira" not in plain_table([original, retrain, shallow]).split("Leaks.")[1], "none that counts"
    shallow.skipped["membership/lira"] = "undefined: membership/lira/a, membership/lira/auc"
    assert "membership/lira has undefined numbers: auc.\n" in plain_table([original, retrain, shallow])
    shallow.skipped["membership/lira"] = "undefined: membership/lira/a, membership/lira/forgotten_before_acc"
    assert "undefined numbers: forgotten_before_acc.\n" in plain_table([original, retrain, shallow])
    shallow.status, shallow.reason = "diverged", "the loss"
    assert "was not run" not in plain_table([original, retrain, shallow]), "one reason is enough"


UNDEFINED = "undefined: membership/lira/a, membership/lira/b, membership/lira/c, membership/lira/d"
