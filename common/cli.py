"""Everything between the shell and the study: flags that scripts share, device, determinism, logging,
one-line errors.

Only the standard library is imported here, so that `--help` answers at once; torch waits until a script
begins its work.
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
from common.datasets import DOWNLOADS
from common.losses import LOSSES

WORKER = "STUDY_WORKER"  # set in the environment of the processes that --workers starts
COMPATIBILITY = "accepted for compatibility with the published script, without effect there and here"
DEFAULT_FOLDER = "None: models/ (cifar10) or models/NAME/"
logger = logging.getLogger("study")
FLIPS = ("horizontal_flip", "vertical_flip")  # flags, fields of a data set and keys of a configuration
PATIENCE_SECONDS = 5  # in which a stopped script keeps what it has
# What helps against which errors of the system; of others nobody knows.
REMEDIES = {
    "free space there, or name another folder": "ENOSPC EDQUOT EFBIG",
    "change the permissions there, or name another folder": "EACCES EPERM EROFS",
    "{} is in the way: move it away, or give another name": "ENOTDIR EEXIST EISDIR",
    "give a shorter name": "ENAMETOOLONG",
}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # after which a script keeps what it has


# What errors of Python, torch and its compilers say -> cause and remedy.
OF_LIBRARIES = {
    r"(\S+) does not have a deterministic implementation": (
        "{} has no deterministic implementation; give --no-cuda_deterministic"
    ),
    r"InvalidCxxCompiler|No working C\+\+ compiler|Failed to find C compiler": (
        "--compile needs a C++ compiler (g++, say): install one, or leave the flag out"
    ),
    "more than 1 value per channel": (
        "--batch_size leaves one image for the last batch, too few to normalise; change it"
    ),
    "(Symlink loop .*)": "{}, a link that leads to itself; remove it",
    "out of memory|ALLOC(?:ATION)?_FAILED|can't allocate memory|cannot allocate|failed to map segment": (
        "the memory is full; give fewer --workers, a smaller --batch_size or --widen_factor, or another "
        "--cuda_device"
    ),
}


class UserError(Exception):
    """Something that the user can mend: shown as one line that names the flag or file and the remedy, exit
    status 2."""


def one_line(message: object) -> str:
    """A message whose names of files may hold line breaks."""
    return " ".join(str(message).splitlines())


def refuse_pipe(path: Path) -> None:
    """Refuses what is no file, before it is opened: a pipe would be waited for. Folders have errors of their
    own when they are opened.

    Raises:
        UserError: a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a pipe, a socket or a device, not a file; move it away")


@functools.cache
def say_once(message: str) -> None:
    """Logs a message unless this process has said it before."""
    logger.info(message)


class Parser(argparse.ArgumentParser):
    """An argparse parser with one-line errors, no prefix matching, and the default of every flag in
    `--help`."""

    def __init__(self, docstring: str):
        super().__init__(description=docstring, allow_abbrev=False, formatter_class=_HelpFormatter)

    def _print_message(self, message, file=None):
        print(message, end="", file=file or sys.stderr)  # argparse would pass over a full disk

    def error(self, message: str):
        if message.startswith("unrecognized") or message.endswith("expected one argument"):
            message += "; --help lists the flags and their values"
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    def parse_args(self, args=None, namespace=None):
        """As argparse's; `argv` of the result holds the words of the command line, `given` the names of the
        flags among them."""
        flags = super().parse_args(args, namespace)
        flags.argv = list(sys.argv[1:] if args is None else args)
        words = {word.split("=")[0] for word in flags.argv}
        given = [action for action in self._actions if words & set(action.option_strings)]
        flags.given = {action.dest for action in given}
        flags.ignored = [action.option_strings[0] for action in given if action.help == COMPATIBILITY]
        return flags


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _BooleanAction(argparse.Action):
    """`--flag`, `--no-flag` and the published `--flag True|False`."""

    def __init__(self, option_strings, dest, **more):
        spellings = [*option_strings, option_strings[0].replace("--", "--no-")]
        super().__init__(spellings, dest, nargs="?", metavar="True|False", **more)

    def __call__(self, parser, namespace, value, option_string=None):
        negated = option_string.startswith("--no-")
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if value is not None and (negated or value.lower() not in words):
            raise argparse.ArgumentError(
                self,
                f"{value!r} is neither True nor False" if not negated else f"{option_string} takes no value",
            )
        setattr(namespace, self.dest, not negated if value is None else words[value.lower()])


