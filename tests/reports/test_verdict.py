"""The rule, on rows as runs leave them: five Retrains of three forgotten classes, 6,000 and 3,000 images."""

from dataclasses import replace

import pytest

from lit_unlearn.errors import UsageError
from lit_unlearn.reports.averages import mean_row, with_mean_retrains
from lit_unlearn.reports.comparisons import MARGINS, Comparison, Margins, Means, compare, largest_excess
from lit_unlearn.reports.rows import NO_ATTACK, Row
from lit_unlearn.reports.statistics import difference, share_variance
from lit_unlearn.reports.verdict import judge, judge_models
from lit_unlearn.reports.wording import as_json, bounds, choice, evidence, headline, remarks, title

WORST, STAGES, FEW = "recovery/worst", "recovery/worst/stages", "relearn/few"
SAMPLES, RMIA = "detectability/samples", "membership/rmia"
COUNTS = {"forget": 6000, "retain": 14000, "test_forget": 3000, "test_retain": 7000}
CLASSES = {"hash": "x", "forgotten_classes": [0, 1, 2], "counts": COUNTS}
ONE_CLASS = {"hash": "x", "forgotten_classes": [0], "counts": {**COUNTS, "forget": 2000, "test_forget": 1000}}
IDI = {"representation/idi/error": 0.0, "representation/idi/lead_error": 0.0}
SINGLE = {"hash": "x", "forgotten_classes": [], "counts": {"forget": 2000, "retain": 18000, "test_retain": 10000}}
NOISE = (0.0, 0.005, -0.005, 0.01, -0.01)


def model(
    method, answer=0.0, test=0.93, split=CLASSES, worst=0.84, stages=None, relearnt=0.6, auc=0.6, seed=0, **attacks
):
    """A row whose attacks are the minimum; ``answer`` and ``worst`` are of the images that decide.

    Where single images are forgotten, each attack names ``unseen`` of the unseen ones, .84 without it.
    """
    unseen = attacks.pop("unseen", 0.84)
    images = "test_forget" if split["forgotten_classes"] else "forget"
    metrics = {"forget_acc": answer, "retain_acc": 0.97, "test_retain_acc": test}
    metrics |= {"test_forget_acc": answer} if split["forgotten_classes"] else {}
    found = {
        f"{WORST}/{images}_acc": worst,
        f"{STAGES}/{images}_acc": worst if stages is None else stages,
        f"{FEW}/auc": relearnt,
        f"{FEW}/{images}_acc": 0.9,
        f"{SAMPLES}/{images}_auc": auc,
        f"{RMIA}/auc": auc,
    }
    if images == "forget" and unseen is not None:
        found |= {f"{attack}/test_retain_acc": unseen for attack in (WORST, STAGES, FEW)}
    found = {name: value for name, value in {**found, **attacks}.items() if value is not None}
    return Row(method, "ok", metrics=metrics, attacks=found, split=split, seed=seed)


def retrains(count=5, answer=0.0, plain=(), **fields):
    base = {"worst": 0.84, "relearnt": 0.6, "auc": 0.6, **fields}
    return [
        model("Retrain", answer, seed=seed, **dict(plain), **{name: shift(v, noise) for name, v in base.items()})
        for seed, noise in enumerate(NOISE[:count])
    ]


def shift(value, noise):
    return min(value + noise, 1.0) if isinstance(value, float) else value


def original(**fields):
    return model("Original", **{"answer": 0.91, "worst": 0.92, "relearnt": 0.9, "auc": 0.6, **fields})


def verdict(row, others=None, before=None):
    others = retrains() if others is None else others
    return judge(row, [*([original()] if before is None else before), *others, row])


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"worst": 0.92}, "leaks"),
        ({"stages": 0.92}, "leaks"),
        ({"relearnt": 0.8}, "leaks"),
        ({"auc": 0.9}, "leaks"),
        ({"worst": 0.81, "stages": 0.81, "relearnt": 0.5}, "as Retrain"),
        ({"worst": 0.87}, "inconclusive"),
        ({"answer": 0.04}, "leaks"),
        ({"answer": 0.09}, "not forgotten"),
        ({"answer": 0.9}, "not forgotten"),
        ({"test": 0.6}, "ruined"),
        ({"test": 0.6, "worst": 0.3}, "ruined"),
        ({"test": 0.6, "answer": 0.9}, "ruined"),
    ],
)
def test_levels(fields, level):
    assert verdict(model("GA", **fields)).level == level


def test_one_retrain_among_five_others_is_never_said_to_leak_and_often_as_retrain():
    everyone = [*retrains(), model("Retrain", worst=0.835, relearnt=0.61, auc=0.61, seed=9)]
    levels = [judge_models([row], [r for r in everyone if r is not row], [original()]).level for row in everyone]
    assert set(levels) <= {"as Retrain", "inconclusive"}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_beside_fewer_than_five_retrains_no_model_is_as_retrain(count):
    row = model("GA", worst=0.5, relearnt=0.3, auc=0.5)
    found = verdict(row, retrains(count))
    assert found.level == "inconclusive"
    assert f"takes at least 5 Retrains; there {'is' if count == 1 else 'are'} {count}." in headline(row, found)
    assert verdict(row).level == "as Retrain"
    assert verdict(model("GA", worst=1.0, stages=1.0), retrains(1)).level == "leaks", "by enough, one is enough"
    assert verdict(model("GA", worst=0.88, stages=0.88), retrains(1)).level == "inconclusive", "not by four points"


def noisy(values, **fields):
    return [model("GA", worst=worst, seed=seed, **fields) for seed, worst in enumerate(values)]


def test_bounds_of_utility_are_those_of_models_that_vary_more_than_retrains():
    """Not those of Retrains that vary more than the models."""
    rows = [model("GA", test=0.8 + noise, seed=seed) for seed, noise in enumerate((0.06, -0.06, 0.0))]
    lost = judge_models(rows, retrains(plain={"test": 0.93}), [original()]).lost["Retrain"]
    assert (lost.ours, lost.theirs, lost.varies_more) == (3, 5, True)
    assert lost.mean == pytest.approx(0.13)
    assert lost.lowest(0.05) < 0.05, "three models with a deviation of six points"
    few = {**CLASSES, "counts": {**COUNTS, "test_retain": 10}}
    assert judge(model("GA", split=few), retrains(1, split=few)).lost["Retrain"].each > 0


def test_a_model_that_leaks_is_not_hidden_by_others_that_do_not():
    """Noise between models widens the bounds of their mean; each is judged alone as well, with less of alpha."""
    found = judge_models(noisy([0.94, 0.94, 0.7]), retrains(), [original()])
    assert not any(each.leaks for each in found.comparisons), "their mean does not"
    assert (found.level, found.alone, title(found)) == ("leaks", 2, "Leaks (2 of 3 models)")
    assert found.worst.value == 0.94
    assert found.depth == found.worst.severity > max(each.severity for each in found.comparisons)
    assert headline(model("GA"), found).startswith("Judged alone, the gravest of 2 of 3 models: the model still shows")
    kept = as_json(model("GA"), found)
    assert (kept["alone"], kept["worst"], kept["intervals"][WORST]["value"]) == (2, WORST, 0.94)
    assert judge_models(noisy([0.84, 0.85, 0.83]), retrains(), [original()]).alone == 0
    assert judge_models(noisy([0.94, 0.94, 0.94]), retrains(), [original()]).alone == 0, "the mean says it"
    first = judge_models(noisy([0.91]), retrains(), [original()]).worst
    among = judge_models(noisy([0.91, 0.84, 0.84]), retrains(), [original()])
    assert first.leaks
    assert among.level != "leaks", "one of three has to leak more clearly than one of one"


def test_one_ruined_model_of_three_is_told():
    rows = [model("GA", test=test, seed=seed) for seed, test in enumerate((0.2, 0.92, 0.93))]
    found = judge_models(rows, retrains(), [original()])
    assert (found.level, found.alone) == ("ruined", 1)
    assert "Judged alone, one of 3 models: the network is ruined" in headline(rows[0], found)


