"""Pruning of trained networks: once, with finetuning, or again and again, with rewinding, reinitialisation or
finetuning in between."""

import argparse
import functools
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import numpy as np
from torch import Tensor

from common import process, pruning
from common.cli import UserError, logger
from common.evaluation import evaluate_test_set
from common.methods import RETRAINED, PruningMethod, iteration_sparsity
from common.models import Classifier
from common.pruning import Masks, prunable_parameters
from common.store import checkpoints, evaluation, runs
from common.store.populations import Member, Population, find_population
from common.store.runs import Asked
from common.study import Study
from common.training import CrossEntropy, Run, classification_losses, fit, prepare
from common.twins import Start, twin_of

FINETUNING = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}


@dataclass(frozen=True)
class Step:
    """One pruning of one network: one-shot at a sparsity (iteration 0), or an iteration, counted from 1."""

    iteration: int
    sparsity: float
    files: tuple[Asked, ...]

    @property
    def configuration(self) -> dict:
        return self.files[-1].configuration

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    @property
    def stage(self) -> str:
        return f"iteration {self.iteration}" if self.iteration else "finetuning"


@dataclass(frozen=True)
class Chain:
    """All prunings that are asked of one dense network; kept: epoch -> file of the weights that its training
    kept."""

    member: Member
    method: PruningMethod
    steps: list[Step]
    kept: dict[int, Path]

    def previous(self, step: Step) -> Step | None:
        """The iteration before, whose network is pruned further; None where the dense network is pruned."""
        return self.steps[step.iteration - 2] if step.iteration > 1 else None


@dataclass(frozen=True)
class Accuracies:
    """Test accuracies of a network as it was pruned, and when it had been trained again."""

    as_pruned: float
    trained: float


def prune_population(study: Study) -> None:
    """Prunes every dense network of the population, trains it on with fixed masks and saves it under its own
    id.

    Finished ones are skipped one by one.
    """
    flags, method = study.flags, asked_pruning(study.flags)
    dense = find_population(study, "dense", 0.0)
    if method.after in RETRAINED and dense.made_elsewhere:
        raise UserError(
            f"{dense}: how they were trained is not known, so they cannot be trained again; give --after "
            "finetune"
        )
    chains = []
    for member in dense.members:
        steps = [asked_step(study, method, dense, member, *place) for place in asked_sparsities(flags)]
        chains.append(Chain(member, method, steps, kept_weights(study, member, method)))
    for chain in chains:
        refuse_broken_chain(study, chain)
    accuracies: dict[float, list[Accuracies]] = {}

    def work(chain: Chain) -> None:
        for step, pair in prune_chain(study, chain):
            accuracies.setdefault(step.sparsity, []).append(pair)

    jobs = [runs.Job(chain.steps[-1].paths[-1], functools.partial(work, chain)) for chain in chains]
    if not runs.share(study, jobs):
        return
    for sparsity, pairs in accuracies.items():
        logger.info(
            "%s %s sparsity %s: %d networks, mean test accuracy %.2f %% as pruned, %.2f %% at the end",
            *(study.learning_method, method, sparsity, len(pairs)),
            100 * np.mean([pair.as_pruned for pair in pairs]),
            100 * np.mean([pair.trained for pair in pairs]),
        )
    if not flags.debug:
        sparsities = ",".join(str(sparsity) for _, sparsity in asked_sparsities(flags))
        logger.info("compare them with --pruning_methods %s --pruning_percentages %s", method, sparsities)


# What is asked for, and what of it is there


