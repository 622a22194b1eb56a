"""Prunes trained networks once, followed by finetuning, or iteratively, with rewinding, reinitialisation or
finetuning after each pruning. Every step reads the network that it prunes from files."""

import functools
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from common import process, pruning, requested, settings
from common.cli import FLIPS, UserError, logger
from common.evaluation import NotFiniteError, evaluate_test_set, not_finite
from common.learners import Initialization, learner_of
from common.methods import FINETUNED, RETRAINED, PruningMethod
from common.models import Classifier
from common.pruning import GradientSums, Masks, layer_name, prunable_parameters
from common.store import evaluation, records, runs
from common.store.names import epoch_path, gradients_path, state_path
from common.store.populations import Member, find_population, read_member, recorded_command
from common.store.runs import CheckpointSpec
from common.study import Study
from common.training import CrossEntropy, Training, TrainingContext, classification_losses, fit


@dataclass(frozen=True)
class PruningStep:
    """One pruning of one network: one-shot at a sparsity (iteration 0), or an iteration, counted from 1.

    member: the dense network; files: the checkpoints that the step saves; previous: the checkpoints of the
    previous iteration, none if the step prunes the dense network.
    """

    member: Member
    method: PruningMethod
    iteration: int
    sparsity: float
    files: list[CheckpointSpec]
    previous: list[CheckpointSpec]

    @property
    def stage(self) -> str:
        return f"iteration {self.iteration}" if self.iteration else "finetuning"

    def network_to_prune(self) -> Member:
        """Reads the network of the previous iteration, or returns the dense one in the first."""
        if not self.previous:
            return self.member
        return read_member([(file.path, file.name) for file in self.previous])


def prune_population(study: Study) -> None:
    """Prunes every dense network, continues its training with fixed masks and saves it under the same id.

    Finished networks are skipped.
    """
    flags, method = study.flags, requested.pruning_method(study.flags)
    dense = find_population(study, "dense", 0.0)
    if method.after in RETRAINED:
        if dense.external:
            raise UserError(
                f"{dense}: their training settings are unknown, so they cannot be trained again; give "
                "--after finetune"
            )
    if not dense.external:
        flips = {flip: dense.configuration[flip] for flip in FLIPS if flip not in flags.given}
        study = replace(study, data=replace(study.data, **flips))
    all_steps = [pruning_steps(study, method, member) for member in dense.members]
    every_step = [step for steps in all_steps for step in steps]
    # Rejects conflicting files before the first training.
    finished = [is_finished(study, step) for step in every_step]
    runs.log_finished(study, [step.files for step in every_step], sum(finished))
    jobs = [
        runs.Job(steps[-1].files[-1].path, functools.partial(prune_network, study, steps))
        for steps in all_steps
    ]
    if runs.share(study, jobs) and not flags.debug:
        names = dict.fromkeys(str(step.method) for step in all_steps[0])
        sparsities = [str(step.sparsity) for step in all_steps[0] if step.sparsity]
        at_sparsities = f" --pruning_percentages {','.join(sparsities)}" if sparsities else ""
        logger.info(f"compare them with --pruning_methods {','.join(names)}{at_sparsities}")


# Requested and finished steps


def pruning_steps(study: Study, method: PruningMethod, member: Member) -> list[PruningStep]:
    """Returns the requested prunings of a dense network. At sparsity 0, which prunes nothing, the method is
    `finetuned`.

    Raises:
        UserError: the dense training did not save weights or sums of gradients that they need.
    """
    steps: list[PruningStep] = []
    for iteration, sparsity in requested.sparsities_to_prune(study.flags):
        step_method = method if sparsity else PruningMethod(FINETUNED)
        files = pruned_files(study, step_method, member, iteration, sparsity)
        previous = steps[-1].files if iteration > 1 else []
        steps.append(PruningStep(member, step_method, iteration, sparsity, files, previous))
    for step_method in {step.method for step in steps}:
        saved_weights(study, member, step_method)
        gradient_sums(study, step_method, member)
    return steps


def saved_weights(study: Study, member: Member, method: PruningMethod) -> dict[int, Path]:
    """Returns epoch -> file with weights of the dense training, for the epochs that the method needs.

    Raises:
        UserError: they were not saved; the message has the command that saves them.
    """
    epochs = {method.rewind_epoch} if method.after == "rewind" else set()
    if pruning.uses(method.criterion, "initial_weight"):
        epochs.add(0)
    path, last = member.paths[0], member.names[0].epochs
    if 0 < last <= method.rewind_epoch:
        raise UserError(
            f"--rewind_epoch {method.rewind_epoch}: the dense networks were trained for {last} epochs; give "
            "fewer"
        )
    flag = {"save_epochs": ",".join(map(str, sorted(epochs)))}
    return {epoch: saved_file(study, path, epoch_path(path, epoch), flag) for epoch in sorted(epochs)}


