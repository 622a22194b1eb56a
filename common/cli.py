"""Command lines: the flags that scripts share, one-line errors and signals.

Does not import torch, so that `--help` answers at once.
"""

import argparse
import errno
import functools
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Sequence

from common import methods, settings, values
from common.criteria import CRITERIA
from common.datasets import DATASETS, DOWNLOADS
from common.losses import LOSSES

WORKER = "STUDY_WORKER"  # set in the environment of the processes that --workers starts
COMPATIBILITY = "accepted for compatibility with the published script, without effect there and here"
DEFAULT_FOLDER = "(default: models/ for cifar10, else models/NAME/)"
logger = logging.getLogger("study")
FLIPS = ("horizontal_flip", "vertical_flip")  # flags, fields of a data set and keys of a configuration
GRACE_SECONDS = 5  # for a stopped script to save its state
# Remedy -> the system errors to which it applies.
REMEDIES = {
    "free space there, or name another folder": "ENOSPC EDQUOT EFBIG",
    "change the permissions there, or name another folder": "EACCES EPERM EROFS",
    "{} is in the way: move it away, or give another name": "ENOTDIR EEXIST EISDIR",
    "give a shorter name": "ENAMETOOLONG",
    "its file system has no locks: name another folder": "ENOLCK",
}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # on these a script saves its state


# Pattern in an error of Python, torch or a compiler -> cause and remedy.
LIBRARY_ERRORS = {
    r"(\S+) does not have a deterministic implementation": (
        "{} has no deterministic implementation; give --no-cuda_deterministic"
    ),
    r"InvalidCxxCompiler|No working C\+\+ compiler|Failed to find C compiler": (
        "--compile needs a C++ compiler: install one, such as g++, or leave the flag out"
    ),
    "more than 1 value per channel": (
        "--batch_size leaves one image for the last batch, too few for batch normalisation; change it"
    ),
    "(Symlink loop .*)": "{}: the link leads to itself; remove it",
    "out of memory|ALLOC(?:ATION)?_FAILED|can't allocate memory|cannot allocate|failed to map segment": (
        "out of memory; give fewer --workers, a smaller --batch_size or --widen_factor, or another "
        "--cuda_device"
    ),
}


def one_line(message: object) -> str:
    """Joins the lines of a message; file names may contain line breaks."""
    return " ".join(str(message).splitlines())


class UserError(Exception):
    """An error that the user can fix. Scripts show it as one line, which names the flag or file and the
    remedy, and exit with status 2."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def refuse_pipe(path: Path) -> None:
    """Rejects special files before they are opened, because reading a pipe would block. Folders pass: opening
    one raises an error.

    Raises:
        UserError: a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a pipe, a socket or a device, not a file; move it away")


@functools.cache
def log_once(message: str) -> None:
    """Logs a message unless this process has already logged it."""
    logger.info(message)


class Parser(argparse.ArgumentParser):
    """An argparse parser with one-line errors, no prefix matching, and the default of every flag in
    `--help`."""

    def __init__(self, docstring: str):
        super().__init__(
            usage="%(prog)s [flags]",
            description=docstring,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )

    def _print_message(self, message, file=None):
        print(message, end="", file=file or sys.stderr)  # argparse would ignore a full disk

    def error(self, message: str):
        if message.startswith("unrecognized") or message.endswith("expected one argument"):
            message += "; --help lists the flags and their values"
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def parse_args(self, args=None):
        """Like argparse's, with three attributes more: `argv`, the words of the command line; `given`, the
        names of the flags in it; `ignored`, those of them that have no effect."""
        flags = super().parse_args(args)
        if getattr(flags, "normalization", None) and 0.0 in flags.normalization[1]:
            self.error("argument --normalization: standard deviations must be above 0")
        flags.argv = list(sys.argv[1:] if args is None else args)
        words = {word.split("=")[0] for word in flags.argv}
        given = [action for action in self._actions if words & set(action.option_strings)]
        flags.given = {action.dest for action in given}
        flags.ignored = [action.option_strings[0] for action in given if action.help == COMPATIBILITY]
        return flags


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _BooleanAction):  # only published commands need the value True|False
            return ", ".join(action.option_strings)
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        is_complete = action.required or "(default:" in action.help
        return action.help if is_complete else super()._get_help_string(action)


