"""Membership with reference models, made by hand so that the log odds are known."""

import functools
import math

import pytest
import torch
from attacked import Keeps
from torch import nn

from lit_unlearn.attacks import Evaluation, ReferenceMembership, Target
from lit_unlearn.attacks.membership import answers
from lit_unlearn.attacks.membership.answers import answers_of_file
from lit_unlearn.attacks.membership.likelihood_ratio import lira_offline, rmia_ordered, unlearned_lira
from lit_unlearn.attacks.membership.signals import HELD_OUT_NUMBERS, Scores, held_out_attack, margin
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.saving import save_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune
from lit_unlearn.reports.report import Report

COUNT = 1200


class Table(nn.Module):
    """Log odds of the true class: the difficulty of a sample and a network's own, of (N, 3) vectors."""

    def __init__(self, own):
        super().__init__()
        self.register_buffer("own", own)

    def forward(self, x):
        odds = x[:, 0] + self.own[x[:, 1].long()]
        sign = 2 * x[:, 2] - 1
        return torch.stack([-sign * odds, sign * odds], 1) / 2


def answering(vectors, own):
    """A network that answers by a table of its own."""
    made = vectors(Table(own), 2, 2)
    with torch.no_grad():
        made.head.weight.copy_(torch.eye(2))
        made.head.bias.zero_()
    return made


@pytest.fixture
def world(vectors, tmp_path):
    """Samples of very unequal difficulty; a network that knows the forget set, and five that do not.

    A sample is its difficulty and its label: a network adds something of its own to the difficulty of each, and one
    that was trained on the sample lifts it.
    """
    draw = torch.Generator().manual_seed(0)
    splits = {}
    for position, name in enumerate(("forget", "retain", "test_retain")):
        labels = torch.randint(0, 2, (COUNT,), generator=draw)
        rank = torch.arange(COUNT) + COUNT * position
        splits[name] = (torch.stack([4 * torch.randn(COUNT, generator=draw), rank, labels], 1), labels)

    def network(seed, lift=0.0):
        own = torch.randn(3 * COUNT, generator=torch.Generator().manual_seed(seed))
        return answering(vectors, own + lift * (torch.arange(3 * COUNT) < COUNT))

    def files(name, seeds, lift=0.0):
        paths = []
        for seed in seeds:
            paths.append(str(tmp_path / f"{name}{seed}.pt"))
            save_weights(network(seed, lift), paths[-1], {})
        return paths

    return splits, network, files


def odds(network, samples):
    with torch.no_grad():
        return margin(network.head(network.features(samples[0])), samples[1])


@pytest.mark.parametrize("method", ["rmia", "lira", "u_lira"])
def test_a_model_that_remembers_is_found_and_one_that_does_not_is_not(make_target, world, method):
    splits, network, files = world
    unlearned = {"unlearned_references": files("in", range(20, 25), 2.0)} if method == "u_lira" else {}
    attack = ReferenceMembership(method, files("out", range(10, 18)), **unlearned)
    found = attack.evaluate(make_target(network(1, lift=2.0), **splits)).numbers
    never = attack.evaluate(make_target(network(2), **splits)).numbers
    number = "auc_of_models" if method == "u_lira" else "auc"
    assert found[number] > {"rmia": 0.7, "lira": 0.85, "u_lira": 0.85}[method]
    assert found["direction"] == 1
    assert 0.5 < found["balanced_accuracy"] <= found[number] + 0.05
    assert abs(never[number] - 0.5) < 3 * math.sqrt(2 / 500 / 12)