def asked_pruning(flags: argparse.Namespace) -> PruningMethod:
    """The pruning method that the flags ask for.

    Raises:
        UserError: a flag that has no effect with the others, or iterations that file names cannot tell apart.
    """

    def refuse(names: tuple[str, ...], reason: str) -> None:
        for name in names:
            if name in flags.given:
                raise UserError(f"--{name} {reason}")

    if flags.pruning_schedule == "one-shot":
        refuse(("iterations", "rate", "after", "rewind_epoch"), "belongs to --pruning_schedule iterative")
        return runs.asked_method(flags, "one-shot")
    refuse(
        ("pruning_percentages",),
        "belongs to one-shot pruning: the sparsities of --pruning_schedule iterative follow from --rate "
        "and --iterations",
    )
    if flags.after in RETRAINED:
        reason = (
            f"belongs to --after finetune: with --after {flags.after} the networks are trained as the dense "
            "ones were"
        )
        refuse(("epochs", "batch_size", "learning_rate"), reason)
    if flags.after != "rewind":
        refuse(("rewind_epoch",), "belongs to --after rewind")
    sparsities = [sparsity for _, sparsity in asked_sparsities(flags)]
    if len({0.0, 1.0, *sparsities}) < len(sparsities) + 2:
        raise UserError(
            f"--iterations {flags.iterations} at --rate {flags.rate}: the last iterations prune less than "
            "the four digits of file names tell apart; give fewer"
        )
    epoch = flags.rewind_epoch if flags.after == "rewind" else 0
    return runs.asked_method(flags, "iterative", rate=flags.rate, after=flags.after, rewind_epoch=epoch)


def asked_sparsities(flags: argparse.Namespace) -> list[tuple[int, float]]:
    """(iteration, sparsity) of all that is asked for; iteration 0 is one-shot pruning."""
    if flags.pruning_schedule == "one-shot":
        return [(0, sparsity) for sparsity in flags.pruning_percentages]
    iterations = range(1, flags.iterations + 1)
    return [(iteration, iteration_sparsity(flags.rate, iteration)) for iteration in iterations]


def kept_weights(study: Study, member: Member, method: PruningMethod) -> dict[int, Path]:
    """epoch -> file of the weights that the dense training kept, as far as the method needs them.

    Raises:
        UserError: they were not kept; the message has the command that keeps them.
    """
    epochs = {method.rewind_epoch} if method.after == "rewind" else set()
    if pruning.uses(method.criterion, "initial_weight"):
        epochs.add(0)
    if epochs and member.made_elsewhere:
        raise UserError(
            f"{member.paths[0]} was made elsewhere: its initialisation is not known; choose another "
            "--criterion, or train networks here"
        )
    if method.after == "rewind" and method.rewind_epoch >= (
        last := member.records[0]["configuration"]["epochs"]
    ):
        raise UserError(
            f"--rewind_epoch {method.rewind_epoch}: the dense networks were trained for {last} epochs; give "
            "fewer"
        )
    files = {
        epoch: checkpoints.find_epoch(member.paths[0], epoch, member.records[0]) for epoch in sorted(epochs)
    }
    if missing := [str(epoch) for epoch, path in files.items() if path is None]:
        command = member.records[0].get("run", {}).get("command") or f"{study.script[:3]}_training.py"
        raise UserError(
            f"the weights of {member.paths[0].name} after {' and '.join(missing)} epochs were not kept; "
            f"keep them: python {command} --save_epochs {','.join(map(str, files))}"
        )
    return files


# One step is a place in the study, method and population: each says something else.
def asked_step(
    study: Study, method: PruningMethod, dense: Population, member: Member, iteration: int, sparsity: float
) -> Step:
    """What is to be made of a dense network at this iteration and sparsity."""
    flags, twin = study.flags, twin_of(study)
    configuration = {
        "learning_method": study.learning_method,
        **study.architecture_configuration(),
        "pruning_method": str(method),
        "criterion": method.criterion,
        "scope": method.scope,
        "sparsity": sparsity,
    }
    if iteration:
        configuration["iteration"] = iteration
        configuration |= {key: getattr(method, key) for key in ("rate", "after", "rewind_epoch")}
    if method.finetuned:
        configuration |= {key: getattr(flags, key) for key in ("epochs", "batch_size", "learning_rate")}
        configuration |= FINETUNING
        epochs = (flags.epochs,) * 2
    else:  # trained as the dense network was
        settings = member.record["configuration"]
        configuration |= {key: settings[key] for key in ("epochs", "batch_size")}
        epochs = (settings["epochs"], settings.get("head_epochs"))
    if not study.supervised:
        configuration["temperature"] = flags.temperature
    configuration["dense"] = dense.configuration
    files = []
    for part, part_epochs, folder in zip(twin.parts, epochs, (study.folder, study.head_folder)):
        batch_size = configuration["batch_size"]
        name = study.name(part, str(method), sparsity, part_epochs, batch_size, member.id)
        files.append(Asked(name, folder / str(name), configuration))
    return Step(iteration, sparsity, tuple(files))


