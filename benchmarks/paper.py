"""Runs the published study on CIFAR-10: prints its commands, estimates the hours from one measured epoch of
each kind of training, and runs the commands in sequence unless --dry_run is given.

    ./setup.sh paper --dry_run
    ./setup.sh paper --cuda_device 0 --seeds 0-9 --methods supervised --sparsities 0.9,0.95
    ./setup.sh paper --slurm jobs

The study has dense, gradually pruned and one-shot networks. The estimate needs no data set: it trains on
50,000 random images of CIFAR-10's size on CUDA, or on fewer on a CPU, scaled up. Skips finished networks.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from measure import ROOT, classification_epoch, contrastive_epoch, masked_epoch, random_data, start, timed

from common import cli, values
from common.losses import LOSSES

IMAGES, CPU_IMAGES = 50_000, 1024  # the latter make one contrastive batch
GRADUAL, ONE_SHOT = [0.3, 0.5, 0.7, 0.9], [0.3, 0.5, 0.7, 0.9, 0.95]  # sparsities
SCHEDULES = {"GMP": "early", "later_GMP": "late"}
STAGES = ("training", "pruning_finetune", "pie_kmodels_detection", "prediction_depth")  # in order
EPOCHS = {"contrastive": 500, "head": 100, "supervised": 205, "finetuning": 30}  # per network


def seed_range(text: str) -> range:
    """Parses `0-9`, or `3` for a single seed."""
    bounds = (
        [int(end) for end in text.split("-")] if re.fullmatch("[0-9]{1,6}(-[0-9]{1,6})?", text) else [1, 0]
    )
    if bounds[0] > bounds[-1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of seeds such as 0-9")
    return range(bounds[0], bounds[-1] + 1)


def learning_methods(text: str) -> list[str]:
    """Parses `SupCon,supervised`."""
    names = text.split(",")
    known = [*LOSSES, "supervised"]
    if not {*names} <= {*known} or len({*names}) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: any of {', '.join(known)}, each once")
    return names


def pruning_methods(text: str) -> list[str]:
    """Parses `global,GMP`."""
    names = values.pruning_method_list(text)
    if unknown := {*names} - {"global", *SCHEDULES}:
        raise argparse.ArgumentTypeError(f"{min(unknown)!r}: the study has global, GMP and later_GMP")
    return names


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        ("--cuda_device", values.natural_number, 0, "CUDA device id; without CUDA the CPU is measured"),
        ("--seeds", seed_range, "0-29", "model ids to train; later stages need all from 0 to the last"),
        ("--methods", learning_methods, "SupCon,supervised", ", ".join([*LOSSES, "supervised"])),
        ("--pruning_methods", pruning_methods, "global,GMP,later_GMP", "any of these"),
        (
            "--sparsities",
            values.pruned_sparsity_list,
            None,
            "(default: as published, 0.3,0.5,0.7,0.9, and 0.95 for one-shot pruning)",
        ),
        ("--workers", values.natural_number, 0, "number of models in progress, passed to every command"),
    )
    group = parser.add_mutually_exclusive_group()
    cli.add_flags(
        group,
        (
            "--slurm",
            values.file_path,
            None,
            "write the study as a chain of Slurm jobs to this folder, without running it (default: no)",
        ),
    )
    group.add_argument("--dry_run", action="store_true", help="only print the commands and the estimate")
    group.add_argument("--yes", action="store_true", help="run the commands even without CUDA")
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    all_commands = commands(flags)
    print("the published study on CIFAR-10 with dense, gradually pruned and one-shot networks:")
    for command in all_commands:
        print(f"  python {command}")
    if flags.slurm:
        write_jobs(flags.slurm, all_commands)
        submit = f"{flags.slurm}/submit.sh"
        print(f"written: {submit}; check its first lines, then: bash {shlex.quote(submit)}")
        return
    device, machine = start(flags.cuda_device)
    images = IMAGES if device.type == "cuda" else CPU_IMAGES
    seconds = {kind: value * IMAGES / images for kind, value in measure(device, images).items()}
    for line in estimate(seconds, networks(flags), machine["device"]):
        print(line)
    if flags.dry_run:
        return
    if device.type != "cuda" and not flags.yes:
        raise cli.UserError("no CUDA device: give --yes to run the whole study on the CPU")
    for command in all_commands:
        print(f"\n$ python {command}", flush=True)
        with subprocess.Popen([sys.executable, *command.split()], cwd=ROOT) as script:
            try:
                status = script.wait()
            except BaseException:  # a signal
                script.terminate()  # it saves its state; leaving the block waits for it
                raise
        if status:
            sys.exit(status)


def sparsities_of(flags: argparse.Namespace, method: str) -> list[float]:
    """Returns the sparsities of a pruning method."""
    return flags.sparsities or (GRADUAL if method in SCHEDULES else ONE_SHOT)


def commands(flags: argparse.Namespace) -> list[str]:
    """Returns the commands of the study, without `python`."""
    common = f"--cuda_device {flags.cuda_device}" + f" --workers {flags.workers}" * (flags.workers > 0)
    ids = f"{common} --index_start {flags.seeds[0]} --index_end {flags.seeds[-1]}"
    lines, gradual = [], [method for method in flags.pruning_methods if method in SCHEDULES]
    contrastive = [method for method in flags.methods if method != "supervised"]
    for method in contrastive:
        training = f"clr_training.py --method {method} {ids}"
        lines.append(f"{training} --pruning_percentages 0.0")
        for pruning in gradual:
            sparsities = ",".join(map(str, sparsities_of(flags, pruning)))
            lines.append(f"{training} --schedule {SCHEDULES[pruning]} --pruning_percentages {sparsities}")
    if "supervised" in flags.methods:
        lines.append(f"sup_training.py {ids}")
        for pruning in gradual:
            for sparsity in sparsities_of(flags, pruning):
                lines.append(f"sup_training.py {ids} --schedule {SCHEDULES[pruning]} --pruning {sparsity}")
    all_sparsities = sorted(
        {sparsity for method in flags.pruning_methods for sparsity in sparsities_of(flags, method)}
    )
    models = f"{common} --models_number {flags.seeds[-1] + 1}"
    selection = f"{models} --pruning_methods {','.join(flags.pruning_methods)}"
    selection += f" --pruning_percentages {','.join(map(str, all_sparsities))}"
    for method in flags.methods:
        script, loss_flag = ("sup", "") if method == "supervised" else ("clr", f" --clr_method {method}")
        if "global" in flags.pruning_methods:
            sparsities = ",".join(map(str, [0.0, *sparsities_of(flags, "global")]))  # 0.0: the control
            lines.append(
                f"{script}_pruning_finetune.py{loss_flag} {models} --pruning_percentages {sparsities}"
            )
        lines.append(f"{script}_pie_kmodels_detection.py{loss_flag} {selection} --plot_q_score --plot_umap")
        lines.append(f"{script}_prediction_depth.py{loss_flag} {selection}")
    return [*lines, "figures/make_figures.py --results pies/cifar10"]


SUBMIT = """#!/bin/bash
# Submits the study from a login node with network access: fetches the data, then queues the jobs. Each job
# waits for the jobs of the stages that it needs.
set -eo pipefail  # not -u: old versions of bash reject empty arrays
tasks=${{TASKS:-8}}           # number of jobs that share the models of one command
resources=()                # override those in job.sh: --partition=gpu, --gres=none, --mem=8G
data=(--dataset cifar10 --data_dir data)
results=pies/cifar10        # pies/ and the name of the data set; of the last folder of --data_dir
# Additional flags for training of all networks, for networks pruned while training, and for finetuning:
training_sup=() training_clr=() gradual_sup=() gradual_clr=() finetuning=()

