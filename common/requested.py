"""Derives ids, sparsities, pruning methods and schedules from flags, and rejects flags that do not fit."""

import math
from argparse import Namespace

from common import methods
from common.cli import FLIPS, UserError, logger
from common.methods import RETRAINED, REWOUND, PruningMethod, iteration_sparsity
from common.pruning import GradualPruning, uses
from common.training import WARMUP_ABOVE_BATCH


def model_ids(flags: Namespace) -> range:
    """Returns the ids from --index_start to --index_end, both inclusive.

    Raises:
        UserError: the last id comes before the first; epochs that the training does not reach; a warm-up
            without effect.
    """
    first, last, epochs = flags.index_start, flags.index_end, flags.epochs
    if last < first:
        raise UserError(f"--index_end {last} comes before --index_start {first}; give a larger --index_end")
    if flags.save_epochs and max(flags.save_epochs) >= epochs:
        raise UserError(
            f"--save_epochs {max(flags.save_epochs)}: give epochs below --epochs {epochs}; the model itself "
            f"has the weights after {epochs}"
        )
    warmup = getattr(flags, "warmup_epochs", 0)
    if warmup >= epochs:
        raise UserError(f"--warmup_epochs {warmup} must be fewer than --epochs {epochs}")
    if warmup and flags.batch_size <= WARMUP_ABOVE_BATCH:
        raise UserError(
            f"--warmup_epochs {warmup} needs a --batch_size above {WARMUP_ABOVE_BATCH}; leave it out"
        )
    return range(first, last + 1)


def method(flags: Namespace, schedule: str, **iterative) -> PruningMethod:
    """Returns the pruning method with this schedule and the requested criterion and scope.

    Raises:
        UserError: a combination that does not exist.
    """
    scope = flags.scope or methods.default_scope(schedule, flags.criterion)
    if methods.is_filter_criterion(flags.criterion) and scope != "layer":
        raise UserError(
            f"--scope {scope}: norms of filters of different layers cannot be compared; leave it out with "
            f"--criterion {flags.criterion}"
        )
    return PruningMethod(schedule, flags.criterion, scope, **iterative)


def sparsities_to_train(flags: Namespace) -> list[float]:
    """Returns the sparsities to train to, --pruning or --pruning_percentages; only 0 with --match_sparsity.

    If all networks are dense, flags of gradual pruning have no effect. Those that the published commands
    contain are logged, the others are rejected.

    Raises:
        UserError: a rejected flag.
    """
    if flags.learning_method == "supervised":
        name, sparsities = "pruning", [flags.pruning]
    else:
        name, sparsities = "pruning_percentages", flags.pruning_percentages
    if flags.accumulate_gradients and (all(sparsities) or flags.match_sparsity):
        raise UserError("--accumulate_gradients is only for dense networks of full width; leave it out")
    if flags.match_sparsity:
        if name in flags.given and any(sparsities):
            raise UserError(f"--match_sparsity: narrow networks are not pruned; leave --{name} out")
        sparsities = [0.0]
    if any(sparsities):
        return sparsities
    for given in sorted(flags.given):
        if given.startswith(("criterion", "scope", "begin_epoch", "end_epoch")):
            raise UserError(
                f"--{given}: nothing is pruned; give a sparsity above 0 (--{name}), or leave it out"
            )
        if given.startswith(("schedule", "begin_step", "end_step", "frequency")):
            logger.info(f"--{given} has no effect: nothing is pruned")
    return sparsities


