"""Every method on networks with and without batch norm and convolutions, those of the table in docs/networks.md."""

from pathlib import Path

import pytest
import torch

from lit_unlearn import methods
from lit_unlearn.backbones import Timm
from lit_unlearn.data import Dataset, ForgetSpec, Source, UnlearnDataModule

pytest.importorskip("timm")

PAGE = Path(__file__).parents[2] / "docs/networks.md"
NETWORKS = {
    "ResNet": ("test_resnet", {}),
    "EfficientNet": ("test_efficientnet", {}),
    "ConvNeXt": ("test_convnext", {}),
    "NFNet": ("test_nfnet", {}),
    "ViT": ("test_vit", {"img_size": 32}),
}
"""What the page calls them, and timm's smallest of each kind."""

NAMES = [name for name in methods.__all__ if name not in ("Audit", "UnlearnModule")]
OPTIONS = {"SSD": {"alpha": 1.0}}
EPOCHS = {"UNDO": 2}


class Pictures(Source):
    def load(self):
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=draw)
        labels = torch.arange(64) % 4
        return Dataset(images, labels, images[:16], labels[:16], list("abcd"))


def network(kind):
    name, options = NETWORKS[kind]
    return Timm(name, 4, options=options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of each network in which nothing is left as it was constructed."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in NETWORKS:
        torch.manual_seed(5)
        state = network(kind).state_dict()
        state = {name: v + 0.01 * torch.randn_like(v) if v.is_floating_point() else v for name, v in state.items()}
        torch.save({name: v.abs() if name.endswith("running_var") else v for name, v in state.items()}, folder / kind)
    return folder


CHEAP = ("OPC", "Retrain", "BadTeacher", "UNDO")
CASES = [
    pytest.param(
        kind,
        name,
        id=f"{kind}-{name}",
        marks=() if (kind, name) in {("ViT", each) for each in CHEAP} else pytest.mark.ci,
    )
    for kind in NETWORKS
    for name in NAMES
]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of single gradients through attention
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_method_trains_every_network(fit, trained, kind, name):
    torch.manual_seed(0)
    module = getattr(methods, name)(network(kind), trained / kind, **OPTIONS.get(name, {}))
    data = UnlearnDataModule(Pictures(), ForgetSpec(classes=[0]), batch_size=16)
    fit(module, data, max_epochs=EPOCHS.get(name, 1), limit_val_batches=0)
    assert module.diverged is None
    if name not in ("Pretrain", "Retrain", "RetrainShort", "DistilledRetrain"):
        assert not module.is_original()
    assert all(bool(torch.isfinite(value).all()) for value in module.backbone.parameters())


def test_the_page_names_the_networks_of_the_test():
    section = PAGE.read_text().partition("## Which method runs")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert [(row[0].strip(), row[1].strip(" `")) for row in rows[2:]] == [(k, n) for k, (n, _) in NETWORKS.items()]
    assert f"All {len(NAMES)} methods" in PAGE.read_text()