def is_finished(study: Study, chain: Chain, step: Step) -> bool:
    """Whether all files of a step are there, made with these settings; refuses what is in the way."""
    if study.flags.debug:
        return False
    dense = list(chain.member.checksums)
    finished = [
        runs.is_finished(study, file.path, file.configuration, dense_sha256=dense) for file in step.files
    ]
    if not all(finished):
        runs.refuse_to_replace(step.paths)
    return all(finished)


def refuse_broken_chain(study: Study, chain: Chain) -> None:
    """Refuses, before the first training, what is in the way, and iterations that do not come from the one
    before them that is there."""
    finished = [is_finished(study, chain, step) for step in chain.steps]
    for step, step_finished, previous_finished in zip(chain.steps[1:], finished[1:], finished):
        if not step_finished or not step.iteration:
            continue
        record, previous = checkpoints.read_record(step.paths[-1]), chain.previous(step)
        if (
            not previous_finished
            or record is None
            or record.get("previous_sha256") != sha256_of(previous.paths)
        ):
            raise UserError(
                f"{step.paths[-1]} does not come from iteration {previous.iteration} as it is now, or that "
                "is missing; delete it and "
                f"the later ones to have them made again, or give {study.folder_flag} another folder"
            )


def sha256_of(paths: list[Path]) -> list[str]:
    return [checkpoints.file_sha256(path) for path in paths]


# Pruning


def prune_chain(study: Study, chain: Chain) -> Iterator[tuple[Step, Accuracies]]:
    """Does the steps of one network that are not finished; gives the accuracies of all of them."""
    network = None
    for step in chain.steps:
        if is_finished(study, chain, step):
            runs.finished_before(*step.paths)
            if record := checkpoints.read_record(step.paths[-1]):
                try:
                    pair = Accuracies(record["accuracy_as_pruned"], record["history"][-1]["test_accuracy"])
                except (KeyError, IndexError):
                    raise checkpoints.damaged_record(step.paths[-1]) from None
                yield step, pair
            continue
        if network is None or step.iteration == 0:
            network = network_to_prune(study, chain, step)
        network, pair = prune_network(study, chain, step, network)
        yield step, pair


def network_to_prune(study: Study, chain: Chain, step: Step) -> Classifier:
    """The dense network, or the network of the iteration before."""
    previous = chain.previous(step)
    if previous is None:
        return evaluation.load_member(study, chain.member)
    record, name = checkpoints.read_record(previous.paths[-1]), previous.files[-1].name
    classes = len(study.data.class_names)
    network = checkpoints.load_classifier(previous.paths, record, name, study.architecture, classes)
    return prepare(network, study.device)