def gradual_pruning(flags: Namespace, sparsity: float, part: str, images: int) -> GradualPruning | None:
    """Returns the schedule that --schedule, --begin_step, --begin_epoch and similar flags describe; None for
    a classifier head if whole filters are pruned, because it has none.

    Args:
        part: 'encoder', 'supervised' or 'head'; the head's flags end in _head.
    Raises:
        UserError: a schedule that does not fit the training (the message has one that does); a step and an
            epoch for the same end; a flag of the head's schedule if whole filters are pruned.
    """
    epochs, batch_size, suffix = flags.epochs, flags.batch_size, ""
    if part == "head":
        epochs, batch_size, suffix = flags.head_epochs, flags.batch_size_head, "_head"
        if methods.is_filter_criterion(flags.criterion):
            names = ("begin_step", "end_step", "frequency", "begin_epoch", "end_epoch")
            if given := sorted(flags.given & {f"{name}_head" for name in names}):
                raise UserError(
                    f"--{given[0]}: the classifier head has no filters and is not pruned by --criterion "
                    f"{flags.criterion}; leave it out"
                )
            return None
    steps_an_epoch = math.ceil(images / batch_size)
    *defaults, frequency = methods.SCHEDULE_STEPS[part][flags.schedule]
    steps = []
    for end, default in zip(("begin", "end"), defaults):
        step, epoch = (getattr(flags, f"{end}_{unit}{suffix}") for unit in ("step", "epoch"))
        if step is not None and epoch is not None:
            raise UserError(f"--{end}_step{suffix} and --{end}_epoch{suffix} exclude each other; give one")
        if epoch is not None:  # the first step after this many epochs
            step = round(min(epoch, 2**31) * steps_an_epoch) + 1
            frequency = None  # the published one fits the published steps only
        steps.append(default if step is None else step)
    begin, end = steps
    fitting = max(1, math.ceil((end - begin) / methods.INTERVALS))
    frequency = getattr(flags, f"frequency{suffix}") or frequency or fitting
    last_step = epochs * steps_an_epoch
    # The published steps as a share of the training; the last step is the latest that fits.
    scaled = [step / methods.PUBLISHED_STEPS[part] * epochs for step in defaults]
    possible = [min(epoch, epochs - 1 / steps_an_epoch) for epoch in scaled]
    first_epoch, last_epoch = (f"{float(f'{epoch:.2g}'):g}" for epoch in possible)
    network = {"encoder": "encoder", "supervised": "network", "head": "classifier head"}[part]
    remedy = f"give, for example, --begin_epoch{suffix} {first_epoch} --end_epoch{suffix} {last_epoch}"
    remedy += " (the head: --begin_epoch_head, --end_epoch_head)" * (part == "encoder")
    if begin > end or end < 1 or end > last_step:
        raise UserError(
            f"pruning of the {network} from step {begin} to step {end} does not fit its training "
            f"of {last_step} steps ({epochs} epochs of {steps_an_epoch}); {remedy}"
        )
    scope = method(flags, flags.schedule).scope
    pruning = GradualPruning(sparsity, begin, end, frequency, flags.criterion, scope)
    if uses(flags.criterion, "accumulated") and pruning.sparsities().get(1):
        raise UserError(
            f"--criterion {flags.criterion}: there is no training before pruning of the {network} at step 1; "
            f"{remedy}"
        )
    return pruning


def pruning_method(flags: Namespace) -> PruningMethod:
    """Returns the pruning method of a finetuning script.

    Raises:
        UserError: a flag that has no effect with the others; iterations that file names cannot distinguish.
    """

    def refuse(reason: str, *names: str) -> None:
        for name in names:
            if name in flags.given:
                raise UserError(f"--{name} {reason}")

    if flags.pruning_schedule == "one-shot":
        refuse("belongs to --pruning_schedule iterative", "iterations", "rate", "after", "rewind_epoch")
        return method(flags, "one-shot")
    refuse(
        "belongs to one-shot pruning; with --pruning_schedule iterative, --rate and --iterations determine "
        "the sparsities",
        "pruning_percentages",
    )
    if flags.after in RETRAINED:
        reason = (
            f"belongs to --after finetune; with --after {flags.after} the networks are trained with the "
            "settings of the dense ones"
        )
        refuse(reason, "epochs", "batch_size", "learning_rate", "precision", "compile", *FLIPS)
    if flags.after not in REWOUND:
        refuse("belongs to --after rewind or lr_rewind", "rewind_epoch")
    sparsities = [sparsity for _, sparsity in sparsities_to_prune(flags)]
    if len({0.0, 1.0, *sparsities}) < len(sparsities) + 2:
        raise UserError(
            f"--iterations {flags.iterations} at --rate {flags.rate}: the sparsities of the last iterations "
            "do not differ in four digits, as file names need; give fewer"
        )
    return method(flags, "iterative", rate=flags.rate, after=flags.after, rewind_epoch=flags.rewind_epoch)


def sparsities_to_prune(flags: Namespace) -> list[tuple[int, float]]:
    """Returns all requested (iteration, sparsity) pairs, sparsest last; iteration 0 is one-shot pruning."""
    if flags.pruning_schedule == "one-shot":
        # In one order, so that commands that share networks do not wait for each other.
        return [(0, sparsity) for sparsity in sorted(flags.pruning_percentages)]
    iterations = range(1, flags.iterations + 1)
    return [(iteration, iteration_sparsity(flags.rate, iteration)) for iteration in iterations]