def test_numbers_are_those_of_the_formulas(make_target, world):
    splits, network, files = world
    model, out_seeds, in_seeds = network(1, lift=1.0), range(10, 14), range(20, 22)
    out, inside = files("out", out_seeds), files("in", in_seeds, 1.0)
    forget, unseen, labels = splits["forget"], splits["test_retain"][0], splits["forget"][1]
    # The same labels in the same order: every unseen sample has its counterpart, and no draw is needed.
    unseen = torch.cat([unseen[:, :2], labels[:, None]], 1), labels
    target = make_target(model, **{**splits, "test_retain": unseen})

    phi = {"forget": odds(model, forget), "unseen": odds(model, unseen)}
    others = {name: torch.stack([odds(network(s), side) for s in out_seeds]) for name, side in
              (("forget", forget), ("unseen", unseen))}  # fmt: skip
    asked, never = unlearned_lira(
        phi["forget"], torch.stack([odds(network(s, 1.0), forget) for s in in_seeds]), others["forget"], "per_sample"
    )
    each = [
        held_out_attack(*(Scores(one[h::2], other[h::2]) for h in (0, 1)), directed=True)
        for one, other in zip(asked, never, strict=True)
    ]
    expected = {name: sum(found[name] for found in each) / 4 for name in each[0]}
    expected["auc_of_models"] = expected.pop("auc")
    found = ReferenceMembership("u_lira", out, inside, variance="per_sample").evaluate(target).numbers
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert math.isnan(found["tpr_at_0.1pct"]), "600 images are too few for one in a thousand"
    assert not math.isnan(found["tpr_at_1pct"])

    own, all_others = torch.cat([*phi.values()]), torch.cat([*others.values()], 1)
    for method, signal in (("rmia", "softmax"), ("rmia", "taylor"), ("lira", "softmax"), ("lira", "taylor")):
        if method == "lira":
            scores = lira_offline(own, all_others)
        else:
            z = slice(COUNT, None, 2)
            p, q = (each.sigmoid() if signal == "softmax" else of_two(each) for each in (own, all_others))
            scores = rmia_ordered(p, q, p[z], q[:, z], a=0.6)
        halves = (Scores(scores[:COUNT][h::2], scores[COUNT:][h::2]) for h in (0, 1))
        assert ReferenceMembership(method, out, a=0.6, signal=signal).evaluate(target).numbers == pytest.approx(
            held_out_attack(*halves), rel=1e-6, nan_ok=True
        )


def of_two(odds):
    """The Taylor softmax of two logits, ± half of the log odds: of c = ± odds / 4, with the true one .6 less."""
    true, other = odds / 4 - 0.6, -odds / 4
    true, other = (1 + each + each**2 / 2 + each**3 / 6 for each in (true, other))
    true, other = (torch.where(each > 0, each, 2.3e-308) for each in (true, other))
    return true / (true + other)


