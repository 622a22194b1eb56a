"""Pruning of trained networks: once, with finetuning, or again and again, with rewinding, reinitialisation or
finetuning in between."""

import argparse
import functools
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterable

import numpy as np
from torch import Tensor

from common import process, pruning, settings
from common.cli import FLIPS, UserError, logger
from common.evaluation import NotFiniteError, evaluate_test_set
from common.methods import FINETUNED, RETRAINED, REWOUND, PruningMethod, iteration_sparsity
from common.models import Classifier
from common.pruning import GradientSums, Masks, layer_name, prunable_parameters
from common.store import checkpoints, evaluation, runs
from common.store.names import epoch_path, gradients_path
from common.store.populations import Member, Population, find_population, recorded_command
from common.store.runs import Asked
from common.study import Study
from common.training import CrossEntropy, Run, Training, classification_losses, fit, prepare
from common.twins import Start, twin_of


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
class Trained:
    """A network to be pruned, and what its training leaves beside it.

    weights: of its first part, with a projection head where it has one; sums: layer name -> sum of |g_t|,
    where the criterion looks at it.
    """

    network: Classifier
    weights: dict[str, Tensor]
    sums: dict[str, Tensor]


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
    if method.after in RETRAINED:  # trained as the dense ones were
        flips = {flip: value for flip, value in dense.configuration.items() if flip in FLIPS}
        study = replace(study, data=replace(study.data, **flips))
    runs.say_flips(study)
    asked = by_method(method, asked_sparsities(flags))
    chains = [
        asked_chain(study, each, dense, member, places)
        for member in dense.members
        for each, places in asked.items()
    ]
    for chain in chains:
        refuse_broken_chain(study, chain)
    jobs = [
        runs.Job(chain.steps[-1].paths[-1], functools.partial(prune_chain, study, chain)) for chain in chains
    ]
    runs.say_finished(study, [step.files for chain in chains for step in chain.steps])
    if not runs.share(study, jobs) or flags.debug:
        return
    for each, places in asked.items():
        for steps in zip(*(chain.steps for chain in chains if chain.method == each)):
            if pairs := [pair for step in steps if (pair := accuracies(step))]:
                before, trained = np.mean(pairs, 0)
                logger.info(
                    f"{study.learning_method} {each} sparsity {steps[0].sparsity}: {len(pairs)} networks, "
                    f"mean test accuracy {100 * before:.2f} % {state_before(each)}, {100 * trained:.2f} % at "
                    "the end"
                )
        sparsities = ",".join(str(sparsity) for _, sparsity in places if sparsity)
        at_sparsities = f" --pruning_percentages {sparsities}" if sparsities else ""
        logger.info(f"compare them with --pruning_methods {each}{at_sparsities}")


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
        refuse(("epochs", "batch_size", "learning_rate", "precision", "compile", *FLIPS), reason)
    if flags.after not in REWOUND:
        refuse(("rewind_epoch",), "belongs to --after rewind or lr_rewind")
    sparsities = [sparsity for _, sparsity in asked_sparsities(flags)]
    if len({0.0, 1.0, *sparsities}) < len(sparsities) + 2:
        raise UserError(
            f"--iterations {flags.iterations} at --rate {flags.rate}: the last iterations prune less than "
            "the four digits of file names tell apart; give fewer"
        )
    epoch = flags.rewind_epoch if flags.after in REWOUND else 0
    return runs.asked_method(flags, "iterative", rate=flags.rate, after=flags.after, rewind_epoch=epoch)


def asked_sparsities(flags: argparse.Namespace) -> list[tuple[int, float]]:
    """(iteration, sparsity) of all that is asked for; iteration 0 is one-shot pruning."""
    if flags.pruning_schedule == "one-shot":
        return [(0, sparsity) for sparsity in flags.pruning_percentages]
    iterations = range(1, flags.iterations + 1)
    return [(iteration, iteration_sparsity(flags.rate, iteration)) for iteration in iterations]


def by_method(
    method: PruningMethod, places: list[tuple[int, float]]
) -> dict[PruningMethod, list[tuple[int, float]]]:
    """The (iteration, sparsity) of each method: at sparsity 0, where nothing is pruned, the method is
    `finetuned`."""
    found: dict[PruningMethod, list[tuple[int, float]]] = {}
    for iteration, sparsity in places:
        found.setdefault(method if sparsity else PruningMethod(FINETUNED), []).append((iteration, sparsity))
    return found


