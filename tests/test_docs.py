"""Every code block of the README and of the pages in docs is run as it stands, in order, in one folder."""

import importlib
import inspect
import json
import lzma
import os
import re
import runpy
import shlex
import statistics
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import scipy.stats
import torch
import yaml
from PIL import Image
from torch import nn

import lit_unlearn as lu
import lit_unlearn.methods
from lit_unlearn.benchmark import Grid, Seeds, make_runs
from lit_unlearn.benchmark.experiments import Experiments
from lit_unlearn.benchmark.gathering import identity, kept_rows
from lit_unlearn.benchmark.leaderboard import frontier, scatter
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.benchmark.tables import markdown, text_of
from lit_unlearn.cli import main
from lit_unlearn.reports import read_rows
from lit_unlearn.reports.figures import standalone
from lit_unlearn.shipped import read_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
INSTALLATION = ("pip install . && lit-unlearn fit --config quickstart", "pip install '.[test]' && pytest")
SLOW = ("docs/benchmark.md", "docs/board.md", "docs/performance.md", "docs/pictures.md")
CLIPART = Path("/usr/share/openclipart/png")
FASHION = Path("/usr/share/datasets/fashion-mnist")
NOT_RUN_HERE = (*INSTALLATION, "pip install -e '.[dev]' && pre-commit install")


def blocks(page):
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, tmp_path_factory, monkeypatch):
    """A folder like a fresh clone, with a user's images and trained networks, and what other pages' runs have kept."""
    base = tmp_path_factory.getbasetemp()
    kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kept"
    kept.mkdir(exist_ok=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.cache").symlink_to(kept)
    for name in ("configs", "checkpoints", "performance"):
        (tmp_path / name).symlink_to(ROOT / name)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("test", 8)):
        for position, name in enumerate(("cat", "dog", "owl")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 120, (32, 32, 3), generator=generator, dtype=torch.uint8)
                pixels[:, :, position] += 100
                Image.fromarray(pixels.numpy()).save(tmp_path / "images" / part / name / f"{number:03}.png")
    (tmp_path / "forget.txt").write_text("cat/001.png\ndog/007.png  # withdrawn\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("mynet", "shopnet"):  # each page has its own
        sys.modules.pop(name, None)


def cases(pages):
    for page in pages:
        name = page.relative_to(ROOT).as_posix()
        yield pytest.param(page, id=name, marks=[pytest.mark.slow if name in SLOW else pytest.mark.ci])


@pytest.mark.filterwarnings("ignore:3 of 7,355 images cannot be decoded")  # Pillow refuses pictures that large
@pytest.mark.filterwarnings("ignore:.* forgotten images have an exact copy")  # the clip arts have some people twice
@pytest.mark.parametrize("page", list(cases(PAGES)))
def test_every_block_of_the_page_runs(page, folder, capsys):
    if page.name == "pictures.md" and not CLIPART.is_dir():
        pytest.skip("apt-get install openclipart-png")
    run_blocks(folder, page, blocks(page))
    capsys.readouterr()
    assert not list(folder.glob("**/lightning_logs"))


@pytest.mark.ci
@pytest.mark.skipif(not CLIPART.is_dir(), reason="apt-get install openclipart-png")
@pytest.mark.filterwarnings("ignore:2 of 122 images cannot be decoded")
def test_the_page_of_pictures_runs_on_a_part_of_them(folder, capsys):
    """Twelve pictures a class, and two of those that Pillow refuses; one epoch in place of twenty."""
    page = ROOT / "docs/pictures.md"
    text = "".join(text for _, text in blocks(page))
    names = re.search(r"for name in ([\w ]+); do", text)[1].split()
    refused = ["computer/microchip_v.2_havok_redh_01.png", "signs_and_symbols/stop_sign_miguel_s_nchez_.png"]
    for name in names:
        (folder / "part" / name).mkdir(parents=True)
        small = sorted(path for path in (CLIPART / name).rglob("*.png") if path.stat().st_size < 50_000)[:12]
        large = [CLIPART / each for each in refused if each.startswith(f"{name}/")]
        for number, path in enumerate([*small, *large]):
            (folder / "part" / name / f"{number}.png").symlink_to(path)
    shorter = [
        (language, text.replace(str(CLIPART), str(folder / "part")).replace("max_epochs: 20", "max_epochs: 1"))
        for language, text in blocks(page)
    ]
    run_blocks(folder, page, shorter)
    capsys.readouterr()
    rows = read_rows(folder / "runs/OPC/version_0/results.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "OPC"]
    assert rows[-1].split["spec"] == {"classes": ["people"]}
    assert rows[-1].split["counts"]["forget"] == 10
    assert (folder / "runs/OPC/version_0/unlearned.safetensors").is_file()
    assert any("2 of 122 images cannot be decoded" in warning for warning in rows[-1].warnings)
    assert "people" in (folder / "runs/OPC/version_0/report.html").read_text()


def run_blocks(folder, page, given):
    """Runs a page's blocks in order: writes its files, runs its Python and its commands."""
    for language, text in given:
        first = text.partition("\n")[0]
        if first.startswith("# file: "):
            (folder / first.removeprefix("# file: ")).write_text(text)
            if first.endswith("mynet.py"):
                train_the_users_network(folder)
        elif language == "python":
            if "my_trained_network" not in text:  # the README's snippet has a test of its own
                exec(compile(text, str(page), "exec"), {})
        elif language != "text":  # that is what a command prints
            assert language == "bash", f"a block of {language} is not run"
            for line in text.splitlines():
                run_line(line.partition("  #")[0].strip())


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="pip install '.[docs]'")
    environment = {**os.environ, "PYTHONPATH": str(Path(lit_unlearn.__file__).parents[1])}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for page in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    written = (tmp_path / "api/methods.html").read_text()
    assert all(f'id="lit_unlearn.methods.{name}"' in written for name in lit_unlearn.methods.__all__)
    assert "Kurmanji" in written  # the head of a method's file


def train_the_users_network(folder):
    sys.path.append(str(folder))
    from mynet import MyNet

    torch.manual_seed(0)
    torch.save(MyNet().state_dict(), folder / "model.pt")


def users_names():
    """What the snippet of the README takes for given: two networks, and the weights of a Retrain."""
    net, other = users_network(), users_network()
    data = lu.UnlearnDataModule(lu.ImageFolder("images"), lu.ForgetSpec(classes=["cat"]))
    lu.unlearn(net, data, method="Retrain", max_epochs=1, attacks=None, enable_progress_bar=False).save("retrain.pt")
    return {"my_trained_network": net, "their_network": other}


def users_network():
    torch.manual_seed(7)  # another seed than any run's, which would draw the same weights
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32, 3)).eval()


