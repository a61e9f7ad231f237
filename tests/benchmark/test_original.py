"""A grid on the user's own model: its weights, the methods that fit, and what is checked before anything is trained."""

import shutil
from pathlib import Path
from typing import Any

import fake_runs
import pytest
import torch
import yaml
from command_line import lit_unlearn
from safetensors.torch import save_file

from lit_unlearn.benchmark import Grid, Seeds, make_runs
from lit_unlearn.benchmark.checks import check_runs, fitted
from lit_unlearn.benchmark.command import benchmark, report
from lit_unlearn.benchmark.settings import look_up, put
from lit_unlearn.cli import Checker, only_whole_classes
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import read_rows, write_rows
from lit_unlearn.shipped import read_config

PLACE = "model.init_args.weights"


@pytest.fixture
def prod(tmp_path: Path) -> Path:
    return weights(tmp_path / "prod.pt", 1.0)


def weights(path: Path, value: float) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save({"weight": torch.full((2, 2), value)}, path)
    return path


def change(grid: dict[str, Any], place: str, value: object, scenario: str = "class") -> None:
    """Changes a base of a grid."""
    path = Path(grid["bases"][scenario])
    base = yaml.safe_load(path.read_text())
    put(base, place, value)
    path.write_text(yaml.safe_dump(base))


def keys(grid: dict[str, Any], **more: Any) -> list[str]:
    return [run.key for run in make_runs(Grid(**grid, **more))]


def accepts(subcommand: str, settings: object) -> None:
    """A check that finds nothing wrong."""


def test_every_run_takes_the_given_original_and_each_seed_trains_a_retrain(experiments, prod, tmp_path):
    grid = Grid(**experiments(("class",), opc={}, ga={}), original=str(prod), seeds=Seeds(originals=2))
    runs = make_runs(grid)
    assert [(run.subcommand, run.name, run.seeds["original"]) for run in runs] == [
        (subcommand, name, seed)
        for seed in (0, 1)
        for subcommand, name in [
            ("fit", "retrain"), ("validate", "references"), ("fit", "ga"), ("validate", "ga"), ("fit", "opc"),
            ("validate", "opc"),
        ]
    ]  # fmt: skip
    assert {look_up(run.config(tmp_path), PLACE) for run in runs} == {str(prod)}
    assert {run.settings["seed_everything"] for run in runs if run.name == "retrain"} == {0, 1}
    assert {look_up(run.config(tmp_path), PLACE) for run in make_runs(Grid(**experiments(opc={})))} != {str(prod)}


def test_the_key_is_of_what_the_file_holds_and_not_of_where_it_lies(experiments, prod, tmp_path, monkeypatch):
    grid = experiments(("class",), opc={})
    first = keys(grid, original=str(prod))
    monkeypatch.chdir(tmp_path)
    assert keys(grid, original="prod.pt") == first
    (tmp_path / "else").mkdir()
    moved = shutil.copy(prod, tmp_path / "else/model.pt")
    assert keys(grid, original=str(moved)) == first
    weights(prod, 2.0)
    assert not set(keys(grid, original=str(prod))) & set(first)
    assert not set(keys(grid)) & set(first)


def test_the_original_may_be_safetensors_or_a_name_of_the_manifest(experiments, tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / "prod.safetensors")
    grid = experiments(("class",), opc={})
    for original in (str(tmp_path / "prod.safetensors"), "digits_resnet8"):
        runs = make_runs(Grid(**grid, original=original))
        assert {look_up(run.config(tmp_path), PLACE) for run in runs} == {original}


@pytest.mark.parametrize("held", [None, b"no weights"])
def test_an_original_that_cannot_be_read_is_one_line(experiments, tmp_path, held):
    path = tmp_path / "prod.pt"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(UsageError, match=r"grid\.original: .*prod\.pt"):
        make_runs(Grid(**experiments(opc={}), original=str(path)))


def test_another_list_of_images_under_the_same_name_is_another_run(experiments, tmp_path):
    grid = experiments(("class",), opc={})
    listed = tmp_path / "forget.txt"
    change(grid, "data.init_args.forget.index_file", str(listed))
    listed.write_text("1\n")
    first = keys(grid)
    assert keys(grid) == first
    listed.write_text("2\n")
    runs = make_runs(Grid(**grid))
    assert [run.name for run in runs if run.key in first] == ["pretrain"], "which forgets nothing"