def asked_chain(
    study: Study, method: PruningMethod, dense: Population, member: Member, places: list[tuple[int, float]]
) -> Chain:
    """All prunings of a dense network by a method, at these (iteration, sparsity).

    Raises:
        UserError: what they need of the dense training was not kept.
    """
    steps = [asked_step(study, method, dense, member, *place) for place in places]
    chain = Chain(member, method, steps, kept_weights(study, member, method))
    gradient_sums(study, method, zip(member.paths, member.records))
    return chain


def state_before(method: PruningMethod) -> str:
    """What a network was before it was trained on, in messages."""
    return "dense" if method.schedule == FINETUNED else "as pruned"


def kept_weights(study: Study, member: Member, method: PruningMethod) -> dict[int, Path]:
    """epoch -> file of the weights that the dense training kept, as far as the method needs them.

    Raises:
        UserError: they were not kept; the message has the command that keeps them.
    """
    epochs = {method.rewind_epoch} if method.after == "rewind" else set()
    if pruning.uses(method.criterion, "initial_weight"):
        epochs.add(0)
    if not epochs and method.after != "lr_rewind":
        return {}
    path, record = member.paths[0], member.records[0]
    if member.made_elsewhere:
        raise UserError(
            f"{path} is external: its initialisation is not known; choose another --criterion, or "
            "train networks here"
        )
    last = record["configuration"]["epochs"]
    if method.rewind_epoch >= last:
        raise UserError(
            f"--rewind_epoch {method.rewind_epoch}: the dense networks were trained for {last} epochs; give "
            "fewer"
        )
    files = {
        epoch: checkpoints.find_kept(
            epoch_path(path, epoch), path, record, f"--save_epochs {epoch}", study.flags.other_code
        )
        for epoch in sorted(epochs)
    }
    if missing := [str(epoch) for epoch in files if files[epoch] is None]:
        raise UserError(
            f"the weights of {path.name} after {' and '.join(missing)} epochs were not kept; keep them: "
            f"python {training_command(study, record)} --save_epochs {','.join(map(str, files))}"
        )
    return files


def training_command(study: Study, record: dict) -> str:
    return shlex.join(recorded_command(record)) or f"{study.script[:3]}_training.py"


def gradient_sums(
    study: Study, method: PruningMethod, files: Iterable[tuple[Path, dict | None]]
) -> dict[str, Tensor]:
    """Layer name -> the sums of |g_t| and g_t over the training of these checkpoints, where the criterion
    looks at them.

    Args:
        files: checkpoints and their records.
    Raises:
        UserError: they were not kept; the message has the command that keeps them.
    """
    sums = {}
    for path, record in files if pruning.uses(method.criterion, "accumulated") else ():
        if record is None:
            raise UserError(
                f"{path} is external: the gradients of its training are not known; choose another "
                "--criterion, or train networks here"
            )
        flag, kept = "--accumulate_gradients", gradients_path(path)
        if not checkpoints.find_kept(kept, path, record, flag, study.flags.other_code):
            remedy = f"keep them: python {training_command(study, record)} {flag}"
            if record["configuration"].get("iteration"):
                remedy = "delete it to have it made again"
            raise UserError(f"the sums of gradients beside {path.name} ({flag}) are missing; {remedy}")
        payload = checkpoints.read_payload(kept)
        checkpoints.refuse_not_finite(payload, kept)
        sums |= payload
    return {name: total.to(study.device) for name, total in sums.items()}


# One step is a place in the study, method and population: each says something else.
def asked_step(
    study: Study, method: PruningMethod, dense: Population, member: Member, iteration: int, sparsity: float
) -> Step:
    """What is to be made of a dense network at this iteration and sparsity."""
    flags = study.flags
    configuration = {
        "learning_method": study.learning_method,
        **study.architecture_configuration(),
        **study.data.pixel_settings,
        "pruning_method": str(method),
    }
    if method.schedule != FINETUNED:
        configuration |= {"criterion": method.criterion, "scope": method.scope}
    configuration["sparsity"] = sparsity
    if iteration:
        configuration["iteration"] = iteration
        configuration |= {key: getattr(method, key) for key in ("rate", "after", "rewind_epoch")}
    if method.finetuned:
        training = settings.from_flags(settings.Finetuning, flags)
        configuration |= training
    else:  # trained as the dense network was
        training = member.record["configuration"]
        configuration |= {key: training[key] for key in ("epochs", "batch_size", "precision", "compile")}
    if not study.supervised:
        configuration["temperature"] = flags.temperature
    configuration["dense"] = dense.configuration
    files = []
    for part in twin_of(study).parts:
        is_head = part == "head"
        folder = study.head_folder if is_head else study.folder
        epochs = training["head_epochs" if is_head and not method.finetuned else "epochs"]
        name = study.name(part, str(method), sparsity, epochs, configuration["batch_size"], member.id)
        files.append(Asked(name, folder / str(name), configuration))
    return Step(iteration, sparsity, tuple(files))