def add_flags(group: argparse._ActionsContainer, *rows: tuple) -> None:
    """Adds flags, each a row of its name, kind, default and help.

    The kind is a function that reads the value, a tuple of what it may be, or bool: a flag in three
    spellings, `--flag`, `--no-flag`, `--flag False`.
    """
    for flag, kind, default, help in rows:
        value = {"action": _BooleanAction} if kind is bool else {"type": kind}
        if isinstance(kind, tuple):
            value = {"choices": kind}
        if isinstance(default, list) and default:  # shown as it is given
            default = ",".join(map(str, default))
        group.add_argument(flag, default=default, help=help, **value)


RUN = (
    "--run",
    values.run_name,
    None,
    "a name for results beside others of this data: they go to pies/NAME/runs/RUN/, None: to pies/NAME/",
)


def add_common_flags(parser: Parser) -> None:
    """Flags of every script: data, network, device, seeds."""
    group = parser.add_argument_group("data, network and device")
    group.add_argument(
        "--normalization",
        type=values.channel_values,
        nargs=2,
        metavar=("MEAN", "STD"),
        help="networks see (pixel - MEAN) / STD, three numbers each, of pixels in [0, 1]: for networks that "
        "others trained with values other than the data set's, for example --normalization "
        "0.4914,0.4822,0.4465 0.2023,0.1994,0.2010; None: those of the data set",
    )
    add_flags(
        group,
        (
            "--dataset",
            (*DOWNLOADS, "digits", "folder"),
            "cifar10",
            f"{', '.join(DOWNLOADS)} (downloaded once); digits (8x8, inside scikit-learn, no download); "
            "folder: train/CLASS/* and test/CLASS/* under --data_dir, images of one size",
        ),
        (
            "--data_dir",
            values.path,
            "data",
            "where a downloaded data set lies or goes; with --dataset folder, the folder",
        ),
        ("--cuda_device", values.natural_number, 0, "CUDA device id; without CUDA the CPU is used"),
        *settings.flag_rows(settings.Architecture, without=("projection_head",)),
        (
            "--workers",
            values.natural_number,
            0,
            "models that are worked on at once, each in a process of its own; 0: one after another in this "
            "process",
        ),
        (
            "--threads",
            values.thread_count,
            None,
            "CPU threads of a process, None: all cores, or those that each worker gets; results depend on "
            "it in the last digits",
        ),
        (
            "--other_code",
            bool,
            False,
            "go on with networks and states that other code of this study made (it is recorded); else they "
            "are refused",
        ),
        ("--debug", bool, False, "verbose; saves no model"),
        ("--seed", values.natural_number, 1, COMPATIBILITY),
        (
            "--total_seed",
            values.positive_integer,
            1,
            "repeats the script under seeds 0 to N-1; the files of seed s > 0 lie in folders seed_s",
        ),
        (
            "--cuda_deterministic",
            bool,
            True,
            "on CUDA deterministic algorithms alone, an error where there is none",
        ),
    )


def add_contrastive_flags(parser: Parser) -> None:
    """Flags that name a contrastive network: loss, encoder, projection head, temperature."""
    group = parser.add_argument_group("contrastive network")
    group.add_argument(
        "--method",
        "--clr_method",  # as the published later stages call it
        dest="learning_method",
        choices=tuple(LOSSES),
        default="SupCon",
        help="contrastive loss",
    )
    add_flags(
        group,
        (
            "--encoder_name",
            values.encoder_name,
            "WideResNet",
            "first part of the file names; depth, width and projection head other than 16, 2, mlp follow it",
        ),
        *settings.flag_rows(settings.Architecture, "projection_head"),
        *settings.flag_rows(settings.ContrastiveTraining, "temperature"),
        ("--encoder_save_path", values.model_folder, None, f"folder of the encoders, {DEFAULT_FOLDER}"),
        (
            "--head_save_path",
            values.model_folder,
            None,
            "folder of the classifier heads, None: that of the encoders",
        ),
    )


