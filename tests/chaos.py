"""Kills scripts at random moments, gives each command again until it ends; compares with undisturbed runs.

    python tests/chaos.py --kills 50
    python tests/chaos.py --kills 6 --seed 1

Alone: every stage in turn, one process at a time, ended by SIGKILL. Company: 4 processes on the same 12
models, one of which is killed and replaced now and then. Few digits and small networks in a temporary folder,
one thread a process, states after every epoch. Prints what was done, and ends with status 1 where a model, a
record, an array or the table differs from the undisturbed run's, or something is left behind.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from forked import Forked

SMALL = ["--dataset", "folder", "--data_dir", "few digits"]
SMALL += "--model_depth 10 --widen_factor 1 --threads 1".split()
SUPERVISED = "sup_training --epochs 40 --batch_size 16 --index_end"
COMPARED = "--models_number 3 --pruning_percentages"
STAGES = [
    f"{SUPERVISED} 2 --save_epochs 0",
    f"{SUPERVISED} 2 --pruning 0.8 --begin_epoch 1 --end_epoch 20",
    "clr_training --index_end 1 --epochs 25 --batch_size 32 --head_epochs 25 --batch_size_head 16 "
    "--pruning_percentages 0.0,0.8 --begin_epoch 1 --end_epoch 20 --begin_epoch_head 1 --end_epoch_head 20",
    f"sup_pruning_finetune {COMPARED} 0.5,0.9 --epochs 20 --batch_size 16",
    "clr_pruning_finetune --models_number 2 --pruning_percentages 0.9 --epochs 30 --batch_size 16",
    "sup_pruning_finetune --models_number 1 --pruning_schedule iterative --iterations 3 --rate 0.5",
    f"sup_pie_kmodels_detection {COMPARED} 0.5,0.9 --plot_q_score",
    f"sup_prediction_depth {COMPARED} 0.5 --pruning_methods global --prediction_depth_models 2",
]
STAGES, COMPANY = [stage.split() for stage in STAGES], f"{SUPERVISED} 11".split()
LIMIT_SECONDS = 600  # for one command to come to its end


def start(words: list[str], work: Path) -> Forked:
    script, *flags = words
    if "pie" not in script and "depth" not in script:
        flags += ["--save_every", "1"]
    return Forked(script, *SMALL, *flags, cwd=work)


def finish(process: Forked) -> str:
    """What it said, once it has ended well."""
    said = "".join(process.communicate(timeout=LIMIT_SECONDS))
    if process.returncode != 0:
        raise SystemExit(f"status {process.returncode}: {' '.join(map(str, process.args))}\n{said}")
    return said


def log_path(work: Path, script: str) -> Path:
    return work / "logs/few digits" / f"{script}.log"


def wait_until_at_work(process: Forked, work: Path, script: str) -> None:
    """Until it logs, which it does once all is imported, or until it has ended."""
    path = log_path(work, script)
    before = path.stat().st_size if path.exists() else 0
    while process.poll() is None and (path.stat().st_size if path.exists() else 0) == before:
        time.sleep(0.01)


def disturbed(
    work: Path, words: list[str], kills: int, longest: float, chance: random.Random
) -> tuple[int, str]:
    """Kills the command up to so many times, each after up to `longest` seconds at work, then lets it end.

    Gives the number of kills, and all that was said.
    """
    done, said = 0, ""
    while done < kills:
        process = start(words, work)
        wait_until_at_work(process, work, words[0])
        time.sleep(chance.uniform(0, longest))
        killed = process.poll() is None
        if killed:
            process.send_signal(signal.SIGKILL)
        said += process.communicate()[0]
        if not killed:
            break  # the work is done: nothing is left to be killed
        done += 1
    return done, said + finish(start(words, work))


def company(work: Path, kills: int, chance: random.Random) -> int:
    """4 processes on the same models; so many are killed, each replaced by another. The number of kills."""
    processes, done = [start(COMPANY, work) for _ in range(4)], 0
    while done < kills and any(process.poll() is None for process in processes):
        time.sleep(chance.uniform(0.3, 2.5))
        running = [process for process in processes if process.poll() is None]
        if running:
            victim = chance.choice(running)
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            processes[processes.index(victim)] = start(COMPANY, work)
            done += 1
    for process in processes:
        finish(process)
    return done


def compare(disturbed_folder: Path, undisturbed_folder: Path) -> list[str]:
    """What differs, and what was left behind."""
    from test_sharing import contents

    found, expected = contents(disturbed_folder), contents(undisturbed_folder)
    names = sorted(found.keys() | expected.keys())
    differing = [name for name in names if found.get(name) != expected.get(name)]
    left = [path for pattern in ("*.state", "*.tmp*") for path in disturbed_folder.rglob(pattern)]
    left = [path for path in left if path.parent.name != ".locks"]
    return [f"differs: {name}" for name in differing] + [f"left behind: {path.name}" for path in left]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    text = "alone, as far as the commands last; a quarter of them more in company (default: 50)"
    parser.add_argument("--kills", type=int, default=50, help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    flags = parser.parse_args()
    from conftest import write_few_digits

    chance, kills, resumed, problems = random.Random(flags.seed), 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, alone, together, calm = (
            Path(folder) / name for name in ("undisturbed", "alone", "together", "calm")
        )
        for work in (undisturbed, alone, together, calm):
            write_few_digits(work / "few digits")
        for index, words in enumerate(STAGES):
            started = time.monotonic()
            process = start(words, undisturbed)
            wait_until_at_work(process, undisturbed, words[0])
            at_work = time.monotonic()
            finish(process)
            longest = (time.monotonic() - at_work) / 2
            wanted = -(-(flags.kills - kills) // (len(STAGES) - index))
            done, said = disturbed(alone, words, wanted, longest, chance)
            kills += done
            taken_up, seconds = said.count("resuming after"), time.monotonic() - started
            resumed += taken_up
            print(f"{words[0]}: {done} kills, {taken_up} states taken up, {seconds:.0f} s", flush=True)
        problems += compare(alone, undisturbed)
        finish(start(COMPANY, calm))
        many = company(together, max(2, flags.kills // 4), chance)
        print(f"company of 4 over {int(COMPANY[-1]) + 1} models: {many} kills", flush=True)
        problems += compare(together, calm)
    print("\n".join(problems))
    print(
        f"{kills} kills alone and {many} in company, {resumed} states taken up, {len(problems)} differences"
    )
    return int(bool(problems) or kills + many < flags.kills)


if __name__ == "__main__":
    sys.exit(main())
