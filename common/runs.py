"""What training and finetuning scripts share: the story of an epoch, curves, and one-shot pruning with finetuning of a population."""

import time
from typing import Callable

import numpy as np

from common import checkpoints, results
from common.cli import UserError, logger
from common.models import Classifier
from common.pruning import global_masks, magnitude, measure_sparsity, prunable_parameters
from common.populations import Member, find_population
from common.study import Study
from common.training import FINETUNING_LEARNING_RATE, finetune, prepare


def model_ids(first: int, last: int) -> range:
    """Ids from --index_start to --index_end, both inclusive.

    Raises:
        UserError: the last comes before the first.
    """
    if last < first:
        raise UserError(f"--index_end {last} lies before --index_start {first} (both inclusive)")
    return range(first, last + 1)


def refuse_gradual_pruning(flag: str, sparsities: list[float]) -> None:
    """Pruning while training has its flags but is not built yet.

    Raises:
        UserError: a sparsity above 0.
    """
    if any(sparsities):
        raise UserError(f"{flag} {','.join(map(str, sparsities))}: pruning while training is not available yet, only 0; "
                        "for one-shot pruning train dense networks and run the pruning_finetune script")


def log_epoch(what: str, epochs: int, entry: dict, chance: float | None = None) -> None:
    """One line of the story: loss with its chance value, accuracies of the epoch's views and of the test images."""
    words = [f"{what} epoch {entry['epoch'] + 1}/{epochs}", f"loss {entry['loss']:.4f}"]
    if chance is not None:
        words[-1] += f" (chance {chance:.4f})"
    words += [f"{name.replace('_', ' ')} {entry[name]:.2%}" for name in ("train_accuracy", "test_accuracy") if name in entry]
    logger.debug("%s, learning rate %.3g", ", ".join(words), entry["learning_rate"])


def log_run(what: str, history: list[dict], chance: float, started: float) -> None:
    """One line on a finished run: its last epoch and its seconds."""
    last = history[-1]
    accuracy = f", test accuracy {100 * last['test_accuracy']:.2f} %" if "test_accuracy" in last else ""
    logger.info("%s: %d epochs, loss %.4f (chance %.4f)%s, %.1f s", what, len(history), last["loss"], chance, accuracy, time.time() - started)


def store_curves(study: Study, name: str, model_id: int, stages: dict[str, tuple[list[dict], float]]) -> None:
    """Stores and draws the curves of a run beside its log: stage -> (history, chance value of the loss)."""
    from common import plots

    title = f"{study.data.title} · {study.learning_method} · dense · 1 model, id {model_id} ({study.architecture})"
    stages = {stage: values for stage, values in stages.items() if values[0]}
    arrays = {"figure": "curves", "title": title, "stages": list(stages)}
    for stage, (history, chance) in stages.items():
        arrays[f"{stage}_chance_loss"] = chance
        arrays |= {f"{stage}_{key}": np.array([entry[key] for entry in history]) for key in history[0]}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    path = study.log_folder / f"{name}_curves.npz"
    results.write_arrays(path, arrays, {"model": name})
    plots.save_figure(path.with_suffix(".png"), plots.draw(arrays))


def finetune_population(study: Study, parts: tuple[str, ...], payloads: Callable[[Classifier], tuple[dict, ...]]) -> None:
    """Prunes every dense network of the population in one shot at every sparsity, finetunes it and saves it under its own id.

    Finished ones are skipped one by one.

    Args:
        parts: names of the files of one network, as in CheckpointName.
        payloads: what goes into each of them.
    """
    flags = study.flags
    dense = find_population(study, "dense", 0.0)
    unfinished = []
    for sparsity in flags.pruning_percentages:  # refuses what is in the way before the first step
        configuration = {
            "learning_method": study.learning_method, **study.architecture_configuration(), "pruning_method": "global",
            "criterion": "magnitude", "sparsity": sparsity, "epochs": flags.epochs, "batch_size": flags.batch_size,
            "learning_rate": FINETUNING_LEARNING_RATE, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "dense": dense.configuration}
        if not study.supervised:
            configuration["temperature"] = flags.temperature
        for member in dense.members:
            names = [study.name(part, "global", sparsity, flags.epochs, flags.batch_size, member.id) for part in parts]
            paths = [(study.folder if index == 0 else study.head_folder) / str(name) for index, name in enumerate(names)]
            origin = {"dense_sha256": list(member.checksums)}
            if not flags.debug and all([checkpoints.is_finished(path, configuration, study.data, study.folder_flag, **origin) for path in paths]):
                logger.info("finished before: %s", paths[-1])
            else:
                if not flags.debug:
                    checkpoints.refuse_to_replace(paths)
                unfinished.append((sparsity, member, names, paths, configuration, origin))
    accuracies: dict[float, list[tuple[float, float]]] = {}
    for sparsity, member, names, paths, configuration, origin in unfinished:
        started = time.time()
        network, history = _prune_and_finetune(study, member, sparsity)
        accuracies.setdefault(sparsity, []).append((history[0]["test_accuracy"], history[-1]["test_accuracy"]))
        if flags.debug:
            continue
        run = checkpoints.environment(study.device, started)
        more = {**origin, "accuracy_as_pruned": history[0]["test_accuracy"], "accuracy_finetuned": history[-1]["test_accuracy"]}
        for path, name, payload in zip(paths, names, payloads(network)):
            record = checkpoints.make_record(name, configuration, study.model_seed(member.id), study.data, network, history, run, **more)
            checkpoints.save_checkpoint(path, payload, record)
            more["encoder_sha256"] = checkpoints.file_sha256(path)
    for sparsity, pairs in accuracies.items():
        before, after = np.mean(pairs, 0)
        logger.info("%s sparsity %s: %d networks, mean test accuracy %.2f %% as pruned, %.2f %% after %d epochs",
                    study.learning_method, sparsity, len(pairs), 100 * before, 100 * after, flags.epochs)


def _prune_and_finetune(study: Study, member: Member, sparsity: float) -> tuple[Classifier, list[dict]]:
    flags = study.flags
    network = prepare(results.load_member(study, member), study.device)
    masks = global_masks({name: magnitude(weight) for name, weight in prunable_parameters(network).items()}, sparsity)
    description = f"{study.learning_method} global {sparsity} id {member.id}"
    history = finetune(network, study.data, masks, flags.epochs, flags.batch_size, (study.model_seed(member.id), "finetuning"), description)
    for entry in history[1:]:
        log_epoch(description, flags.epochs, entry)
    achieved = measure_sparsity(network)
    emptied = [name for name, share in achieved["per_tensor"].items() if share == 1.0]
    if emptied:
        logger.info("%s: nothing left in %s", description, ", ".join(emptied))
    logger.info("%s: sparsity %.6f (%.6f without biases), test accuracy %.2f %% as pruned, %.2f %% finetuned", description,
                achieved["total"], achieved["weights_only"], 100 * history[0]["test_accuracy"], 100 * history[-1]["test_accuracy"])
    return network, history
