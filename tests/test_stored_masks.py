"""Masks as evaluation.evaluate stores them: those of the networks, with the same names for both learning
methods."""

import importlib

import numpy as np
import torch

from common import models, process, study
from common.criteria import magnitude
from common.pruning import apply_masks, global_masks, prunable_parameters
from common.settings import Architecture
from common.store import evaluation, populations, records
from common.store.files import read_arrays
from common.store.names import CheckpointName


def open_study(script):
    words = ["--dataset", "digits", "--model_depth", "10", "--widen_factor", "1", "--models_number", "1"]
    flags = importlib.import_module(script).build_parser().parse_args(words)
    return next(study.open_studies(script, flags))


def prune(network, sparsity=0.8):
    torch.nn.init.normal_(
        prunable_parameters(network)[
            next(name for name in prunable_parameters(network) if name.endswith("fc.bias"))
        ],
        std=0.05,
    )
    apply_masks(
        network,
        global_masks(
            {name: magnitude(weight) for name, weight in prunable_parameters(network).items()}, sparsity
        ),
    )
    return network


def save(view, path, payload, name, network):
    run = process.environment(torch.device("cpu"), 0.0)
    facts = {"seed": 0, "data": view.data.facts(), "run": run}
    record = records.make_record(name, {"epochs": 3}, network, [], **facts)
    records.save_checkpoint(path, payload, record)


def evaluated_mask(view, paths):
    """What is stored of the only member of a population, after its checkpoint was written."""
    kind = populations.Population(view.learning_method, "global", 0.8, ())
    [member] = populations.find_members(view, kind, (view.folder, view.head_folder))
    assert list(member.paths) == paths
    evaluation.evaluate(view, member)
    return read_arrays(view.method_folder / "evaluations" / f"{paths[0].stem}.npz")


def check_stored_mask(stored, network):
    start, bits = 0, np.unpackbits(stored["mask_bits"])
    parameters = prunable_parameters(network)
    assert len(stored["layers"]) == len(stored["layer_shapes"]) == len(parameters)
    for layer, shape, (name, weight) in zip(stored["layers"], stored["layer_shapes"], parameters.items()):
        kept = weight.detach().numpy() != 0
        assert name.endswith(f".{layer}") and tuple(shape) == (*kept.shape, 1, 1, 1)[:4]
        np.testing.assert_array_equal(bits[start : start + kept.size].reshape(kept.shape), kept)
        start += kept.size
    assert len(bits) - start < 8 and not bits[start:].any() and 0.79 < 1 - bits[:start].mean() < 0.81


def test_stored_masks_are_those_of_the_networks_with_the_same_names_for_both_learning_methods(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    view = open_study("sup_pie_kmodels_detection")
    network = prune(models.SupervisedNetwork(Architecture(10, 1), 10))
    name = CheckpointName("supervised", "supervised", "global", 0.8, 3, 0, widen_factor=1, depth=10)
    path = view.folder / str(name)
    save(view, path, records.cpu_state(network), name, network)
    supervised = evaluated_mask(view, [path])
    check_stored_mask(supervised, network)

    view = open_study("clr_pie_kmodels_detection")
    encoder = models.ContrastiveEncoder(Architecture(10, 1, 0.0))
    network = prune(models.ContrastiveClassifier(encoder.encoder, models.ClassificationHead(64, 10)))
    paths = []
    for part, folder, payload in (
        ("encoder", view.folder, {"model": records.cpu_state(encoder)}),
        ("head", view.head_folder, {"head": records.cpu_state(network.classification_head)}),
    ):
        name = view.name(part, "global", 0.8, 3, 32, 0)
        paths.append(folder / str(name))
        save(view, paths[-1], payload, name, network)
    contrastive = evaluated_mask(view, paths)
    check_stored_mask(contrastive, network)
    assert contrastive["layers"].tolist() == supervised["layers"].tolist()
    assert (contrastive["layer_shapes"] == supervised["layer_shapes"]).all()
    assert (contrastive["mask_bits"] != supervised["mask_bits"]).any()
