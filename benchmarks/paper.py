"""The published study on CIFAR-10: its commands, an estimate of the hours from one measured epoch of each
kind of training, and, unless --dry_run, all of them one after the other.

    ./setup.sh paper --dry_run
    ./setup.sh paper --cuda_device 0 --seeds 0-9 --methods supervised --sparsities 0.9,0.95
    ./setup.sh paper --slurm jobs

Dense, gradually pruned and one-shot networks. The estimate trains on random images of CIFAR-10's size, 50,000
on CUDA and a part of them on the CPU, scaled up: no data set is needed for it. What is finished is skipped.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from measure import ROOT, classification_epoch, contrastive_epoch, masked_epoch, random_data, timed

from common import cli, process, values

IMAGES, CPU_IMAGES = 50_000, 1024  # one step of the contrastive batch
GRADUAL, ONE_SHOT = [0.3, 0.5, 0.7, 0.9], [0.3, 0.5, 0.7, 0.9, 0.95]  # sparsities
SCHEDULES = {"GMP": "early", "later_GMP": "late"}
STAGES = ("training", "pruning_finetune", "pie_kmodels_detection", "prediction_depth")  # in this order
EPOCHS = {"contrastive": 500, "head": 100, "supervised": 205, "finetuning": 30}  # of one network


def seed_range(text: str) -> range:
    """`0-9`, or `3` for one."""
    ends = [int(end) for end in text.split("-")] if re.fullmatch("[0-9]{1,6}(-[0-9]{1,6})?", text) else [1, 0]
    if ends[0] > ends[-1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds such as 0-9")
    return range(ends[0], ends[-1] + 1)


def learning_methods(text: str) -> list[str]:
    """`SupCon,supervised`"""
    names = text.split(",")
    if not {*names} <= {"SupCon", "SimCLR", "supervised"} or len({*names}) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: any of SupCon, SimCLR, supervised, each once")
    return names


def pruning_methods(text: str) -> list[str]:
    """`global,GMP`"""
    names = values.pruning_method_list(text)
    if strangers := {*names} - {"global", *SCHEDULES}:
        raise argparse.ArgumentTypeError(f"{min(strangers)!r}: the study has global, GMP and later_GMP")
    return names


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        ("--cuda_device", values.natural_number, 0, "CUDA device id; without CUDA the CPU is measured"),
        ("--seeds", seed_range, "0-29", "model ids to train; later stages need all from 0 to the last"),
        ("--methods", learning_methods, "SupCon,supervised", "any of SupCon, SimCLR, supervised"),
        ("--pruning_methods", pruning_methods, "global,GMP,later_GMP", "any of these"),
        (
            "--sparsities",
            values.pruned_sparsity_list,
            None,
            "(default: as published, 0.3,0.5,0.7,0.9, and 0.95 for one-shot pruning)",
        ),
        ("--workers", values.natural_number, 0, "models that are worked on at once, passed to every command"),
    )
    cli.add_flags(
        parser,
        (
            "--slurm",
            values.file_path,
            None,
            "write the study as a chain of Slurm jobs into this folder and run nothing (default: no)",
        ),
    )
    parser.add_argument("--dry_run", action="store_true", help="only print the commands and the estimate")
    parser.add_argument("--yes", action="store_true", help="run them without CUDA too")
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    all_commands = commands(flags)
    print("the published study on CIFAR-10, dense, gradually pruned and one-shot networks:")
    for command in all_commands:
        print(f"  python {command}")
    if flags.slurm:
        write_jobs(flags.slurm, all_commands)
        print(
            f"written: {flags.slurm}/submit.sh; look at its first lines, then: bash {flags.slurm}/submit.sh"
        )
        return
    import torch

    cli.logger.addHandler(cli.logging.StreamHandler(sys.stdout))
    cli.logger.setLevel(cli.logging.INFO)
    process.set_determinism(True)
    device = process.select_device(flags.cuda_device)
    images = IMAGES if device.type == "cuda" else CPU_IMAGES
    seconds = {kind: value * IMAGES / images for kind, value in measure(device, images).items()}
    name = f"this {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "this CPU"
    for line in estimate(seconds, networks(flags), name):
        print(line)
    if flags.dry_run:
        return
    if device.type != "cuda" and not flags.yes:
        raise cli.UserError("no CUDA device: give --yes to run all of it on the CPU")
    for command in all_commands:
        print(f"\n$ python {command}", flush=True)
        status = subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=False).returncode
        if status:
            sys.exit(status)


def sparsities_of(flags: argparse.Namespace, method: str) -> list[float]:
    """The sparsities of a pruning method."""
    return flags.sparsities or (GRADUAL if method in SCHEDULES else ONE_SHOT)


def commands(flags: argparse.Namespace) -> list[str]:
    """The study's commands, without `python`."""
    common = f"--cuda_device {flags.cuda_device}" + f" --workers {flags.workers}" * (flags.workers > 0)
    ids = f"{common} --index_start {flags.seeds[0]} --index_end {flags.seeds[-1]}"
    lines, gradual = [], [method for method in flags.pruning_methods if method in SCHEDULES]
    contrastive = [method for method in flags.methods if method != "supervised"]
    for method in contrastive:
        training = f"clr_training.py --method {method} {ids}"
        lines.append(f"{training} --pruning_percentages 0.0")
        for each in gradual:
            listed = ",".join(map(str, sparsities_of(flags, each)))
            lines.append(f"{training} --schedule {SCHEDULES[each]} --pruning_percentages {listed}")
    if "supervised" in flags.methods:
        lines.append(f"sup_training.py {ids}")
        for each in gradual:
            for sparsity in sparsities_of(flags, each):
                lines.append(f"sup_training.py {ids} --schedule {SCHEDULES[each]} --pruning {sparsity}")
    compared = sorted(
        {sparsity for method in flags.pruning_methods for sparsity in sparsities_of(flags, method)}
    )
    models = f"{common} --models_number {flags.seeds[-1] + 1}"
    chosen = f"{models} --pruning_methods {','.join(flags.pruning_methods)}"
    chosen += f" --pruning_percentages {','.join(map(str, compared))}"
    for method in flags.methods:
        script, which = ("sup", "") if method == "supervised" else ("clr", f" --clr_method {method}")
        if "global" in flags.pruning_methods:
            listed = ",".join(map(str, [0.0, *sparsities_of(flags, "global")]))  # 0.0: the control
            lines.append(f"{script}_pruning_finetune.py{which} {models} --pruning_percentages {listed}")
        lines.append(f"{script}_pie_kmodels_detection.py{which} {chosen} --plot_q_score --plot_umap")
        lines.append(f"{script}_prediction_depth.py{which} {chosen}")
    return [*lines, "figures/make_figures.py --results pies/cifar10"]