def run_line(line):
    if line in NOT_RUN_HERE or "cluster/" in line:  # what needs a cluster is run in tests/cluster
        return
    if line.startswith(("mkdir ", "for ")):
        subprocess.run(["bash", "-euc", line], check=True)
        return
    command, *arguments = shlex.split(line)
    if "=" in command:
        name, _, value = command.partition("=")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            run_line(shlex.join(arguments))
        return
    if command == "python":
        run_script(*arguments)
        return
    assert command == "lit-unlearn", f"not run: {line}"
    if any(argument.startswith("--print_") for argument in arguments):
        # In a process of its own: completion lists all classes there are, and those of other tests are many.
        environment = {**os.environ, "PYTHONPATH": str(Path(lit_unlearn.__file__).parents[1])}
        subprocess.run([sys.executable, "-m", "lit_unlearn", *arguments], env=environment, check=True)
    else:
        main(arguments)


def run_script(name, *arguments):
    """A script of the page; or in this process one of the folder performance, whose clock is not theirs to keep."""
    if not name.startswith("performance/"):
        sys.path.append(os.getcwd())
        runpy.run_path(name, run_name="__main__")
        return
    if "FashionMNIST()" in Path(name).read_text() and not FASHION.is_dir():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "performance"))
        module = importlib.import_module(Path(name).stem)
        threads = torch.get_num_threads()
        try:
            module.main(list(arguments))
        finally:
            torch.set_num_threads(threads)