def test_models_that_have_not_forgotten_are_not_hidden_by_a_mean_that_leaks():
    """Noise between the models widens the bounds of the graver claim, too."""
    rows = [model("GA", answer=answer, worst=0.94, seed=seed) for seed, answer in enumerate((0.05, 0.10, 0.24))]
    found = judge_models(rows, retrains(), [original()])
    assert next(each for each in found.comparisons if each.attack == WORST).leaks
    assert next(each for each in found.comparisons if each.attack == "no attack").low < 0.05
    assert (found.level, found.alone, title(found)) == ("not forgotten", 2, "Not forgotten (2 of 3 models)")
    assert found.worst.value == 0.24
    rows[1] = model("GA", answer=0.10, relearnt=1.0, seed=1)
    found = judge_models(rows, retrains(), [original()])
    assert judge(rows[1], [*retrains(), original()]).depth > judge(rows[2], [*retrains(), original()]).depth
    assert (found.alone, found.worst.value) == (2, 0.24), "the gravest by what the sentence says"
    rows += [model("GA", answer=0.1, test=test, seed=seed) for test, seed in ((0.7, 3), (0.6, 4))]
    found = judge_models(rows, retrains(), [original()])
    assert title(found) == "Ruined (2 of 5 models)"
    assert found.gravest.lost["Original"].mean == pytest.approx(0.92 - 0.6, abs=0.02)


PATTERN = "perturbation/universal"


def told(value, error, named=0.33):
    return {
        f"{PATTERN}/informedness": value,
        f"{PATTERN}/informedness_error": error,
        f"{PATTERN}/test_forget_acc": named,
    }


def test_informedness_is_compared_with_its_own_error_and_without_the_accuracy():
    others = retrains(plain=told(0.0, 0.0005))
    found = verdict(model("GA", **told(0.3, 0.02)), others)
    (own,) = [each for each in found.comparisons if each.attack == PATTERN]
    assert (found.level, found.worst, own.unit, own.excess) == ("leaks", own, "informedness", 0.3)
    assert (
        "apart by class with an informedness of 30.0\u00a0% (right minus wrong answers; 0 is chance); on Retrain, 0.0"
        in (headline(model("GA"), found))
    )
    assert not any("chance level" in line for line in remarks(model("GA"), found)), "its accuracy is that of chance"
    assert verdict(model("GA", **told(0.08, 0.032)), others).level != "leaks", "half right and half wrong, 1,000 images"
    below = [each for each in verdict(model("GA", **told(-0.3, 0.03)), others).comparisons if each.attack == PATTERN]
    assert below[0].low < -0.3
    few = {**CLASSES, "counts": {**COUNTS, "test_forget": 30}}
    rows = [model(name, split=few, **told(value, 0.1)) for name, value in (("GA", 1.0), ("Retrain", -0.5))]
    (own,) = [each for each in compare(rows[:1], rows[1:], []) if each.attack == PATTERN]
    assert own.difference.each == pytest.approx(0.1**2 * (1 - 30 / 3000))
    assert own.excess == 1.5
    assert own.high > 1.5


def test_of_models_that_name_too_few_the_one_that_names_fewest_is_shown():
    shares = (0.84, 0.84, 0.70, 0.40)
    rows = [model("GA", share, split=SINGLE, seed=seed) for seed, share in enumerate(shares)]
    found = judge_models(rows, retrains(answer=0.84, split=SINGLE), [original(split=SINGLE)])
    assert (found.level, found.alone) == ("leaks", 2)
    assert found.worst.value == 0.40


def test_a_number_of_retrains_that_all_models_lack_is_open():
    row = model("GA", worst=0.7, stages=0.7, relearnt=0.4, auc=0.5)
    assert verdict(row).level == "as Retrain"
    more = retrains(plain={"recovery/fm/test_forget_acc": 0.5})
    found = verdict(row, more)
    assert (found.level, found.unmeasured) == ("inconclusive", ["recovery/fm"])
    assert "Not measured in all runs, or on 5 Retrains: recovery/fm." in headline(row, found)


def test_within_a_margin_that_original_itself_hardly_exceeds_no_model_is_as_retrain():
    row, before = model("GA"), original(answer=0.0, relearnt=0.6)
    found = verdict(row, before=[before])
    assert (found.level, found.separated, found.telling) == ("inconclusive", True, False)
    assert "puts the untouched Original above Retrain by more than the larger margin" in headline(row, found)


def test_more_seeds_decide_where_one_attack_would_leak():
    """Another one that lies between the margins does not matter then."""
    row, between = model("GA", worst=0.88, stages=0.84, relearnt=0.64), model("GA", relearnt=0.64)
    assert verdict(row).level == verdict(between).level == "inconclusive"
    assert "Unlearning about 13 originals, beside as many Retrains, would" in headline(row, verdict(row)), (
        "13 for the readout, none for relearning"
    )
    assert "More seeds alone would not decide: relearn/few" in headline(between, verdict(between))


def test_models_that_vary_more_than_retrains_are_as_retrain_only_by_their_own_deviation():
    """With the pooled deviation, 13 degrees of freedom of which two are theirs, they would be."""
    others = retrains()
    steady, noisily = (
        judge_models(noisy(each), others, [original()]) for each in ([0.82, 0.83, 0.81], [0.84, 0.88, 0.8])
    )
    (each,) = [c for c in noisily.comparisons if c.attack == WORST]
    assert each.difference.mean + each.difference._alike(0.05) < 0.05 < each.high
    assert (steady.level, noisily.level) == ("as Retrain", "inconclusive")


def test_where_a_run_did_not_end_nothing_is_claimed_of_those_that_did():
    rows = noisy([0.82, 0.83, 0.81])
    lost = [*rows[:2], replace(rows[2], status="diverged")]
    assert judge_models(rows, retrains(), [original()]).level == "as Retrain"
    found = judge_models(lost, retrains(), [original()])
    assert (found.level, found.unfinished) == ("inconclusive", 1)
    assert "1 run of the method did not end" in headline(rows[0], found)
    leaking = [replace(row, attacks={**row.attacks, f"{WORST}/test_forget_acc": 0.95}) for row in lost]
    assert judge_models(leaking, retrains(), [original()]).level == "leaks"


def test_what_was_not_forgotten_is_shown_by_the_answers_and_not_by_an_attack():
    row = model("GA", answer=0.3, worst=0.95, seed=0)
    found = verdict(row)
    assert (found.level, found.worst) == ("not forgotten", found.no_attack)
    assert as_json(row, found)["worst"] == "no attack"


def test_methods_that_have_not_forgotten_are_sorted_by_their_answers():
    found = verdict(model("GA", answer=0.9, worst=0.9))
    assert found.depth == found.no_attack.severity > max(each.severity for each in found.comparisons[1:])


def test_no_bound_is_beyond_what_an_excess_can_be():
    few = {**CLASSES, "counts": {**COUNTS, "test_forget": 2}}
    for own, other in ((0.99, 0.1), (0.1, 0.99)):
        found = compare([model("GA", worst=own, split=few)], retrains(1, split=few, worst=other), [])
        (worst,) = [each for each in found if each.attack == WORST]
        assert (worst.high if own > other else -worst.low) == 1
        assert abs(worst.excess) < 1
    found = compare([model("GA", worst=100.0)], retrains(1), [])  # a row of elsewhere, whose accuracy is in percent
    (worst,) = [each for each in found if each.attack == WORST]
    assert (worst.low, worst.high) == (1, 1)


def test_more_seeds_of_the_method_narrow_the_bounds():
    rows = [model("GA", worst=0.895 + noise, seed=seed) for seed, noise in enumerate(NOISE[:3])]
    one, three = (judge_models(rows[:count], retrains(), [original()]) for count in (1, 3))
    assert one.worst.attack == three.worst.attack == WORST
    assert three.worst.low > one.worst.low
    assert (one.level, three.level) == ("inconclusive", "leaks")
    assert "originals, beside as many Retrains, would probably decide" in headline(rows[0], one)