class _BooleanAction(argparse.Action):
    """`--flag`, `--no-flag` and the published `--flag True|False`."""

    def __init__(self, option_strings, dest, **options):
        spellings = [*option_strings, option_strings[0].replace("--", "--no-")]
        super().__init__(spellings, dest, nargs="?", metavar="True|False", **options)

    def __call__(self, parser, namespace, value, option_string=None):
        is_negated = option_string.startswith("--no-")
        meanings = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if value is not None and is_negated:
            raise argparse.ArgumentError(self, f"{option_string} takes no value")
        if value is not None and value.lower() not in meanings:
            raise argparse.ArgumentError(self, f"{value!r} is neither True nor False")
        setattr(namespace, self.dest, not is_negated if value is None else meanings[value.lower()])


def add_flags(group: argparse._ActionsContainer, *rows: tuple) -> None:
    """Adds flags, each given as a row of name, kind, default and help.

    The kind is a function that parses the value, a tuple of choices, or bool. A bool flag has three
    spellings: `--flag`, `--no-flag`, `--flag False`.
    """
    for flag, kind, default, help in rows:
        options = {"action": _BooleanAction} if kind is bool else {"type": kind}
        if isinstance(kind, tuple):
            options = {"choices": kind}
        if isinstance(default, list) and default:  # help shows the default as a user would type it
            default = ",".join(map(str, default))
        group.add_argument(flag, default=default, help=help, **options)


RUN = (
    "--run",
    values.run_name,
    None,
    "name of results that are kept apart, in pies/NAME/runs/RUN/ (default: pies/NAME/)",
)


def add_common_flags(parser: Parser) -> None:
    """Flags of every script: data, network, device, seeds."""
    group = parser.add_argument_group("data, network and device")
    group.add_argument(
        "--normalization",
        type=values.channel_values,
        nargs=2,
        metavar=("MEAN", "STD"),
        help="mean and standard deviation of each channel, for pixels in [0, 1]; for external networks, give "
        "those of their training, such as 0.4914,0.4822,0.4465 0.2023,0.1994,0.2010 (default: those of the "
        "data set)",
    )
    add_flags(
        group,
        (
            "--dataset",
            DATASETS,
            "cifar10",
            f"{', '.join(DOWNLOADS)}: downloaded once; digits: 8x8, comes with scikit-learn; folder: images "
            "of one size in train/CLASS/ and test/CLASS/ below --data_dir",
        ),
        (
            "--data_dir",
            values.path,
            "data",
            "folder for downloads; with --dataset folder, the folder of the images",
        ),
        (
            "--cuda_device",
            values.natural_number,
            0,
            "id of the CUDA device; without CUDA the scripts use the CPU",
        ),
        (
            "--follow_links",
            bool,
            False,
            "read images that are links to files outside --data_dir or --test_set",
        ),
        *settings.flag_rows(settings.Architecture, without=("projection_head",)),
        (
            "--workers",
            values.natural_number,
            0,
            "number of processes that share the models; 0 works on one model after another",
        ),
        (
            "--threads",
            values.thread_count,
            None,
            "CPU threads per process; the last digits of results depend on it (default: all cores, shared "
            "among the workers)",
        ),
        (
            "--other_code",
            bool,
            False,
            "accept networks that a different version of this code trained; this is recorded",
        ),
        ("--debug", bool, False, "show every epoch and save no model"),
        ("--seed", values.natural_number, 1, COMPATIBILITY),
        (
            "--total_seed",
            values.positive_integer,
            1,
            "repeat the script under seeds 0 to N-1; files of seed s > 0 are in folders seed_s",
        ),
        (
            "--cuda_deterministic",
            bool,
            True,
            "use deterministic CUDA algorithms only; an operation without one is an error",
        ),
    )


ENCODER_FLAGS = (  # in the file names of contrastive networks
    (
        "--encoder_name",
        values.encoder_name,
        "WideResNet",
        "first part of file names; depth, width and projection head follow unless they are 16, 2 and mlp",
    ),
    *settings.flag_rows(settings.Architecture, "projection_head"),
    *settings.flag_rows(settings.ContrastiveTraining, "temperature"),
)