@pytest.mark.parametrize("place", [PLACE, "evaluation.retrain"])
def test_weights_of_the_users_own_are_refused_where_the_grid_trains_others(experiments, prod, place):
    grid = experiments(opc={"weight": 1})
    change(grid, place, "digits_resnet8", "random")
    make_runs(Grid(**grid))  # as the package's own bases do
    change(grid, place, str(prod), "random")
    with pytest.raises(UsageError, match=rf"^random: {place} is '.*prod\.pt', but without grid\.original"):
        make_runs(Grid(**grid))
    change(grid, place, None, "random")
    path = Path(grid["experiments"])
    sections = yaml.safe_load(path.read_text())
    put(sections, f"opc.{place}", "missing.pt")
    path.write_text(yaml.safe_dump(sections))
    with pytest.raises(UsageError, match=rf"^class/opc: {place} is 'missing\.pt', but without grid\.original"):
        make_runs(Grid(**grid))
    with pytest.raises(UsageError, match=r"is 'over\.pt', but without"):
        make_runs(Grid(**experiments(opc={}), overrides={"model": {"init_args": {"weights": "over.pt"}}}))


def test_a_base_names_how_its_retrain_is_trained(experiments, prod, tmp_path):
    grid = experiments(("class",), opc={}, retrain={"trainer": {"max_epochs": 40}})
    recipe = {"model": {"init_args": {"lr_scheduler": None}}, "trainer": {"max_epochs": 7, "callbacks": ["x"]}}
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump(recipe))
    change(grid, "evaluation.retrain", str(tmp_path / "retrain.yaml"))
    retrain, references, *_ = make_runs(Grid(**grid, original=str(prod)))
    model = {"backbone": {"class_path": "ResNet8"}, "weights": None, "lr_scheduler": None}
    assert retrain.settings["model"] == {"class_path": "Retrain", "init_args": model}
    assert retrain.settings["trainer"]["max_epochs"] == 7
    assert retrain.settings["trainer"]["callbacks"] == references.settings["trainer"]["callbacks"] == []
    (tmp_path / "retrain.yaml").write_text("model: {class_path: OPC}")
    with pytest.raises(UsageError, match=r"evaluation\.retrain: .*retrain\.yaml is of OPC, but must be of Retrain"):
        make_runs(Grid(**grid, original=str(prod)))


def test_weights_that_a_base_names_beside_the_original_are_the_retrain(experiments, prod, tmp_path):
    grid = experiments(("class",), opc={})
    retrain = weights(tmp_path / "retrain.pt", 3.0)
    change(grid, "evaluation.retrain", str(retrain))
    runs = make_runs(Grid(**grid, original=str(prod)))
    assert [(run.subcommand, run.name) for run in runs] == [
        ("validate", "references"), ("fit", "opc"), ("validate", "opc"),
    ]  # fmt: skip
    used = {look_up(run.config(tmp_path), "evaluation.retrain") for run in runs if run.reports}
    assert used == {str(retrain)}
    first = {run.key for run in runs if run.reports}
    weights(retrain, 4.0)
    assert not {run.key for run in make_runs(Grid(**grid, original=str(prod))) if run.reports} & first
    with pytest.raises(UsageError, match=r"one Retrain, but seeds\.originals is 2"):
        make_runs(Grid(**grid, original=str(prod), seeds=Seeds(originals=2)))
    with pytest.raises(UsageError, match=r"one Retrain, but seeds\.references is 5"):
        make_runs(Grid(**grid, original=str(prod), seeds=Seeds(references=5, nested=True)))


def test_of_the_model_of_a_base_only_backbone_and_weights_count(experiments):
    grid = experiments(("class",))
    change(grid, "model", {"class_path": "OPC", "init_args": {"backbone": {"class_path": "X"}, "patience": 3}})
    runs = make_runs(Grid(bases=grid["bases"], methods=["opc"]))
    settings = next(run.settings for run in runs if (run.name, run.subcommand) == ("opc", "fit"))
    own = read_config("model/opc")["model"]["init_args"]
    assert settings["model"]["init_args"] == {"backbone": {"class_path": "X"}, "weights": None, **own}