def is_finished(study: Study, chain: Chain, step: Step) -> bool:
    """Whether all files of a step are there, made with these settings; refuses what is in the way."""
    if study.flags.debug:
        return False
    dense = list(chain.member.checksums)
    if all(
        [runs.is_finished(study, file.path, file.configuration, dense_sha256=dense) for file in step.files]
    ):
        return True
    runs.refuse_to_replace(step.paths)
    return False


def refuse_broken_chain(study: Study, chain: Chain) -> None:
    """Refuses, before the first training, what is in the way, and iterations that do not come from the one
    before them that is there."""
    finished = [is_finished(study, chain, step) for step in chain.steps]
    for step, step_finished, previous_finished in zip(chain.steps[1:], finished[1:], finished):
        if not step_finished or not step.iteration:
            continue
        record, previous = checkpoints.read_record(step.paths[-1]) or {}, chain.previous(step)
        if not previous_finished or record.get("previous_sha256") != sha256_of(previous.paths):
            raise UserError(
                f"{step.paths[-1]} does not come from iteration {previous.iteration} as it is now, or that "
                "is missing; delete it and the later ones to have them made again, or give "
                f"{study.folder_flag} another folder"
            )


def sha256_of(paths: list[Path]) -> list[str]:
    return [checkpoints.file_sha256(path) for path in paths]


# Pruning


def prune_chain(study: Study, chain: Chain) -> None:
    """Does the steps of one network that are not finished."""
    trained = None
    for step in chain.steps:
        if is_finished(study, chain, step):
            runs.forget_states(step.paths)
            continue
        if trained is None or step.iteration == 0:
            trained = network_to_prune(study, chain, step)
        trained = prune_network(study, chain, step, trained)


def accuracies(step: Step) -> tuple[float, float] | None:
    """Test accuracies of a finished network as it was pruned, and when it had been trained again; None of an
    external one."""
    record = checkpoints.read_record(step.paths[-1])
    try:
        return record and (record["accuracy_as_pruned"], record["history"][-1]["test_accuracy"])
    except (KeyError, IndexError):
        raise checkpoints.damaged_record(step.paths[-1]) from None


def network_to_prune(study: Study, chain: Chain, step: Step) -> Trained:
    """The dense network, or the network of the iteration before."""
    previous, member = chain.previous(step), chain.member
    if previous is None:
        network, paths, files = evaluation.load_member(study, member), member.paths, member.records
        files = zip(paths, files)
    else:
        paths, name, classes = previous.paths, previous.files[-1].name, len(study.data.class_names)
        record = checkpoints.read_record(paths[-1])
        network = checkpoints.load_classifier(paths, record, name, study.architecture, classes)
        network, files = prepare(network, study.device), [(paths[-1], record)]
    payload = checkpoints.read_payload(paths[0])
    return Trained(network, payload.get("model", payload), gradient_sums(study, chain.method, files))