def add_supervised_flags(parser: Parser) -> None:
    """Flags that name a supervised network beyond its depth, width and dropout."""
    add_flags(parser, ("--save_path", values.model_folder, None, f"folder of the models, {DEFAULT_FOLDER}"))
    parser.set_defaults(learning_method="supervised")


def add_gradual_pruning_flags(group, default_schedule: str) -> None:
    """When the network is pruned while it trains, and by what."""
    add_flags(
        group,
        (
            "--schedule",
            tuple(methods.GRADUAL),
            default_schedule,
            "the steps below where they are not given, and the file's name (late: _later)",
        ),
        *_criterion_flags("None: layer"),
    )


def add_schedule_flags(group, what: str, suffix: str, kind: str) -> None:
    """`--begin_step`, `--end_step`, `--frequency`, `--begin_epoch` and `--end_epoch` of what is pruned while
    training."""
    (*steps, frequency), (*late_steps, _) = methods.SCHEDULE_STEPS[kind].values()
    for end, which, early, late in zip(("begin", "end"), ("first", "last"), steps, late_steps):
        add_flags(
            group,
            (
                f"--{end}_step{suffix}",
                values.natural_number,
                None,
                f"step of the {which} pruning of the {what}, None: {early} (early) or {late} (late)",
            ),
            (
                f"--{end}_epoch{suffix}",
                values.natural_float,
                None,
                f"in place of --{end}_step{suffix}: the {what} is pruned {which} after so many epochs",
            ),
        )
    add_flags(
        group,
        (
            f"--frequency{suffix}",
            values.positive_integer,
            None,
            f"steps between prunings of the {what}, None: {frequency}, or with epochs given so that there "
            f"are at most {methods.INTERVALS} intervals",
        ),
    )


def _criterion_flags(default_scope: str) -> tuple[tuple, tuple]:
    meanings = "; ".join(f"{name}: {criterion.meaning}" for name, criterion in CRITERIA.items())
    return (
        (
            "--criterion",
            tuple(CRITERIA),
            "magnitude",
            f"what is pruned, the lowest first: {meanings}",
        ),
        (
            "--scope",
            methods.SCOPES,
            None,
            "where it is compared: in the whole network, in each tensor, or in each with the densities of "
            f"Erdős-Rényi-kernel, {default_scope}; filters always in their layer",
        ),
    )


SAVE_EVERY = (
    "--save_every",
    values.interval,
    "5min",
    "keep the state of an unfinished training every so many epochs (10) or minutes (5min), to go on from; a "
    "signal keeps it too",
)


FLIP_FLAGS = [
    (f"--{flip}", bool, None, "half of the views are mirrored, None: but not those of digits and svhn")
    for flip in FLIPS
]


def add_training_flags(group) -> None:
    """What both training scripts have: ids, momentum, flips, what a training keeps on its way."""
    add_flags(
        group,
        *FLIP_FLAGS,
        ("--index_start", values.model_id, 0, "first model id, which is its seed"),
        ("--index_end", values.model_id, 29, "last model id, inclusive"),
        (
            "--match_sparsity",
            values.fraction,
            0.0,
            "dense networks so narrow that their convolutions have as many weights as are left at this "
            "sparsity, 0: of the whole width; later scripts take them as --pruning_methods small_dense",
        ),
        SAVE_EVERY,
        (
            "--save_epochs",
            values.epoch_list,
            [],
            "keep the weights after so many epochs too, 0: the initialisation, for iterative pruning and "
            "magnitude_increase; where the model is finished, only these are trained",
        ),
        (
            "--accumulate_gradients",
            bool,
            False,
            "dense networks: keep the sums of gradients over all steps too, for --criterion levai_zombori; "
            "where the model is finished, it is trained once more for them",
        ),
    )


