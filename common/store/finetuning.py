"""Pruning of trained networks: once, with finetuning, or again and again, with rewinding, reinitialisation or finetuning in between."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from common import process
from common.cli import UserError, logger
from common.evaluation import evaluate_test_set
from common.methods import RETRAINED, PruningMethod, iteration_sparsity
from common.models import Classifier
from common.pruning import (
    Masks,
    apply_masks,
    masks_of,
    measure_sparsity,
    next_masks,
    prunable_parameters,
    score_weights,
    uses,
    weight_movement,
)
from common.store import checkpoints, results
from common.store.checkpoints import CheckpointName
from common.store.populations import Member, Population, find_population, settings_of, training_command
from common.store.resume import Progress, forget, progress
from common.store.runs import asked_method, finished_before, log_emptied
from common.store.sharing import share
from common.study import Study
from common.training import classification_losses, finetune, into_buffers, prepare

Payload = tuple[dict, list[dict]]  # what goes into one file of a network, and its history


@dataclass(frozen=True)
class Twin:
    """What differs between the supervised and the contrastive script.

    parts: names of the files of one network, as in CheckpointName.
    payloads: classifier -> what goes into each of these files after finetuning.
    initial: (study, seed, file of the kept initialisation or None for a new one, key of a new one) -> the classifier before its training.
    retrain: (study, settings of the dense training, file of kept weights or None for new ones, key of new ones, masks of the
        classifier, first epoch, seed, description, number of a file -> its Progress) -> the classifier trained again with fixed masks, and the payload
        and history of each file.
    """

    parts: tuple[str, ...]
    payloads: Callable[[Classifier], tuple[dict, ...]]
    initial: Callable[[Study, int, Path | None, tuple], Classifier]
    retrain: Callable[
        [Study, dict, Path | None, tuple, Masks, int, int, str, Callable], tuple[Classifier, list[Payload]]
    ]


@dataclass(frozen=True)
class Step:
    """One pruning of one network: one-shot at a sparsity (iteration 0), or an iteration, counted from 1."""

    iteration: int
    sparsity: float
    names: tuple[CheckpointName, ...]
    paths: tuple[Path, ...]
    configuration: dict


def finetune_population(study: Study, twin: Twin) -> None:
    """Prunes every dense network of the population, trains it on with fixed masks and saves it under its own id.

    Finished ones are skipped one by one.
    """
    flags = study.flags
    method = asked_pruning(flags)
    dense = find_population(study, "dense", 0.0)
    if method.after in RETRAINED and dense.made_elsewhere:
        raise UserError(
            f"{dense}: how they were trained is not known, so they cannot be trained again; give --after finetune"
        )
    kept = {member.id: _kept_weights(study, dense, member, method) for member in dense.members}
    steps = {
        member.id: [_step(study, twin, method, dense, member, *one) for one in _sparsities(flags)]
        for member in dense.members
    }
    finished = {
        member.id: [_is_finished(study, member, step) for step in steps[member.id]]
        for member in dense.members
    }
    if method.schedule == "iterative":
        _check_chains(study, steps, finished)
    accuracies: dict[float, list[tuple[float, float]]] = {}

    def work(member: Member) -> None:
        for step, pair in _prune_member(study, twin, method, member, steps[member.id], kept[member.id]):
            accuracies.setdefault(step.sparsity, []).append(pair)

    if not share(
        study,
        [(steps[member.id][-1].paths[-1], lambda member=member: work(member)) for member in dense.members],
    ):
        return
    for sparsity, pairs in accuracies.items():
        before, after = np.mean(pairs, 0)
        logger.info(
            "%s %s sparsity %s: %d networks, mean test accuracy %.2f %% as pruned, %.2f %% at the end",
            study.learning_method,
            method,
            sparsity,
            len(pairs),
            100 * before,
            100 * after,
        )
    if not flags.debug:
        sparsities = ",".join(str(sparsity) for _, sparsity in _sparsities(flags))
        logger.info("compare them with --pruning_methods %s --pruning_percentages %s", method, sparsities)


def _prune_member(
    study: Study, twin: Twin, method: PruningMethod, member: Member, steps: list[Step], kept: dict[int, Path]
) -> Iterator[tuple[Step, tuple[float, float]]]:
    """Does the steps of one network that are not finished; of all of them the test accuracies as pruned and at the end."""
    network = None
    for step in steps:
        if _is_finished(study, member, step):
            finished_before(*step.paths)
            record = checkpoints.read_record(step.paths[-1])
            if record is not None:
                try:
                    accuracies = record["accuracy_as_pruned"], record["history"][-1]["test_accuracy"]
                except (KeyError, IndexError):
                    raise checkpoints.damaged_record(step.paths[-1]) from None
                yield step, accuracies
            continue
        if network is None or step.iteration == 0:
            network = _previous(study, steps, step, member)
        network, pair = _prune(study, twin, method, member, steps, step, network, kept)
        yield step, pair


def asked_pruning(flags: argparse.Namespace) -> PruningMethod:
    """The pruning method that the flags ask for.

    Raises:
        UserError: a flag that has no effect with the others, or iterations that file names cannot tell apart.
    """

    def refuse(names: tuple[str, ...], why: str) -> None:
        for name in names:
            if name in flags.given:
                raise UserError(f"--{name} {why}")

    if flags.pruning_schedule == "one-shot":
        refuse(("iterations", "rate", "after", "rewind_epoch"), "belongs to --pruning_schedule iterative")
        return asked_method(flags, "one-shot")
    refuse(
        ("pruning_percentages",),
        "belongs to one-shot pruning: the sparsities of --pruning_schedule iterative follow from --rate and --iterations",
    )
    if flags.after in RETRAINED:
        refuse(
            ("epochs", "batch_size", "learning_rate"),
            f"belongs to --after finetune: with --after {flags.after} the networks are trained as the dense ones were",
        )
    if flags.after != "rewind":
        refuse(("rewind_epoch",), "belongs to --after rewind")
    sparsities = [sparsity for _, sparsity in _sparsities(flags)]
    if len({0.0, 1.0, *sparsities}) < len(sparsities) + 2:
        raise UserError(
            f"--iterations {flags.iterations} at --rate {flags.rate}: the last iterations prune less than the four digits of file names "
            "tell apart; give fewer"
        )
    return asked_method(
        flags,
        "iterative",
        rate=flags.rate,
        after=flags.after,
        rewind_epoch=flags.rewind_epoch if flags.after == "rewind" else 0,
    )


def _sparsities(flags: argparse.Namespace) -> list[tuple[int, float]]:
    """(iteration, sparsity) of all that is asked for."""
    if flags.pruning_schedule == "one-shot":
        return [(0, sparsity) for sparsity in flags.pruning_percentages]
    return [
        (iteration, iteration_sparsity(flags.rate, iteration)) for iteration in range(1, flags.iterations + 1)
    ]


def _kept_weights(study: Study, dense: Population, member: Member, method: PruningMethod) -> dict[int, Path]:
    """epoch -> file of the weights that the dense training kept, as far as the method needs them.

    Raises:
        UserError: they were not kept; the message has the command that keeps them.
    """
    needed = {method.rewind_epoch} if method.after == "rewind" else set()
    needed |= {0} if uses(method.criterion, "initial_weight") else set()
    if needed and member.made_elsewhere:
        raise UserError(
            f"{member.paths[0]} was made elsewhere: its initialisation is not known; choose another --criterion, or train networks here"
        )
    files = {
        epoch: checkpoints.find_epoch(member.paths[0], epoch, member.records[0]) for epoch in sorted(needed)
    }
    if None in files.values():
        first = dense.members[0].records[-1]["configuration"]
        if max(needed) >= first["epochs"]:
            raise UserError(
                f"--rewind_epoch {method.rewind_epoch}: the dense networks were trained for {first['epochs']} epochs; give fewer"
            )
        command = training_command(
            study,
            "dense",
            0.0,
            [other.id for other in dense.members],
            settings_of(dense, None),
            own_folders=member.paths[0].parent == study.folder,
        )
        raise UserError(
            f"the weights of {member.paths[0].name} after {' and '.join(str(epoch) for epoch, path in files.items() if path is None)} "
            f"epochs were not kept; keep them: {command} --save_epochs {','.join(map(str, files))}"
        )
    return files


def _step(
    study: Study,
    twin: Twin,
    method: PruningMethod,
    dense: Population,
    member: Member,
    iteration: int,
    sparsity: float,
) -> Step:
    flags = study.flags
    configuration = {
        "learning_method": study.learning_method,
        **study.architecture_configuration(),
        "pruning_method": str(method),
        "criterion": method.criterion,
        "scope": method.scope,
        "sparsity": sparsity,
    }
    if iteration:
        configuration |= {
            "iteration": iteration,
            "rate": method.rate,
            "after": method.after,
            "rewind_epoch": method.rewind_epoch,
        }
    if method.finetuned:
        epochs, batch_size = (flags.epochs,) * 2, flags.batch_size
        configuration |= {
            "epochs": flags.epochs,
            "batch_size": flags.batch_size,
            "learning_rate": flags.learning_rate,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0.0,
        }
    else:  # trained as the dense network was
        settings = member.record["configuration"]
        epochs, batch_size = (settings["epochs"], settings.get("head_epochs")), settings["batch_size"]
        configuration |= {"epochs": settings["epochs"], "batch_size": batch_size}
    if not study.supervised:
        configuration["temperature"] = flags.temperature
    configuration["dense"] = dense.configuration
    names = tuple(
        study.name(part, str(method), sparsity, part_epochs, batch_size, member.id)
        for part, part_epochs in zip(twin.parts, epochs)
    )
    return Step(
        iteration,
        sparsity,
        names,
        tuple(folder / str(name) for folder, name in zip((study.folder, study.head_folder), names)),
        configuration,
    )


def _is_finished(study: Study, member: Member, step: Step) -> bool:
    """Whether all files of a step are there, made with these settings; refuses what is in the way before the first training."""
    if study.flags.debug:
        return False
    origin = {"dense_sha256": list(member.checksums)}
    if all(
        [
            checkpoints.is_finished(path, step.configuration, study.data, study.folder_flag, **origin)
            for path in step.paths
        ]
    ):
        return True
    checkpoints.refuse_to_replace(list(step.paths))
    return False


def _check_chains(study: Study, steps: dict[int, list[Step]], finished: dict[int, list[bool]]) -> None:
    """Refuses iterations that do not come from the one before them that is there now."""
    for model_id, chain in steps.items():
        for index, step in enumerate(chain):
            if not finished[model_id][index] or index == 0:
                continue
            record = checkpoints.read_record(step.paths[-1])
            previous = chain[index - 1]
            if (
                not finished[model_id][index - 1]
                or record is None
                or record.get("previous_sha256") != _checksums(previous)
            ):
                raise UserError(
                    f"{step.paths[-1]} does not come from iteration {previous.iteration} as it is now, or that is missing; delete it and "
                    f"the later ones to have them made again, or give {study.folder_flag} another folder"
                )


def _checksums(step: Step) -> list[str]:
    return [checkpoints.file_sha256(path) for path in step.paths]


def _previous(study: Study, chain: list[Step], step: Step, member: Member) -> Classifier:
    """What a step prunes: the dense network, or the network of the iteration before."""
    if step.iteration <= 1:
        return into_buffers(results.load_member(study, member), study.device)
    before = chain[step.iteration - 2]
    record = checkpoints.read_record(before.paths[-1])
    return into_buffers(
        checkpoints.load_classifier(
            list(before.paths), record, before.names[-1], study.architecture, len(study.data.class_names)
        ),
        study.device,
    )


def _prune(
    study: Study,
    twin: Twin,
    method: PruningMethod,
    member: Member,
    chain: list[Step],
    step: Step,
    network: Classifier,
    kept: dict[int, Path],
) -> tuple[Classifier, tuple[float, float]]:
    """Prunes a network, trains it on, saves it; returns it and its test accuracies as pruned and at the end."""
    flags, data, started, seed = study.flags, study.data, time.time(), study.model_seed(member.id)
    description = f"{study.learning_method} {method} {step.sparsity} id {member.id}"
    stage = f"iteration {step.iteration}" if step.iteration else "finetuning"
    masks = _masks(study, twin, method, step, network, kept, seed)
    before = {name: weight.detach().clone() for name, weight in prunable_parameters(network).items()}
    apply_masks(network, masks)
    as_pruned = evaluate_test_set(network, data)["test_accuracy"]
    made_from = [*member.paths, *(chain[step.iteration - 2].paths if step.iteration > 1 else ())]

    def progress_of(part: int) -> Progress | None:
        return progress(study, step.paths[part], step.configuration, seed, stage, made_from)

    if method.finetuned:
        history = finetune(
            network, data, masks, step.configuration, (seed, stage), description, progress_of(-1)
        )
        trained = [(payload, history) for payload in twin.payloads(network)]
    else:
        weights, first = (
            (kept[method.rewind_epoch], method.rewind_epoch) if method.after == "rewind" else (None, 0)
        )
        network, trained = twin.retrain(
            study,
            member.record["configuration"],
            weights,
            (seed, "reinit", step.iteration),
            masks,
            first,
            seed,
            description,
            progress_of,
        )
    accuracy = trained[-1][1][-1]["test_accuracy"]
    achieved = measure_sparsity(network)
    log_emptied(description, achieved["per_tensor"])
    logger.info(
        "%s: sparsity %.6f (%.6f without biases), test accuracy %.2f %% as pruned, %.2f %% %s",
        description,
        achieved["total"],
        achieved["weights_only"],
        100 * as_pruned,
        100 * accuracy,
        "finetuned" if method.finetuned else "trained again",
    )
    if flags.debug:
        return network, (as_pruned, accuracy)
    more = {
        "dense_sha256": list(member.checksums),
        "accuracy_as_pruned": as_pruned,
        "movement": weight_movement(before, prunable_parameters(network), masks),
    }
    if step.iteration > 1:
        more["previous_sha256"] = _checksums(chain[step.iteration - 2])
    run = process.environment(study.device, started)
    for path, name, (payload, history) in zip(step.paths, step.names, trained):
        record = checkpoints.make_record(name, step.configuration, seed, data, network, history, run, **more)
        # All files of a network are pruned together: the last one shows the number of zeros.
        asked = (step.configuration, step.paths[:-1]) if path == step.paths[-1] else ()
        checkpoints.save_checkpoint(path, payload, record, network, *asked)
        more["encoder_sha256"] = checkpoints.file_sha256(path)
    forget(*step.paths)
    return network, (as_pruned, accuracy)


def _masks(
    study: Study,
    twin: Twin,
    method: PruningMethod,
    step: Step,
    network: Classifier,
    kept: dict[int, Path],
    seed: int,
) -> Masks:
    """The step's masks: of what the network still has, the lowest by the criterion are pruned."""
    initial = None
    if uses(method.criterion, "initial_weight"):
        # A reinitialised network has left the dense one's initialisation behind.
        renewed = method.after == "reinit" and step.iteration > 1
        first = prepare(
            twin.initial(study, seed, None if renewed else kept[0], (seed, "reinit", step.iteration - 1)),
            study.device,
        )
        initial = {name: weight.detach() for name, weight in prunable_parameters(first).items()}
    key = (seed, "pruning", step.iteration)
    scores = score_weights(
        prunable_parameters(network),
        method.criterion,
        lambda: classification_losses(network, study.data, step.configuration["batch_size"], key),
        initial,
        key,
    )
    return next_masks(
        scores, step.sparsity, method.scope, method.criterion, masks_of(network) if step.iteration > 1 else {}
    )
