"""The rule where earlier requests were forgotten before, and where most of a class is: rows as runs leave them."""

from dataclasses import replace

import pytest

from lit_unlearn.reports.comparisons import compare
from lit_unlearn.reports.noise import KNOWN
from lit_unlearn.reports.rows import NO_ATTACK, Row
from lit_unlearn.reports.verdict import judge_models
from lit_unlearn.reports.wording import headline

COUNTS = {"forget": 2000, "retain": 16000, "test_forget": 1000, "test_retain": 10000, "images_before": 2000}
COUNTS |= {"forgotten_before": 4000, "test_forgotten_before": 1000, "test_matched": 1500}
NOISE = (0.0, 0.005, -0.005, 0.01, -0.01)
WORST = "recovery/worst"
BOTH = (WORST, f"{WORST}/stages")


def model(method, classes=(), named=0.84, unseen=0.84, auc=0.52, seed=0, noise=0.0, **splits):
    """A row with the minimum of attacks; of each split in ``splits`` they name so many, as the answers do."""
    now = "test_forget" if classes else "forget"
    known = {now: named, "test_retain": unseen, **splits}
    shifted = {f"{split}_acc": value + noise * (split != "test_retain") for split, value in known.items()}
    attacks = {f"{attack}/{name}": value for attack in BOTH for name, value in shifted.items()}
    attacks |= {f"relearn/few/{name}": value for name, value in shifted.items()} | {"relearn/few/auc": 0.5 + noise}
    attacks |= {"relearn/few/mean_forget_acc": named + noise, "relearn/few/mean_test_retain_acc": unseen}
    attacks |= {"relearn/few/mean_test_matched_acc": splits["test_matched"]} if "test_matched" in splits else {}
    attacks |= {f"detectability/samples/{now}_auc": auc + noise, "membership/rmia/auc": auc + noise}
    attacks |= {"representation/idi/error": 0.0, "representation/idi/lead_error": 0.0}
    attacks |= {"representation/idi/stage1/bits": auc - 0.4 + noise / 10}
    split = {"hash": "x", "forgotten_classes": list(classes), "counts": COUNTS}
    metrics = {"retain_acc": 0.97, "forget_acc": named, **shifted}
    return Row(method, "ok", metrics=metrics, attacks=attacks, split=split, seed=seed)


def judged(row, **fields):
    """Beside five Retrains with these fields, and an Original that remembers all."""
    others = [model("Retrain", seed=seed, noise=noise, **fields) for seed, noise in enumerate(NOISE)]
    kept = {name: 0.99 for name in fields if name not in ("classes", "unseen", "auc")}
    return judge_models([row], others, [model("Original", **{**fields, "named": 0.99, **kept, "auc": 0.9})])


@pytest.mark.parametrize("earlier", [{}, {"images_before": 0.845}], ids=["one request", "two"])
def test_what_is_named_too_seldom_is_seen_beside_an_earlier_request_that_is_as_it_should_be(earlier):
    fields = dict.fromkeys(earlier, 0.84)
    assert judged(model("GA", auc=0.5, **earlier), **fields).level == "as Retrain"
    found = judged(model("GA", named=0.4, auc=0.5, **earlier), **fields)
    assert (found.level, found.worst.attack, found.worst.split) == ("leaks", NO_ATTACK, "forget_acc")
    assert "so much less than Retrain's" in headline(model("GA"), found)
    perhaps = judged(model("GA", named=0.80, auc=0.5, **earlier), **fields)
    assert (perhaps.level, perhaps.worst.split) == ("inconclusive", "forget_acc")


def test_of_two_requests_that_which_surely_falls_short_is_named():
    found = judged(model("GA", named=0.78, auc=0.5, images_before=0.3), images_before=0.84)
    assert (found.level, found.worst.split) == ("leaks", "images_before_acc")
    found = judged(model("GA", named=0.3, auc=0.5, images_before=0.78), images_before=0.84)
    assert (found.level, found.worst.split) == ("leaks", "forget_acc")
    kept = found.as_json("")["intervals"][NO_ATTACK]
    assert (kept["split"], kept["excess"]) == ("forget_acc", pytest.approx(-0.54)), "not that of the other request"


def test_single_images_of_earlier_requests_deviate_as_single_images_do():
    """Whatever is forgotten now: without an attack images have a known deviation of their own."""
    rows = [model(name, [1, 2], 0.0, images_before=0.84) for name in ("GA", "Retrain")]
    found = {each.split: each.difference for each in compare(rows[:1], rows[1:], []) if each.attack == NO_ATTACK}
    assert found["images_before_acc"].deviation == pytest.approx(KNOWN[NO_ATTACK][1])
    assert (
        found["test_forget_acc"].deviation == pytest.approx(KNOWN[NO_ATTACK][0]) != pytest.approx(KNOWN[NO_ATTACK][1])
    )


def test_how_many_images_an_attack_scores_is_of_this_request():
    rows = [model(name, images_before=0.84) for name in ("GA", "Retrain")]
    before = {each.split: each for each in compare(rows[:1], rows[1:], []) if each.attack == WORST}
    rows = [replace(row, attacks=row.attacks | {f"{WORST}/images": 20.0}) for row in rows]
    found = {each.split: each for each in compare(rows[:1], rows[1:], []) if each.attack == WORST}
    assert found["forget_acc"].difference.sampling > before["forget_acc"].difference.sampling
    assert found["images_before_acc"].difference.sampling == before["images_before_acc"].difference.sampling