def add_finetuning_flags(parser: Parser) -> None:
    """Flags of one-shot and iterative pruning."""
    add_flags(
        parser.add_argument_group("pruning and finetuning"),
        ("--models_number", values.model_count, 30, "model ids 0 to N-1 are pruned"),
        *settings.flag_rows(settings.Finetuning),
        (
            "--pruning_percentages",
            values.sparsity_list,
            "0.3,0.5,0.7,0.9",
            "one-shot: sparsities, each from the dense models anew; 0.0 finetunes the dense models and "
            "prunes nothing, a control of method `finetuned` whatever --criterion and --scope say",
        ),
        SAVE_EVERY,
        *FLIP_FLAGS,
        *_criterion_flags("None: global"),
        ("--pruning_schedule", ("one-shot", "iterative"), "one-shot", "prune once, or again and again"),
        ("--iterations", values.iteration_count, 10, "iterative: how often"),
        (
            "--rate",
            values.pruning_rate,
            0.2,
            "iterative: the share of what remains that each iteration prunes",
        ),
        (
            "--after",
            methods.AFTER,
            "rewind",
            "iterative: what follows each pruning: back to the weights of --rewind_epoch and train on as "
            "the dense network was; a new initialisation and the same training; the weights as they are and "
            "that training from --rewind_epoch on, its learning rates above all; or finetuning for --epochs",
        ),
        (
            "--rewind_epoch",
            values.natural_number,
            0,
            "iterative: rewind to the weights after so many epochs (0: initialisation), which the training "
            "script kept (--save_epochs); with lr_rewind the learning rate alone",
        ),
        *_choice_of("dense", "dense networks", parser),
    )


def _choice_of(stage: str, what: str, parser: Parser) -> list[tuple]:
    """Flags that choose among several populations."""
    facts = {"epochs": f"{what} trained for so many epochs", "batch_size": f"{what} of this batch size"}
    if stage == "dense" and parser.get_default("learning_method") != "supervised":
        facts["head_epochs"] = "classifier heads trained for so many epochs"
    return [
        (f"--{stage}_{fact}", values.positive_integer, None, f"take {words}, None: the only ones there are")
        for fact, words in facts.items()
    ]


def add_comparison_flags(parser: Parser, pruning_methods: str, sparsities: str) -> None:
    """Flags of the scripts that compare populations of dense and pruned networks."""
    add_flags(
        parser.add_argument_group("populations to compare"),
        ("--models_number", values.model_count, 30, "K: model ids 0 to K-1"),
        (
            "--batch_size",
            values.positive_integer,
            1024,
            "images in an evaluation batch at most; a CPU takes fewer at once, the numbers are the same",
        ),
        (
            "--pruning_methods",
            values.pruning_method_list,
            pruning_methods,
            "any of global, GMP, later_GMP ('later GMP' too), and of the longer names in models/: layer, "
            "global_snip, GMP_global, global_iterative0.2_rewind0, ...; small_dense (--match_sparsity); "
            "finetuned, which is taken along with one-shot networks where it exists",
        ),
        (
            "--pruning_percentages",
            values.pruned_sparsity_list,
            sparsities,
            "sparsities; those without a network are named",
        ),
        *_choice_of("dense", "dense networks", parser),
        *_choice_of("finetune", "pruned networks", parser),
        ("--allow_missing", bool, False, "go on with the models that exist and divide by their number"),
        RUN,
        (
            "--test_set",
            values.path,
            None,
            "other test images: a folder CLASS/IMAGE, CIFAR-10.1 or 10.2 by file (.npy, .npz), noise_1 to "
            "_3, blur_, contrast_, jpeg_, or all twelve: corrupted; results go to test_sets/ in their folder",
        ),
        (
            "--severity",
            values.severity,
            None,
            "of the images in --test_set, a file of CIFAR-10-C (fog.npy, say, labels.npy beside it)",
        ),
    )


def add_pie_flags(parser: Parser) -> None:
    """Flags of the scripts that find PIEs."""
    add_flags(
        parser.add_argument_group("figures"),
        ("--plot_q_score", bool, False, "Q-Score, Z-score and L1 norm, dense against pruned"),
        (
            "--plot_umap",
            bool,
            False,
            "UMAP of the latents, classes and PIEs, one figure a sparsity and the dense one",
        ),
        (
            "--umap_models",
            values.positive_integer,
            1,
            "latents averaged for the UMAP: of the first N networks (1: id 0; K: the average over all)",
        ),
        ("--not_serialize_plots", bool, False, "no .npz beside the plots"),
    )


