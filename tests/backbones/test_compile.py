"""A compiled backbone is the same backbone: weights, names, copies, taps and what is measured."""

import copy
import pickle

import pytest
import torch

from lit_unlearn import methods
from lit_unlearn.backbones import ResNet8
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import OPC

METHODS = [getattr(methods, name) for name in methods.__all__ if name not in ("Audit", "UnlearnModule")]
OPTIONS = {"PruneRegrow": {"half_precision": False}}  # rounding to half precision makes small differences large


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


@pytest.fixture
def graphs():
    """A backend that runs what it was given as it is, and what it was given."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    backend.seen = seen
    return backend


def network():
    torch.manual_seed(0)
    return ResNet8(num_classes=4, in_channels=1, width=4)


def images(count=6):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_only_training_passes_without_stages_run_compiled_and_in_one_graph(graphs):
    plain, compiled = network(), network()
    compiled.compile(backend=graphs)
    for passed in (lambda net: net.eval()(images()), lambda net: net.train().taps(images(), ["stage2"])["stage2"]):
        torch.testing.assert_close(passed(compiled), passed(plain), rtol=0, atol=0)
        assert graphs.seen == []
    for passed in (lambda net: net(images()), lambda net: net.taps(images(), ["features"])["features"]):
        torch.testing.assert_close(passed(compiled), passed(plain), rtol=0, atol=0)
        assert len(graphs.seen) == 1
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_names_stay_and_copies_are_plain(graphs):
    compiled = network().train()
    compiled.compile(backend=graphs)
    assert compiled.compiled
    assert list(compiled.state_dict()) == list(network().state_dict())
    for twin in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert not twin.compiled
        assert twin.encoder is not compiled.encoder
        twin(images())
    assert graphs.seen == []
    before = [p.clone() for p in compiled.parameters()]
    twin.load_state_dict({name: value + 1 for name, value in twin.state_dict().items()})
    assert all(map(torch.equal, before, compiled.parameters()))


def test_a_network_that_cannot_be_compiled_is_told_in_a_line():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand more")

    compiled = network().train()
    compiled.compile(backend=broken)
    with pytest.raises(UsageError, match=r"^compile: this network cannot be compiled here: .*") as caught:
        compiled(images())
    assert "\n" not in str(caught.value)


def check_equal_weights(fit, make, data, backend, tolerance):
    plain, compiled = make(), make()
    compiled.backbone.compile(backend=backend)
    for module in (plain, compiled):
        torch.manual_seed(11)  # decides what a fresh start draws
        fit(module, data(), max_epochs=2)
    assert compiled.backbone.compiled
    torch.testing.assert_close(compiled.backbone.state_dict(), plain.backbone.state_dict(), rtol=0, atol=tolerance)


def test_a_compiled_run_ends_at_the_weights_of_a_plain_one(fit, make_backbone, make_data, graphs):
    check_equal_weights(fit, lambda: OPC(make_backbone(), distill=1.0), make_data, graphs, 0)
    assert graphs.seen


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_the_weights_of_a_plain_run(fit, make_backbone, make_data, method):
    def make():
        torch.manual_seed(11)
        return method(make_backbone(), **OPTIONS.get(method.__name__, {}))

    check_equal_weights(fit, make, make_data, "aot_eager", 1e-5)


@pytest.mark.slow
def test_with_the_default_compiler_too(fit, make_backbone, make_data):
    check_equal_weights(fit, lambda: OPC(make_backbone()), make_data, "inductor", 1e-4)