def add_contrastive_flags(parser: Parser) -> None:
    """Flags that name a contrastive network: loss, encoder, projection head, temperature."""
    group = parser.add_argument_group("contrastive network")
    group.add_argument(
        "--method",
        "--clr_method",  # its name in the published pruning and comparison scripts
        dest="learning_method",
        choices=tuple(LOSSES),
        default="SupCon",
        help="contrastive loss",
    )
    add_flags(
        group,
        *ENCODER_FLAGS,
        ("--encoder_save_path", values.model_folder, None, f"folder of the encoders {DEFAULT_FOLDER}"),
        (
            "--head_save_path",
            values.model_folder,
            None,
            "folder of the classifiers (default: that of the encoders)",
        ),
    )


def add_supervised_flags(parser: Parser) -> None:
    """Flags that name a supervised network beyond its depth, width and dropout."""
    add_flags(
        parser.add_argument_group("supervised network"),
        ("--save_path", values.model_folder, None, f"folder of the models {DEFAULT_FOLDER}"),
    )
    parser.set_defaults(learning_method="supervised")


def add_gradual_pruning_flags(group, default_schedule: str) -> None:
    """Flags of gradual pruning: schedule, criterion and scope."""
    add_flags(
        group,
        (
            "--schedule",
            tuple(methods.GRADUAL),
            default_schedule,
            "when to prune, unless steps are given; late adds _later to file names",
        ),
        *_criterion_flags("layer"),
    )


def add_schedule_flags(group, network: str, suffix: str, part: str) -> None:
    """Flags of gradual pruning: `--begin_step`, `--end_step`, `--frequency`, `--begin_epoch`, `--end_epoch`.

    Args:
        network: what is pruned, for the help; suffix: of the flags; part: key of `SCHEDULE_STEPS`.
    """
    (*early_steps, frequency), (*late_steps, _) = methods.SCHEDULE_STEPS[part].values()
    for end, ordinal, early, late in zip(("begin", "end"), ("first", "last"), early_steps, late_steps):
        add_flags(
            group,
            (
                f"--{end}_step{suffix}",
                values.natural_number,
                None,
                f"step of the {ordinal} pruning of the {network} (default: {early} if early, {late} if late)",
            ),
            (
                f"--{end}_epoch{suffix}",
                values.natural_float,
                None,
                f"the same in epochs of the data, instead of --{end}_step{suffix} (default: not used)",
            ),
        )
    add_flags(
        group,
        (
            f"--frequency{suffix}",
            values.positive_integer,
            None,
            f"steps between prunings of the {network} (default: {frequency}; with --begin_epoch or "
            f"--end_epoch, for at most {methods.INTERVALS} intervals)",
        ),
    )


def _criterion_flags(default_scope: str) -> tuple[tuple, tuple]:
    meanings = "; ".join(f"{name}: {criterion.meaning}" for name, criterion in CRITERIA.items())
    return (
        (
            "--criterion",
            tuple(CRITERIA),
            "magnitude",
            f"score of weights; the lowest are pruned first. {meanings}",
        ),
        (
            "--scope",
            methods.SCOPES,
            None,
            "rank scores in the whole network, in each tensor, or in each tensor at Erdős-Rényi-kernel "
            f"densities (default: {default_scope}; filters: layer)",
        ),
    )


SAVE_EVERY = (
    "--save_every",
    values.interval,
    "5min",
    "save the state of an unfinished training every N epochs (10) or minutes (5min); a signal saves it too",
)


FLIP_FLAGS = [
    (
        f"--{flip}",
        bool,
        None,
        "mirror each view with probability 1/2 (default: on, except digits and svhn; in finetuning as in the "
        "training of the dense networks)",
    )
    for flip in FLIPS
]


def add_training_flags(group) -> None:
    """Flags of both training scripts: flips, ids, and files that a training saves."""
    add_flags(
        group,
        *FLIP_FLAGS,
        ("--index_start", values.model_id, 0, "first model id; the id is the seed"),
        ("--index_end", values.model_id, 29, "last model id, inclusive"),
        (
            "--match_sparsity",
            values.fraction,
            0.0,
            "train narrow dense networks whose convolutions have as many weights as remain at this sparsity; "
            "0 keeps the full width; other scripts select them by --pruning_methods small_dense",
        ),
        SAVE_EVERY,
        (
            "--save_epochs",
            values.epoch_list,
            [],
            "also save the weights after these epochs, 0 for the initialisation, for iterative pruning and "
            "magnitude_increase; retrains finished models that lack them (default: none)",
        ),
        (
            "--accumulate_gradients",
            bool,
            False,
            "dense networks: save the sums of gradients over all steps, for --criterion levai_zombori; "
            "retrains finished models that lack them",
        ),
    )