def gradient_sums(study: Study, method: PruningMethod, member: Member) -> dict[str, Tensor]:
    """Returns layer name -> the sums of |g_t| and g_t over the training of a network; empty if the criterion
    does not use them.

    Raises:
        UserError: they were not saved; the message has the command that saves them.
    """
    sums = {}
    for checkpoint in gradient_files(method, member):
        path = saved_file(study, checkpoint, gradients_path(checkpoint), {"accumulate_gradients": ""})
        payload = records.read_payload(path)
        records.refuse_not_finite(payload, path)
        sums |= payload
    return {name: total.to(study.device) for name, total in sums.items()}


def gradient_files(method: PruningMethod, member: Member) -> list[Path]:
    """Returns the checkpoints beside which the sums of gradients that the method uses are stored: all parts
    of a dense network; only the last part of a pruned one, whose file has the sums of all parts."""
    if not pruning.uses(method.criterion, "accumulated"):
        return []
    return list(member.paths if member.names[-1].pruning_method == "dense" else member.paths[-1:])


def saved_file(study: Study, checkpoint: Path, path: Path, flag: dict[str, str]) -> Path:
    """Returns `path`, a file that the training of a checkpoint saved beside it, after checking its record.

    Args:
        flag: the flag of the training script that saves it, with its value.
    Raises:
        UserError: it does not exist, or belongs to a different training.
    """
    record = records.read_record(checkpoint)
    if record is None:
        raise UserError(
            f"{checkpoint} is external: its training is unknown; choose another --criterion or --after, or "
            "train networks here"
        )
    flags = study.folder_flags(checkpoint.parent) | flag
    command = recorded_command(record, flags) or f"the training script with --{', '.join(flag)}"
    if not path.exists():
        raise UserError(f"{path} was not saved; to save it, run: {command}")
    remedy = f"move it away and run: {command}"
    file_record = records.read_record(path)
    if file_record is None:
        raise UserError(f"{path} has no record; {remedy}")
    expected = {key: record[key] for key in ("configuration", "data", "seed")}
    records.check_record(path, file_record, expected, remedy, study.flags.other_code)
    return path


def pruned_files(
    study: Study, method: PruningMethod, member: Member, iteration: int, sparsity: float
) -> list[CheckpointSpec]:
    """Returns the checkpoints of a dense network that is pruned at this iteration and sparsity."""
    configuration = {**study.configuration(), "pruning_method": str(method)}
    if method.schedule != FINETUNED:
        configuration |= {"criterion": method.criterion, "scope": method.scope}
    configuration["sparsity"] = sparsity
    if iteration:
        configuration["iteration"] = iteration
        configuration |= {key: getattr(method, key) for key in ("rate", "after", "rewind_epoch")}
    if method.finetuned:
        training = settings.from_flags(settings.Finetuning, study.flags)
        configuration |= training
    else:  # the settings of the dense training
        training = member.configuration
        configuration |= {key: training[key] for key in ("epochs", "batch_size", "precision", "compile")}
    if not study.supervised:
        configuration["temperature"] = study.flags.temperature
    configuration["dense"] = member.configuration
    files = []
    for part in learner_of(study).parts:
        epochs = training["head_epochs" if part == "head" and not method.finetuned else "epochs"]
        name = study.name(part, str(method), sparsity, epochs, configuration["batch_size"], member.id)
        files.append(CheckpointSpec(name, study.folder_of(part) / str(name), configuration))
    if iteration and pruning.uses(method.criterion, "accumulated"):
        files[-1] = replace(files[-1], kept_files=(gradients_path(files[-1].path),))
    return files


def is_finished(study: Study, step: PruningStep) -> bool:
    """Whether all files of a step exist, made with these settings from the current parent networks.

    Raises:
        UserError: files with the same names are in the way.
    """
    parents = {"dense_sha256": step.member.checksums}
    if step.previous and all(file.path.exists() for file in step.previous):
        parents["previous_sha256"] = step.network_to_prune().checksums
    missing = [path for file in step.files for path in runs.missing_files(study, file, **parents)]
    if missing and not study.flags.debug:
        runs.refuse_to_replace(step.files)
    return not missing


# Pruning


def prune_network(study: Study, steps: list[PruningStep]) -> None:
    """Runs the unfinished steps of one dense network. --debug saves nothing, so that later iterations have no
    network to prune and are left out."""
    for step in steps:
        with runs.claim_beside(study, step.files[-1].path, steps[-1].files[-1].path):
            if is_finished(study, step):
                for file in step.files:
                    state_path(file.path).unlink(missing_ok=True)
            elif not (study.flags.debug and step.previous):
                run_step(study, step)


