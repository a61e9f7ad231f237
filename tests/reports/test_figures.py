import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from lit_unlearn.errors import UsageError
from lit_unlearn.reports.figures import (
    MAX_POINTS,
    Point,
    curve_groups,
    curves,
    feature_map,
    hidden_states,
    interval_plot,
    recovery_bars,
    spread,
    stage_groups,
    stage_lines,
    tradeoff,
)
from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.verdict import judge


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_bars_show_each_model_each_attack_and_each_number(original: Row, retrain: Row, shallow: Row) -> None:
    found = texts(recovery_bars([shallow, retrain, original]))
    for name in ("Original", "Retrain", "GA", "no attack", "recovery/worst", "relearn", "91.0", "91.7", "33.0", "0.0"):
        assert name in found
    assert found.index("recovery/worst") < found.index("relearn")


def test_bars_fall_back_to_the_forget_images(make_row: Callable[..., Row]) -> None:
    row = make_row("GA", (0.123, 0.9), {"recovery/worst": (0.456, 0.9)})
    assert {"12.3", "45.6"} <= set(texts(recovery_bars([row])))


def test_bars_leave_out_weak_attacks_and_say_how_many(make_row: Callable[..., Row]) -> None:
    attacks = {f"attack{i}": (i / 10, 1, i / 10, 1) for i in range(10)}
    row = make_row("GA", (0.0, 1, 0.0, 1), attacks)
    found = texts(recovery_bars([row]))
    assert "attack9" in found
    assert "attack0" not in found
    assert hidden_states([row]) == 4


def test_an_excess_that_is_cut_says_by_how_much(original: Row, retrain: Row, make_row: Callable[..., Row]) -> None:
    """The worst readout is 58 points above Retrain's, and the picture ends at 40; nothing else is cut."""
    attacks = {"recovery/worst": (0.91, 0.94, 0.91, 0.92), "relearn": (0.25, 0.93, 0.24, 0.92)}
    row = make_row("GA", (0.0, 0.94, 0.0, 0.92), attacks)
    verdict = judge(row, [original, retrain, row])
    (cut,) = [each for each in verdict.comparisons if each.high > 0.4]
    said = f"+58 [{100 * cut.low:+.0f}, {100 * cut.high:+.0f}]"
    assert [text for text in texts(interval_plot(verdict)) if "[" in text] == [said]


def test_nothing_measured_gives_no_figure() -> None:
    row = Row("GA", "diverged")
    assert recovery_bars([row]) == recovery_bars([]) == curves(row) == feature_map({}) == ""
    assert hidden_states([row]) == 0


def test_colours_follow_the_page_and_nothing_is_loaded(retrain: Row, shallow: Row) -> None:
    svg = recovery_bars([retrain, shallow])
    assert "currentColor" in svg
    assert "var(--c0, #d55e00)" in svg
    assert not re.search(r"fill: #(000000|ffffff)|black|white", svg)
    assert svg.startswith("<svg ")
    root = ET.fromstring(svg)
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib
    assert not re.search(r"https?://(?!www\.w3\.org/)|<script|<style|<image", svg)


def test_two_figures_share_no_id(retrain: Row, shallow: Row) -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', svg)) for svg in (recovery_bars([retrain]), curves(shallow)))
    assert first
    assert second
    assert not first & second


def test_a_drawing_holds_nothing_that_does_not_show(retrain: Row, shallow: Row) -> None:
    for svg in (recovery_bars([retrain, shallow]), curves(shallow)):
        defined, used = set(re.findall(r'\bid="([^"]+)"', svg)), set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
        assert defined == used
        assert not re.search(r"\n|> +<|\.\d{3}|rotate\(-?0 ", re.sub(r'id="[^"]*"', "", svg))
        assert svg.count("font-family") == 1


def test_the_same_rows_give_the_same_drawing(shallow: Row) -> None:
    assert recovery_bars([shallow]) == recovery_bars([shallow])


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "--><b>", "$x^2$", "$broken", 'a"b&c'])
def test_names_are_text_never_markup_or_mathematics(make_row: Callable[..., Row], name: str) -> None:
    row = make_row(name, (0.5,), {name: (0.5,)}, curves={name: [[0, 1.0], [1, 2.0]]})
    assert name in texts(recovery_bars([row]))
    assert name in texts(curves(row))
    assert name in texts(feature_map({name: (np.zeros((2, 2)), [name, "b"])}))