@pytest.mark.ci
def test_the_snippet_of_the_readme_leaves_what_it_promises(folder, capsys):
    page = PAGES[0]
    snippet = next(text for language, text in blocks(page) if language == "python")
    names = users_names()
    exec(compile(snippet, str(page), "exec"), names)
    printed = capsys.readouterr().out
    assert "recovery/worst" in printed
    assert "OPC: " in printed, "the verdict"
    assert (folder / "report.html").stat().st_size > 10_000
    forgotten = users_network()
    forgotten.load_state_dict(torch.load("forgotten.pt"), strict=True)
    images = torch.rand(100, 3, 32, 32)
    theirs, ours = forgotten(images), names["result"].module.backbone.cpu().eval()(images)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert len(snippet.splitlines()) <= 11


@pytest.mark.ci
def test_the_quickstart_keeps_its_promises(folder):
    main(["fit", "--config", "quickstart", "--trainer.enable_progress_bar", "false"])
    original, *retrains, unlearned = rows = read_rows(folder / "runs/OPC/version_0/results.json")
    assert [row.method for row in rows] == ["Original", *["Retrain"] * 5, "OPC"]
    assert unlearned.verdict["retrains"] == 5
    assert unlearned.verdict["level"] in ("inconclusive", "as Retrain")
    assert unlearned.verdict["utility"] != "damaged"
    assert {"relearn/few", "membership/lira", "detectability/samples"} <= unlearned.verdict["intervals"].keys()
    assert unlearned.metrics["forget_acc"] <= 0.05
    assert unlearned.metrics["test_forget_acc"] <= 0.05
    assert unlearned.metrics["test_retain_acc"] >= original.metrics["test_retain_acc"] - 0.02
    for attack in ("hr", "fm", "worst", "worst/stages"):
        name = f"recovery/{attack}/test_forget_acc"
        assert unlearned.attacks[name] <= max(retrain.attacks[name] for retrain in retrains) + 0.02
        assert all(retrain.attacks[name] >= 0.8 for retrain in retrains)


def test_the_page_of_threat_models_names_each_attack():
    page = (ROOT / "docs/threat-models.md").read_text()
    kinds = [getattr(lu, name) for name in dir(lu)]
    attacks = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, lu.Attack)]
    made = {kind.__name__: kind().title for kind in attacks if not inspect.isabstract(kind)}
    assert dict(re.findall(r"^\| `([\w/]+)` \| `(\w+)` \|", page, flags=re.MULTILINE)) == {
        title: name for name, title in made.items()
    }


def test_the_first_block_of_the_readme_is_the_installation():
    language, text = blocks(PAGES[0])[0]
    assert language == "bash"
    assert tuple(line.partition("  #")[0].strip() for line in text.splitlines()) == INSTALLATION


@pytest.mark.parametrize(
    "name", ["digits", "depth", "deep", "elsewhere", "fashion_mnist_attack", "fashion_mnist_accuracy", "frontier"]
)
def test_every_committed_number_is_that_of_a_row_of_todays_settings(name):
    rows = kept_rows(ROOT / f"docs/results/{name}")
    page = (ROOT / f"docs/results/{name}.md").read_text()
    for summary in summarise(rows):
        assert markdown(summary) in page
    there = list(dict.fromkeys(row.benchmark["scenario"] for row in rows))  # a table comes after the other
    settings = {**read_config(f"benchmark/{name}")["grid"], "scenarios": there}
    runs = [run for run in make_runs(Grid(**{**settings, "seeds": Seeds(**settings.get("seeds", {}))})) if run.reports]
    keys = list(dict.fromkeys(row.benchmark["key"] for row in rows))
    assert keys == [run.key for run in runs if run.key in keys]
    missing = {(run.scenario, run.name) for run in runs if run.key not in keys}
    assert missing.isdisjoint((run.scenario, run.name) for run in runs if run.key in keys), "all seeds or none"
    named = [re.findall("`([a-z0-9_]+)`", line) for line in re.findall(r"(?s)Not measured yet: (.*?)\.\n", page)]
    assert {name for _, name in missing} == {name for names in named for name in names}