def prune_network(
    study: Study, chain: Chain, step: Step, network: Classifier
) -> tuple[Classifier, Accuracies]:
    """Prunes a network, trains it on and saves it."""
    method, started, seed = chain.method, time.time(), study.model_seed(chain.member.id)
    masks = step_masks(study, chain, step, network)
    before = copy_of(network)
    pruning.apply_masks(network, masks)
    as_pruned = evaluate_test_set(network, study.data)["test_accuracy"]
    previous = chain.previous(step)
    made_from = [*chain.member.paths, *(previous.paths if previous else ())]
    description = f"{study.learning_method} {method} {step.sparsity} id {chain.member.id}"
    with ExitStack() as states:

        def run(part: int, key: tuple) -> Run:
            state = runs.training_state(study, step.files[part], seed, step.stage, made_from)
            text = f"{description} {step.files[part].name.part}" if len(step.files) > 1 else description
            return Run(key, text, states.enter_context(state))

        if method.finetuned:
            finetuning = CrossEntropy(network, study.data, step.configuration)
            history = fit(finetuning, run(-1, (seed, step.stage)), range(step.configuration["epochs"]), masks)
            histories, payloads = [history] * len(step.files), twin_of(study).payloads(network)
        else:
            settings, start = chain.member.record["configuration"], start_of(chain, step, seed)
            model, histories, payloads = twin_of(study)(study, seed, start), [], []
            for part in range(len(step.files)):
                epochs = range(settings["head_epochs"]) if part else range(start.epoch, settings["epochs"])
                part_training, part_masks = model.training(part, settings), model.part_masks(part, masks)
                histories.append(fit(part_training, run(part, model.key(part)), epochs, part_masks))
                payloads.append(model.payload(part))
            network = model.classifier()
        accuracies = Accuracies(as_pruned, histories[-1][-1]["test_accuracy"])
        achieved = pruning.measure_sparsity(network)
        logger.info(
            "%s: sparsity %.6f (%.6f without biases), test accuracy %.2f %% as pruned, %.2f %% %s",
            *(
                description,
                achieved["total"],
                achieved["weights_only"],
                100 * as_pruned,
                100 * accuracies.trained,
            ),
            "finetuned" if method.finetuned else "trained again",
        )
        if study.flags.debug:
            return network, accuracies
        facts = {
            "dense_sha256": list(chain.member.checksums),
            "accuracy_as_pruned": as_pruned,
            "movement": pruning.weight_movement(before, prunable_parameters(network), masks),
            "run": process.environment(study.device, started),
        }
        if previous:
            facts["previous_sha256"] = sha256_of(previous.paths)
        for file, payload, history in zip(step.files, payloads, histories):
            runs.save(study, file, payload, network, history=history, **facts)
            facts["encoder_sha256"] = checkpoints.file_sha256(file.path)
    return network, accuracies


def start_of(chain: Chain, step: Step, seed: int) -> Start:
    """Where a network begins that is trained again."""
    renewed = (seed, "reinit", step.iteration)
    if chain.method.after == "reinit":
        return Start(renewed, (*renewed, "head"))
    epoch = chain.method.rewind_epoch
    return Start(renewed, (seed, "head"), chain.kept[epoch], epoch)


def copy_of(network: Classifier) -> dict[str, Tensor]:
    """Name -> prunable weights as they are now."""
    return {name: weight.detach().clone() for name, weight in prunable_parameters(network).items()}


def step_masks(study: Study, chain: Chain, step: Step, network: Classifier) -> Masks:
    """The step's masks: of what the network still has, the lowest by the criterion are pruned."""
    method, seed, initial = chain.method, study.model_seed(chain.member.id), None
    if pruning.uses(method.criterion, "initial_weight"):
        # A reinitialised network has left the dense one's initialisation behind.
        renewed = (seed, "reinit", step.iteration - 1)
        start = Start(renewed, (*renewed, "head"))
        if method.after != "reinit" or step.iteration <= 1:
            start = Start(renewed, (seed, "head"), chain.kept[0])
        initial = copy_of(twin_of(study)(study, seed, start).classifier())
    key = (seed, "pruning", step.iteration)
    scores = pruning.score_weights(
        prunable_parameters(network),
        method.criterion,
        lambda: classification_losses(network, study.data, step.configuration["batch_size"], key),
        initial,
        key,
    )
    masks = pruning.masks_of(network) if step.iteration > 1 else {}
    return pruning.next_masks(scores, step.sparsity, method.scope, method.criterion, masks)
