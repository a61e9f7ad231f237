from pathlib import Path

import pytest
import yaml

from lit_unlearn.benchmark import Grid, Seeds, make_cells
from lit_unlearn.benchmark.settings import look_up, merged, put, read_settings
from lit_unlearn.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def test_a_grid_has_every_experiment_of_every_scenario_and_seed(experiments):
    cells = make_cells(
        Grid(str(experiments(ga={}, opc={})), seeds=Seeds(originals=2, unlearnings=3, attacks=2, first=5))
    )
    names = [(cell.scenario, cell.name, *cell.seeds.values()) for cell in cells]
    assert len(cells) == 2 * (1 + 2 * (1 + 2 + 2 * 3 * (1 + 2))) == len(set(names)) == len({cell.key for cell in cells})
    assert names[0] == ("", "pretrain", 5)
    assert [name for name in names if name[:2] == ("random", "opc")] == [
        ("random", "opc", original, seed, *attack)
        for original in (5, 6)
        for seed in range(3 * original, 3 * original + 3)
        for attack in ((), (5,), (6,))
    ]
    before: set[str] = set()
    for cell in cells:
        assert {need.key for need in cell.needs.values()} <= before
        before.add(cell.key)
    assert [cell.subcommand for cell in cells if cell.name == "yardsticks"] == ["validate"] * 8


def test_a_cell_is_told_its_seed_its_folder_and_the_weights_of_its_own_original(experiments, tmp_path):
    cells = make_cells(Grid(str(experiments(opc={"weight": 3})), seeds=Seeds(originals=2)))
    for seed in (0, 1):
        original, retrain, yardsticks, unlearn, attack = (
            cell for cell in cells if cell.scenario in ("", "class") and cell.seeds["original"] == seed
        )
        config = unlearn.config(tmp_path)
        assert config["seed_everything"] == seed
        assert config["model"]["init_args"]["weights"] == str(original.weights(tmp_path))
        assert config["model"]["init_args"]["weight"] == 3
        logger = config["trainer"]["logger"]["init_args"]
        assert "/".join((logger["name"], logger["version"])) == unlearn.folder
        assert logger["version"] == f"run-{unlearn.key}", "a key of digits and one e would be read as a number"
        assert (unlearn.reports, attack.reports, yardsticks.reports) == (False, True, True)
        config = attack.config(tmp_path)
        assert config["seed_everything"] == 0
        assert config["model"]["init_args"]["weights"] == str(original.weights(tmp_path))
        assert config["evaluation"] == {"retrain": str(retrain.weights(tmp_path)), "yardsticks": False}
        assert config["ckpt_path"] == str(unlearn.weights(tmp_path))
        assert "max_epochs" not in config["trainer"]


def test_the_key_changes_with_any_setting_of_the_cell_or_of_what_it_builds_on_and_with_nothing_else(experiments):
    folder = experiments(opc={}, ga={})

    def keys(**grid):
        return {(c.scenario, c.name, c.reports): c.key for c in make_cells(Grid(str(folder), **grid))}

    first = keys()
    assert keys() == first == keys(methods=["opc", "ga"], scenarios=["class", "random"])
    changed = yaml.safe_load((folder / "class/retrain.yaml").read_text())
    put(changed, "trainer.max_epochs", 3)
    (folder / "class/retrain.yaml").write_text(yaml.safe_dump(changed))
    differing = {name for name, key in keys().items() if first[name] != key}
    measured = {("class", name, True) for name in ("yardsticks", "opc", "ga")}
    assert differing == {("class", "retrain", False)} | measured
    over = keys(overrides={"trainer": {"precision": "bf16-mixed"}})
    assert not over.items() & first.items()


def test_the_attacks_on_a_model_have_seeds_of_its_own_where_seeds_are_nested(experiments):
    cells = make_cells(
        Grid(str(experiments(opc={})), seeds=Seeds(originals=2, unlearnings=2, attacks=2, first=1, nested=True))
    )
    seeds = {(cell.scenario, *cell.seeds.values()): cell.settings["seed_everything"] for cell in cells if cell.reports}
    assert [name[1:] for name in seeds if name[0] == "class"] == [
        (1, 2), (1, 3), (1, 2, 4), (1, 2, 5), (1, 3, 6), (1, 3, 7),
        (2, 4), (2, 5), (2, 4, 8), (2, 4, 9), (2, 5, 10), (2, 5, 11),
    ]  # fmt: skip
    assert all(seed == name[-1] for name, seed in seeds.items())


def test_a_nested_grid_of_three_is_three_grids_of_one(experiments):
    folder = str(experiments(opc={}))
    whole = make_cells(Grid(folder, seeds=Seeds(originals=3, nested=True)))
    assert {cell.key for cell in whole} == {
        cell.key for first in range(3) for cell in make_cells(Grid(folder, seeds=Seeds(first=first)))
    }


def data_file(folder, name, source):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"init_args": {"source": source, "batch_size": 3}}))
    return str(folder / f"{name}.yaml")


