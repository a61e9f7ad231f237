"""The zoo: models by name from a folder, an address, the hub or the cache, and nothing else than the index says."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import lit_unlearn

import lit_unlearn as lu
from lit_unlearn.backbones import ResNet8, load_weights, save_weights, zoo
from lit_unlearn.backbones.zoo import open_zoo
from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256
from lit_unlearn.methods import FineTune
from lit_unlearn.reports import Row, write_rows
from lit_unlearn.zoo_command import build

NAME = "blobs/class/finetune"
SPLIT = {"hash": "abcd" * 4, "spec": {"classes": [0]}}
PLACE = {"scenario": "class", "experiment": "finetune", "seeds": {"original": 0}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(zoo, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv(zoo.PLACE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """What a benchmark leaves: two seeds of one method, the first attacked, and one that diverged."""
    for experiment, key, seed, status in (
        ("finetune", "run-a", 1, "ok"),
        ("finetune", "run-b", 0, "ok"),
        ("ascent", "run-c", 0, "diverged"),
    ):
        folder = tmp_path / "runs/class" / experiment / key
        folder.mkdir(parents=True)
        torch.manual_seed(seed)
        save_weights(ResNet8(4, in_channels=1, width=4), folder / "unlearned.safetensors", {"split": SPLIT["hash"]})
        write_rows(folder / "results.json", [row(seed, status)])
        network = {"class_path": "ResNet8", "init_args": {"num_classes": 4, "in_channels": 1, "width": 4}}
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"backbone": network}}}))
    attacked = tmp_path / "runs/class/finetune/run-d"
    attacked.mkdir()
    write_rows(attacked / "results.json", [row(0, "ok", {"recovery/hr/forget_acc": 0.25})])
    (attacked / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": "/there/class/finetune/run-b/unlearned.ckpt"}))
    return tmp_path / "runs"


def row(seed: int, status: str, attacks: dict[str, float] | None = None) -> Row:
    data = {"source": "Blobs", "image_shape": [1, 8, 8], "num_classes": 4}
    metrics = {"forget_acc": 0.5, "retain_acc": 0.9}
    return Row(
        "FineTune",
        status,  # type: ignore[arg-type]
        data=data,
        metrics=metrics,
        split=SPLIT,
        seed=seed,
        attacks=attacks or {},
        verdict={"level": "leaks"},
    )


@pytest.fixture
def place(runs: Path, tmp_path: Path) -> Path:
    assert build(runs, tmp_path / "zoo", "blobs", "MIT") == f"Written to {tmp_path / 'zoo'}: 1 models, 1 in index.json"
    return tmp_path / "zoo"


@pytest.fixture
def server(place: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the folder, and what was asked of it."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(place))) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}", asked
        made.shutdown()
        thread.join()


def edited(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((place / "index.json").read_text())
    change(index)
    (place / "index.json").write_text(json.dumps(index))


def test_build_takes_the_lowest_seed_with_its_attacks(place: Path, runs: Path) -> None:
    model = lu.load_model(NAME, place)
    entry = model.entry
    assert (entry.seed, entry.method, entry.licence, entry.split) == (0, "FineTune", "MIT", SPLIT)
    assert entry.metrics == {"forget_acc": 0.5, "retain_acc": 0.9}
    assert entry.sha256 == file_sha256(runs / "class/finetune/run-b/unlearned.safetensors")
    assert open_zoo(place).row(NAME)["attacks"] == {"recovery/hr/forget_acc": 0.25}
    torch.manual_seed(0)
    assert torch.equal(model.backbone.head.weight, ResNet8(4, in_channels=1, width=4).head.weight)
    assert not model.backbone.training
    assert model.path == place / f"{NAME}.safetensors"


def test_build_takes_verdicts_from_the_table(runs: Path, tmp_path: Path) -> None:
    judged = row(0, "ok", {"recovery/hr/forget_acc": 0.25})
    judged.verdict, judged.benchmark = {"level": "as Retrain"}, {"key": "d", **PLACE}
    write_rows(runs / "rows.json", [judged])
    build(runs, tmp_path / "zoo", "blobs", "MIT")
    assert lu.load_model(NAME, tmp_path / "zoo").entry.verdict == {"level": "as Retrain"}


def test_build_leaves_out_models_of_earlier_settings(runs: Path, tmp_path: Path) -> None:
    """A folder that a benchmark went on in keeps the runs of before; its table has the present ones alone."""
    present = runs / "class/finetune/run-e"
    present.mkdir()
    write_rows(present / "results.json", [row(1, "ok", {"recovery/hr/forget_acc": 0.5})])
    (present / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": "/there/class/finetune/run-a/unlearned.ckpt"}))
    judged = row(1, "ok", {"recovery/hr/forget_acc": 0.5})
    judged.benchmark = {"key": "e", **PLACE}
    write_rows(runs / "rows.json", [judged])
    build(runs, tmp_path / "zoo", "blobs", "MIT")
    assert lu.load_model(NAME, tmp_path / "zoo").entry.seed == 1


def test_build_adds_to_what_there_is(place: Path, runs: Path, tmp_path: Path) -> None:
    assert build(runs, place, "other", "CC0-1.0").endswith("1 models, 2 in index.json")
    assert sorted(open_zoo(place).models) == [NAME, "other/class/finetune"]
    with pytest.raises(UsageError, match="no runs of a benchmark"):
        build(tmp_path / "nowhere", place, "x", "MIT")


@pytest.mark.parametrize("name", ["../x", "FashionMNIST", "a b", "/tmp"])
def test_build_takes_only_names_that_an_index_may_have(runs: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"data is '{name}', allowed: lower-case letters, digits and _"):
        build(runs, tmp_path / "new", name, "MIT")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("settings", "said"), [("a: [", "cannot read"), ("a: 1", "has no settings model.init_args")])
def test_build_says_which_run_has_no_settings(runs: Path, tmp_path: Path, settings: str, said: str) -> None:
    (runs / "class/finetune/run-b/config.yaml").write_text(settings)
    with pytest.raises(UsageError, match=said):
        build(runs, tmp_path / "new", "blobs", "MIT")
    assert not (tmp_path / "new").exists()


def test_an_address_is_asked_once_and_then_not_needed(
    server: tuple[str, list[str]], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    monkeypatch.setenv(zoo.PLACE, address)
    model = lu.load_model(NAME)
    assert model.path == own_cache / "lit_unlearn/zoo" / f"{model.entry.sha256}.safetensors"
    assert asked == ["/index.json", f"/{NAME}.safetensors"]
    backbone = ResNet8(4, in_channels=1, width=4)
    loaded = load_weights(backbone, f"zoo:{NAME}")
    assert (loaded.sha256, loaded.source, loaded.split) == (model.entry.sha256, f"zoo:{NAME}", SPLIT["hash"])
    assert asked[2:] == ["/index.json"]
    assert FineTune(ResNet8(4, in_channels=1, width=4), f"zoo:{NAME}").has_original_weights()
    monkeypatch.setattr(zoo.urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no net")))
    assert torch.equal(lu.load_model(NAME).backbone.head.weight, model.backbone.head.weight), (
        "offline, once it is there"
    )
    model.path.unlink()
    with pytest.raises(UsageError, match=f"cannot load {address}/{NAME}.safetensors: no net"):
        lu.load_model(NAME)
    assert not list(own_cache.rglob("tmp*"))


def test_a_cached_file_that_was_changed_is_loaded_anew(server: tuple[str, list[str]]) -> None:
    address, asked = server
    first = lu.load_model(NAME, address)
    first.path.write_bytes(b"other")
    assert file_sha256(lu.load_model(NAME, address).path) == first.entry.sha256
    assert asked.count(f"/{NAME}.safetensors") == 2


def test_weights_that_are_not_those_of_the_index_are_not_used(place: Path, server: tuple[str, list[str]]) -> None:
    with (place / f"{NAME}.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    for where in (place, server[0]):
        with pytest.raises(UsageError, match=r"sha256 is .* but the index says .*: it is not used"):
            lu.load_model(NAME, where)
    assert not list(zoo.cache().glob("*.safetensors"))
    edited(place, lambda index: index["models"][NAME].update(bytes=1000))
    with pytest.raises(UsageError, match="larger than the 1,000 bytes"):
        lu.load_model(NAME, server[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(format=2), "format 2"),
        (lambda i: i["models"][NAME].update(file="../secret.safetensors"), "must name a .safetensors file"),
        (lambda i: i["models"][NAME].update(file="/etc/passwd"), "must name a .safetensors file"),
        (lambda i: i["models"][NAME].update(file="a/weights.pt"), "must name a .safetensors file"),
        (lambda i: i["models"][NAME].update(sha256="../../x"), "must name a .safetensors file"),
        (lambda i: i["models"][NAME].update(row="../row.json"), "must name a .safetensors file"),
        (lambda i: i["models"][NAME].pop("sha256"), "not an index of a zoo"),
        (lambda i: i["models"][NAME].update(bytes="many"), "not an index of a zoo"),
        (lambda i: i["models"][NAME]["network"].update(class_path="os.system"), "unknown network of zoo"),
        (lambda i: i["models"][NAME]["network"].update(class_path="Custom"), "unknown network of zoo"),
        (lambda i: i["models"][NAME]["network"]["init_args"].update(width=5), "wrong shape"),
        (lambda i: i["models"][NAME]["network"]["init_args"].update(weight=5), "its network cannot be made"),
        (
            lambda i: i["models"][NAME].update(
                network={"class_path": "Timm", "init_args": {"name": "hf-hub:a/b", "num_classes": 4}}
            ),
            "lies elsewhere",
        ),
        (
            lambda i: i["models"][NAME].update(
                network={
                    "class_path": "Timm",
                    "init_args": {"name": "test_vit", "num_classes": 4, "options": {"checkpoint_path": "/x"}},
                }
            ),
            "would read other files",
        ),
    ],
)
def test_an_index_that_does_not_hold_is_refused(place: Path, change: Callable[[Any], None], message: str) -> None:
    edited(place, change)
    with pytest.raises(UsageError, match=message) as caught:
        lu.load_model(NAME, place)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown model of the zoo: 'blobs/class/fintune'; did you mean"):
        lu.load_model("blobs/class/fintune", place)
    with pytest.raises(UsageError, match=r"there is no .*nowhere/index\.json"):
        lu.load_model(NAME, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"cannot load http://127\.0\.0\.1:9/index\.json"):
        lu.load_model(NAME, "http://127.0.0.1:9")
    monkeypatch.setattr(zoo.shipped, "CHECKPOINTS", tmp_path)
    assert open_zoo().models == {}
    (tmp_path / "zoo.json").write_text((place / "index.json").read_text())
    with pytest.raises(UsageError, match="the zoo has no place yet"):
        lu.load_model(NAME)


def test_the_index_of_the_package_names_models_that_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_UNLEARN_ZOO", raising=False)
    models = open_zoo().models
    assert models
    for name, entry in models.items():
        network = zoo.network_of(name, entry.network)
        size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        assert size < entry.bytes < 1.1 * size + 20_000, name
        assert entry.verdict.get("level") or entry.method == "Retrain", name
        assert "intervals" not in entry.verdict


def test_the_list_says_which_models_cannot_be_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIT_UNLEARN_ZOO", raising=False)
    monkeypatch.setattr("lit_unlearn.backbones.zoo.cache", lambda: tmp_path / "kept")
    *lines, last = lit_unlearn(tmp_path, "zoo", "list").out.splitlines()
    assert all(line.endswith("(not here)") for line in lines)
    assert last == (
        f"{len(lines)} of {len(lines)} models are not here and cannot be loaded: name the folder, address or "
        "repository that holds them as --place, or as LIT_UNLEARN_ZOO in the environment"
    )
    (place / f"{NAME}.safetensors").unlink()
    listed = lit_unlearn(tmp_path, "zoo", "list", "--place", str(place)).out
    assert f"{NAME}  FineTune, leaks: forget 50.0%, retain 90.0% (not here)\n1 of 1 models" in listed


def test_the_command_lists_pulls_and_checks(place: Path, tmp_path: Path) -> None:
    listed = lit_unlearn(tmp_path, "zoo", "list", "--place", str(place))
    assert listed.out.strip() == f"{NAME}  FineTune, leaks: forget 50.0%, retain 90.0%"
    pulled = lit_unlearn(tmp_path, "zoo", "pull", "blobs", "--place", str(place))
    assert pulled.out.strip() == f"{NAME}: {place / NAME}.safetensors"
    checked = lit_unlearn(tmp_path, "zoo", "check", "--place", str(place))
    assert (checked.status, checked.out.strip()) == (0, f"{NAME}: holds")
    edited(place, lambda index: index["models"][NAME]["split"].update(hash="0" * 16))
    checked = lit_unlearn(tmp_path, "zoo", "check", "--place", str(place))
    assert (checked.status, checked.out.strip()) == (1, f"{NAME}: its row is of another model")
    edited(place, lambda index: index["models"][NAME].update(row="", row_sha256=""))
    checked = lit_unlearn(tmp_path, "zoo", "check", "--place", str(place))
    assert (checked.status, "its weights are of split abcd" in checked.out) == (1, True)
    outcome = lit_unlearn(tmp_path, "zoo", "pull", "blob", "--place", str(place))
    assert (outcome.status, "no model of the zoo is or begins with 'blob'" in outcome.err) == (2, True)
    built = lit_unlearn(tmp_path, "zoo", "build", str(tmp_path / "runs"), "--to", str(place), "--data", "again")
    assert (built.status, "1 models, 2 in index.json" in built.out) == (0, True)
    assert lit_unlearn(tmp_path, "zoo").status == 2