def prune_network(study: Study, chain: Chain, step: Step, trained: Trained) -> Trained:
    """Prunes a network, trains it on and saves it; returns what the next iteration prunes."""
    method, started, seed = chain.method, time.time(), study.model_seed(chain.member.id)
    network, weights, sums = trained.network, trained.weights, {}
    previous = chain.previous(step)
    made_from = [*chain.member.paths, *(previous.paths if previous else ())]
    with checkpoints.files_named(previous.paths if previous else chain.member.paths):
        masks, before = step_masks(study, chain, step, trained), copy_of(network)
        pruning.apply_masks(network, masks)
        as_pruned = evaluate_test_set(network, study.data)["test_accuracy"]
    with ExitStack() as states:

        def train(part: int, training: Training, key: tuple, epochs: range, masks: Masks) -> list[dict]:
            file = step.files[part]
            state = states.enter_context(runs.training_state(study, file, seed, step.stage, made_from))
            if step.iteration and pruning.uses(method.criterion, "accumulated"):
                training.accumulated = GradientSums(training.pruned)
            run = Run(key, runs.describe_run(file.name), state and state.epochs_left)
            history = fit(training, run, epochs, masks)
            sums.update({layer_name(name): total for name, total in (training.accumulated or {}).items()})
            return history

        if method.finetuned:
            finetuning = CrossEntropy(network, study.data, step.configuration)
            epochs = range(step.configuration["epochs"])
            histories = [train(-1, finetuning, (seed, step.stage), epochs, masks)] * len(step.files)
            payloads = twin_of(study).payloads(network)
        else:
            dense_settings = chain.member.record["configuration"]
            start = start_of(chain, seed, step.iteration, method.rewind_epoch)
            model, histories = twin_of(study)(study, seed, start), []
            if method.after == "lr_rewind":
                model.kept.load_state_dict(weights)
            for part in range(len(step.files)):
                epochs = (
                    range(dense_settings["head_epochs"])
                    if part
                    else range(start.epoch, dense_settings["epochs"])
                )
                training, part_masks = model.training(part, dense_settings), model.part_masks(part, masks)
                histories.append(train(part, training, model.key(part), epochs, part_masks))
            network, payloads = model.classifier(), map(model.payload, range(len(step.files)))
            weights = checkpoints.cpu_state(model.kept)
        achieved, accuracy = pruning.measure_sparsity(network), histories[-1][-1]["test_accuracy"]
        logger.info(
            f"{study.learning_method} {method} {step.sparsity} id {chain.member.id}: sparsity "
            f"{achieved['total']:.6f} ({achieved['weights_only']:.6f} without biases), test accuracy "
            f"{100 * as_pruned:.2f} % {state_before(method)}, {100 * accuracy:.2f} % "
            f"{'finetuned' if method.finetuned else 'trained again'}"
        )
        trained = Trained(network, weights, sums)
        if study.flags.debug:
            return trained
        facts = {
            "dense_sha256": list(chain.member.checksums),
            "accuracy_as_pruned": as_pruned,
            "movement": pruning.weight_movement(before, prunable_parameters(network), masks),
            "run": process.environment(study.device, started),
        }
        if previous:
            facts["previous_sha256"] = sha256_of(previous.paths)
        runs.keep_gradients(study, network, step.files[-1], sums)
        made_from += chain.kept.values()
        if pruning.uses(method.criterion, "accumulated"):
            made_from += [sums_path for path in made_from if (sums_path := gradients_path(path)).exists()]
        for file, payload, history in zip(step.files, payloads, histories):
            runs.save(study, file, payload, network, made_from, history=history, **facts)
            facts["encoder_sha256"] = checkpoints.file_sha256(file.path)
    return trained


def start_of(chain: Chain, seed: int, iteration: int, epoch: int) -> Start:
    """Where a network begins that has been pruned so often: with the dense one's weights after `epoch`
    epochs, or, once reinitialised, with new ones; where only the learning rate is rewound, the caller sets
    them."""
    renewed = (seed, "reinit", iteration)
    if iteration and chain.method.after == "reinit":
        return Start(renewed, (*renewed, "head"))
    return Start(renewed, (seed, "head"), chain.kept.get(epoch), epoch)


def copy_of(network: Classifier) -> dict[str, Tensor]:
    """Name -> prunable weights as they are now."""
    return {name: weight.detach().clone() for name, weight in prunable_parameters(network).items()}


def step_masks(study: Study, chain: Chain, step: Step, trained: Trained) -> Masks:
    """The step's masks: of what the network still has, the lowest by the criterion are pruned."""
    network, method = trained.network, chain.method
    seed, initial = study.model_seed(chain.member.id), None
    if pruning.uses(method.criterion, "initial_weight"):
        start = start_of(chain, seed, max(0, step.iteration - 1), 0)
        initial = copy_of(twin_of(study)(study, seed, start).classifier())
    key, size = (seed, "pruning", step.iteration), step.configuration["batch_size"]
    sums = {name: trained.sums.get(layer_name(name)) for name in prunable_parameters(network)}

    masks = pruning.masks_of(network) if step.iteration > 1 else {}

    def score() -> dict[str, Tensor]:
        losses = functools.partial(classification_losses, network, study.data, size, key)
        scores = pruning.score_weights(network, method.criterion, losses, initial, key, sums, masks)
        if not all(each.isfinite().all() for each in scores.values()):
            raise NotFiniteError(f"the scores of its weights by {method.criterion} are not finite")
        return scores

    return pruning.find_masks(network, method.criterion, method.scope, step.sparsity, masks, score)