SUBMIT = """#!/bin/bash
# Submits the study, from a login node with a network: fetches the data, then queues the jobs. Each waits for
# those whose networks it needs.
set -euo pipefail
tasks=${{TASKS:-8}}           # of each array: how many jobs share the models of one command
resources=()                # of each job, before those in job.sh: --partition=gpu, --gres=none, --mem=8G, ...
data=(--dataset cifar10 --data_dir data)
results=pies/cifar10
# More flags for trainings of all networks, of those that are pruned meanwhile, and for finetuning:
training_sup=() training_clr=() gradual_sup=() gradual_clr=() finetuning=()

cd {root}
source {venv}/bin/activate
fetch='import sys; from common.data import load_dataset; load_dataset(sys.argv[2], sys.argv[4])'
python -c "$fetch" "${{data[@]}}"
mkdir -p logs
submit() {{
  sbatch --parsable --output=logs/slurm_%x_%j.log --kill-on-invalid-dep=yes "${{resources[@]}}" "$@"
}}
"""


def write_jobs(folder: Path, all_commands: list[str]) -> None:
    """Writes job.sh, which runs one command, and submit.sh, which queues all: training and finetuning as
    arrays, later stages when what they need is done."""
    folder = folder.resolve()
    places = {"root": shlex.quote(str(ROOT)), "venv": shlex.quote(sys.prefix)}
    job_script = (ROOT / "benchmarks/slurm_job.sh").read_text()
    for place, path in places.items():
        job_script = job_script.replace(f"@{place.upper()}@", path)
    lines, jobs = [SUBMIT.format(**places)], []  # (variable, side, stage) of each
    for number, command in enumerate(all_commands):
        script, *words = command.split()
        side, _, stage = script.removesuffix(".py").partition("_")
        options = f"--job-name={script.split('/')[-1].removesuffix('.py')}"
        if script.startswith("figures/"):
            needed, words = [job for job, *_ in jobs], ["--results", '"$results"']
        else:
            rank = STAGES.index(stage)
            needed = [job for job, *of in jobs if of[0] == side and STAGES.index(of[1]) < rank]
            jobs.append((f"$job_{number}", side, stage))
            words.append('"${data[@]}"')
            more = {"training": [f"training_{side}"], "pruning_finetune": ["finetuning"]}.get(stage, [])
            more += [f"gradual_{side}"] * ("--schedule" in words)
            words += [f'"${{{name}[@]}}"' for name in more]
            if more:
                options += " --array=0-$((tasks - 1))"
        if needed:
            options += f" --dependency=afterok:{':'.join(needed)}"
        path = shlex.quote(str(folder / "job.sh"))
        lines.append(f"job_{number}=$(submit {options} {path} {script} {' '.join(words)})")
    lines.append('echo "queued; the last job: $job_' + f'{len(all_commands) - 1}"')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.sh").write_text(job_script)
    (folder / "submit.sh").write_text("\n".join(lines) + "\n")