def run_step(study: Study, step: PruningStep) -> None:
    """Prunes a network, continues its training and saves it."""
    method, member, started, seed = step.method, step.member, time.time(), study.model_seed(step.member.id)
    source, weights, sums = step.network_to_prune(), saved_weights(study, member, method), {}
    network = evaluation.load_member(study, source)
    with records.files_named(source.paths):
        masks, before = step_masks(study, step, source, network, weights), pruning.copy_weights(network)
        pruning.apply_masks(network, masks)
        pruned_accuracy = evaluate_test_set(network, study.data)["test_accuracy"]
    made_from, code_entry = [*member.paths, *(file.path for file in step.previous)], {}
    with ExitStack() as states:

        def train(
            file: CheckpointSpec, training: Training, key: tuple, first_epoch: int, masks: Masks
        ) -> list[dict]:
            state = states.enter_context(runs.training_state(study, file, step.stage, made_from))
            if step.files[-1].kept_files:
                training.accumulated = GradientSums(training.pruned)
            run = TrainingContext(key, runs.describe_run(file.name), state and state.epochs_left)
            history = fit(training, run, range(first_epoch, file.name.epochs), masks)
            if state:
                code_entry.update(state.code_entry)
            sums.update(training.accumulated or {})  # parts have different layers
            return history

        if method.finetuned:
            finetuning = CrossEntropy(network, study.data, step.files[-1].configuration)
            history = train(step.files[-1], finetuning, (seed, step.stage), 0, masks)
            histories = [history] * len(step.files)
            payloads = learner_of(study).payloads(network)
        else:
            dense_settings = member.configuration
            start = initialization_of(step, seed, step.iteration, weights, method.rewind_epoch)
            model, histories = learner_of(study)(study, seed, start), []
            if method.after == "lr_rewind":
                records.load_state(model.kept, records.read_payload(source.paths[0]), source.paths[0])
            for part, file in enumerate(step.files):
                first_epoch = 0 if part else start.epoch
                training, part_masks = model.training(part, dense_settings), model.part_masks(part, masks)
                histories.append(train(file, training, model.key(part), first_epoch, part_masks))
            network, payloads = model.classifier(), map(model.payload, range(len(step.files)))
        achieved, accuracy = pruning.measure_sparsity(network), histories[-1][-1]["test_accuracy"]
        logger.info(
            f"{study.learning_method} {method} {step.sparsity} id {member.id}: sparsity "
            f"{achieved['total']:.6f} ({achieved['weights_only']:.6f} without biases), test accuracy "
            f"{100 * pruned_accuracy:.2f} % before training, {100 * accuracy:.2f} % after"
        )
        if study.flags.debug:
            return
        entries = {
            "dense_sha256": member.checksums,
            "accuracy_as_pruned": pruned_accuracy,
            "movement": pruning.weight_movement(before, prunable_parameters(network), masks),
            "run": process.environment(study.device, started),
            **code_entry,
        }
        if step.previous:
            entries["previous_sha256"] = source.checksums
        if sums:
            runs.save_gradients(study, step.files[-1], network, sums, **code_entry)
        made_from += [*weights.values(), *map(gradients_path, gradient_files(method, source))]
        for file, payload, history in zip(step.files, payloads, histories):
            runs.save(study, file, payload, network, made_from, history=history, **entries)
            entries["encoder_sha256"] = records.file_sha256(file.path)


def initialization_of(
    step: PruningStep, seed: int, iteration: int, weights: dict[int, Path], epoch: int
) -> Initialization:
    """Returns the initial weights of a network after `iteration` prunings: those of the dense network after
    `epoch` epochs, or new ones for `reinit`. For `lr_rewind` the caller replaces them.

    Args:
        weights: epoch -> file with the dense network's weights.
    """
    new_key = (seed, "reinit", iteration)
    if iteration and step.method.after == "reinit":
        return Initialization(new_key, (*new_key, "head"))
    return Initialization(new_key, (seed, "head"), weights.get(epoch), epoch)


def step_masks(
    study: Study, step: PruningStep, source: Member, network: Classifier, weights: dict[int, Path]
) -> Masks:
    """Returns the masks that prune the remaining weights with the lowest scores.

    Args:
        source: the files of `network`; weights: see `initialization_of`.
    """
    method, seed, initial_weights = step.method, study.model_seed(step.member.id), None
    if pruning.uses(method.criterion, "initial_weight"):
        start = initialization_of(step, seed, max(0, step.iteration - 1), weights, 0)
        initial_weights = pruning.copy_weights(learner_of(study)(study, seed, start).classifier())
    key, batch_size = (seed, "pruning", step.iteration), step.files[-1].configuration["batch_size"]
    sums_of_layer = gradient_sums(study, method, source)
    sums = {name: sums_of_layer.get(layer_name(name)) for name in prunable_parameters(network)}
    masks = pruning.masks_of(network) if step.iteration > 1 else {}

    def score() -> dict[str, Tensor]:
        losses = functools.partial(classification_losses, network, study.data, batch_size, key)
        scores = pruning.score_weights(network, method.criterion, losses, initial_weights, key, sums, masks)
        if not_finite(scores):
            raise NotFiniteError(f"the scores of its weights by {method.criterion} are not finite")
        return scores

    return pruning.find_masks(network, method.criterion, method.scope, step.sparsity, masks, score)