def test_the_lower_bound_is_of_all_attacks_together_and_the_upper_one_of_each():
    row = model("GA")
    alone = compare([row], retrains(), [original()])
    more = {f"recovery/other{n}/test_forget_acc": 0.8 for n in range(10)}
    crowded = compare(
        [replace(row, attacks=row.attacks | more)],
        [replace(each, attacks=each.attacks | more) for each in retrains()],
        [original()],
    )
    first, second = (next(c for c in found if c.attack == WORST) for found in (alone, crowded))
    assert second.low < first.low
    assert second.high == first.high
    assert second.compared == first.compared + 10


def test_of_relearning_the_mean_over_the_steps_counts_and_not_its_end():
    row = model("GA")
    (found,) = [each for each in compare([row], retrains(), [original()]) if each.attack == FEW]
    assert (found.value, found.unit) == (0.6, "mean accuracy")
    assert f"{FEW}, on average over its steps, classifies 60.0" in evidence(found)
    few = [replace(each, attacks=each.attacks | {f"{FEW}/images": 200.0}) for each in (row, *retrains())]
    (wide,) = [each for each in compare(few[:1], few[1:], [original()]) if each.attack == FEW]
    assert wide.high > found.high, "what is measured on fewer images is less certain"


def test_of_relearning_single_images_the_lead_on_average_over_its_steps_counts():
    """It is what chose the run. At its end a network that relearning broke has no lead."""

    def lead(named):
        return {f"{FEW}/mean_{name}_acc": value for name, value in (("forget", named), ("test_retain", 0.84))}

    counts = {f"{FEW}/images": 270.0, f"{FEW}/unseen": 500.0}
    others = [replace(each, attacks=each.attacks | lead(0.83) | counts) for each in retrains(split=SINGLE, answer=0.8)]
    row = model("GA", 0.8, split=SINGLE, **lead(0.97), **counts)
    (found,) = [each for each in compare([row], others, []) if each.attack == FEW]
    assert (found.value, found.unseen.value, found.unit) == (0.97, 0.84, "mean accuracy")
    assert found.excess == pytest.approx(0.14)
    assert found.difference.sampling == pytest.approx(
        max(share_variance(value, 270) + share_variance(0.84, 500) for value in (0.97, 0.83))
    )
    assert f"{FEW}, on average over its steps, classifies 97.0" in evidence(found)


def test_that_models_can_be_told_apart_is_not_compared():
    """An AUC of models is above .5 for any recipe that is not Retrain's, whether or not it remembers."""
    found = compare([model("GA", **{"membership/u_lira/auc_of_models": 0.99})], retrains(), [original()])
    assert not [each for each in found if "u_lira" in each.attack]


def test_of_older_rows_of_relearning_single_images_the_end_counts_on_all_of_them():
    """Retrain names most of them at once, and the useful accuracy is capped by that on unseen images."""
    row, others = model("GA", 0.8, split=SINGLE), retrains(split=SINGLE, answer=0.8)
    (found,) = [each for each in compare([row], others, []) if each.attack == FEW]
    assert found.value == 0.9
    assert found.difference.sampling == pytest.approx(share_variance(0.9, 2000) + share_variance(0.84, 10000))


@pytest.mark.parametrize(
    ("worst", "unseen", "level"),
    [(0.84, 0.84, "as Retrain"), (0.92, 0.92, "as Retrain"), (0.92, 0.84, "leaks"), (0.84, 0.74, "leaks")],
)
def test_of_single_images_what_counts_is_beyond_what_unseen_images_give(worst, unseen, level):
    """A model that is better at everything has learnt nothing by heart, and a poor one does not hide what it has."""
    others, before = retrains(split=SINGLE, answer=0.8), original(split=SINGLE, answer=1.0, worst=1.0, relearnt=1.0)
    row = model("GA", 0.8, split=SINGLE, worst=worst, unseen=unseen, **{f"{FEW}/test_retain_acc": 0.84})
    found = judge(row, [before, *others, row])
    assert found.level == level
    if level == "leaks":
        told = headline(row, found).replace("\N{NO-BREAK SPACE}", " ")
        assert (
            f"classifies {100 * worst:.1f} % of the forget images and {100 * unseen:.1f} % of unseen ones correctly; "
            in told
        )
        assert "Retrain, 84.0 % and 84.0 %. Excess of this lead over Retrain's: +" in told
    interval = as_json(row, found)["intervals"][WORST]
    assert (interval["value"], interval["unseen"]) == (worst, [unseen, 0.84])
    assert interval["excess"] == pytest.approx(worst - unseen)


def test_an_attack_that_tries_few_unseen_images_is_less_certain():
    others = retrains(split=SINGLE, answer=0.8)
    row = model("GA", 0.8, split=SINGLE, **{f"{WORST}/unseen": 500.0})
    (found,) = [each for each in compare([row], others, []) if each.attack == WORST]
    assert found.difference.sampling == pytest.approx(share_variance(0.84, 2000) + share_variance(0.84, 500))


def test_single_images_of_few_classes_are_compared_with_unseen_ones_of_these():
    """A model that is poor in their class, and remembers them: over unseen images of all classes it has no lead."""
    alike = {**SINGLE, "counts": {**SINGLE["counts"], "test_matched": 500}}

    def with_alike(row, unseen):
        found = {f"{attack}/test_matched_acc": unseen for attack in (WORST, STAGES)}
        relearnt = {f"{FEW}/mean_forget_acc": 0.85, f"{FEW}/mean_test_matched_acc": unseen}
        return replace(
            row, metrics=row.metrics | {"test_matched_acc": unseen}, attacks=row.attacks | found | relearnt, split=alike
        )

    others = [with_alike(each, 0.84) for each in retrains(split=SINGLE, answer=0.84)]
    row = with_alike(model("GA", 0.84, split=SINGLE), 0.7)
    found = {each.attack: each for each in compare([row], others, [])}
    assert found[WORST].excess == pytest.approx(0.14)
    assert found[STAGES].unseen.value == 0.7
    assert found[FEW].unseen.value == 0.7
    assert found["no attack"].unseen.value == 0.7
    assert found[WORST].difference.sampling == pytest.approx(share_variance(0.84, 2000) + share_variance(0.7, 500))
    before = with_alike(original(split=SINGLE, answer=1.0, worst=1.0), 0.84)
    assert judge(row, [before, *others, row]).level == "not forgotten"
    told = remarks(row, judge(row, [before, *others, row]))
    assert "Unseen images are 500 test images of the forget images' classes, in the same shares." in told
    unmatched = [model("GA", 0.84, split=SINGLE), *retrains(split=SINGLE, answer=0.84)]
    found = judge(unmatched[0], [original(split=SINGLE, answer=1.0, worst=1.0), *unmatched])
    assert found.level == "as Retrain"
    assert not [text for text in remarks(unmatched[0], found) if text.startswith("Unseen images")]


def test_images_of_earlier_requests_are_compared_with_all_unseen_ones():
    """The unseen images of the same class shares are those of this request."""
    split = {**SINGLE, "counts": {**SINGLE["counts"], "test_matched": 500, "images_before": 400}}

    def with_both(row):
        known = {"images_before_acc": 0.8, "test_matched_acc": 0.5}
        return replace(
            row,
            metrics=row.metrics | known,
            attacks=row.attacks | {f"{WORST}/{name}": value for name, value in known.items()},
            split=split,
        )

    rows = [with_both(each) for each in (model("GA", 0.84, split=SINGLE), *retrains(split=SINGLE, answer=0.84))]
    found = {(each.attack, each.split): each for each in compare(rows[:1], rows[1:], [])}
    assert found[WORST, "forget_acc"].unseen.value == 0.5
    earlier = found[WORST, "images_before_acc"]
    assert earlier.unseen.value == 0.84
    assert earlier.difference.sampling == pytest.approx(share_variance(0.8, 400) + share_variance(0.84, 10000))