@pytest.mark.parametrize(
    ("forget", "fits"),
    [({"classes": [1]}, True), ({"classes": [1], "fraction": 0.5}, False), ({"index_file": "x"}, False), (None, False)],
)
def test_methods_that_forget_whole_classes_only_are_left_out_where_the_request_is_another(experiments, forget, fits):
    grid = experiments(opc={}, rescale={})
    for scenario in grid["bases"]:
        change(grid, "data.init_args.forget", forget if scenario == "class" else {"classes": [1]}, scenario)
    known = Grid(**grid, attacks="attack/quick", skip={"random": ["opc"]})
    found, lines = fitted(known, lambda name: name == "RESCALE")
    assert found.skip == known.skip | ({} if fits else {"class": ["rescale"]})
    assert lines == ([] if fits else ["class: left out, since they forget whole classes only: rescale"])
    if not fits:
        with pytest.raises(UsageError, match="rescale; no method is left"):
            fitted(Grid(**grid, methods=["rescale"]), lambda name: name == "RESCALE")


def test_the_users_own_model_is_attacked_by_default_and_a_grid_without_attacks_says_so(experiments, prod):
    grid = experiments(opc={})
    found, lines = fitted(Grid(**grid, original=str(prod)), lambda name: False)
    assert (found.attacks, len(lines), "attack/quick" in lines[0]) == ("attack/quick", 1, True)
    found, lines = fitted(Grid(**grid), lambda name: False)
    assert (found.attacks, lines) == (
        None, ["class, random: no attacks, since neither grid.attacks nor the base names any"],
    )  # fmt: skip
    assert fitted(Grid(**grid, attacks="x", original=str(prod)), lambda name: False)[0].attacks == "x"
    for scenario in grid["bases"]:
        change(grid, "trainer", {"callbacks": [{"class_path": "HeadRecovery"}]}, scenario)
    found, lines = fitted(Grid(**grid, original=str(prod)), lambda name: False)
    assert (found.attacks, lines) == (None, [])


def test_a_base_says_how_many_retrains_and_those_are_a_pool_where_single_images_are_forgotten(experiments, prod):
    grid = experiments(opc={})
    change(grid, "data.init_args.forget", {"classes": [1]})
    change(grid, "data.init_args.forget", {"index_file": "x"}, "random")
    given: dict[str, Any] = {"original": str(prod), "attacks": "attack/quick"}
    assert fitted(Grid(**grid, **given), lambda name: False) == (Grid(**grid, **given), []), "one Retrain is no pool"
    change(grid, "evaluation.retrains", 5, "random")
    found, lines = fitted(Grid(**grid, **given), lambda name: False)
    assert (found.seeds, found.pool) == (Seeds(references=5), ["random"])
    assert lines == [
        "5 Retrains are trained, as evaluation.retrains of random says",
        "random: the models of all seeds are a pool for attacks on single images",
    ]
    runs = [run for run in make_runs(found) if run.scenario == "random"]
    assert [run.name for run in runs if run.subcommand == "fit"] == ["retrain", "opc"] + ["retrain"] * 4
    assert not any("retrains" in run.settings["evaluation"] for run in runs), "each run has that of its own seed"
    assert len(look_up(runs[-1].settings, "evaluation.pool")) == 5 + 1
    for seeds, pool in (
        (Seeds(references=2), ["random"]),
        (Seeds(originals=6), ["random"]),
        (Seeds(references=1), None),
    ):
        found, _ = fitted(Grid(**grid, **given, seeds=seeds), lambda name: False)
        assert (found.seeds, found.pool) == (seeds, pool)
    assert fitted(Grid(**grid, **given, pool=False), lambda name: False)[0].pool is False
    change(grid, "evaluation.pool", "folder", "random")
    assert fitted(Grid(**grid, **given), lambda name: False)[0].pool == [], "it has one of its own"
    for wrong in (0, "five", 2.5):
        change(grid, "evaluation.retrains", wrong, "random")
        with pytest.raises(
            UsageError, match=rf"^random: evaluation\.retrains is {wrong!r}, but must be a whole number"
        ):
            fitted(Grid(**grid, **given), lambda name: False)


def test_an_original_of_the_manifest_is_in_the_pool(experiments, tmp_path):
    (*_, attack) = make_runs(Grid(**experiments(("class",), opc={}), original="digits_resnet8", pool=True))
    (there,) = attack.config(tmp_path)["evaluation"]["pool"]
    assert Path(there).is_file()
    assert "digits_resnet8" in there
    assert attack.config(tmp_path)["model"]["init_args"]["weights"] == "digits_resnet8"