cd {root}
export PATH={venv}/bin:$PATH
fetch='import sys; from common.data import load_dataset; load_dataset(sys.argv[2], sys.argv[4])'
python -c "$fetch" "${{data[@]}}"
mkdir -p logs
submit() {{
  sbatch --parsable --output=logs/slurm_%x_%j.log --kill-on-invalid-dep=yes "${{resources[@]}}" "$@"
}}
"""


def write_jobs(folder: Path, all_commands: list[str]) -> None:
    """Writes job.sh, which runs one command, and submit.sh, which queues all commands: training and
    finetuning as arrays, later stages after the jobs that they need."""
    folder = folder.resolve()
    paths = {"root": shlex.quote(str(ROOT)), "venv": shlex.quote(sys.prefix)}
    job_script = (ROOT / "benchmarks/slurm_job.sh").read_text()
    for name, path in paths.items():
        job_script = job_script.replace(f"@{name.upper()}@", path)
    lines, jobs = [SUBMIT.format(**paths)], []  # (variable, side, stage)
    for number, command in enumerate(all_commands):
        script, *words = command.split()
        side, _, stage = script.removesuffix(".py").partition("_")
        options = f"--job-name={script.split('/')[-1].removesuffix('.py')}"
        if script.startswith("figures/"):
            dependencies, words = [job for job, *_ in jobs], ["--results", '"$results"']
        else:
            rank = STAGES.index(stage)
            dependencies = [
                job
                for job, its_side, its_stage in jobs
                if its_side == side and STAGES.index(its_stage) < rank
            ]
            jobs.append((f"$job_{number}", side, stage))
            words.append('"${data[@]}"')
            arrays = {"training": [f"training_{side}"], "pruning_finetune": ["finetuning"]}.get(stage, [])
            arrays += [f"gradual_{side}"] * ("--schedule" in words)
            words += [f'"${{{name}[@]}}"' for name in arrays]
            if arrays:
                options += " --array=0-$((tasks - 1))"
        if dependencies:
            options += f" --dependency=afterok:{':'.join(dependencies)}"
        path = shlex.quote(str(folder / "job.sh"))
        lines.append(f"job_{number}=$(submit {options} {path} {script} {' '.join(words)})")
    lines.append('echo "queued; the last job: $job_' + f'{len(all_commands) - 1}"')
    scripts = {folder / "job.sh": job_script, folder / "submit.sh": "\n".join(lines) + "\n"}
    for path, script in scripts.items():
        if path.exists() and path.read_text() != script:
            raise cli.UserError(f"{path} exists and differs; move it away, or give --slurm another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, script in scripts.items():
        path.write_text(script)


def networks(flags: argparse.Namespace) -> dict[str, int]:
    """Counts the networks of each kind of training in the commands."""
    gradual = sum(
        len(sparsities_of(flags, method)) for method in flags.pruning_methods if method in SCHEDULES
    )
    one_shot = 1 + len(sparsities_of(flags, "global")) if "global" in flags.pruning_methods else 0
    seeds, supervised = len(flags.seeds), "supervised" in flags.methods
    contrastive = (len(flags.methods) - supervised) * (1 + gradual) * seeds
    return {
        "contrastive": contrastive,
        "head": contrastive,
        "supervised": supervised * (1 + gradual) * seeds,
        "finetuning": len(flags.methods) * one_shot * seeds,
    }


def measure(device, images: int) -> dict[str, float]:
    """Measures the seconds of one epoch over this many images, for each kind of training, after a short
    warm-up."""
    kinds = {
        "contrastive": (contrastive_epoch, 1024),
        "head": (head_epoch,),
        "supervised": (classification_epoch, 128),
        "finetuning": (masked_epoch, 128),
    }
    seconds = {}
    for kind, (prepare, *batch_size) in kinds.items():
        timed(prepare(device, 256, *batch_size), device)
        seconds[kind] = timed(prepare(device, images, *batch_size), device)
    return seconds


def head_epoch(device, images: int):
    """Returns the work of an epoch of a linear classifier on a frozen encoder, including views."""
    from common import models, training

    encoder = training.prepare(models.WideResNet(16, 2), device)
    head = training.prepare(models.ClassificationHead(encoder.latent_size, 10), device)
    settings = {"head_epochs": 1, "batch_size_head": 256}
    of_head = training.Head(encoder, head, random_data(images, 1, 32, device), settings)
    return lambda: training.fit(of_head, training.TrainingContext((0, "head")), range(1))


def estimate(seconds: dict[str, float], networks: dict[str, int], device: str) -> list[str]:
    """Returns lines with the hours of one network and of all for each kind of training, then the total.

    Args:
        seconds: per epoch of each kind; networks: numbers of each kind; device: its name.
    """
    lines, total = ["kind          s an epoch  epochs  h a network  networks        hours"], 0.0
    for kind, count in networks.items():
        hours = seconds[kind] * EPOCHS[kind] / 3600
        total += count * hours
        numbers = f"{seconds[kind]:10.2f}  {EPOCHS[kind]:6}  {hours:11.2f}  {count:8}  {count * hours:11,.1f}"
        lines.append(f"{kind:<12}  {numbers}")
    return [*lines, f"{in_round_words(total)} on {device}; without evaluation and figures"]


def in_round_words(hours: float) -> str:
    """Formats a duration in one unit: `about 14 years`, `about 3 days`, `about 5 hours`, `about 20
    minutes`."""
    for unit, length in (("year", 24 * 365.25), ("day", 24), ("hour", 1), ("minute", 1 / 60)):
        if hours >= 1.5 * length or unit == "minute":
            number = round(hours / length) or 1
            return f"about {number} {unit}{'s' * (number > 1)}"


if __name__ == "__main__":
    sys.exit(main())