def test_lira_has_one_deviation_for_members_and_others(make_target, vectors, tmp_path):
    """Where forgotten images differ more between models than unseen ones, two deviations would hide the members."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=draw)
    rank = torch.arange(400)
    splits = {
        name: (torch.stack([0 * rank, rank + 400 * n, labels], 1).float(), labels)
        for n, name in enumerate(("forget", "retain", "test_retain"))
    }
    noise = torch.where(torch.arange(1200) < 400, 3.0, 1.0)

    def network(seed, lift=0.0):
        own = noise * torch.randn(1200, generator=torch.Generator().manual_seed(seed))
        return answering(vectors, own + lift * (torch.arange(1200) < 400))

    files = [str(tmp_path / f"{seed}.pt") for seed in range(8)]
    for seed, file in enumerate(files):
        save_weights(network(seed), file, {})
    target = make_target(network(20, lift=6.0), **splits)
    found = ReferenceMembership("lira", files).evaluate(target).numbers["auc"]
    phi, out = (
        odds(network(20, 6.0), splits["forget"]),
        torch.stack([odds(network(s), splits["forget"]) for s in range(8)]),
    )
    unseen = odds(network(20, 6.0), splits["test_retain"])
    out_unseen = torch.stack([odds(network(s), splits["test_retain"]) for s in range(8)])
    apart = held_out_attack(
        *(Scores(lira_offline(phi, out)[h::2], lira_offline(unseen, out_unseen)[h::2]) for h in (0, 1))
    )
    assert found > apart["auc"] + 0.03


def test_without_references_the_attack_is_left_out_and_says_why(make_backbone, make_data, fit):
    report = Report(page=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), ReferenceMembership(), report)
    for row in report.rows:
        assert row.skipped == {
            "membership/rmia": "it needs several Retrains in files that this package wrote, and a network, or weights "
            "with trained_without, does not count: give evaluation.retrains more than one, or name the files in "
            "references, or a folder of them in evaluation.pool"
        }
        assert row.attacks == {}


@pytest.fixture
def references(make_backbone, make_data, tmp_path):
    """Four networks that say that they were made on the split of ``make_data()``."""
    paths = [str(tmp_path / f"reference{seed}.pt") for seed in range(5, 9)]
    for seed, path in enumerate(paths, start=5):
        save_weights(make_backbone(seed=seed), path, {"split": make_data().split.hash})
    return paths


def test_a_run_with_references_reads_them_once_for_all_subjects(
    make_backbone, make_data, fit, references, monkeypatch, tmp_path
):
    loaded = []
    for function in (ReferenceMembership.setup, answers_of_file):
        given = function.__globals__["load_weights"]
        counted = functools.partial(lambda given, net, path: loaded.append(path) or given(net, path), given)
        monkeypatch.setitem(function.__globals__, "load_weights", counted)
    report = Report(page=False)
    attacks = [ReferenceMembership("rmia", references[1:]), ReferenceMembership("lira", references[1:])]
    fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=references[0]), *attacks, report)
    assert len(report.rows) == 3
    assert all(0 <= row.attacks[f"membership/{name}/auc"] <= 1 for row in report.rows for name in ("rmia", "lira"))
    # Each attack checks them before training; then they are used once.
    assert sorted(loaded) == sorted(3 * references[1:])


def test_the_answers_of_references_are_kept_for_other_runs_by_weights_and_samples(
    make_backbone, make_data, references, monkeypatch, tmp_path
):
    passes = []
    given = answers.answers_of
    monkeypatch.setattr(answers, "answers_of", lambda *a: passes.append(a) or given(*a))

    def ask(file, classes=(0, 1), code=ResNet8):
        data = make_data(classes=list(classes))
        data.setup("fit")
        backbone = make_backbone().eval()
        backbone.__class__ = code
        model = EncodedData(backbone, data, torch.device("cpu"))
        target = Target(model, None, data, 4, shared=Shared(tmp_path / "cache"))
        return answers_of_file(target, file, ["forget", "test_retain"])

    first, again = ask(references[0]), ask(references[0])
    assert len(passes) == 2
    assert all(torch.equal(*pair) for split in first for pair in zip(first[split], again[split], strict=True))
    assert not torch.equal(ask(references[1])["forget"].phi, first["forget"].phi)
    assert len(passes) == 4
    ask(references[0], classes=[0, 2])
    assert len(passes) == 6

    class Otherwise(ResNet8):  # of the same layers and weights
        def taps(self, images, *given):
            return super().taps(1 - images, *given)

    assert not torch.equal(ask(references[0], code=Otherwise)["forget"].phi, first["forget"].phi)
    assert len(passes) == 8
    monkeypatch.setattr(Otherwise, "__module__", "__main__")
    assert not torch.equal(ask(references[0], code=Otherwise)["forget"].phi, first["forget"].phi)
    assert len(passes) == 10, "a class of a notebook is named by what it answers"
    ask(references[0], code=Otherwise)
    assert len(passes) == 10


def test_processes_agree_on_what_is_kept_where_the_run_computes(
    make_backbone, make_data, references, monkeypatch, tmp_path
):
    """With NCCL a tensor on the CPU cannot be reduced; the answers are kept on the CPU all the same."""
    asked = []
    monkeypatch.setattr("lit_unlearn.attacks.shared._on_all", lambda flag, device: asked.append(device) or flag)
    data, computes = make_data(), torch.device("cpu", 0)
    data.setup("fit")
    model = EncodedData(make_backbone().eval(), data, computes)
    target = Target(model, None, data, 4, shared=Shared(tmp_path / "cache"))
    answers_of_file(target, references[0], ["forget"])
    assert asked == [computes]


def test_a_reference_that_is_the_model_itself_does_not_count(make_backbone, make_data, fit, references):
    attack = ReferenceMembership("lira", references[:2])
    keeps = Keeps()
    fit(FineTune(make_backbone()), make_data(), Evaluation(retrain=references[0]), attack, keeps)
    models = keeps.results.models
    assert models["retrain"].attacks == {}
    assert all(f"membership/lira/{name}" in models["retrain"].skipped[attack.title] for name in HELD_OUT_NUMBERS)
    assert "membership/lira/auc" in models["unlearned"].attacks


def test_the_model_itself_is_known_by_its_weights_where_its_answers_were_rounded_otherwise(
    make_backbone, make_data, references
):
    data, splits = make_data(), ["forget"]
    data.setup("fit")
    target = Target(EncodedData(make_backbone(seed=5).eval(), data, torch.device("cpu")), None, data, 4)
    own = answers.answers_of(target.model, splits)
    rounded = {name: each._replace(phi=each.phi + 1e-7) for name, each in own.items()}
    assert len(answers.other_models(target, references[:2], rounded, splits)) == 1


def test_references_in_half_precision(make_backbone, make_data, fit, references):
    keeps = Keeps()
    attack = ReferenceMembership("lira", references)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), attack, keeps, precision="bf16-true")
    assert 0 <= keeps.results.models["unlearned"].attacks["membership/lira/auc"] <= 1


@pytest.mark.parametrize("metadata", [{}, {"split": "0123456789abcdef"}])
def test_references_of_another_or_of_an_unknown_split_are_refused_before_training(
    make_backbone, make_data, fit, references, metadata, tmp_path
):
    save_weights(make_backbone(seed=9), tmp_path / "other.pt", metadata)
    attack = ReferenceMembership("u_lira", references[:3], [references[3], str(tmp_path / "other.pt")])
    module = FineTune(make_backbone())
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    with pytest.raises(UsageError, match=f"other.pt' was made on split {metadata.get('split', 'unknown')}, but this"):
        fit(module, make_data(), attack)
    assert all(torch.equal(value, before[name]) for name, value in module.backbone.state_dict().items())


def test_references_that_may_have_seen_the_forget_set_are_refused_before_training(
    make_backbone, make_data, fit, tmp_path
):
    data = make_data()
    data.setup("fit")
    for method in ("Pretrain", "FineTune"):
        save_weights(make_backbone(seed=9), tmp_path / "seen.pt", {"split": data.split.hash, "method": method})
        with pytest.raises(UsageError, match=rf"reference '.*seen\.pt' is of {method}, but must be a Retrain"):
            fit(FineTune(make_backbone()), make_data(), ReferenceMembership("rmia", [str(tmp_path / "seen.pt")]))


def test_references_that_do_not_load_are_refused_before_training(make_backbone, make_data, fit, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"bad\.pt: refused: it is no file of plain weights"):
        fit(FineTune(make_backbone()), make_data(), ReferenceMembership("rmia", [str(tmp_path / "bad.pt")]))
    with pytest.raises(UsageError, match=r"unknown weights, neither a file nor a name in the manifest: 'nowhere\.pt'"):
        fit(FineTune(make_backbone()), make_data(), ReferenceMembership("rmia", ["nowhere.pt"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signal": "tailor"}, r"unknown signal 'tailor'; did you mean 'taylor'"),
        ({"method": "rima"}, r"unknown method of membership inference 'rima'; did you mean.*rmia"),
        ({"variance": "per-sample"}, "unknown variance 'per-sample'"),
        ({"a": 1.5}, "a is 1.5"),
        ({"a": float("nan")}, "a is nan"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gamma": float("inf")}, "gamma is inf"),
        ({"references": ["x", "x"]}, "reference 'x' is named twice"),
        ({"references": ["x"], "unlearned_references": ["y", "z"]}, "rmia takes no unlearned_references: method u_lir"),
        ({"method": "lira", "references": ["x"]}, "lira needs at least 2 references, not 1"),
        ({"method": "u_lira", "references": ["x", "y"]}, "u_lira needs at least 3 references, not 2"),
        ({"method": "u_lira", "references": ["x", "y", "z"], "unlearned_references": ["w"]}, "at least 2 unlearned_r"),
        ({"method": "u_lira", "unlearned_references": ["w", "v"]}, "u_lira needs at least 3 references, not 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        ReferenceMembership(**options)