def add_depth_flags(parser: Parser) -> None:
    """Flags of the scripts on prediction depth."""
    add_flags(
        parser.add_argument_group("prediction depth"),
        (
            "--prediction_depth_models",
            values.positive_integer,
            None,
            "probe the first N of the K networks (published: 5), None: every network",
        ),
        (
            "--depth_target",
            ("prediction", "label"),
            "prediction",
            "in the figure: the network's own prediction (Baldock et al. 2021) or the true label (as "
            "published); both are computed and stored",
        ),
        ("--figures_number", values.natural_number, 0, COMPATIBILITY),
        ("--pies_to_store", values.natural_number, 1, COMPATIBILITY),
        ("--plot_umap", bool, False, COMPATIBILITY),
    )
    if parser.get_default("learning_method") == "supervised":
        add_flags(
            parser,
            *(
                (flag, kind, default, COMPATIBILITY)
                for flag, kind, default, _ in (
                    *settings.flag_rows(settings.Architecture, "projection_head"),
                    *settings.flag_rows(settings.ContrastiveTraining, "temperature"),
                )
            ),
            ("--encoder_name", values.encoder_name, "WideResNet", COMPATIBILITY),
        )


class Interrupted(BaseException):
    """One of SIGNALS; `signal` is its number."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[[Sequence[str] | None], int]:
    """Wraps a script's main(argv): what the user can mend becomes one line on stderr and exit status 2, a
    signal one line and 128 + its number. Where nobody reads stdout any more, it ends without a word.

    Notes of an error, such as where the state of an unfinished training is kept, follow in the same line.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        script = Path(sys.argv[0]).name if argv is None else f"{main.__module__}.py"
        handlers = _raise_on_signals()
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be bytes that are no text
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                main(argv)
            finally:
                print(
                    end="", flush=True
                )  # what stdout does not take is an error here, not when all has ended
            return 0
        except BrokenPipeError:
            sys.stdout = None  # the interpreter would try again
            return 128 + signal.SIGPIPE
        except (Interrupted, UserError, OSError, RuntimeError, MemoryError, ImportError, ValueError) as error:
            if isinstance(error, OSError) and not error.filename:
                sys.stdout = None
            message = _message_of(error)
            if message is None:
                raise
            notes = "".join(f"; {one_line(note)}" for note in getattr(error, "__notes__", ()))
            with suppress(OSError):  # a full disk
                print(f"{script}: {message}{notes}", file=sys.stderr, flush=True)
            return 128 + error.signal if isinstance(error, Interrupted) else 2
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return wrapped


def _message_of(error: BaseException) -> str | None:
    """What to say of an error; None: a bug. torch's errors are known by their words: it is not imported
    here."""
    if isinstance(error, Interrupted):
        return "interrupted: finished models are kept, the same command goes on"
    if isinstance(error, UserError):
        return f"error: {one_line(error)}"
    if isinstance(error, ModuleNotFoundError) and error.name.split(".")[0] not in ("common", "figures"):
        return (
            f"error: {sys.executable} has no module {error.name}; activate the environment that ./setup.sh "
            "makes (source .venv/bin/activate), or start the script with .venv/bin/python"
        )
    if isinstance(error, OSError):
        path, name = Path(error.filename or "input or output"), errno.errorcode.get(error.errno)
        existing = next(filter(os.path.lexists, (path, *path.parents)))
        remedies = [remedy.format(existing) for remedy, names in REMEDIES.items() if name in names.split()]
        return one_line(f"error: {'; '.join([f'{path}: {error.strerror or error}', *remedies])}")
    if isinstance(error, MemoryError):
        error = "out of memory"
    for words, remedy in OF_LIBRARIES.items():
        if found := re.search(words, str(error)):
            return f"error: {remedy.format(*found.groups())}"
    return None


def _raise_on_signals() -> dict:
    """From now on SIGNALS raise `Interrupted`, but for SIGHUP under nohup, which ignores it; the handlers
    there were, none outside of the main thread."""
    asked: list[float] = []

    def stop(number: int, frame) -> None:
        # A second one on its heels (Ctrl-C reaches workers, and then their parent stops them) must not cut
        # off what the first began.
        if not asked or time.monotonic() - asked[-1] > PATIENCE_SECONDS:
            asked.append(time.monotonic())
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in SIGNALS]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    return {number: signal.signal(number, stop) for number in numbers}