def test_where_unseen_images_are_not_measured_an_attack_on_single_images_is_not_compared():
    others = retrains(split=SINGLE, answer=0.8)
    compared = [each.attack for each in compare([model("GA", 0.8, split=SINGLE, unseen=None)], others, [])]
    assert set(compared) == {"no attack", SAMPLES, RMIA}
    without = [replace(row, metrics={"forget_acc": 0.8}) for row in (model("GA", split=SINGLE, unseen=None), *others)]
    found = {each.attack: each for each in compare(without[:1], without[1:], [])}
    assert found[WORST].unseen is None, "without test images there is nothing to subtract"
    assert found[WORST].excess == pytest.approx(0.0)


def test_an_attack_that_gets_more_from_original_only_where_unseen_images_give_as_much_is_blind():
    others = retrains(split=SINGLE, answer=0.8)
    for unseen, blind in ((0.84, False), (0.94, True)):
        before = original(split=SINGLE, answer=1.0, worst=0.94, unseen=unseen)
        found = {each.attack: each for each in compare([model("GA", 0.8, split=SINGLE)], others, [before])}
        assert found[WORST].blind == blind


def test_aucs_below_one_half_are_averaged_as_they_are():
    """They are chance: with each of them at .5, chance above .5 would count and chance below would not."""
    rows = [model("GA", auc=auc, seed=seed) for seed, auc in enumerate((0.46, 0.5, 0.54))]
    (found,) = [each for each in compare(rows, retrains(auc=0.48), []) if each.attack == SAMPLES]
    assert (found.value, found.retrain) == pytest.approx((0.5, 0.48))


def test_idi_is_a_share_of_originals_lead():
    def bits(row, value):
        return replace(row, attacks=IDI | row.attacks | {f"representation/idi/s{n}/bits": value for n in (1, 2)})

    others = [bits(row, 0.50 + noise) for row, noise in zip(retrains(), NOISE, strict=True)]
    (found,) = [
        each
        for each in compare([bits(model("OPC"), 0.68)], others, [bits(original(), 0.70)])
        if each.attack == "representation/idi"
    ]
    assert (found.value, found.retrain, found.original, found.unit) == pytest.approx((0.9, 0.0, 1.0, "IDI"))
    assert found.leaks
    assert "hold 90 % of the information on the forget set that Original's hold" in headline_of(found)
    row = bits(model("OPC", **{"representation/idi/error": 0.2}), 0.68)
    (wide,) = [each for each in compare([row], others, [bits(original(), 0.70)]) if each.unit == "IDI"]
    assert wide.difference.sampling == pytest.approx(0.04)
    close = compare([bits(model("OPC"), 0.52)], others, [bits(original(), 0.53)])
    assert not any(each.unit == "IDI" for each in close), "Original's stages hardly lead"


def headline_of(comparison):
    from lit_unlearn.reports.wording import evidence

    return evidence(comparison).replace("\N{NO-BREAK SPACE}", " ")


def test_where_the_attacks_do_not_separate_original_nothing_is_shown():
    """The no-op passes every attack that Original passes: never green."""
    before = original(worst=0.85, relearnt=0.61)
    row = model("HeadOnly", worst=0.85, relearnt=0.61)
    found = verdict(row, before=[before])
    assert (found.level, found.separated) == ("cannot tell", False)
    assert "Original with other answers would pass" in headline(row, found)
    assert verdict(row, before=[]).level == "inconclusive", "without Original it is unknown"
    assert "Without Original it is unknown" in headline(row, verdict(model("GA", worst=0.5, relearnt=0.3), before=[]))


@pytest.mark.parametrize(
    "name",
    [
        *("compression/int8/test_forget_acc", "recovery/answers/test_forget_acc", "membership/margin/auc"),
        *("perturbation/linf/test_forget_acc", "recovery/transformed/flip/answers/test_forget_acc"),
    ],
)
def test_attacks_on_answers_alone_do_not_show_that_the_others_have_power(name):
    """A head that names no forgotten class passes them, and Original's features pass the others."""
    before = original(worst=0.85, relearnt=0.61, **{name: 0.99})
    row = model("HeadOnly", worst=0.85, relearnt=0.58, auc=0.5, **{name: 0.0})
    found = verdict(row, retrains(plain={name: 0.0}), [before])
    assert (found.level, found.separated, found.separating) == ("cannot tell", False, 1)
    assert "no power" in found.flags


def test_of_single_images_the_answer_and_that_of_rounded_weights_do_not_show_it_either():
    fields = {"split": SINGLE, "worst": 0.84, "relearnt": 0.84, "auc": 0.5, "compression/int8/test_retain_acc": 0.84}
    name = "compression/int8/forget_acc"
    before = model("Original", 1.0, **fields, **{name: 1.0})
    others = retrains(answer=0.84, plain={name: 0.84}, **fields)
    row = model("GA", 0.84, **fields, **{name: 0.84})
    found = verdict(row, others, [before])
    assert (found.level, found.separated) == ("cannot tell", False)
    assert verdict(row, others, [replace(before, attacks={**before.attacks, f"{RMIA}/auc": 0.75})]).separated


@pytest.mark.parametrize("images", [3, 50, 320])
def test_a_model_that_changed_nothing_is_never_as_retrain_on_few_images(images):
    split = {**SINGLE, "counts": {"forget": images, "retain": 1000, "test_retain": 400}}
    fields = {"split": split, "answer": 1.0, "worst": 1.0, "relearnt": 1.0, "auc": 0.55}
    others = retrains(split=split, answer=0.97, worst=0.97, relearnt=0.97, auc=0.5)
    found = judge(model("FineTune", **fields), [model("Original", **fields), *others])
    assert found.level == "cannot tell"


def test_a_model_that_changed_nothing_on_one_class_has_not_forgotten():
    fields = {"split": ONE_CLASS, "answer": 0.95, "worst": 1.0, "relearnt": 0.95, "auc": 0.6}
    found = judge(model("FineTune", **fields), [model("Original", **fields), *retrains(split=ONE_CLASS)])
    assert found.level == "not forgotten"


def test_one_class_is_not_judged_by_attacks_that_recover_labels():
    extra = {**IDI, "representation/idi/s1/bits": 0.5}
    others = retrains(split=ONE_CLASS, worst=0.5, plain=IDI, **{"representation/idi/s1/bits": 0.5})
    before = original(split=ONE_CLASS, **{**extra, "representation/idi/s1/bits": 0.9})
    own = {**extra, "representation/idi/s1/bits": 0.45}
    row = model("OPC", split=ONE_CLASS, worst=1.0, relearnt=0.5, auc=0.55, **own)
    found = judge(row, [before, *others, row])
    assert found.level == "as Retrain"
    assert not any(each.attack.startswith("recovery/") for each in found.comparisons)
    assert any("One class was forgotten" in text for text in remarks(row, found))
    row.attacks["representation/idi/s1/bits"] = 0.9
    assert judge(row, [before, *others, row]).level == "leaks"
    before.attacks["representation/idi/s1/bits"] = 0.52  # hardly more than Retrain's
    found = judge(row, [before, *others, row])
    assert found.missing == ["the information in the stages, of which Original has hardly more than Retrain here"]
    assert judge(row, [*others, row]).missing == ["the information in the stages"], "without Original nobody knows"


@pytest.mark.parametrize(
    ("lacking", "split"),
    [
        (f"{WORST}/test_forget_acc", CLASSES),
        (f"{STAGES}/test_forget_acc", CLASSES),
        (f"{FEW}/", CLASSES),
        (f"{SAMPLES}/", CLASSES),
        (f"{RMIA}/", SINGLE),
        (f"{SAMPLES}/", ONE_CLASS),
    ],
)
def test_a_model_is_as_retrain_only_after_the_minimum_of_attacks(lacking, split):
    fields = {"split": split, "worst": 0.7, "relearnt": 0.4, "auc": 0.5, "answer": 0.8 if split is SINGLE else 0.0}
    fields |= {**IDI, "representation/idi/s1/bits": 0.4}
    others = retrains(
        split=split, answer=0.8 if split is SINGLE else 0.0, **{"representation/idi/s1/bits": 0.5}, plain=IDI
    )
    before = original(split=split, **{**IDI, "representation/idi/s1/bits": 0.9})
    row = model("GA", **fields)
    assert judge(row, [before, *others, row]).level == "as Retrain"
    row.attacks = {name: value for name, value in row.attacks.items() if not name.startswith(lacking)}
    found = judge(row, [before, *others, row])
    assert found.level == "not attacked enough"
    assert len(found.missing) == 1
    assert found.missing[0] in headline(row, found)
    assert any("quick" in text for text in remarks(row, found))