def test_accuracies_share_a_panel_and_the_rest_have_their_own(shallow: Row) -> None:
    assert curve_groups(shallow) == {"accuracy": ["forget_acc"], "train_loss": ["train_loss"]}
    assert {"accuracy", "train_loss"} <= set(texts(curves(shallow)))
    assert "accuracy" not in texts(curves(shallow, "train_loss"))


def test_a_malformed_curve_is_named() -> None:
    with pytest.raises(UsageError, match="curve 'loss'"):
        curves(Row("GA", "ok", curves={"loss": [[1.0, 2.0, 3.0]]}))


def test_the_map_draws_every_point_up_to_a_limit() -> None:
    def points(n: int) -> int:
        return feature_map({"GA": (np.arange(2 * n).reshape(n, 2), ["a"] * n)}).count("<use")

    few, more, many = points(2), points(12), points(3 * MAX_POINTS)
    assert more - few == 10
    assert many <= MAX_POINTS + few


def test_every_name_in_a_drawing_is_defined_once_and_in_no_other_drawing() -> None:
    points = np.arange(240).reshape(120, 2)
    svg = feature_map(
        {name: (points, ["a", "b", "c"] * 40) for name in ("GA", "SCRUB", 'id="figure_1" url(#figure_1)')}
    )
    assert 'id="figure_1" url(#figure_1)' in texts(svg)
    elements = list(ET.fromstring(svg).iter())
    assert sum(element.tag.endswith("}use") for element in elements) >= 360
    names = [element.attrib["id"] for element in elements if "id" in element.attrib]
    assert len(set(names)) == len(names)
    links = {value for element in elements for key, value in element.attrib.items() if key.endswith("href")}
    links |= {found for element in elements for found in re.findall(r"url\(([^)]*)\)", element.get("clip-path", ""))}
    assert links
    assert links <= {f"#{name}" for name in names}
    other = feature_map({"GA": (points[::-1] ** 2, ["a", "b", "c"] * 40)})
    assert not set(names) & set(re.findall(r' id="([^"]*)"', other))


def test_map_panels_share_a_scale_and_retained_points_are_grey() -> None:
    maps = {"Original": ([[0, 0], [1, 1]], ["retained", "bag"]), "GA": ([[0, 0], [0.1, 0.1]], ["retained", "bag"])}
    svg = feature_map(maps)
    assert {"Original", "GA", "retained", "bag"} <= set(texts(svg))
    x = [float(value) for value in re.findall(r'<use [^>]*x="([\d.]+)"', svg)]
    assert abs(x[3] - x[2]) < 0.2 * abs(x[1] - x[0])
    assert "var(--c7" in svg


@pytest.mark.parametrize(
    ("points", "names", "said"),
    [
        (np.zeros((3, 3)), ["a"] * 3, r"\(3, 3\)"),
        ([[0, float("nan")]], ["a"], "finite"),
        (np.zeros((3, 2)), ["a"], "3 points but 1 labels"),
    ],
)
def test_a_malformed_map_is_named(points: object, names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=f"feature map 'GA'.*{said}"):
        feature_map({"GA": (points, names)})


def test_figures_leave_matplotlib_as_it_was(shallow: Row) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    recovery_bars([shallow])
    assert dict(matplotlib.rcParams) == before


def test_forgotten_classes_have_colour_and_the_others_their_name_where_they_lie() -> None:
    names = [f"class {i}{' (forgotten)' * (i < 2)}" for i in range(6)]
    points = [[i, 10.0 * i] for i in range(6)]
    svg = feature_map(dict.fromkeys(("Original", "GA", "Retrain"), (points, names)))
    found = texts(svg)
    assert found.count("class 0 (forgotten)") == found.count("retained") == 1  # in the legend
    assert found.count("class 4") == 3  # in each panel
    dots = re.findall(r"var\(--c(\d)", svg)
    assert {"0", "1", "7"} <= set(dots)
    assert "2" not in dots


def test_a_long_name_of_a_class_is_cut_before_what_says_that_it_is_forgotten() -> None:
    names = ["T-shirt/top (forgotten)", "a class of a very long name (forgotten)", "a retained class of a long name"]
    found = texts(feature_map({"GA": ([[0, 0], [1, 1], [2, 3]], names)}))
    assert {"T-shirt/top (forgotten)", "a class of… (forgotten)"} <= set(found)