def test_the_classes_of_methods_say_whether_they_forget_whole_classes_only():
    assert only_whole_classes("HeadOnly")
    assert only_whole_classes("lit_unlearn.methods.Rescale")
    assert not any(map(only_whole_classes, ("OPC", "lit_unlearn.methods.OPC", "no.such.Method", "Nothing")))


def test_every_experiment_is_checked_once_and_the_first_error_names_it(experiments, tmp_path):
    asked: list[str] = []

    def check(subcommand, settings):
        asked.append(f"{subcommand} {settings['model']['class_path']}")
        return "it is wrong" if settings["model"]["class_path"] == "OPC" else None

    runs = make_runs(Grid(**experiments(opc={}, ga={}), seeds=Seeds(originals=2)))
    with pytest.raises(UsageError, match=r"^benchmark: class/opc: it is wrong$"):
        check_runs(runs, tmp_path, check, "benchmark")
    assert asked == ["fit Pretrain", "fit Retrain", "validate FineTune", "fit GA", "validate GA", "fit OPC"]
    asked.clear()
    check_runs(make_runs(Grid(**experiments(ga={}), seeds=Seeds(originals=2))), tmp_path, check, "benchmark")
    assert len(asked) == 5, "seeds and scenarios of the same settings are not asked again"


def test_a_run_of_several_devices_is_refused(experiments, tmp_path):
    runs = make_runs(Grid(**experiments(ga={}), overrides={"trainer": {"devices": 2}}))
    with pytest.raises(UsageError, match=r"trainer\.devices is 2, but each run of a grid uses one device"):
        check_runs(runs, tmp_path, lambda command, settings: None, "benchmark")


def test_the_check_parses_as_the_command_line_does_and_makes_nothing(tmp_path):
    check = Checker()
    runs = make_runs(Grid(bases={"class": "base/digits_class"}, methods=["opc"], attacks="attack/quick"))
    assert [check(run.subcommand, run.config(tmp_path)) for run in runs] == [None] * len(runs)
    settings = runs[-1].config(tmp_path)
    put(settings, "model.init_args.optimizer.init_args.lrr", 1)
    assert check("validate", settings) == "model.optimizer: SGD has no option 'lrr'; did you mean 'lr'?"
    assert not list(tmp_path.iterdir())


def test_a_typo_is_one_line_before_anything_is_written(prod, tmp_path):
    for name, place, said in [
        ("opc", "optimizer.init_args.lrr", "model.optimizer: SGD has no option 'lrr'; did you mean 'lr'?"),
        ("salun", "masc", "model: SalUn has no option 'masc'"),
    ]:
        section: dict[str, Any] = {}
        put(section, f"model.init_args.{place}", 1)
        (tmp_path / "sections.yaml").write_text(yaml.safe_dump({name: section, "finetune": {}}))
        outcome = lit_unlearn(
            tmp_path, "benchmark", "--grid.bases", "{request: base/digits_class}", "--grid.original=prod.pt",
            "--grid.experiments=sections.yaml", "--output=out",
        )  # fmt: skip
        assert (outcome.status, outcome.err.count("\n")) == (2, 1)
        assert f"lit-unlearn: error: benchmark: request/{name}: {said}" in outcome.err
        assert not (tmp_path / "out").exists()


def words_of(grid, out):
    """The command line of a grid."""
    return [f"--grid={yaml.safe_dump(grid, default_flow_style=True, width=10**6)}", f"--output={out}"]


def test_a_benchmark_ends_with_the_table_a_page_and_the_place_of_each_models_weights(
    experiments, prod, tmp_path, capsys
):
    grid = experiments(("class",), opc={}, ga={}, lost={"wish": "fail"})
    words = words_of(grid, tmp_path / "out")
    for own in ("unlearned.safetensors", "unlearned.ckpt"):
        with pytest.raises(UsageError, match="2 of the runs failed"):
            benchmark([*words, f"--grid.original={prod}"], fake_runs.run, accepts, lambda name: False)
        said = capsys.readouterr().out
        runs = make_runs(Grid(**grid, original=str(prod), attacks="attack/quick"))
        folders = {run.name: tmp_path / "out" / run.folder for run in runs if "unlearning" in run.seeds}
        fits = {run.name: tmp_path / "out" / run.folder for run in runs if run.subcommand == "fit"}
        assert folders.keys() <= fits.keys()
        assert f"class/ga: Cannot tell; weights: {fits['ga'] / 'unlearned.ckpt'}\n" in said
        assert "class/lost: No result; no weights\n" in said
        if own == "unlearned.safetensors":
            (fits["opc"] / own).touch()
        else:
            assert f"class/opc: Cannot tell; weights: {fits['opc'] / 'unlearned.safetensors'}\n" in said
        assert all(name in said for name in ("Original", "Retrain", "OPC", "┏"))
        assert f"Written to {tmp_path / 'out/leaderboard.html'}" in said
    page = (tmp_path / "out/leaderboard.html").read_text()
    assert "<h1>Methods of unlearning on prod.pt</h1>" in page
    assert 'data-model="OPC"' in page
    assert "0 of 2. Without a result: lost." in page
    assert "lost: 1 of 1 runs failed, and are not in the table: as it was told." in page