def test_relearning_that_breaks_the_network_is_as_if_it_had_not_been_run():
    name, others = f"{FEW}/test_retain_acc", retrains(**{f"{FEW}/test_retain_acc": 0.9})
    row = model("GA", worst=0.7, relearnt=0.4, auc=0.5, **{name: 0.5})
    found = judge(row, [original(), *others, row])
    assert (found.level, found.missing) == ("not attacked enough", ["relearning that does not break the network"])
    assert "broken by relearning" in found.flags
    row.attacks |= {f"relearn/slow/{each}": row.attacks[f"{FEW}/{each}"] for each in ("auc", "test_forget_acc")}
    for other in others:
        other.attacks |= {f"relearn/slow/{each}": other.attacks[f"{FEW}/{each}"] for each in ("auc", "test_forget_acc")}
    assert judge(row, [original(worst=0.97), *others, row]).level == "as Retrain", (
        "one at a lower rate did not break it"
    )


def test_relearning_that_breaks_retrain_as_well_has_not_been_run():
    name = f"{FEW}/test_retain_acc"
    row, others = model("GA", worst=0.7, relearnt=0.4, auc=0.5, **{name: 0.28}), retrains(plain={name: 0.33})
    found = judge(row, [original(worst=0.97), *others, row])
    assert (found.level, found.missing) == ("not attacked enough", ["relearning that does not break the network"])
    assert "broken by relearning" in found.flags


def test_a_retained_accuracy_that_one_run_lacks_leaves_the_verdict_open():
    """It may be the one that is ruined."""
    rows = [model("GA", worst=0.7, relearnt=0.4, auc=0.5, seed=seed) for seed in range(3)]
    assert judge_models(rows, retrains(), [original()]).level == "as Retrain"
    del rows[2].metrics["test_retain_acc"]
    found = judge_models(rows, retrains(), [original()])
    assert (found.level, found.unmeasured) == ("inconclusive", ["test_retain_acc"])
    assert "Not measured in all runs, or on 5 Retrains: test_retain_acc." in headline(rows[0], found)


def test_runs_that_left_no_row_leave_the_verdict_open():
    found = judge_models([model("GA", worst=0.7, relearnt=0.4, auc=0.5)], retrains(), [original()])
    assert (found.level, found.with_lost(0)) == ("as Retrain", found)
    open_one = found.with_lost(2)
    assert (open_one.level, open_one.unfinished) == ("inconclusive", 2)
    assert "2 runs of the method did not end" in headline(model("GA"), open_one)
    assert verdict(model("GA", worst=0.95)).with_lost(1).level == "leaks"


def test_the_error_of_informedness_is_the_larger_one_of_both_sides():
    name = "perturbation/universal/informedness"
    rows = [
        model(method, **{name: 0.0, f"{name}_error": error}) for method, error in (("GA", 0.004), ("Retrain", 0.02))
    ]
    (own,) = (each for each in compare(rows[:1], rows[1:], []) if each.unit == "informedness")
    (other,) = (each for each in compare(rows[1:], rows[:1], []) if each.unit == "informedness")
    assert own.difference.of_images(0.05) == other.difference.of_images(0.05) > 0


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_a_probability_of_an_error_of_a_half_or_more_is_refused(alpha):
    with pytest.raises(UsageError, match=rf"margins.alpha is {alpha}, but must be below .5"):
        Margins(alpha=alpha)


def test_relearning_that_breaks_one_model_of_three_shows_nothing_of_all():
    name, others = f"{FEW}/test_retain_acc", retrains(**{f"{FEW}/test_retain_acc": 0.9})
    rows = [
        model("GA", worst=0.7, relearnt=0.4, auc=0.5, seed=n, **{name: end}) for n, end in enumerate((0.9, 0.6, 0.9))
    ]
    found = judge_models(rows, others, [original()])
    assert found.level == "not attacked enough"
    assert "relearn/few costs a model 33 points" in found.flags["broken by relearning"]


def test_an_attack_that_was_not_run_on_retrain_is_a_remark():
    row = model("GA", **{"compression/int8/test_forget_acc": 0.9})
    row.skipped["inversion"] = "it needs the original model"
    found = verdict(row)
    text = " ".join(remarks(row, found))
    assert "Not compared, because Retrain was not attacked with them: compression/int8." in text
    assert "inversion was not run: it needs the original model." in text


@pytest.mark.parametrize(
    ("answer", "level"), [(0.12, "leaks"), (0.70, "leaks"), (0.80, "as Retrain"), (0.84, "inconclusive")]
)
def test_single_images_that_are_named_less_often_than_by_retrain_show_what_was_forgotten(answer, level):
    others = retrains(split=SINGLE, answer=0.8)
    before = original(split=SINGLE, answer=1.0, worst=1.0)
    row = model("GA", split=SINGLE, answer=answer, worst=0.75, relearnt=0.5, auc=0.5)
    found = judge(row, [before, *others, row])
    assert found.level == level
    if level == "leaks":
        assert found.worst.attack == "no attack"
        assert "the answers alone show what was forgotten" in headline(row, found)


@pytest.mark.parametrize(
    ("test", "utility"), [(0.93, "kept"), (0.915, "kept"), (0.89, "reduced"), (0.85, "damaged"), (0.97, "kept")]
)
def test_utility_is_beside_the_better_of_original_and_retrain(test, utility):
    row = model("GA", test=test, worst=0.5, stages=0.5, relearnt=0.3, auc=0.5)
    found = verdict(row)
    assert found.utility == utility
    assert found.good == (utility == "kept" and found.level == "as Retrain")
    better = [replace(each, metrics=each.metrics | {"test_retain_acc": 0.96}) for each in retrains()]
    lost = verdict(model("GA", test=0.92), better)
    assert lost.utility == "reduced", "four points below Retrain"
    assert "1.0 points below Original's (−0.2 to 2.2) and 4.0 points below Retrain's (" in " ".join(remarks(row, lost))
    more = verdict(model("GA", test=0.95))
    assert "2.0 points above Original's (0.8 to 3.2) and 2.0 points above Retrain's (" in " ".join(remarks(row, more))


def test_rows_of_one_model_attacked_with_several_seeds_are_one_model():
    rows = []
    for seed, noise in enumerate(NOISE[:3]):
        row = model("GA", worst=0.9 + noise)
        seeds = {"original": 0, "unlearning": 0, "attack": seed}
        row.benchmark = {"scenario": "class", "experiment": "ga", "seeds": seeds}
        rows.append(row)
    found = judge_models(rows, retrains(), [original()])
    assert found.models == 1
    assert found.worst.value == pytest.approx(0.9)


def test_bounds_end_where_an_excess_does():
    wide = difference([0.8], [0.0], 2.0, 0.0, 0.0)
    accuracy = Comparison("a", "forget_acc", "accuracy", 0.8, 0.0, None, wide)
    assert (accuracy.low, accuracy.high) == (0.0, 1.0)
    signed, index = replace(accuracy, unit="informedness"), replace(accuracy, unit="IDI")
    assert (signed.low, signed.high) == (-1.0, 2.0)
    lead = replace(accuracy, unseen=Means(0.1, 0.1, None))
    assert (lead.low, lead.high) == (-2.0, 2.0)
    assert index.low < -2
    assert index.high > 2


def test_retrains_of_other_images_have_no_mean_together():
    theirs = [replace(each, data={"sha256": name}) for name in "ab" for each in retrains()[:2]]
    assert [row.data["sha256"] for row in with_mean_retrains(theirs)] == ["a", "b"]