def staged(row: Row, **values: list[float]) -> Row:
    for quantity, numbers in values.items():
        row.attacks |= {f"representation/stages/stage{i}/{quantity}": value for i, value in enumerate(numbers)}
    return row


def test_lines_by_stage_stand_beside_the_references(original: Row, retrain: Row, shallow: Row) -> None:
    rows = [
        staged(original, cka=[1.0, 1.0, 1.0]),
        staged(retrain, cka=[0.9, 0.5]),
        staged(shallow, cka=[0.8, 0.7, 0.6]),
    ]
    shallow.attacks |= {"representation/map/explained": 0.5, "representation/idi/stem/bits": 0.5}
    shallow.attacks |= {f"recovery/worst/{split}/knn": 0.5 for split in ("forget_acc", "retain_acc", "test_forget_acc")}
    shallow.attacks |= {f"recovery/worst/{group}/test_forget_acc": 0.5 for group in ("stages", "told")}
    assert stage_groups(shallow, rows) == {"representation/stages": ["cka"]}
    svg = stage_lines(shallow, rows, "representation/stages", "cka")
    found = texts(svg)
    assert found[-1] == "cka"
    assert [text for text in found if text.startswith("stage")] == ["stage0", "stage1", "stage2"]
    shapes = Counter(re.findall(r'<use [^>]*href="([^"]*)"', svg))
    assert sorted(shapes.values()) == [2, 3, 3]  # Retrain's third stage is a gap
    assert "1.00" in found


REFERENCES = [Point("Original", 91, 92), Point("Retrain", 93, 85), Point("Method", 92, 88)]


def ticks(svg: str) -> list[float]:
    return [float(text.replace("\u2212", "-")) for text in re.findall(r">([\d.\u2212]+)</text>", svg)]


def test_a_ruined_model_does_not_stretch_the_picture_and_says_where_it_lies() -> None:
    alone = tradeoff(REFERENCES, "TA", "worst")
    with_it = tradeoff([*REFERENCES, Point("Ruined", 29.2, -0.3, 9, 9, damaged=True)], "TA", "worst")
    assert ticks(with_it) == ticks(alone)
    assert min(ticks(alone)) > 80
    assert ">Ruined (29, 0)<" in with_it
    assert ">Method<" in with_it
    useful = tradeoff([*REFERENCES, Point("Ruined", 29.2, -0.3)], "TA", "worst")
    assert min(ticks(useful)) < 30
    assert ">Ruined<" in useful


def test_a_ruined_model_within_the_picture_is_drawn_where_it_is() -> None:
    svg = tradeoff([*REFERENCES, Point("Ruined", 91.5, 87, damaged=True)], "TA", "worst")
    assert ">Ruined<" in svg


def test_where_all_are_ruined_the_picture_shows_all() -> None:
    svg = tradeoff([Point("A", 20, 30, damaged=True), Point("B", 40, 50, damaged=True)], "TA", "worst")
    assert {">A<", ">B<"} <= set(re.findall(">[AB]<", svg))
    assert svg.count("<use ") == tradeoff([Point("A", 20, 30), Point("B", 40, 50)], "TA", "worst").count("<use ")


def test_labels_keep_apart_and_inside_of_the_picture() -> None:
    places = spread([0.4, 0.92, 0.97, 1.0], 0.1)
    assert places[0] == pytest.approx(0.4)
    assert all(later - before >= 0.1 - 1e-9 for before, later in itertools.pairwise(places))
    assert max(places) <= 1
    assert min(spread([-0.2, 0.0, 0.5], 0.1)) >= 0


def test_a_wide_span_is_logarithmic_and_a_negative_one_is_not(shallow: Row) -> None:
    staged(shallow, variance=[1e-9, 1e-3, 10.0], bits=[-0.1, 0.5, 1000.0])
    found = texts(stage_lines(shallow, [shallow], "representation/stages", "variance"))
    assert any(text.startswith("1e-") for text in found)
    assert not any("math" in text for text in found)
    assert "0" in texts(stage_lines(shallow, [shallow], "representation/stages", "bits"))