def add_finetuning_flags(parser: Parser) -> None:
    """Flags of one-shot and iterative pruning."""
    add_flags(
        parser.add_argument_group("pruning and finetuning"),
        ("--models_number", values.model_count, 30, "prune models 0 to N-1"),
        *settings.flag_rows(settings.Finetuning),
        (
            "--pruning_percentages",
            values.sparsity_list,
            "0.3,0.5,0.7,0.9",
            "sparsities of one-shot pruning, each from the dense models; 0.0 finetunes without pruning, for "
            "the control `finetuned`",
        ),
        SAVE_EVERY,
        *FLIP_FLAGS,
        *_criterion_flags("global"),
        ("--pruning_schedule", ("one-shot", "iterative"), "one-shot", "prune once or repeatedly"),
        ("--iterations", values.iteration_count, 10, "iterative: number of prunings"),
        (
            "--rate",
            values.pruning_rate,
            0.2,
            "iterative: share of the remaining weights that each iteration prunes",
        ),
        (
            "--after",
            methods.AFTER,
            "rewind",
            "iterative, after each pruning: rewind goes back to the weights of --rewind_epoch and repeats "
            "the dense training from there; reinit draws new weights and repeats it; lr_rewind keeps the "
            "weights and repeats it from --rewind_epoch; finetune trains for --epochs",
        ),
        (
            "--rewind_epoch",
            values.natural_number,
            0,
            "iterative: epoch to rewind to, 0 for the initialisation; train with --save_epochs to keep its "
            "weights; lr_rewind rewinds the learning rate only",
        ),
        *_selection_flags("dense", "dense networks", parser),
    )


def _selection_flags(stage: str, networks: str, parser: Parser) -> list[tuple]:
    """Rows of the flags that select one of several populations."""
    meanings = {
        "epochs": f"{networks} trained for this many epochs",
        "batch_size": f"{networks} trained with this batch size",
    }
    if stage == "dense" and parser.get_default("learning_method") != "supervised":
        meanings["head_epochs"] = "classifiers trained for this many epochs"
    return [
        (
            f"--{stage}_{setting}",
            values.positive_integer,
            None,
            f"use {meaning} (default: needed only if there are several)",
        )
        for setting, meaning in meanings.items()
    ]


def add_comparison_flags(parser: Parser, pruning_methods: str, sparsities: str) -> None:
    """Flags of the scripts that compare populations of dense and pruned networks."""
    add_flags(
        parser.add_argument_group("populations to compare"),
        ("--models_number", values.model_count, 30, "K: use models 0 to K-1"),
        (
            "--batch_size",
            values.positive_integer,
            1024,
            "largest evaluation batch; does not change results",
        ),
        (
            "--pruning_methods",
            values.pruning_method_list,
            pruning_methods,
            "global, GMP, later_GMP, or a method in the file names of models/: layer, global_snip, "
            "GMP_global, global_iterative0.2_rewind0, small_dense, ...; finetuned is added to one-shot "
            "methods if it exists",
        ),
        (
            "--pruning_percentages",
            values.pruned_sparsity_list,
            sparsities,
            "sparsities to compare; missing ones are listed",
        ),
        *_selection_flags("dense", "dense networks", parser),
        *_selection_flags("finetune", "pruned networks", parser),
        ("--allow_missing", bool, False, "continue with the models that exist"),
        RUN,
        (
            "--test_set",
            values.path,
            None,
            "evaluate on other test images: a folder of CLASS/IMAGE, a file of CIFAR-10.1, 10.2 or "
            "CIFAR-10-C, noise_1 to noise_3, blur_1, contrast_1, jpeg_1, ..., or corrupted for all twelve "
            "(default: no)",
        ),
        (
            "--severity",
            values.severity,
            None,
            "severity, 1 to 5, of a CIFAR-10-C file in --test_set, such as fog.npy (default: none)",
        ),
    )


def add_pie_flags(parser: Parser) -> None:
    """Flags of the PIE scripts."""
    add_flags(
        parser.add_argument_group("figures"),
        ("--plot_q_score", bool, False, "draw Q-Score, Z-score and L1 norm of dense against pruned networks"),
        (
            "--plot_umap",
            bool,
            False,
            "draw a UMAP of the latents with classes and PIEs, one per sparsity",
        ),
        (
            "--umap_models",
            values.positive_integer,
            1,
            "average the latents of the first N networks for the UMAP",
        ),
        ("--not_serialize_plots", bool, False, "save no .npz beside the figures"),
    )