def test_rows_of_another_split_or_network_are_no_references():
    row = model("GA")
    elsewhere = [replace(each, split={**CLASSES, "hash": "other"}) for each in retrains()]
    assert verdict(row, elsewhere).level == "not judged"
    assert headline(row, verdict(row, elsewhere)) == "Without a Retrain there is no verdict."
    assert any("no Retrain to compare with" in text for text in remarks(row, verdict(row, elsewhere)))
    of_others = [replace(each, data={"sha256": "other"}) for each in retrains()]
    assert verdict(replace(row, data={"sha256": "own"}), of_others).level == "not judged", "other images, same labels"
    assert verdict(row, of_others).retrains == 5, "a row that names no images"
    others = [replace(each, backbone={"class": "other"}, seed=7 + n) for n, each in enumerate(retrains())]
    assert verdict(row, [*retrains(), *others]).retrains == 5
    assert verdict(row, others).retrains == 5, "another network is better than none: the page says so"


@pytest.mark.parametrize("status", ["diverged", "interrupted"])
def test_a_failed_run_has_no_verdict_but_a_reason(status):
    row = replace(model("GA"), status=status, reason="loss was nan")
    found = verdict(row)
    assert found.level == "failed"
    assert status in headline(row, found)
    assert remarks(row, found)[0] == "Reason: loss was nan."


def test_headline_and_remarks_state_the_numbers():
    row = model("FineTune", worst=0.92, stages=0.84)
    found = verdict(row)
    assert title(found) == "Leaks"
    text = headline(row, found).replace("\N{NO-BREAK SPACE}", " ")
    low, high = 100 * found.worst.low, 100 * found.worst.high
    assert text == (
        "The model still shows what it was to forget. "
        "recovery/worst classifies 92.0 % of unseen images of the forgotten classes correctly; Retrain, 84.0 %. "
        f"Excess over Retrain: +8.0 ({low:.1f} to {high:.1f}) points."
    )
    counted = (
        "Compared: 1 model of the method with 5 Retrains, in 6 numbers, of which 3 can tell Original from Retrain."
    )
    assert counted in " ".join(remarks(row, found))
    assert "\N{MINUS SIGN}" in bounds(next(c for c in verdict(model("GA", worst=0.7)).comparisons if c.attack == WORST))


def test_chance_level_is_no_proof_of_forgetting():
    row = model("OPC", worst=0.334)
    assert any("33.3\N{NO-BREAK SPACE}% are at chance level" in text for text in remarks(row, verdict(row)))


def test_the_excess_of_a_trial_that_forgets_single_images_is_of_the_lead():
    retrain = model("Retrain", split=SINGLE, worst=0.9, unseen=0.84)
    skilled, remembers = (model("GA", split=SINGLE, worst=0.95, unseen=unseen) for unseen in (0.9, 0.8))
    assert largest_excess(skilled, retrain) == 0
    assert largest_excess(remembers, retrain) == pytest.approx(9), ".15 beside .06"


def test_what_a_row_keeps_of_its_verdict():
    row = model("FineTune", worst=0.92)
    kept = as_json(row, verdict(row))
    assert (kept["level"], kept["worst"], kept["models"], kept["retrains"]) == ("leaks", WORST, 1, 5)
    assert kept["intervals"][WORST]["low"] < kept["intervals"][WORST]["excess"] < kept["intervals"][WORST]["high"]
    assert "recovery/worst classifies 92.0 %" in kept["reason"]


def test_the_excess_of_a_trial_is_of_the_attack_that_finds_most_beyond_one_retrain():
    retrain = model("Retrain", auc=0.4)
    assert largest_excess(model("GA", worst=0.9, stages=0.86, auc=0.45), retrain) == pytest.approx(6)
    assert largest_excess(model("GA", answer=0.9, auc=0.6), retrain) == pytest.approx(20)
    below = model("GA", answer=0.9, worst=0.5, stages=0.5, relearnt=0.2, auc=0.3)
    assert largest_excess(below, retrain) == 0, "below Retrain is no gain; the answers themselves are in the gap"
    assert largest_excess(model("GA", relearnt=0.7, auc=0.4), retrain) == pytest.approx(10), "the mean over the steps"
    masked = {"recovery/answers/test_forget_acc": 0.6}
    hidden = model("GA", auc=0.4, **{"recovery/answers/test_forget_acc": 0.8})
    assert largest_excess(hidden, model("Retrain", auc=0.4, **masked)) == pytest.approx(4), "a fifth of masked answers"
    bare = replace(retrain, attacks={})
    assert largest_excess(below, bare) is None
    assert largest_excess(below, None) is None


def test_margins_are_an_option():
    row = model("GA", worst=0.92)
    wide = Margins(leak=0.2, same=0.3)
    assert judge(row, [original(answer=0.0, worst=1.0, relearnt=1.0), *retrains(), row], wide).level == "as Retrain"
    assert judge(row, [original(), *retrains(), row], MARGINS).level == "leaks"
    for wrong in ({"leak": -0.1}, {"leak": 0.05}, {"same": 1.5}, {"alpha": 0.0}):
        with pytest.raises(UsageError, match=r"margins\."):
            Margins(**wrong)


BITS, ERROR = "representation/idi/s1/bits", "representation/idi/error"


def test_an_index_that_the_attack_calls_undefined_decides_nothing():
    alike = {"worst": 0.84, "relearnt": 0.6, "auc": 0.6, "answer": 0.0}
    models = [model(name, **alike, **{BITS: bits}) for name, bits in (("GA", -0.03), ("Original", 0.06))]
    others = retrains(**{BITS: 0.0})
    found = judge(models[0], [*models, *others])
    assert found.level == "cannot tell"
    assert not any(each.unit == "IDI" for each in found.comparisons)


def test_the_lead_of_original_counts_with_its_error():
    others = retrains(plain=IDI | {"representation/idi/lead_error": 0.3}, **{BITS: 0.0})
    (found,) = [
        each
        for each in compare([original(**{**others[0].attacks, BITS: 0.5})], others, [original(**{**IDI, BITS: 0.5})])
        if each.unit == "IDI"
    ]
    assert found.difference.sampling == pytest.approx(0.09)
    del others[0].attacks["representation/idi/lead_error"]
    (old,) = [
        each
        for each in compare([original(**{**others[0].attacks, BITS: 0.5})], others, [original(**{**IDI, BITS: 0.5})])
        if each.unit == "IDI"
    ]
    assert old.difference.sampling == pytest.approx(0.25), "an older row: the most that the attack lets pass"


def test_models_of_one_original_count_as_one():
    rows = [model("GA", worst=0.895 + noise, seed=seed) for seed, noise in enumerate(NOISE[:3])]
    for number, row in enumerate(rows):
        row.weights = {"sha256": f"original {number}"}
    assert judge_models(rows, retrains(), [original()]).models == 3
    for row in rows:
        row.weights = {"sha256": "original"}
    found = judge_models(rows, retrains(), [original()])
    assert (found.models, found.level) == (1, "inconclusive")
    for number, row in enumerate(rows):
        row.weights, row.benchmark = {}, {"seeds": {"original": 0, "unlearning": number}}
    assert judge_models(rows, retrains(), [original()]).models == 1


@pytest.mark.parametrize(
    ("fields", "level"), [({"worst": 0.95, "stages": 0.95}, "leaks"), ({"test": 0.7}, "ruined"), ({}, "as Retrain")]
)
def test_each_model_of_one_original_is_judged_alone(fields, level):
    rows = [model("GA", worst=0.8, relearnt=0.5, seed=0), model("GA", worst=0.79, relearnt=0.5, seed=1)]
    rows.append(model("GA", seed=2, **{"worst": 0.8, "relearnt": 0.5, **fields}))
    for row in rows:
        row.weights = {"sha256": "original"}
    found = judge_models(rows, retrains(), [original()])
    assert (found.level, found.models, found.single) == (level, 1, 3)
    assert title(found) == {"leaks": "Leaks (1 of 3 models)", "ruined": "Ruined (1 of 3 models)"}.get(
        level, "As Retrain"
    )