def test_images_and_classes_of_earlier_requests_are_both_compared():
    """Half of what was forgotten before are owls, which neither names; the other half are single images."""
    fields = {"images_before": 0.84, "test_forgotten_before": 0.0, "forgotten_before": 0.42}
    assert judged(model("GA", auc=0.5, **fields), **fields).level == "as Retrain"
    found = judged(model("GA", auc=0.5, **{**fields, "images_before": 1.0, "forgotten_before": 0.5}), **fields)
    assert (found.level, found.worst.split) == ("not forgotten", "images_before_acc")
    owls = judged(model("GA", auc=0.5, **{**fields, "test_forgotten_before": 0.2}), **fields)
    assert (owls.level, owls.worst.split) == ("not forgotten", "test_forgotten_before_acc")
    assert {each.split for each in owls.comparisons if each.attack == WORST} == {
        *("forget_acc", "images_before_acc", "test_forgotten_before_acc")
    }


@pytest.mark.parametrize(("images", "unseen", "level"), [(0.91, 0.91, "inconclusive"), (0.99, 0.84, "not forgotten")])
def test_single_images_of_earlier_requests_have_a_lead_where_a_class_is_forgotten_now(images, unseen, level):
    """A better model than Retrain names more of both, and remembers nothing by that."""
    fields = {"classes": [2], "named": 0.0, "images_before": 0.84}
    row = model("GA", [2], 0.0, unseen, images_before=images)
    found = judged(row, **fields)
    (answers,) = [each for each in found.comparisons if each.split == "images_before_acc" and each.attack == NO_ATTACK]
    assert answers.excess == pytest.approx(images - unseen)
    assert found.level == level


def test_the_name_of_one_class_that_is_forgotten_now_says_nothing_of_earlier_images():
    rows = [model(name, [2], 0.0, images_before=0.84) for name in ("GA", "Retrain")]
    compared = {(each.attack, each.split) for each in compare(rows[:1], rows[1:], [])}
    assert (WORST, "images_before_acc") in compared
    assert (WORST, "test_forget_acc") not in compared


def test_rows_that_know_no_kinds_of_earlier_images_compare_all_of_them():
    rows = [model(name, forgotten_before=0.3) for name in ("GA", "Retrain")]
    found = {each.split: each for each in compare(rows[:1], rows[1:], []) if each.attack == NO_ATTACK}
    assert found["forgotten_before_acc"].unseen.value == 0.84


def test_earlier_classes_without_test_images_are_compared_beside_earlier_single_images():
    rows = [model(name, images_before=0.84, forgotten_before=0.4) for name in ("GA", "Retrain")]
    found = {each.split: each for each in compare(rows[:1], rows[1:], []) if each.attack == NO_ATTACK}
    assert found["forgotten_before_acc"].unseen is None
    assert found["images_before_acc"].unseen.value == 0.84
    alone = [replace(row, split={**row.split, "counts": {**COUNTS, "forgotten_before": 2000}}) for row in rows]
    assert "forgotten_before_acc" not in {each.split for each in compare(alone[:1], alone[1:], [])}, "all are single"


def test_a_list_of_most_of_a_class_is_not_as_retrain_where_the_model_still_knows_the_class():
    """Both name as many of the forget images as of unseen ones of their classes: neither has a lead."""
    fields = {"named": 0.22, "test_matched": 0.21}
    assert judged(model("GA", auc=0.5, **fields), **fields).level == "as Retrain"
    row = model("GA", named=0.935, test_matched=0.925, auc=0.5)
    found = judged(row, **fields)
    assert found.level == "inconclusive"
    assert found.flags["knows the classes"].startswith(
        "the model classifies 92 % of unseen images of the forget images' classes correctly, "
        "and 84 % of all unseen ones; Retrain, 21 %"
    )
    assert "what the forget images taught of their classes (see the flag)" in headline(row, found)
    near = judged(model("GA", named=0.3, test_matched=0.29, auc=0.5), **fields)
    assert "knows the classes" not in near.flags, "a class may be named better by chance"
    assert near.level == "inconclusive", "but then this is not shown to be as Retrain"
    assert "may have kept what the forget images taught of their classes, by more than the larger" in headline(
        row, near
    )
    assert judged(model("GA", named=0.25, test_matched=0.24, auc=0.5), **fields).level == "as Retrain"
    whole = {"classes": [2], "named": 0.0, "test_matched": 0.21}
    classes = model("GA", [2], 0.0, test_matched=0.925, auc=0.5)
    assert "knows the classes" not in judged(classes, **whole).flags, "where the class itself is forgotten"


def test_few_unseen_images_make_a_lead_less_certain():
    def lead(count):
        counts = {**COUNTS, "forget": 300, "test_retain": count}
        rows = [replace(model(name), split={"hash": "x", "counts": counts}) for name in ("GA", "Retrain")]
        return next(each for each in compare(rows[:1], rows[1:], []) if each.attack == WORST)

    assert lead(20).difference.each > lead(60).difference.each > 0
    assert lead(300).difference.each == lead(10000).difference.each == 0