def add_depth_flags(parser: Parser) -> None:
    """Flags of the prediction depth scripts."""
    add_flags(
        parser.add_argument_group("prediction depth"),
        (
            "--prediction_depth_models",
            values.positive_integer,
            None,
            "probe the first N networks; published: 5 (default: all)",
        ),
        (
            "--depth_target",
            ("prediction", "label"),
            "prediction",
            "what the k-NN must agree with in the figure: the network's prediction (Baldock et al. 2021) or "
            "the true label (as published); both are stored",
        ),
        ("--figures_number", values.natural_number, 0, COMPATIBILITY),
        ("--pies_to_store", values.natural_number, 1, COMPATIBILITY),
        ("--plot_umap", bool, False, COMPATIBILITY),
    )
    if parser.get_default("learning_method") == "supervised":
        for flag, kind, default, _ in ENCODER_FLAGS:
            add_flags(parser, (flag, kind, default, COMPATIBILITY))


class Interrupted(BaseException):
    """Raised on one of SIGNALS, with its number as the only argument."""


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[[Sequence[str] | None], int]:
    """Wraps a script's main(argv) to print one line on stderr for an error and return the exit status.

    The status is 2 for an error that the user can fix and 128 + its number for a signal. A closed stdout ends
    the script silently. Notes of the error, such as the file of a saved state, follow in the same line.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        script = Path(sys.argv[0]).name if argv is None else f"{main.__module__}.py"
        handlers = _raise_on_signals(received := [])
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain bytes that are not text
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                main(argv)
            finally:
                print(end="", flush=True)  # a full disk behind stdout raises here instead of at exit
            return 0
        except BrokenPipeError:
            sys.stdout = None  # otherwise the interpreter flushes it again at exit
            return 128 + signal.SIGPIPE
        except (Interrupted, Exception) as error:
            if isinstance(error, OSError) and not error.filename:
                sys.stdout = None
            message = _message_of(error)
            if message is None and received:  # an import that a signal interrupts may end in any error
                error = Interrupted(received[0])
                message = _message_of(error)
            if message is None:
                raise
            notes = "".join(f"; {one_line(note)}" for note in getattr(error, "__notes__", ()))
            with suppress(OSError):  # a full disk
                print(f"{script}: {message}{notes}", file=sys.stderr, flush=True)
            return 128 + error.args[0] if isinstance(error, Interrupted) else 2
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return wrapped


def _message_of(error: BaseException) -> str | None:
    """Returns the message for an error, or None for a bug. Recognises errors of torch by their text, because
    torch is not imported here."""
    if isinstance(error, Interrupted):
        return "interrupted: what is finished is kept; repeat the same command to continue"
    if isinstance(error, UserError):
        return f"error: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name.split(".")[0] not in ("common", "figures"):
        return (
            f"error: {sys.executable} has no module {error.name}; activate the environment that ./setup.sh "
            "creates (source .venv/bin/activate), or start the script with .venv/bin/python"
        )
    if isinstance(error, OSError):
        path, name = Path(error.filename or "input or output"), errno.errorcode.get(error.errno)
        existing = next(filter(os.path.lexists, (path, *path.parents)))
        remedies = [remedy.format(existing) for remedy, names in REMEDIES.items() if name in names.split()]
        return one_line(f"error: {'; '.join([f'{path}: {error.strerror or error}', *remedies])}")
    if isinstance(error, MemoryError):
        error = "out of memory"
    for pattern, explanation in LIBRARY_ERRORS.items():
        if match := re.search(pattern, str(error)):
            return f"error: {explanation.format(*match.groups())}"
    return None


def _raise_on_signals(received: list[int]) -> dict:
    """Makes SIGNALS raise `Interrupted` and add their number to `received`, except SIGHUP under nohup, and
    returns the previous handlers. Does nothing outside the main thread."""
    last_signal = float("-inf")

    def stop(number: int, frame) -> None:
        nonlocal last_signal
        # Workers get Ctrl-C and then a signal from their parent, which must not interrupt the saving.
        if time.monotonic() - last_signal > GRACE_SECONDS:
            last_signal = time.monotonic()
            received.append(number)
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in SIGNALS]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    return {number: signal.signal(number, stop) for number in numbers}