PAIRED = {
    "retained test images": "test_retain_acc",
    "retained training images": "retain_acc",
    "forgotten test images, head recovery": "recovery/hr/test_forget_acc",
    "forgotten test images, strongest readout": "recovery/worst/test_forget_acc",
}
"""The lines of the table of paired differences: what → the number of a row."""


def paired_table(rows):
    """OPC deep beside two starts from scratch, of one original each: means, and the mean difference with 95 % of it."""
    others = ("retrain_short", "distilled_retrain")
    found = {(row.benchmark["experiment"], row.benchmark["seeds"]["original"]): row for row in rows}
    seeds = sorted({seed for _, seed in found})
    lines = []
    for what, name in PAIRED.items():
        values = {
            each: [100 * {**row.metrics, **row.attacks}[name] for seed in seeds for row in [found[each, seed]]]
            for each in ("opc_deep", *others)
        }
        cells = [f"{statistics.fmean(own):.1f} ± {statistics.stdev(own):.1f}" for own in values.values()]
        for other in others:
            apart = [own - its for own, its in zip(values["opc_deep"], values[other], strict=True)]
            mean = statistics.fmean(apart)
            half = scipy.stats.t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5
            cells.append(f"{mean:+.2f} ({mean - half:.2f} to {mean + half:.2f})")
        lines.append(f"| {what} | {' | '.join(cells)} |".replace("-", "\N{MINUS SIGN}"))
    return "\n".join(lines)


def test_the_paired_differences_of_opc_deep_are_of_their_rows():
    rows = kept_rows(ROOT / "docs/results/lead")
    settings = {**read_config("benchmark/deep")["grid"], "pool": False, "attacks": "attack/recovery"}
    grid = Grid(**{**settings, "seeds": Seeds(**{**settings["seeds"], "originals": 8})})
    measured = [run.key for run in make_runs(grid) if run.reports]
    assert list(dict.fromkeys(row.benchmark["key"] for row in rows)) == measured
    methods = [row for row in rows if row.method not in ("Original", "Retrain")]
    assert paired_table(methods) in (ROOT / "docs/results/deep.md").read_text()


def test_no_committed_row_names_a_folder_of_the_machine_that_made_it():
    packed = [lzma.decompress(path.read_bytes()).decode() for path in ROOT.glob("docs/results/**/rows.json.xz")]
    plain = [path.read_text() for path in (*ROOT.glob("docs/results/**/*.json"), *ROOT.glob("board/**/*.json"))]
    assert len(packed) > 5
    for text in (*packed, *plain):
        assert not re.findall(r'"(?:/|[A-Z]:)[^" ]*[/\\\\][^" ]*"', text)


def test_the_attack_by_one_who_knows_the_seed_has_its_numbers_on_the_page():
    found = json.loads((ROOT / "docs/results/deep/seed_known.json").read_text())
    page = (ROOT / "docs/results/deep.md").read_text().replace("| .", "| 0.").replace("± .", "± 0.")
    for name, line in (
        ("opc_deep, as it is", "OPC deep as it is"),
        ("opc_deep, put back", "OPC deep, entries put back"),
        ("retrain, as it is", "Retrain as it is"),
        ("retrain, put back", "Retrain, the same entries moved"),
    ):
        own = [numbers for what, numbers in found.items() if what.startswith(name)]
        assert len(own) == 3
        texts = []
        for number, scale, digits in (("hr", 100, 1), ("worst", 100, 1), ("masked", 100, 1), ("detected", 1, 3)):
            values = [scale * each[number] for each in own]
            texts.append(f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")
        assert f"| {line} | {' | '.join(texts)} |" in page


def test_the_difference_between_processors_is_that_of_their_rows():
    one = {identity(row): row for row in kept_rows(ROOT / "docs/results/frontier")}
    found = {"Original": [], "Retrain": [], "recovery": []}
    for row in kept_rows(ROOT / "docs/results/processors"):
        beside = one[identity(row)]
        assert row.benchmark["key"] == beside.benchmark["key"]
        found[row.method] += [abs(row.metrics[name] - beside.metrics[name]) for name in row.metrics]
        name = "recovery/hr/test_forget_acc"
        found["recovery"] += [abs(row.attacks[name] - beside.attacks[name])] if row.method == "Retrain" else []
    apart = {name: f"{100 * max(values):.1f}".lstrip("0") for name, values in found.items()}
    page = " ".join((ROOT / "docs/performance.md").read_text().split())
    assert len(found["recovery"]) == 5, "from five seeds"
    assert f"up to {apart['Original']} points apart, their Retrains up to {apart['Retrain']}, and head" in page
    assert f"head recovery got up to {apart['recovery']} points more or less" in page


def test_the_table_of_two_precisions_is_of_their_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "performance"))
    precision = importlib.import_module("precision")
    settings = read_config("benchmark/precision")["grid"]
    rows = {name: read_rows(ROOT / f"docs/results/precision/{name}/rows.json") for name in precision.PRECISIONS}
    for name, own in rows.items():
        mixing = {**settings, "overrides": precision.overrides(name)}
        measured = [run.key for run in make_runs(Grid(**mixing)) if run.reports]
        assert list(dict.fromkeys(row.benchmark["key"] for row in own)) == measured
    (pair,) = zip(*(summarise(own) for own in rows.values()), strict=True)
    assert precision.side_by_side(pair) in (ROOT / "docs/results/precision.md").read_text()