def test_bounds_do_not_depend_on_which_model_comes_first():
    others = [replace(row, attacks={**row.attacks, **IDI, BITS: 0.1}) for row in retrains()]
    before = [replace(original(), attacks={**original().attacks, **IDI, BITS: 0.5})]
    errors = 0.02, 0.2, 0.08
    rows = [model("GA", seed=seed, **{**IDI, BITS: 0.2, ERROR: error}) for seed, error in enumerate(errors)]
    rows[0].split = {**CLASSES, "counts": {**COUNTS, "test_forget": 100}}
    one, other = (judge_models(some, others, before) for some in (rows, rows[::-1]))
    bounds_of = [{each.attack: (each.low, each.high) for each in found.comparisons} for found in (one, other)]
    assert bounds_of[0].keys() == bounds_of[1].keys() >= {"representation/idi", WORST}
    for attack, found in bounds_of[0].items():
        assert found == pytest.approx(bounds_of[1][attack], abs=1e-12)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_model_that_names_a_few_images_which_one_retrain_does_not_is_no_leak(images):
    """Each Retrain is right or wrong about an image by chance, so that two of them can differ in all of so few."""
    split = {**SINGLE, "counts": {"forget": images, "retain": 1000, "test_retain": 1000}}
    row = model("GA", 1.0, 0.84, split, worst=1.0, auc=0.5)
    other = model("Retrain", 0.0, 0.84, split, worst=0.0, auc=0.5)
    assert judge(row, [original(split=split), other, row]).level not in ("leaks", "not forgotten")
    many = {**SINGLE, "counts": {"forget": 30, "retain": 1000, "test_retain": 1000}}
    row, other = replace(row, split=many), replace(other, split=many)
    assert judge(row, [original(split=many), other, row]).level == "not forgotten", "in all of many they do not"


@pytest.mark.parametrize("whose", ["Retrain", "GA"])
def test_what_was_measured_on_a_part_of_the_models_does_not_count_for_all(whose):
    others, rows = retrains(), [model("GA", worst=0.7, relearnt=0.4, auc=0.5, seed=seed) for seed in range(3)]
    assert judge_models(rows, others, [original()]).level == "as Retrain"
    for row in (others if whose == "Retrain" else rows)[1:]:
        row.attacks = {name: value for name, value in row.attacks.items() if not name.startswith(WORST)}
    found = judge_models(rows, others, [original()])
    assert found.level == "inconclusive"
    assert f"Not measured in all runs, or on 5 Retrains: {WORST}" in headline(rows[0], found)


@pytest.mark.parametrize("seeds", ["unlearning", "attack"])
def test_what_was_measured_in_a_part_of_the_runs_of_one_original_does_not_count_for_all(seeds):
    """Their mean is one model's, and would have the number of the one run that has it."""
    rows = [
        replace(
            model("GA", worst=0.7, relearnt=0.4, auc=0.5, seed=seed),
            weights={"sha256": "one"},
            benchmark={"experiment": "ga", "seeds": {"original": 0, seeds: seed}},
        )
        for seed in range(3)
    ]
    assert judge_models(rows, retrains(), [original()]).level == "as Retrain"
    for row in rows[1:]:
        row.attacks = {name: value for name, value in row.attacks.items() if not name.startswith(SAMPLES)}
    found = judge_models(rows, retrains(), [original()])
    assert (found.level, found.models, found.unmeasured) == ("inconclusive", 1, [SAMPLES])


@pytest.mark.parametrize("method", ["Original", "Retrain"])
def test_one_file_that_was_attacked_under_several_seeds_is_one_reference(method):
    def of_one_file(row, seed):
        made = {"experiment": "references", "seeds": {"original": seed, "attack": seed}}
        return replace(row, seed=seed, weights={"sha256": "one"}, benchmark=made)

    others, before = retrains(), [original(worst=0.93, relearnt=0.6, answer=0.0)]
    row = model("GA", worst=0.7, relearnt=0.4, auc=0.5)
    if method == "Retrain":
        found = judge_models([row], [of_one_file(each, each.seed) for each in others], [original()])
        assert (found.retrains, found.level) == (1, "inconclusive")
        assert judge_models([row], others, [original()]).level == "as Retrain"
        own = [
            replace(of_one_file(each, each.seed), weights={"sha256": "one", "result": {"sha256": f"{each.seed}"}})
            for each in others
        ]
        assert judge_models([row], own, [original()]).retrains == 5, "one original, and a result of its own each"
    else:
        five = [of_one_file(before[0], seed) for seed in range(5)]
        assert judge_models([row], others, five).telling is judge_models([row], others, before).telling is False
        apart = [replace(each, weights={"sha256": f"{each.seed}"}) for each in five]
        assert judge_models([row], others, apart).telling


def test_an_attack_that_the_model_lacks_does_not_tell_original_from_retrain_for_it():
    alike = {"worst": 0.84, "relearnt": 0.6, "auc": 0.6, "answer": 0.0}
    others, before = retrains(plain={"recovery/fm/test_forget_acc": 0.5}), original(**alike)
    before.attacks["recovery/fm/test_forget_acc"] = 0.9
    row = model("GA", **alike)
    assert judge(row, [before, *others, row]).level == "cannot tell"
    row.attacks["recovery/fm/test_forget_acc"] = 0.4
    assert judge(row, [before, *others, row]).separated


def test_each_split_in_which_an_attack_tells_original_from_retrain_counts():
    def with_earlier(row, named):
        return replace(
            row,
            metrics=row.metrics | {"test_forgotten_before_acc": 0.0},
            attacks=row.attacks | {f"{WORST}/test_forgotten_before_acc": named},
            split={**CLASSES, "counts": {**COUNTS, "test_forgotten_before": 1000}},
        )

    once = judge(model("GA"), [original(), *retrains()]).separating
    others, row = [with_earlier(each, 0.8) for each in retrains()], with_earlier(model("GA"), 0.8)
    assert judge(row, [with_earlier(original(), 0.8), *others]).separating == once
    assert judge(row, [with_earlier(original(), 0.95), *others]).separating == once + 1


def test_of_two_splits_of_one_attack_the_worse_is_kept_in_the_file():
    earlier = {f"{WORST}/test_forgotten_before_acc": 0.8}
    others, before = retrains(plain=earlier), original(**earlier)
    row = model("GA", worst=0.95, **earlier)
    for each in (*others, before, row):
        each.metrics["test_forgotten_before_acc"] = 0.0
    found = as_json(row, judge(row, [before, *others, row]))
    assert found["worst"] == WORST
    assert found["intervals"][WORST]["split"] == "test_forget_acc"


def test_single_images_that_may_be_named_too_seldom_are_said_to_be():
    split = {**SINGLE, "counts": {"forget": 2000, "retain": 18000, "test_retain": 10000}}
    fields = {"split": split, "worst": 0.7, "relearnt": 0.4, "auc": 0.5}
    others, before = retrains(split=split, answer=0.84), original(split=split, answer=1.0, worst=1.0)
    assert judge(model("GA", answer=0.84, **fields), [before, *others]).level == "as Retrain"
    row = model("GA", answer=0.80, **fields)
    found = judge(row, [before, *others, row])
    assert (found.level, found.worst.attack) == ("inconclusive", "no attack")
    assert "About 0 seeds" not in headline(row, found)


def test_what_one_side_alone_measured_on_unseen_images_is_not_compared():
    others = retrains(split=SINGLE, answer=0.84, unseen=None)
    for row in others:
        del row.metrics["test_retain_acc"]
    found = compare([model("GA", answer=0.9, split=SINGLE)], others, [])
    assert {each.unit for each in found} == {"AUC"}


def test_relearning_of_single_images_is_measured_on_those_that_it_did_not_relearn():
    rows = [model(name, answer=0.84, split=SINGLE, **{f"{FEW}/samples": 1000.0}) for name in ("GA", "Retrain")]
    (found,) = [each for each in compare(rows[:1], rows[1:], []) if each.attack == FEW]
    expected = share_variance(0.9, 1000) + share_variance(0.84, 10000)
    assert found.difference.sampling == pytest.approx(expected)