def test_a_later_report_names_the_experiments_whose_runs_have_failed(experiments, tmp_path, capsys):
    grid, out = experiments(("class",), opc={}, lost={"wish": "fail"}), tmp_path / "out"
    with pytest.raises(UsageError, match="2 of the runs failed"):
        benchmark(words_of(grid, out), fake_runs.run, accepts, lambda name: False)
    told = "lost: 1 of 1 runs failed, and are not in the table: as it was told."
    capsys.readouterr()
    report([str(out), "--html", str(tmp_path / "page.html")])
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (tmp_path / "page.html").read_text()
    report([str(out / "rows.json")])
    assert told in " ".join(capsys.readouterr().out.split()), "by its rows as by its folder"
    (other := tmp_path / "other").mkdir()  # of the same scenario: in its table nothing has failed
    rows = read_rows(out / "rows.json")
    for row in rows:
        row.backbone, row.benchmark["key"] = {"class": "Other"}, f"{row.benchmark['key']} of another"
    write_rows(other / "rows.json", rows)
    report([str(out), str(other), "--html", str(tmp_path / "both.html")])
    one, both = ((tmp_path / name).read_text() for name in ("page.html", "both.html"))
    assert both.count('data-model="OPC"') == 2 * one.count('data-model="OPC"')
    assert both.count(told) == one.count(told)
    (out / "failed.json").write_text("[{}]")
    with pytest.raises(UsageError, match=r"failed\.json: cannot be read .*; the benchmark writes it again"):
        report([str(out)])
    less = experiments(("class",), opc={})
    benchmark(words_of(less, out), fake_runs.run, accepts, lambda name: False)
    assert not (out / "failed.json").exists()


def test_every_grid_ends_with_table_and_page(experiments, tmp_path, capsys):
    grid = experiments(("class",), opc={})
    words = words_of(grid, tmp_path / "out")
    benchmark(words, fake_runs.run, accepts, lambda name: False)
    said = capsys.readouterr().out
    assert "┏" in said
    assert "unlearned" not in said
    assert "<h1>Unlearning leaderboard</h1>" in (tmp_path / "out/leaderboard.html").read_text()


@pytest.mark.ci
def test_one_command_compares_methods_on_the_users_own_model(tmp_path):
    from lit_unlearn.backbones.weights import resolve

    shutil.copy(resolve("digits_resnet8"), tmp_path / "prod.pt")
    base = read_config("base/digits_class")
    put(base, "model.init_args.weights", "prod.pt")
    put(base, "data.init_args.forget", {"fraction": 0.1})
    base["evaluation"]["retrain"], base["trainer"] = None, {}
    (tmp_path / "deletion.yaml").write_text(yaml.safe_dump(base))
    overrides = "{trainer: {max_epochs: 1, limit_train_batches: 2, enable_model_summary: false}}"
    words = (
        "benchmark", "--grid.bases", "{request: deletion.yaml}", "--grid.original", "prod.pt", "--output", "out",
        "--grid.methods", "[gradient_ascent, head_only]", "--grid.overrides", overrides,
    )  # fmt: skip
    outcome = lit_unlearn(tmp_path, *words)
    assert outcome.status == 0, outcome
    assert "request: left out, since they forget whole classes only: head_only\n" in outcome.out
    assert "request/gradient_ascent: " in outcome.out
    assert not list((tmp_path / "out").rglob("pretrain"))
    assert (tmp_path / "out/leaderboard.html").exists()
    assert lit_unlearn(tmp_path, *words[:3], *words[5:]).err.startswith(
        "lit-unlearn: error: request: model.init_args.w"
    )