def networks(flags: argparse.Namespace) -> dict[str, int]:
    """How many networks of each kind of training the commands ask for."""
    gradual = sum(len(sparsities_of(flags, each)) for each in flags.pruning_methods if each in SCHEDULES)
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
    """Seconds of one epoch over so many images, for each kind of training, after a short warm-up."""
    kinds = {
        "contrastive": (contrastive_epoch, 1024),
        "head": (head_epoch,),
        "supervised": (classification_epoch, 128),
        "finetuning": (masked_epoch, 128),
    }
    seconds = {}
    for kind, (prepare, *more) in kinds.items():
        timed(prepare(device, 256, *more), device)
        seconds[kind] = timed(prepare(device, images, *more), device)
    return seconds


def head_epoch(device, images: int):
    """An epoch of a linear classifier on a frozen encoder, views included."""
    from common import models, training

    encoder = training.prepare(models.WideResNet(16, 2), device)
    head = training.prepare(models.ClassificationHead(encoder.latent_size, 10), device)
    settings = {"head_epochs": 1, "batch_size_head": 256}
    of_head = training.Head(encoder, head, random_data(images, 1, 32, device), settings)
    return lambda: training.fit(of_head, training.TrainingContext((0, "head")), range(1))


def estimate(seconds: dict[str, float], networks: dict[str, int], device: str) -> list[str]:
    """Lines: of each kind of training the time of one network and of all; then the whole.

    Args:
        seconds: of an epoch of each kind; networks: of each kind; device: its name.
    """
    lines, total = ["kind          s an epoch  epochs  h a network  networks        hours"], 0.0
    for kind, count in networks.items():
        hours = seconds[kind] * EPOCHS[kind] / 3600
        total += count * hours
        numbers = f"{seconds[kind]:10.2f}  {EPOCHS[kind]:6}  {hours:11.2f}  {count:8}  {count * hours:11,.1f}"
        lines.append(f"{kind:<12}  {numbers}")
    return [*lines, f"{in_round_words(total)} on {device}; evaluation and figures are not counted"]


def in_round_words(hours: float) -> str:
    """`about 14 years`, `about 3 days`, `about 5 hours`, `about 20 minutes`: one unit."""
    for unit, length in (("year", 24 * 365.25), ("day", 24), ("hour", 1), ("minute", 1 / 60)):
        if hours >= 1.5 * length or unit == "minute":
            number = round(hours / length) or 1
            return f"about {number} {unit}{'s' * (number > 1)}"


if __name__ == "__main__":
    sys.exit(main())