def test_the_attack_of_an_undecided_verdict_is_the_one_that_ends_farthest_to_the_right() -> None:
    found = verdict(model("GA", worst=0.88, stages=0.88), retrains(1))
    worst, ends = found.worst, {each.attack: each.high / each.scale for each in found.comparisons}
    assert found.level == "inconclusive"
    assert worst is not None
    assert ends[worst.attack] == max(ends[name] for name in ends if name != NO_ATTACK)
    assert "The verdict names the attack that is least surely as Retrain: its bar ends farthest" in choice(found)
    leaking = verdict(model("GA", worst=0.99), retrains(5))
    assert (leaking.level, leaking.worst) == ("leaks", leaking.comparisons[0])
    assert choice(leaking) == "The verdict names the attack with the largest lower bound."


def membership(method, forward, seed=0, **fields):
    """A row of an attack by a threshold, which scores what it has found: below .5 it turns its threshold round."""
    side = 1.0 if forward >= 0.5 - TURNS else -1.0
    found = {RMIA + "/auc": forward if side > 0 else 1 - forward, RMIA + "/direction": side}
    return model(method, seed=seed, **found, **fields)


TURNS = 0.05
"""How far below .5 an AUC has to be for an attack to take members to score lower."""


def compared(models, theirs=0.5, before=0.7):
    references = [membership("Retrain", theirs + noise, seed) for seed, noise in enumerate(NOISE)]
    found = compare(models, references, [membership("Original", before)])
    return next(each for each in found if each.attack == RMIA)


def test_membership_is_compared_in_one_direction_whichever_side_each_attack_has_found():
    """The means of .47, .42 and of .42 that is reported as .58."""
    models = [membership("GA", forward, seed) for seed, forward in enumerate((0.47, 0.46, 0.42))]
    assert [row.attacks[RMIA + "/direction"] for row in models] == [1, 1, -1]
    found = compared(models)
    assert found.turned
    assert (found.value, found.retrain, found.original) == pytest.approx((0.55, 0.5, 0.3))
    assert found.excess == pytest.approx(0.05)
    assert found.difference.deviation < 0.03, "the turn itself is no deviation between models"
    above = compared([membership("GA", 1 - row, seed) for seed, row in enumerate((0.47, 0.46, 0.42))], before=0.3)
    assert not above.turned
    ends = found.excess, found.low, found.high
    assert (above.excess, above.low, above.high) == pytest.approx(ends, abs=1e-3), "but for the images' own error"


def test_membership_below_retrain_shows_as_much_as_above_and_each_side_has_half_of_the_error():
    below, above = (compared([membership("GA", 0.5 + side)]) for side in (-0.2, 0.2))
    assert below.leaks
    assert above.leaks
    assert (below.turned, above.turned) == (True, False)
    plain = next(
        each for each in compare([model("GA", auc=0.7)], retrains(auc=0.5), [original()]) if each.attack == RMIA
    )
    assert (above.sides, plain.sides) == (2, 1)
    assert above.low < plain.low < plain.excess == pytest.approx(above.excess)
    assert above.high == pytest.approx(plain.high)
    learnt = next(
        each for each in compare([model("GA", auc=0.2)], retrains(auc=0.5), [original()]) if each.attack == RMIA
    )
    assert not learnt.leaks, "an attack that has learnt which side is which finds nothing below chance"


def test_a_model_that_remembers_images_that_retrain_finds_hard_is_above_it():
    """Retrain's answers to them are worse than to other images: .27, reported as .73; Original's are as good."""
    row = membership("GA", 0.5)
    references = [membership("Retrain", 0.27 + noise, seed) for seed, noise in enumerate(NOISE)]
    found = verdict(row, references, [membership("Original", 0.51, answer=0.91, worst=0.92, relearnt=0.9)])
    assert (found.level, found.worst.attack) == ("leaks", RMIA)
    assert found.worst.excess == pytest.approx(0.23)
    assert "less sure" not in headline(row, found)
    assert "retrain knows" not in found.flags, "which a turned .73 is no sign of"
    row = membership("GA", 0.1)
    found = verdict(row, references, [membership("Original", 0.51, answer=0.91, worst=0.92, relearnt=0.9)])
    said = headline(row, found)
    assert (
        "on which the model is less sure than Retrain, from other images with an AUC of 0.90; on Retrain, 0.73" in said
    )
    assert found.as_json("")["intervals"][RMIA]["turned"] is True


def test_a_retrain_that_has_seen_the_images_is_known_beside_a_model_below_it():
    found = verdict(
        membership("GA", 0.5),
        [membership("Retrain", 0.73 + noise, seed) for seed, noise in enumerate(NOISE)],
        [membership("Original", 0.75, answer=0.91, worst=0.92, relearnt=0.9)],
    )
    assert "an AUC of 0.73" in found.flags["retrain knows"]


def test_an_attack_that_finds_more_in_original_is_not_blind_beside_a_model_below_retrain():
    assert not compared([membership("GA", 0.4)]).blind
    assert compared([membership("GA", 0.4)], before=0.45).blind


def test_an_original_below_retrain_does_not_show_that_the_attacks_have_power():
    """Every attack finds as much in both, but for RMIA, where a wrong Original is below a Retrain that saw them."""
    relearnt = {f"{FEW}/mean_forget_acc": 0.84, f"{FEW}/mean_test_retain_acc": 0.84}
    same = {"split": SINGLE, "answer": 0.84, "relearnt": None, **relearnt}
    references = [membership("Retrain", 0.6 + noise, seed, **same) for seed, noise in enumerate(NOISE)]
    for forward, level in ((0.45, "cannot tell"), (0.75, "as Retrain")):
        found = verdict(membership("GA", 0.6, **same), references, [membership("Original", forward, **same)])
        assert (found.level, found.separated) == (level, level == "as Retrain")


@pytest.mark.parametrize(("apart", "levels"), [(0.04, ("as Retrain", 0)), (0.05, ("inconclusive", 2))])
def test_a_mean_over_models_of_one_original_does_not_hide_that_they_lie_on_both_sides(apart, levels):
    models = [
        replace(membership("GA", 0.5 + side, seed), weights={"sha256": "of the original"})
        for seed, side in enumerate((apart, -apart))
    ]
    references = [membership("Retrain", 0.5 + noise / 2, seed) for seed, noise in enumerate(NOISE)]
    before = [membership("Original", 0.7, answer=0.91, worst=0.92, relearnt=0.9)]
    found = judge_models(models, references, before)
    assert (found.level, found.apart) == levels
    hidden = "The mean hides 2 models of one original, each of which by itself would be condemned."
    assert (hidden in headline(models[0], found)) == (found.apart > 0)


def test_no_model_is_as_retrain_under_an_attack_that_was_not_measured_on_retrain():
    row, others = model("GA", **{"recovery/mine/test_forget_acc": 0.99}), retrains()
    assert verdict(model("GA"), others).level == "as Retrain"
    found = verdict(row, others)
    assert (found.level, found.uncompared) == ("inconclusive", ["recovery/mine"])
    assert "Not measured on Retrain: recovery/mine." in headline(row, found)


def test_the_mean_over_directions_is_forward():
    models = [membership("GA", forward, seed) for seed, forward in enumerate((0.48, 0.42))]
    mean = mean_row(models).attacks
    assert (mean[RMIA + "/auc"], mean[RMIA + "/direction"]) == pytest.approx((0.45, 1))
    turned = mean_row([membership("GA", forward, seed) for seed, forward in enumerate((0.38, 0.42))]).attacks
    assert (turned[RMIA + "/auc"], turned[RMIA + "/direction"]) == pytest.approx((0.6, -1)), "as each has found it"


def test_both_sides_of_a_lead_without_an_attack_share_the_error():
    row = model("GA", answer=0.7, split=SINGLE, seed=1)
    found = verdict(row, retrains(answer=0.5, split=SINGLE), [original(split=SINGLE)])
    assert found.no_attack.sides == 2
    assert all(each.sides == 1 for each in found.comparisons if each.attack != NO_ATTACK)