@pytest.mark.parametrize(
    ("folder", "scenario"),
    [
        ("deep", "class"),
        ("fashion_mnist_attack", "class"),
        ("fashion_mnist_attack", "random"),
        ("fashion_mnist_accuracy", "class"),
        ("fashion_mnist_accuracy", "random"),
    ],
)
def test_the_committed_figure_is_of_the_committed_rows(folder, scenario):
    results = ROOT / "docs/results" / folder
    summaries = {each.scenario: each for each in summarise(kept_rows(results))}
    drawn = standalone(scatter(summaries[scenario]))
    committed = (results / f"{scenario}.svg").read_text()
    assert re.findall(r">([^<>]+)</text>", committed) == re.findall(r">([^<>]+)</text>", drawn)
    marks = [re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg) for svg in (committed, drawn)]
    points = [[float(number) for pair in pairs for number in pair] for pairs in marks]
    assert len(points[0]) >= 2 * len(summaries[scenario].lines)
    assert points[0] == pytest.approx(points[1], abs=3)  # other versions of matplotlib set letters otherwise


def test_the_figure_of_depth_against_cost_is_of_the_committed_rows():
    results = ROOT / "docs/results/frontier"
    (summary,) = summarise(kept_rows(results))
    drawn, committed = standalone(frontier(summary)), (results / "class-cost.svg").read_text()
    assert re.findall(r">([^<>]+)</text>", committed) == re.findall(r">([^<>]+)</text>", drawn)
    points = [re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg) for svg in (committed, drawn)]
    found = [[float(number) for pair in pairs for number in pair] for pairs in points]
    assert len(found[0]) >= 4 * 44, "two marks a line"
    assert found[0] == pytest.approx(found[1], abs=3)  # other versions of matplotlib set letters otherwise


SHORT = (
    *("Retrain", "RetrainShort", "DistilledRetrain", "OPC (opc_deep)", "KernelShuffle", "MSG (msg)", "CT", "SalUn"),
    *("SCRUB", "PruneRegrow", "SSD", "DELETE", "BoundaryShrink", "NegGradPlus", "FineTune", "HeadOnly"),
)
"""The lines that the README shows of the table of classes."""


