"""--compile: the training step as one graph, made once for all seeds, with the numbers of one that is not
compiled."""

import pytest
import torch
from test_training import classifying, contrasting, encoder, few, network, one_epoch

from common import training


@pytest.fixture
def graphs(monkeypatch):
    """The forward graphs that were made; their numbers are those of uncompiled operations, without a C++
    compiler."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    compile = torch.compile
    without = lambda function, options, **more: compile(function, backend=backend, **more)
    monkeypatch.setattr(torch, "compile", without)
    torch._dynamo.reset()
    training.compiled_loss.cache_clear()
    yield made
    torch._dynamo.reset()
    training.compiled_loss.cache_clear()


def training_of(kind, seed=0, **settings):
    """Of 70 digits in batches of 32: the last batch has 6."""
    if kind == "supervised":
        return classifying(network(seed, settings.pop("dropout", 0.0)), batch_size=32, **settings)
    model = encoder(settings.pop("dropout", 0.0))
    return contrasting(model, few(), learning_method=kind, batch_size=32, **settings)


def weights(of):
    return torch.cat([parameter.detach().flatten() for parameter in of.network.parameters()])


@pytest.mark.parametrize("kind, dropout", [("supervised", 0.3), ("SupCon", 0.0)])
def test_a_graph_for_every_size_of_a_batch_computes_what_the_step_does_for_all_seeds(kind, dropout, graphs):
    for seed in range(2):
        trained = []
        for compiled in (False, True):
            of = training_of(kind, seed, dropout=dropout, compile=compiled)
            trained.append((one_epoch(of)["loss"], weights(of)))
        assert trained[0][0] == pytest.approx(trained[1][0], rel=1e-5)
        assert torch.allclose(trained[0][1], trained[1][1], rtol=1e-4, atol=1e-5)
        one_epoch(of, epoch=1)
        assert len(graphs) == 2
    nodes = [str(node.target) for node in graphs[0].graph.nodes]
    loss = "cross_entropy" if kind == "supervised" else "logsumexp"
    assert all(any(word in node for node in nodes) for word in ("conv2d", loss))
    assert not any(name.startswith("_orig_mod") for name in of.network.state_dict())


def test_masks_learning_rates_and_pruning_while_training_make_no_new_graph(graphs):
    from common.pruning import GradualPruning, measure_sparsity
    from common.training import TrainingContext, fit

    of = training_of("supervised", compile=True)
    history = fit(
        of, TrainingContext((0, "supervised")), range(2), pruning=GradualPruning(0.8, 2, 5, 1, "snip")
    )
    assert len(graphs) == 2 and history[-1]["sparsity"] == measure_sparsity(of.network)["total"] > 0.75