def test_every_experiment_is_run_on_each_data_with_its_images_and_its_own_batches(experiments, tmp_path):
    folder = experiments(opc={})
    files = [data_file(tmp_path, name, {"class_path": name.upper()}) for name in ("mnist", "svhn")]
    cells = make_cells(Grid(str(folder), data=files))
    assert [(cell.scenario, cell.name) for cell in cells if cell.subcommand == "fit"] == [
        (f"{data}{scenario}", name)
        for data in ("mnist", "svhn")
        for scenario, name in [
            ("", "pretrain"), ("/class", "retrain"), ("/class", "opc"), ("/random", "retrain"), ("/random", "opc")
        ]
    ]  # fmt: skip
    assert len({cell.key for cell in cells}) == len(cells) == 2 * len(make_cells(Grid(str(folder))))
    for cell in cells:
        data = cell.config(tmp_path)["data"]["init_args"]
        assert data == {"source": {"class_path": cell.scenario.partition("/")[0].upper()}, "augment": None}
        assert {need.scenario.partition("/")[0] for need in cell.needs.values()} <= {cell.scenario.partition("/")[0]}
        assert cell.folder.startswith(f"{cell.scenario}/{cell.name}/")
    (above, *_) = make_cells(Grid(str(folder), data=files, overrides={"data": {"init_args": {"source": "Digits"}}}))
    assert above.settings["data"]["init_args"]["source"] == "Digits"


def test_callbacks_replace_those_of_measured_cells_alone(experiments, tmp_path):
    (tmp_path / "attacks.yaml").write_text(
        "trainer: {callbacks: [{class_path: HeadRecovery}], max_epochs: 9}\nevaluation: {suite: mine 1}\n"
    )
    cells = make_cells(Grid(str(experiments(opc={})), attacks=str(tmp_path / "attacks.yaml")))
    with_attacks = [(cell.subcommand, cell.name) for cell in cells if cell.settings["trainer"]["callbacks"]]
    assert with_attacks == [("validate", "yardsticks"), ("validate", "opc")] * 2
    assert {cell.settings["evaluation"].get("suite") for cell in cells if cell.reports} == {"mine 1"}
    assert not any(look_up(cell.settings, "trainer.max_epochs") == 9 for cell in cells)
    (tmp_path / "attacks.yaml").write_text("trainer: {}\n")
    with pytest.raises(UsageError, match="names no attack"):
        make_cells(Grid(str(experiments(opc={})), attacks=str(tmp_path / "attacks.yaml")))


def test_settings_of_a_file_that_is_named_stand_in_its_place(tmp_path):
    (tmp_path / "data.yaml").write_text("class_path: UnlearnDataModule\ninit_args: {batch_size: 5}\n")
    (tmp_path / "all.yaml").write_text("data: data.yaml\nevaluation: {retrain: other.yaml}\nmodel: {lr: 1e-3}\n")
    settings = read_settings(tmp_path / "all.yaml")
    assert look_up(settings, "data.init_args.batch_size") == 5
    assert look_up(settings, "data.init_args.batch_size.no") is None
    assert settings["evaluation"] == {"retrain": "other.yaml"}
    assert settings["model"] == {"lr": 0.001}


def test_settings_are_merged_by_name_and_lists_replaced(tmp_path):
    below, above = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "d": {"e": 2}}
    assert merged(below, above) == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"experiments": "nowhere"}, "there is no folder 'nowhere'"),
        ({"scenarios": ["clas"]}, "unknown scenario 'clas'; did you mean 'class'"),
        ({"methods": ["opcc"]}, "unknown method 'opcc'; did you mean 'opc'"),
        ({"attacks": "no.yaml"}, "no.yaml: cannot be read"),
        ({"data": ["no.yaml"]}, "no.yaml: cannot be read"),
        ({"data": []}, "must name at least one file, and each file name once"),
        ({"data": ["a/svhn.yaml", "b/svhn.yaml"]}, "must name at least one file, and each file name once"),
        ({"data": [str(ROOT / "configs/attack/quick.yaml")]}, "quick.yaml: has no init_args.source"),
    ],
)
def test_a_wrong_grid_is_one_line(experiments, grid, said):
    with pytest.raises(UsageError, match=said):
        make_cells(Grid(**({"experiments": str(experiments(opc={}))} | grid)))


@pytest.mark.parametrize("seeds", [{"originals": 0}, {"unlearnings": -1}, {"attacks": 0}, {"first": -1}])
def test_seeds_out_of_range_are_one_line(seeds):
    with pytest.raises(UsageError, match=f"seeds.{next(iter(seeds))} is"):
        Seeds(**seeds)


@pytest.mark.parametrize("text", ["- a", "a: [", "7"])
def test_a_file_that_is_no_settings_is_one_line(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml"):
        read_settings(tmp_path / "x.yaml")


def test_every_shipped_scenario_has_a_retrain_and_the_same_methods():
    for data in ("digits", "fashion_mnist"):
        cells = make_cells(Grid(str(ROOT / "configs/experiment" / data)))
        names = {scenario: {c.name for c in cells if c.scenario == scenario} for scenario in ("class", "random")}
        assert names["class"] - names["random"] == {"head_only", "rescale"}
        assert not names["random"] - names["class"]