def short_table(summary):
    """The part of a table that the README shows."""
    columns = ["TA", "Images seen"]
    places = [next(n for n, c in enumerate(summary.columns) if c.heading.startswith(name)) for name in columns]
    known = {line.label: line for line in summary.lines}
    lines = [
        "| Method | Verdict | Excess over Retrain, decisive attack | Test accuracy | Images, % of Retrain's |",
        "|---|---|---|---:|---:|",
    ]
    for label in SHORT:
        line = known[label]
        accuracy, seen = (text_of(line.values[place], summary.columns[place].unit) for place in places)
        cells = [label, line.title or "–", line.excess or "–", accuracy, seen.partition(" ")[0]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_short_table_of_the_readme_is_of_the_committed_rows():
    tables = summarise(kept_rows(ROOT / "docs/results/fashion_mnist_attack"))
    (summary,) = [each for each in tables if each.scenario == "class"]
    assert f"<!-- short table -->\n{short_table(summary)}\n<!-- /short table -->" in (ROOT / "README.md").read_text()


BESIDE_THE_SEARCH = ("msg_90",)  # a reference with another share, not tuned


@pytest.mark.parametrize(
    ("folder", "search", "settings_of", "criterion"),
    [
        ("tuning", "fashion_mnist", "fashion_mnist_accuracy", "accuracy"),
        ("tuning", "fashion_mnist", "fashion_mnist_attack", "attack"),
        ("tuning/digits", "digits", "digits", "attack"),
    ],
)
def test_the_settings_of_the_new_tables_are_the_winners_of_their_log(folder, search, settings_of, criterion):
    log = json.loads((ROOT / f"docs/results/{folder}/tuning.json").read_text())
    won = {(trial["scenario"], trial["experiment"]): trial for trial in log["trials"] if criterion in trial["won"]}
    tried = Counter((trial["scenario"], trial["experiment"]) for trial in log["trials"])
    assert all(tried[each["scenario"], each["experiment"]] >= each["budget"] for each in log["searches"])
    tuned = read_config(f"tuned/{settings_of}")
    names = {(scenario, name) for scenario in tuned for name in tuned[scenario]}
    beside = {(scenario, name) for scenario in tuned for name in ("pretrain", "retrain", *BESIDE_THE_SEARCH)}
    assert names - beside == won.keys()
    bases = {scenario: read_config(f"tune/{search}")["grid"]["bases"][scenario] for scenario in tuned}
    experiments = Experiments(bases, f"tuned/{settings_of}")
    for (scenario, name), trial in won.items():
        settings = experiments.settings(scenario, name)
        own = (
            settings["model"]["init_args"]
            | settings["data"]["init_args"]
            | {"epochs": settings["trainer"]["max_epochs"]}
        )
        own |= {"lr": own["optimizer"]["init_args"]["lr"]} if "optimizer" in own else {}
        own |= {f"lr_{name}": given for name, given in ((own.get("lr_scheduler") or {}).get("init_args") or {}).items()}
        for setting, value in trial["values"].items():
            assert own[setting] == pytest.approx(value)


BUSY = "824cef2"
"""The commit of trials that were run beside tests, so that their seconds are up to twice too long."""


def test_the_cost_of_a_method_is_the_median_over_the_trials_of_the_search():
    table = (ROOT / "README.md").read_text().partition("## Methods")[2].partition("## Attacks")[0]
    found: dict[str, list[float]] = defaultdict(list)
    rows = read_rows(ROOT / "docs/results/tuning/rows.json.xz")
    busy = {row.method for row in rows if row.commit.startswith(BUSY)}
    for row in rows:
        if row.benchmark["scenario"] == "class" and row.benchmark["experiment"] not in ("opc_deep", "opc_features"):
            found[row.method].append(row.seconds["unlearn"] / max(row.epochs, 1))
    epoch = statistics.median(found["FineTune"])
    said = {}
    for line in (line for line in table.splitlines() if line.startswith("| `")):
        names, _, _, costs, _ = (cell.strip() for cell in line.strip("|").split("|"))
        methods = re.findall("`([A-Za-z0-9]+)`", names)
        said |= dict(zip(methods, costs.removesuffix(" once").split(", "), strict=True)) if costs else {}
    assert said.pop("Retrain") == "1", "it is FineTune from the start"
    assert busy == {"SCRUB", "UNDO", "MSG", "NegGradPlus"}
    assert busy.isdisjoint(said), "their seconds are no measure"
    assert len(said) > 20
    assert {name: f"{statistics.median(found[name]) / epoch:.1f}" for name in said} == {
        name: f"{float(cost):.1f}" for name, cost in said.items()
    }


def test_citation_and_licence_say_what_the_package_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert citation["version"] == lit_unlearn.__version__
    assert citation["license"] == settings["project"]["license"] == "MIT"
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["hatch"]["version"]["path"] == "lit_unlearn/__init__.py"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
