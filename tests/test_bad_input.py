"""Bad input of every kind through the scripts' command lines: status 2, one line that names the cause and
what helps, nothing half-written."""

import argparse
import contextlib
import csv
import errno
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from conftest import write_few_digits
from matplotlib.figure import Figure
from PIL import Image
from stored_results import make_results
from test_scripts import DENSE, ROOT, SMALL, main

from common import models
from common.settings import Architecture
from common.store.files import write_arrays
from common.store.records import file_sha256

LIMIT = 20_000  # bytes of a file on the full disk: a log and a record fit, a checkpoint does not
ONE, TWO = ["--models_number", 1], ["--models_number", 2]
SUP, CLR, SUP_PRUNE, CLR_PRUNE = (
    "sup_training",
    "clr_training",
    "sup_pruning_finetune",
    "clr_pruning_finetune",
)
SUP_PIES, CLR_PIES, SUP_DEPTH, CLR_DEPTH = (
    "sup_pie_kmodels_detection",
    "clr_pie_kmodels_detection",
    "sup_prediction_depth",
    "clr_prediction_depth",
)
# What made the models of the folder that every row begins with; the same commands find them finished.
FLAGS = {
    SUP: ["--index_end", 1, "--epochs", 2, "--batch_size", 32],
    CLR: [*DENSE, "--index_end", 1, "--epochs", 1, "--batch_size", 32, "--head_epochs", 1],
    SUP_PRUNE: [*TWO, "--epochs", 1, "--pruning_percentages", 0.9],
    CLR_PRUNE: [*TWO, "--epochs", 1, "--pruning_percentages", 0.9],
    SUP_PIES: [*TWO, "--pruning_percentages", 0.9],
    CLR_PIES: [*TWO, "--pruning_percentages", 0.9],
    SUP_DEPTH: [*TWO, "--pruning_methods", "global", "--pruning_percentages", 0.9],
    CLR_DEPTH: [*TWO, "--pruning_methods", "global", "--pruning_percentages", 0.9],
}
SUP_DENSE, SUP_PRUNED = (
    "wideResNet-1_0.0pruning_2epochs_*_id{}.pt",
    "wideResNet-1_global_0.9pruning_*_id{}.pt",
)
ENCODER, HEAD = (
    "WideResNet-10-1_encoder_SupCon_0.0pruning_32batch_*_id{}.pt",
    "WideResNet-10-1_head_SupCon_0.0pruning_*_id{}.pt",
)
PRUNED_ENCODER, PRUNED_HEAD = (
    "WideResNet-10-1_encoder_SupCon_0.9pruning_global_*_id{}.pt",
    "WideResNet-10-1_head_SupCon_0.9pruning_global_*_id{}.pt",
)
DIGIT = "few digits/train/digit 1/03.png"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two dense and two pruned models of each method, PIEs and a table."""
    work = tmp_path_factory.mktemp("finished")
    write_few_digits(work / "few digits")
    with pytest.MonkeyPatch.context() as context:
        context.chdir(work)
        for script in (SUP, CLR, SUP_PRUNE, CLR_PRUNE, SUP_PIES):
            assert main(script, *FLAGS[script], *SMALL) == 0
    return work


@pytest.fixture
def work(finished, tmp_path, monkeypatch):
    """A copy of the finished folder to spoil."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "work"))
    return Path.cwd()


class Hangs(BaseException):
    """What no script catches."""


@pytest.fixture(autouse=True)
def no_hang():
    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def files(work):
    return {
        path.relative_to(work): path.read_bytes()
        for path in work.rglob("*")
        if path.is_file() and not {"logs", ".locks"} & {*path.relative_to(work).parts}
    }


def check_nothing_is_lost_or_half_written(work, before):
    assert not [
        path
        for path in work.rglob("*")
        if (".tmp" in path.name and path.parent.name != ".locks") or ".writable" in path.name
    ]
    after = files(work)
    assert before.keys() <= after.keys()
    # What is measured of populations is written anew by every call, with its command.
    kept = {name: content for name, content in before.items() if "populations" not in name.parts}
    assert {name: after[name] for name in kept} == kept
    assert not [name for name in after.keys() - before.keys() if name.suffix in (".state", ".pt", ".json")]


def check_the_line(said, told):
    assert said.count("\n") == 1 and said.endswith("\n") and "error: " in said and "Traceback" not in said, (
        said
    )
    assert all(words in said for words in told.split(" ... ")), said


def status_of(script, *flags):
    try:
        return main(script, *flags)
    except SystemExit as stop:
        return stop.code


def with_defaults(script, flags):
    """A row's flags after those of the finished models; the last one counts."""
    return [*FLAGS[script], *SMALL, *(shlex.split(flags) if isinstance(flags, str) else flags)]


def model(pattern, number=0):
    [path] = Path("models/few digits").glob(pattern.format(number))
    return path


# Ways to spoil the folder: each gives a function without arguments.


def edit(pattern, change):
    """Changes the content of a checkpoint and has its JSON describe the changed file."""

    def spoil():
        path = model(pattern)
        content = torch.load(path, weights_only=True)
        torch.save(change(content) or content, path)
        sign(path)

    return spoil


def sign(path):
    """Has the JSON of a checkpoint, and that of an encoder's head, tell its checksum."""
    told = {path: "checkpoint_sha256"}
    if "_encoder_" in path.name:
        told[path.with_name(path.name.replace("_encoder_", "_head_"))] = "encoder_sha256"
    for checkpoint, key in told.items():
        record = checkpoint.with_suffix(".json")
        record.write_text(json.dumps({**json.loads(record.read_text()), key: file_sha256(path)}))


def edit_record(pattern, change, number=0):
    def spoil():
        path = model(pattern, number).with_suffix(".json")
        record = json.loads(path.read_text())
        path.write_text(json.dumps(change(record) or record))

    return spoil


def replace(pattern, content):
    def spoil():
        path = model(pattern)
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return spoil


def alone(pattern, then):
    """Spoils a checkpoint of which nothing is known: an external one, with its head."""

    def spoil():
        then()
        for name in {pattern, pattern.replace("_encoder_", "_head_")}:
            model(name).with_suffix(".json").unlink()

    return spoil


def copy_over(source, target):
    def spoil():
        shutil.copy(model(*source), model(*target))

    return spoil


def both(*ways):
    return lambda: [way() for way in ways]


def remove(pattern, number=0):
    return lambda: [
        path.unlink() for path in (model(pattern, number).with_suffix(".json"), model(pattern, number))
    ]


def folder_in_place_of_file(name):
    return lambda: (Path(name).unlink(), Path(name).mkdir())


def folder_in_place_of(pattern, suffix=".pt"):
    return lambda: folder_in_place_of_file(model(pattern).with_suffix(suffix))()


def write(name, content=b"not what should be here"):
    return lambda: (Path(name).parent.mkdir(parents=True, exist_ok=True), Path(name).write_bytes(content))


def file_in_place_of(name):
    return lambda: (
        shutil.rmtree(name, ignore_errors=True),
        Path(name).write_text("a file where a folder should be"),
    )


def delete(name):
    return lambda: shutil.rmtree(name)


def empty(name):
    return lambda: [path.unlink() for path in Path(name).iterdir()]


def cut(name, size):
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[:size])


def picture(name, size, mode="L"):
    return lambda: Image.new(mode, size).save(name)


def resize_all(side):
    return lambda: [Image.new("L", (side, side)).save(path) for path in Path("few digits").rglob("*.png")]


def no_class_folders():
    for folder in list(Path("few digits/train").iterdir()):
        for path in folder.iterdir():
            path.rename(f"few digits/train/{folder.name} {path.name}")
        folder.rmdir()


def rename(name, other):
    return lambda: Path(name).rename(other)


def state(pattern, content):
    """The state of a training whose model is not there yet."""

    def spoil():
        path = model(pattern)
        path.with_suffix(".json").unlink()
        path.unlink()
        kept = path.with_name(f".{path.name}.state")
        kept.mkdir() if content is None else kept.write_bytes(content) if isinstance(
            content, bytes
        ) else torch.save(content, kept)

    return spoil


def pipe(name):
    """A pipe in place of a file, or of a checkpoint whose pattern is given."""

    def spoil():
        path = model(name) if "{}" in name else Path(name)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return spoil


def pipe_for_state():
    state(SUP_DENSE, b"")()
    [path] = Path("models/few digits").glob(".*.state")
    pipe(str(path))()


def archive_called_npy():
    for part in ("data", "labels"):
        with open(f"t_{part}.npy", "wb") as file:
            np.savez(file, images=np.zeros(3))


def severities(images):
    """A file in the form of CIFAR-10-C of so many images."""

    def spoil():
        np.save("fog.npy", np.zeros((images, 8, 8, 3), np.uint8))
        np.save("labels.npy", np.zeros(images, np.uint8))

    return spoil


def link_to_itself(name):
    return lambda: os.symlink(Path(name).name, name)


def few_test_images():
    for path in Path("few digits/test").glob("*/00.png"):
        write(f"few/{path.parent.name}/00.png", path.read_bytes())()


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def not_finite(content):
    next(iter(content.get("model", content).values())).view(-1)[0] = float("nan")


def filled(entry, value):
    """A change of the first value of every tensor whose name ends so."""

    def change(content):
        for name, tensor in content.get("model", content.get("head", content)).items():
            if name.endswith(entry):
                tensor.view(-1)[0] = value

    return change


def sized(value, entry=".weight"):
    """A change of all weights that are not zero to +-value: of convolutions and linear layers, or of those
    whose name ends so."""

    def change(content):
        for name, tensor in content.get("model", content.get("head", content)).items():
            if name.endswith(entry) and tensor.ndim > 1 and not name.startswith("head."):
                tensor.sign_().mul_(value)

    return change


def zero_a_filter_of_blocks(content):
    for name, tensor in content.get("model", content).items():
        if name.endswith("conv2.weight"):  # 1.3 % of the weights
            tensor[0].zero_()


def other_network(depth=10, widen_factor=1, classes=3):
    return models.SupervisedNetwork(Architecture(depth, widen_factor), classes).state_dict()


def setting(*keys, to):
    """A change of one entry of a JSON."""

    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = to

    return change


def without(*keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


OF_OTHER_CODE, OTHER_CODE = (
    setting("code", "augment", to="0" * 12),
    "by a different version of augment; give --other_code",
)
ELSEWHERE = "... write these to a separate folder (--run NAME, in the PIE and depth scripts)"
MADE_AGAIN = "delete it to have it made again by the command in its JSON"
CANNOT_BE_MADE = "it was not trained here, so it cannot be made again here"
BUFFERS = "holds values that are not finite, in base.block1.layer.0.bn1.running_mean and"
DAMAGED, NO_FIT = "is damaged; move it and", "does not fit the network that the flags describe"
UNREADABLE = f"not a readable checkpoint ... {CANNOT_BE_MADE}"
UNREADABLE_STATE = ".state is not a readable checkpoint ... delete it"
UNREADABLE_IMAGE = "is not a readable image ... replace it or move it away"
DENSE_FILE = "models/few digits/wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt"
A_PIPE = "is a pipe, a socket or a device, not a file; move it away"
IN_THE_WAY = "is in the way: move it away, or give another name"
NOT_ALONE = "not only tensors ... save only the state_dict"
# Wrong flags: script, flags => what the line tells.
WRONG_FLAGS = """
sup_training --epochs many => --epochs ... 'many' ... a whole number from 1
clr_training --batch_size 1 => --batch_size 1: a contrastive loss ... give 2 or more
sup_training --match_sparsity 0.9999 => --match_sparsity 0.9999 leaves groups of (1, 1, 1) ... give less
sup_training --match_sparsity 1 => --match_sparsity ... not including, 1
sup_pie_kmodels_detection --severity 3 => --severity needs a file of CIFAR-10-C
sup_prediction_depth --severity 3 --test_set noise_1 => --severity needs a file of CIFAR-10-C
clr_pie_kmodels_detection --severity 3 --test_set t.npz => --severity needs a file of CIFAR-10-C
clr_prediction_depth --severity 6 --test_set fog.npy => --severity ... a whole number from 1 to 5
sup_pie_kmodels_detection --test_set fog.npy => --test_set fog.npy ... for CIFAR-10-C give --severity
clr_training --batch_size 1.5 => --batch_size ... a whole number from 1
sup_pruning_finetune --pruning_percentages '0.5;0.9' => --pruning_percentages ... a number from 0 up to
sup_pie_kmodels_detection --pruning_percentages 0.9, => --pruning_percentages ... '' ... a number from 0 up to
clr_pie_kmodels_detection --plot_umap perhaps => --plot_umap ... neither True nor False
sup_pie_kmodels_detection --no-plot_umap True => --no-plot_umap takes no value
sup_training --save_every 5hours => --save_every ... a whole number from 1
clr_training --save_epochs first => --save_epochs ... a whole number from 0
clr_pruning_finetune --epochs 0 => --epochs ... a whole number from 1
sup_training --index_start -1 => --index_start ... a whole number from 0
sup_training --index_end 1000000 => --index_end ... a whole number from 0 to 999999
sup_pie_kmodels_detection --models_number 2147483647 => --models_number ... a whole number from 1 to 1000000
sup_pruning_finetune --iterations 2147483647 => --iterations ... a whole number from 1 to 1000
sup_training --threads 2147483647 => --threads ... a whole number from 1 to 1024
sup_training --learning_rate nan => --learning_rate ... a number above 0
clr_prediction_depth --temperature -0.5 => --temperature ... a number above 0
sup_prediction_depth --dropout 1.0 => --dropout ... not including, 1
clr_prediction_depth --pruning_percentages 90 => --pruning_percentages ... not including, 1
clr_pie_kmodels_detection --pruning_percentages 0.0,0.9 => --pruning_percentages ... give sparsities above 0
clr_pruning_finetune --rate 1 => --rate ... a number from 0.01 to 0.99
sup_training --model_depth 12 => --model_depth ... 6 n + 4
sup_training --save_every 0min => --save_every ... a number above 0
sup_training --widen_factor 2147483647 => --widen_factor ... a whole number from 1 to 64
sup_training --model_depth 2147483644 => --model_depth ... up to 1000
clr_training --model_depth 1000 --widen_factor 64 => --model_depth 1000 ... weights ... a smaller network
sup_training --epochs 1_000 => --epochs ... '1_000' ... a whole number from 1
clr_training --epochs ' 2' => --epochs ... a whole number from 1
sup_training --batch_size '٣٢' => --batch_size ... a whole number from 1
sup_training --learning_rate ' 0.1' => --learning_rate ... ' 0.1' is not a number
sup_pruning_finetune --learning_rate 0.0_1 => --learning_rate ... a number above 0
sup_prediction_depth --dropout '０.５' => --dropout ... not including, 1
sup_pie_kmodels_detection --pruning_percentages '0.9, 0.5' => --pruning_percentages ... ' 0.5' ... a number
clr_training --learning_rate 1e308 => --learning_rate ... to 1e30
clr_training --temperature 1e-320 => --temperature ... from 1e-30
clr_training --temperature inf => --temperature ... to 1e30
sup_training --weight_decay 1e308 => --weight_decay ... to 1e30
sup_training --lr_gamma 1e308 => --lr_gamma ... to 10
sup_pruning_finetune --pruning_percentages 0.9,0.90 => --pruning_percentages ... contains a value twice
sup_prediction_depth --pruning_percentages -0.0 => --pruning_percentages ... give sparsities above 0
sup_pie_kmodels_detection --dataset mnist => --dataset ... choose from
clr_training --method supcon => --method ... SimCLR
sup_pruning_finetune --criterion size => --criterion ... magnitude
sup_prediction_depth --pruning_methods globally => --pruning_methods ... 'globally' ... later_GMP
clr_prediction_depth --depth_target class => --depth_target ... choose from
sup_training --index_start 3 => --index_end 1 comes before --index_start 3
clr_training --warmup_epochs 4 => --warmup_epochs 4 ... fewer than --epochs 1
clr_training --epochs 2 --warmup_epochs 1 => --warmup_epochs 1 ... needs a --batch_size above 256
sup_training --save_epochs 1,2 => --save_epochs 2 ... below --epochs 2
sup_training --criterion snip => --criterion ... give a sparsity above 0 (--pruning)
sup_training --pruning 0.5 => does not fit its training ... give, for example, --begin_epoch
sup_training --pruning 0.5 --begin_step 3 --end_step 2 => does not fit its training ... --begin_epoch
sup_pruning_finetune --criterion filter_l1 --scope global => --scope global ... leave it out
clr_pruning_finetune --iterations 3 => --iterations belongs to --pruning_schedule iterative
sup_pruning_finetune --pruning_schedule iterative => --pruning_percentages belongs to one-shot
clr_training --num_classes 7 => --num_classes 7 ... few digits has 3 classes
sup_training --learning_rate 0.25 => learning_rate 1.0, not 0.25 ... --save_path another folder
clr_training --batch_size_head 8 => batch_size_head 256, not 8 ... --head_save_path another folder
sup_training --wieght_decay 0 => --wieght_decay ... --help
clr_pie_kmodels_detection quickly => quickly ... --help
sup_pruning_finetune --epoch 1 => --epoch ... --help
clr_prediction_depth --models 2 => --models ... --help
sup_pie_kmodels_detection --batch_size => --batch_size ... expected one argument ... --help
sup_training --epochs '' => --epochs ... '' ... a whole number from 1
sup_prediction_depth --pruning_methods '' => --pruning_methods ... '' ... global
clr_prediction_depth --encoder_name '' => --encoder_name ... letters
sup_training --save_path '' => --save_path ... give its name
clr_training --head_save_path '' => --head_save_path ... give its name
clr_pie_kmodels_detection --encoder_save_path 'models/{}.pt' => --encoder_save_path ... give a folder
clr_pruning_finetune --model_depth 16 => no SupCon models dense ... WideResNet-10-1_encoder
clr_pruning_finetune --dense_epochs 9 => --dense_epochs 9 ... found: SupCon dense 0.0 (epochs 1
clr_pie_kmodels_detection --temperature 0.1 => found: WideResNet-10-1_encoder_SupCon ... 0.5temperature
sup_training --data_dir nowhere => --data_dir nowhere ... train/CLASS/*
clr_training --data_dir 'few digits/train/digit 1/03.png' => --data_dir ... 03.png ... train/CLASS/*
sup_training --save_path 'few digits/train/digit 1/03.png' => --save_path ... is a file: give a folder
sup_training --momentum 1 => --momentum ... not including, 1
sup_training --weight_decay -1 => --weight_decay ... a number of 0 or more
sup_training --lr_gamma 0 => --lr_gamma ... a number above 0, to 10
sup_training --lr_milestones 5,x => --lr_milestones ... 'x' ... a whole number
sup_training --shuffle maybe => --shuffle ... neither True nor False
sup_training --begin_step -1 => --begin_step ... a whole number from 0
sup_training --frequency 0 => --frequency ... a whole number from 1
sup_training --begin_epoch nan => --begin_epoch ... a number of 0 or more
clr_training --end_epoch_head -1 => --end_epoch_head ... a number of 0 or more
sup_training --schedule never => --schedule ... choose from
sup_training --scope everywhere => --scope ... choose from
sup_training --pruning 1 => --pruning ... not including, 1
sup_training --precision float16 => --precision ... choose from
sup_training --save_epochs 0,-1 => --save_epochs ... '-1' ... a whole number from 0
sup_training --pruning 0.5 --end_step 2 --accumulate_gradients => --accumulate_gradients is only for dense
sup_training --total_seed 0 => --total_seed ... a whole number from 1
sup_training --cuda_device -1 => --cuda_device ... a whole number from 0
sup_training --threads 0 => --threads ... a whole number from 1 to 1024
sup_training --workers -1 => --workers ... a whole number from 0
sup_training --widen_factor 0 => --widen_factor ... a whole number from 1 to 64
sup_training --data_dir '' => --data_dir ... '' is not a path: give its name
clr_training --encoder_save_path ~no-user/x => --encoder_save_path ... '~no-user/x' is not a path
clr_training --base_temperature 0 => --base_temperature ... a number above 0
clr_training --batch_size_head 0 => --batch_size_head ... a whole number from 1
clr_training --head_epochs 0 => --head_epochs ... a whole number from 1
clr_training --projection_head conv => --projection_head ... choose from
clr_training --encoder_name a/b => --encoder_name ... letters
clr_training --encoder_name WideResNet-10-4 => --encoder_name ... appended by the script
clr_training --num_classes none => --num_classes ... a whole number
clr_training --warmup_epochs -1 => --warmup_epochs ... a whole number from 0
sup_pruning_finetune --after nothing => --after ... choose from
sup_pruning_finetune --rate 0 => --rate ... a number from 0.01 to 0.99
sup_pruning_finetune --iterations 0 => --iterations ... a whole number from 1
sup_pruning_finetune --rewind_epoch -1 => --rewind_epoch ... a whole number from 0
sup_pruning_finetune --rewind_epoch 1 => --rewind_epoch belongs to --pruning_schedule iterative
sup_pruning_finetune --pruning_schedule sometimes => --pruning_schedule ... choose from
sup_pruning_finetune --dense_batch_size 0 => --dense_batch_size ... a whole number from 1
clr_pruning_finetune --dense_head_epochs 9 => --dense_head_epochs 9 ... found
sup_pruning_finetune --criterion magnitude_increase => was not saved; to save it, run ... --save_epochs 0
sup_pruning_finetune --criterion levai_zombori => gradient_sums.pt was not saved ... --accumulate_gradients
sup_pruning_finetune --models_number 0 => --models_number ... a whole number from 1
sup_pie_kmodels_detection --finetune_epochs 9 => --finetune_epochs 9 ... found
sup_pie_kmodels_detection --umap_models 0 => --umap_models ... a whole number from 1
sup_pie_kmodels_detection --pruning_methods global,global => --pruning_methods ... contains a value twice
sup_pie_kmodels_detection --pruning_methods dense => --pruning_methods ... 'dense' is no pruning method
sup_pie_kmodels_detection --pruning_methods GMP => no pruned networks ... its defaults are the published ones
sup_pie_kmodels_detection --run a/b => --run ... 'a/b' is not a plain name
sup_pie_kmodels_detection --run .. => --run ... '..' is not a plain name
sup_prediction_depth --run '' => --run ... '' is not a plain name
sup_pie_kmodels_detection --test_set nothing => --test_set 'nothing' ... neither a folder
sup_pie_kmodels_detection --test_set '' => --test_set ... '' is not a path: give its name
sup_prediction_depth --test_set noise_4 => --test_set 'noise_4' ... noise_3
clr_pie_kmodels_detection --test_set 'few digits' => its folders are not the classes ... unknown: test, train
sup_pie_kmodels_detection --test_set absent.npz => --test_set absent.npz ... cannot be read
sup_prediction_depth --prediction_depth_models 0 => --prediction_depth_models ... a whole number from 1
sup_prediction_depth --figures_number few => --figures_number ... a whole number from 0
sup_pie_kmodels_detection --models_number 3 => ids 2 are missing ... sup_training.py ... --allow_missing
sup_pie_kmodels_detection --models_number 3 --save_path 'models/few digits' => --save_path 'models/few digits'
sup_training --dataset cifar10 => few digits holds folders of images (test, train), not CIFAR-10; give --data
sup_pie_kmodels_detection --dataset svhn --data_dir 'few digits/train' => train holds folders of images (digit
sup_training --dataset cifar10 --data_dir 'few digits/train/digit 1/03.png' => Not a directory ... in the way
sup_pie_kmodels_detection --models_number 1 => (2 networks, now 1; ids, images or ... (--run NAME,
sup_training --normalization 0.5,0.5 1,1,1 => --normalization
clr_training --normalization 0.5,0.5,0.5 1,0,1 => --normalization
sup_pruning_finetune --normalization 125,123,113 51,52,51 => --normalization ... pixels in [0, 1]
clr_prediction_depth --normalization nan,0,0 1,1,1 => --normalization
sup_training --architecture resnet18 => --model_depth ... belongs to WideResNets
clr_pruning_finetune --debug maybe => --debug ... neither True nor False
sup_training --pruning 0.5 --match_sparsity 0.5 => leave --pruning out
sup_training --begin_step 5 --begin_epoch 5 --pruning 0.5 => --begin_epoch exclude each other
sup_pruning_finetune --dropout 0.1 => of WideResNet-10-1-dropout0.1 ... wideResNet-1_0.0pruning
sup_prediction_depth --widen_factor 2 => wideResNet-1_0.0 ... --widen_factor, --dropout as in their training
clr_pie_kmodels_detection --projection_head linear => found: WideResNet-10-1_encoder_SupCon
clr_prediction_depth --encoder_name Net => 10-1_encoder_SupCon ... --temperature, --encoder_name
sup_prediction_depth --models_number 1 => (2 networks, now 1; ids, images or ... (--run NAME,
clr_training --encoder_save_path 'few digits/train/digit 1/03.png/x' => 03.png is in the way: move it away
"""
# What is spoilt: id, how, script, flags if any, what the line tells.
ROWS = [
    (
        "range, longer than a file name",
        None,
        CLR,
        ["--encoder_name", "N" * 150],
        "--encoder_name ... up to 100 letters",
    ),
    ("unknown, with a line break", None, SUP, ["--a\nb"], "--a b ... --help"),
    (
        "data, a line break in its name",
        None,
        SUP,
        ["--data_dir", "no\nwhere"],
        "--data_dir ... rename it",
    ),
    (
        "data, no folders of classes",
        no_class_folders,
        SUP,
        "--data_dir few digits: train/digit 0 00.png is outside the class folders; move it into one",
    ),
    (
        "data, an image beside the classes",
        rename(DIGIT, "few digits/test/03.png"),
        CLR,
        "test/03.png is outside the class folders",
    ),
    ("folder, a long name", None, SUP, ["--save_path", "n" * 300], "File name too long; give a shorter name"),
    ("data, no train", delete("few digits/train"), SUP, "no folder train/ ... train/CLASS/*"),
    (
        "data, a class of bytes",
        lambda: [
            os.rename(f"few digits/{half}/digit 1".encode(), f"few digits/{half}/".encode() + b"\xff\xfe")
            for half in ("train", "test")
        ],
        SUP,
        "the class name ... cannot be printed; rename it",
    ),
    (
        "record, brackets",
        lambda: model(SUP_DENSE).with_suffix(".json").write_text("[" * 100_000),
        SUP,
        DAMAGED,
    ),
    ("data, empty class", empty("few digits/train/digit 1"), SUP, "no images in train/digit 1"),
    (
        "data, test of another class",
        rename("few digits/test/digit 2", "few digits/test/digit 3"),
        SUP,
        "test/ has classes that train/ lacks: digit 3",
    ),
    ("data, truncated", cut(DIGIT, 60), SUP_PRUNE, f"03.png ... {UNREADABLE_IMAGE}"),
    (
        "data, a folder in a class",
        lambda: Path("few digits/train/digit 1/more").mkdir(),
        SUP,
        f"digit 1/more ... {UNREADABLE_IMAGE}",
    ),
    (
        "data, one larger",
        picture(DIGIT, (9, 8)),
        CLR_PRUNE,
        "different sizes ... 03.png 9x8; resize them: python benchmarks/prepare_images.py 'few digits' "
        "'few digits_8' --size 8",
    ),
    ("data, too small", resize_all(7), CLR, "images of 7x7 ... at least 8x8"),
    (
        "data, changed since the training",
        picture(DIGIT, (8, 8)),
        SUP,
        "different settings (different training images ... --save_path",
    ),
    (
        "data, changed since the pruning",
        picture(DIGIT, (8, 8)),
        CLR_PIES,
        "different training images ... retrain all of them",
    ),
    (
        "model, truncated",
        alone(SUP_DENSE, replace(SUP_DENSE, lambda content: content[:5000])),
        SUP_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        UNREADABLE,
    ),
    (
        "model, a whole network",
        alone(SUP_DENSE, edit(SUP_DENSE, lambda _: models.SupervisedNetwork(Architecture(10, 1), 3))),
        SUP_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        f"id0.pt holds common.models.SupervisedNetwork, {NOT_ALONE}",
    ),
    (
        "model, flags beside it",
        alone(ENCODER, edit(ENCODER, lambda content: content | {"args": argparse.Namespace()})),
        CLR_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        f"id0.pt holds argparse.Namespace, {NOT_ALONE}",
    ),
    (
        "model, list",
        edit(SUP_DENSE, lambda content: [1, 2]),
        SUP_PRUNE,
        "--pruning_percentages 0.5",
        "id0.pt holds a list, no state_dict ... save only the state_dict",
    ),
    (
        "model, numbers",
        edit(SUP_DENSE, lambda content: dict.fromkeys(content, 1.0)),
        SUP_PRUNE,
        "--pruning_percentages 0.5",
        NO_FIT,
    ),
    (
        "model, without entry",
        edit(HEAD, lambda content: {"classifier": {}}),
        CLR_PRUNE,
        "--pruning_percentages 0.5",
        "2 names are missing: fc.weight, fc.bias",
    ),
    (
        "model, code",
        alone(SUP_DENSE, replace(SUP_DENSE, pickle.dumps(Harmful()))),
        SUP_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        UNREADABLE,
    ),
    (
        "model, other classes",
        alone(SUP_DENSE, edit(SUP_DENSE, lambda content: other_network(classes=7))),
        SUP_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        NO_FIT,
    ),
    (
        "model, same as another with its JSON",
        both(copy_over((SUP_DENSE, 0), (SUP_DENSE, 1)), lambda: sign(model(SUP_DENSE, 1))),
        SUP_PRUNE,
        f"the same weights as ... they are one network; {MADE_AGAIN}",
    ),
    (
        "model, head and encoder of another",
        both(
            *[copy_over((part, 0), (part, 1)) for part in (ENCODER, HEAD)],
            lambda: sign(model(ENCODER, 1)),
            lambda: sign(model(HEAD, 1)),
        ),
        CLR_PIES,
        f"the same weights as ... they are one network; {MADE_AGAIN}",
    ),
    (
        "model, same seed",
        edit_record(SUP_DENSE, setting("seed", to=0), 1),
        SUP_PIES,
        f"the same seed as ... they are one network; {MADE_AGAIN}",
    ),
    (
        "model, renamed with its JSON",
        edit_record(SUP_DENSE, setting("name", "id", to=7)),
        SUP_PIES,
        "id0.pt was renamed: its JSON says id 7; give both files their former name",
    ),
    (
        "model, sparser than its name",
        alone(SUP_DENSE, edit(SUP_DENSE, zero_a_filter_of_blocks)),
        SUP_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        "its name says 0.0",
    ),
    (
        "model, sparser than its JSON",
        edit(SUP_DENSE, zero_a_filter_of_blocks),
        SUP_PRUNE,
        "--pruning_percentages 0.5",
        "its JSON says 0",
    ),
    (
        "model, not finite",
        edit(SUP_DENSE, not_finite),
        SUP_PRUNE,
        "--save_path x",
        "id0.pt holds values that are not finite, in base.conv1.weight; delete it to have it made again",
    ),
    (
        "model, external and not finite",
        alone(SUP_DENSE, edit(SUP_DENSE, not_finite)),
        SUP_PRUNE,
        "--models_number 1 --pruning_percentages 0.5",
        f"in base.conv1.weight; {CANNOT_BE_MADE}",
    ),
    (
        "model, buffers not finite",
        edit(SUP_PRUNED, filled("running_mean", np.nan)),
        SUP_PIES,
        "--run other",
        f"global_0.9 ... {BUFFERS} 6 more; {MADE_AGAIN}",
    ),
    (
        "model, head not finite",
        edit(PRUNED_HEAD, filled("bias", np.nan)),
        CLR_DEPTH,
        f"_head_ ... in fc.bias; {MADE_AGAIN}",
    ),
    (
        "model, a variance below 0",
        edit(SUP_PRUNED, filled("running_var", -1.0)),
        SUP_PIES,
        "--run other",
        f"global_0.9 ... id0.pt: outputs for un-augmented images are not finite; {MADE_AGAIN}",
    ),
    (
        "model, logits overflow",
        both(*(edit(SUP_PRUNED, sized(1e25, name)) for name in ("base.conv1.weight", "fc.weight"))),
        SUP_PIES,
        "--run other",
        f"global_0.9 ... id0.pt: logits of the test images are not finite; {MADE_AGAIN}",
    ),
    (
        "model, representations overflow",
        edit(SUP_PRUNED, sized(1e30)),
        SUP_DEPTH,
        "--run other",
        f"global_0.9 ... not finite; {MADE_AGAIN}",
    ),
    (
        "model, distances overflow",
        edit(SUP_PRUNED, sized(1e25, "base.conv1.weight")),
        SUP_DEPTH,
        "--run other",
        f"global_0.9 ... distances between representations are not finite in float32; {MADE_AGAIN}",
    ),
    (
        "model, outputs overflow before pruning",
        edit(SUP_DENSE, sized(1e30)),
        SUP_PRUNE,
        "--save_path x",
        f"id0.pt: outputs for un-augmented images are not finite; {MADE_AGAIN}",
    ),
    (
        "model, scores overflow",
        alone(SUP_DENSE, edit(SUP_DENSE, sized(1e30))),
        SUP_PRUNE,
        "--models_number 1 --criterion snip",
        f"id0.pt: the scores of its weights by snip are not finite; {CANNOT_BE_MADE}",
    ),
    (
        "model, an encoder whose outputs overflow",
        both(edit(ENCODER, sized(1e30)), remove(HEAD)),
        CLR,
        f"_encoder_ ... outputs for un-augmented images are not finite; {MADE_AGAIN}",
    ),
    ("model, a folder", folder_in_place_of(SUP_DENSE), SUP_PIES, "id0.pt ... Is a directory"),
    (
        "model, a folder in the way",
        both(
            remove(SUP_DENSE),
            lambda: Path(
                "models/few digits/wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt"
            ).mkdir(),
        ),
        SUP,
        "id0.pt is a folder ... move it away",
    ),
    (
        "model, head missing",
        both(remove(HEAD), remove(HEAD, 1)),
        CLR_PIES,
        "has no classifier head ... --head_save_path ... clr_training.py",
    ),
    (
        "model, pruned heads missing",
        both(remove(PRUNED_HEAD), remove(PRUNED_HEAD, 1)),
        CLR_PIES,
        "has no classifier head ... --head_save_path ... clr_pruning_finetune.py",
    ),
    (
        "model, one head missing",
        remove(HEAD, 1),
        CLR_PRUNE,
        "ids 1 are missing ... python clr_training.py",
    ),
    (
        "model, one pruned missing",
        remove(SUP_PRUNED, 1),
        SUP_PIES,
        "ids 1 are missing ... python sup_pruning_finetune.py",
    ),
    (
        "model, pruned from another",
        edit(SUP_DENSE, lambda content: other_network()),
        SUP_PIES,
        "made from a different dense model ... delete it",
    ),
    ("JSON, torn", lambda: cut(model(SUP_DENSE).with_suffix(".json"), 300)(), SUP_PRUNE, DAMAGED),
    ("JSON, a list", edit_record(SUP_DENSE, lambda record: [record]), SUP_PIES, DAMAGED),
    (
        "JSON, of another file",
        lambda: shutil.copy(model(SUP_DENSE, 1).with_suffix(".json"), model(SUP_DENSE).with_suffix(".json")),
        SUP_PIES,
        "id0.json describes a different file ... move both away",
    ),
    ("JSON, no checksum", edit_record(ENCODER, without("checkpoint_sha256")), CLR_DEPTH, DAMAGED),
    (
        "JSON, no configuration",
        edit_record(SUP_DENSE, setting("configuration", to=None)),
        SUP_PIES,
        DAMAGED,
    ),
    ("JSON, no sparsity", edit_record(SUP_PRUNED, setting("sparsity", to=0.9)), SUP_PRUNE, DAMAGED),
    (
        "JSON, no dense networks",
        edit_record(SUP_PRUNED, without("configuration", "dense")),
        SUP_PIES,
        "ids 0 are missing ... python sup_pruning_finetune.py",
    ),
    (
        "JSON, other epochs than the name",  # is said before the missing network is trained
        both(remove(SUP_DENSE), edit_record(SUP_DENSE, setting("configuration", "epochs", to=7), 1)),
        SUP,
        "epochs 7, not 2 ... --save_path",
    ),
    (
        "JSON, other epochs than the others",
        edit_record(SUP_DENSE, setting("configuration", "epochs", to=7)),
        SUP_PIES,
        "several populations fit ... they differ in epochs",
    ),
    (
        "JSON, other number of zeros",
        edit_record(HEAD, setting("sparsity", "zeros", to=11)),
        CLR_PRUNE,
        "--pruning_percentages 0.5",
        "its JSON says 11",
    ),
    (
        "JSON, other data",
        edit_record(ENCODER, setting("data", "train_checksum", to="0" * 64)),
        CLR,
        "different settings (different training images ... --encoder_save_path",
    ),
    (
        "JSON, other data than the others",
        edit_record(SUP_DENSE, setting("data", "train_checksum", to="0" * 64), 1),
        SUP_PIES,
        "id1.pt was made with different settings (different training images",
    ),
    (
        "external, weights kept",
        alone(SUP_DENSE, list),
        SUP,
        "--save_epochs 0",
        "unknown ... leave the flag out",
    ),
    ("code, dense pruned", edit_record(SUP_DENSE, OF_OTHER_CODE, 1), SUP_PRUNE, OTHER_CODE),
    ("code, head compared", edit_record(HEAD, OF_OTHER_CODE), CLR_PIES, OTHER_CODE),
    ("code, pruned encoder probed", edit_record(PRUNED_ENCODER, OF_OTHER_CODE), CLR_DEPTH, OTHER_CODE),
    (
        "results, fewer though missing are allowed",
        both(remove(SUP_DENSE, 1), remove(SUP_PRUNED, 1)),
        SUP_PIES,
        "--allow_missing",
        f"(2 networks, now 1; ids, images or trainings differ) {ELSEWHERE}",
    ),
    (
        "results, pruned again",
        edit(SUP_PRUNED, lambda content: {name: content[name] for name in reversed(content)}),
        SUP_PIES,
        f"other global_0.9 networks (2 networks, now 2; ids, images or trainings differ) {ELSEWHERE}",
    ),
    *(
        (
            f"folder, {name} by {script}",
            write(f"theirs/{name}", b"a network"),
            script,
            [flag, "theirs"],
            f"{flag} theirs holds no dense checkpoint with a known name ... {name} ... {expected}",
        )
        for script, flag, name, expected in (
            (SUP_PIES, "--save_path", "ckpt_200.pth", "wideResNet-1_0.0pruning"),
            (CLR_PRUNE, "--encoder_save_path", "net.pt", "_encoder_SupCon_ ... _head_SupCon_"),
        )
    ),
    (
        "folder, another architecture",
        write("theirs/wideResNet-1_0.0pruning_2epochs_16depth_0.0dropout_id0.pt", b"a network"),
        SUP_PRUNE,
        "--save_path theirs",
        "in theirs; found: wideResNet-1_0.0pruning_2epochs_16depth",
    ),
    ("JSON, no name", edit_record(HEAD, setting("name", to="x")), CLR_PIES, DAMAGED),
    (
        "JSON, other encoder",
        edit_record(HEAD, setting("encoder_sha256", to="0" * 64)),
        CLR,
        "made from a different ... delete it",
    ),
    ("state, text", state(ENCODER, b"epoch 3"), CLR, UNREADABLE_STATE),
    ("state, a folder", state(SUP_DENSE, None), SUP, "id0.pt.state is in the way: move it away"),
    ("folder, logs", file_in_place_of("logs"), SUP, f"logs ... {IN_THE_WAY}"),
    (
        "folder, one log",
        folder_in_place_of_file("logs/few digits/sup_training.log"),
        SUP,
        f"sup_training.log ... {IN_THE_WAY}",
    ),
    ("folder, results", file_in_place_of("pies"), CLR_PIES, f"pies/few digits ... pies {IN_THE_WAY}"),
    (
        "folder, evaluations",
        file_in_place_of("pies/few digits/supervised"),
        SUP_DEPTH,
        f"pies/few digits/supervised ... {IN_THE_WAY}",
    ),
    (
        "pipe, checkpoint trained",
        both(
            remove(SUP_DENSE),
            pipe(DENSE_FILE),
        ),
        SUP,
        f"id0.pt {A_PIPE}",
    ),
    (
        "pipe, JSON",
        lambda: pipe(str(model(ENCODER).with_suffix(".json")))(),
        CLR_PIES,
        f"id0.json {A_PIPE}",
    ),
    ("pipe, state", pipe_for_state, SUP, f".pt.state {A_PIPE}"),
    ("pipe, log", pipe("logs/few digits/sup_training.log"), SUP, f"sup_training.log {A_PIPE}"),
    ("pipe, test set", pipe("t.npz"), SUP_PIES, "--test_set t.npz", f"t.npz {A_PIPE}"),
    (
        "device, test set",
        lambda: os.symlink("/dev/zero", "t.npz"),
        SUP_PIES,
        "--test_set t.npz",
        f"t.npz {A_PIPE}",
    ),
    (
        "pipe, archive of CIFAR-10",
        pipe("cifar-10-python.tar.gz"),
        SUP,
        "--dataset cifar10 --data_dir .",
        f"cifar-10-python.tar.gz {A_PIPE}",
    ),
    ("pipe, table", pipe("pies/few digits/results.csv"), SUP_PIES, f"results.csv {A_PIPE}"),
    (
        "pipe, population",
        pipe("pies/few digits/supervised/populations/global_0.9.npz"),
        SUP_PIES,
        f"global_0.9.npz {A_PIPE}",
    ),
    (
        "test set, archive called .npy",
        archive_called_npy,
        SUP_PIES,
        "--test_set t_data.npy",
        "t_data.npy: images are",
    ),
    (
        "test set, not of five severities",
        severities(7),
        SUP_PIES,
        "--test_set fog.npy --severity 2",
        "--test_set fog.npy: cannot be read ... equal division",
    ),
    (
        "data, a link to itself",
        link_to_itself("loop"),
        SUP,
        "--data_dir loop",
        "loop ... the link leads to itself",
    ),
    (
        "data, an image that is a link to itself",
        link_to_itself("few digits/train/digit 1/loop.png"),
        SUP,
        f"loop.png {UNREADABLE_IMAGE}",
    ),
    (
        "test set, too few images for UMAP",
        few_test_images,
        SUP_PIES,
        "--plot_umap --test_set few",
        "--plot_umap needs at least 10 test images, not 3",
    ),
    (
        "data, too few images for depth",
        lambda: [path.unlink() for path in Path("few digits/train").glob("*/[01]*.png") if path.stem > "08"],
        CLR_DEPTH,
        "prediction depth needs at least 30 training images, few digits has 27",
    ),
    (
        "table, a folder",
        folder_in_place_of_file("pies/few digits/results.csv"),
        SUP_PIES,
        f"pies/few digits/results.csv {IN_THE_WAY}",
    ),
]
# Wrong flags of the report: flags => what the line tells.
WRONG_FLAGS_OF_FIGURES = """
--results nowhere => --results nowhere is not a folder; give one with results
--results 'few digits' => no populations are stored there
--results 'few digits/train/digit 1/03.png' => is not a folder
--format gif => --format ... choose from
--style paper => --style needs --output_dir
--run a/b => --run ... is not a plain name
--run hotter => runs/hotter is not a folder
--output_dir 'few digits/train/digit 1/03.png' => Not a directory ... digit 1/03.png is in the way
--release 'few digits/train/digit 1/03.png' => Not a directory ... digit 1/03.png is in the way
--release 'pies/few digits' => --release names the folder of --results
--against 'pies/few digits/../few digits' => --against names the folder of --results
--release '' => --release ... '' is not a path: give its name
--output_dir '' => --output_dir ... '' is not a path: give its name
--against '' => --against ... '' is not a path: give its name
--results '' => --results ... '' is not a path: give its name
--against nowhere => --against nowhere is not a folder
--against x --format pdf => --format has no effect with --against
--against x --release y => --release has no effect with --against
--against x --output_dir y => --output_dir has no effect with --against
--name x => --name ... --help
"""
# While the flags are read, and at the end.
AS_PROCESSES = ["sup_training --epochs many", "table, a folder"]


def wrong_flags(line):
    """A line of WRONG_FLAGS as a row."""
    command, told = line.split(" => ")
    script, flags = f"{command} ".split(" ", 1)
    return command, None, script, flags, told


ROWS = [*map(wrong_flags, WRONG_FLAGS.strip().splitlines()), *ROWS]


def by_id(rows):
    return [pytest.param(*row[1:3], *row[3:-1] or [""], row[-1], id=row[0]) for row in rows]


@pytest.mark.parametrize("spoil, script, flags, told", by_id(ROWS))
def test_bad_input_is_one_line_and_status_2(
    request, monkeypatch, finished, capfd, spoil, script, flags, told
):
    """Where nothing is spoilt, the finished folder itself will do."""
    work = request.getfixturevalue("work") if spoil else finished
    monkeypatch.chdir(work)
    if spoil:
        spoil()
    before = files(work)
    assert status_of(script, *with_defaults(script, flags)) == 2
    check_the_line(capfd.readouterr().err, told)  # libraries written in C speak there too
    check_nothing_is_lost_or_half_written(work, before)
    assert not (work / "harm").exists()


@pytest.mark.parametrize(
    "variable, value",
    [("LOCAL_RANK", "first"), ("LOCAL_RANK", "٣"), ("LOCAL_RANK", " 2"), ("LOCAL_RANK", "-1")],
)
def test_an_odd_environment_is_one_line(work, monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    before = files(work)
    assert status_of(SUP, *with_defaults(SUP, [])) == 2
    check_the_line(capsys.readouterr().err, f"{variable}={value!r} ... not a whole number; unset {variable}")
    check_nothing_is_lost_or_half_written(work, before)


def torn(path):
    path.write_bytes(path.read_bytes()[:300])


def changed(path):
    """Other arrays under the stamp of those that were there."""
    with zipfile.ZipFile(path) as archive:
        stamp = archive.comment
    np.savez_compressed(path, **{name: values[..., None] for name, values in np.load(path).items()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = stamp


def turned(path):
    """One bit of the values is another."""
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def incomplete(path):
    arrays = dict(np.load(path))
    made = json.loads(str(arrays.pop("made")))
    del arrays["title"]
    write_arrays(path, arrays, made)


DAMAGES = {
    "torn": (torn, "is damaged; move it away"),
    "other values": (changed, "is damaged; move it away"),
    "a bit": (turned, "is damaged; move it away"),
    "no title": (incomplete, "is damaged; move it away"),
    "a pipe": (lambda path: pipe(str(path))(), "is a pipe"),
    "no stamp": (lambda path: np.savez(path, **np.load(path)), "has no stamp ... move it away"),
}


@pytest.mark.parametrize("damage, told", DAMAGES.values(), ids=DAMAGES)
def test_damaged_populations_are_refused_and_the_earlier_report_stays(work, capsys, damage, told):
    from figures import make_figures

    folder = work / "pies/few digits"
    damage(folder / "supervised/populations/global_0.9.npz")
    for name in ("report.html", "report/of_earlier.csv"):
        write(folder / name)()
    before = files(work)
    assert make_figures.main(["--results", str(folder)]) == 2
    check_the_line(capsys.readouterr().err, f"global_0.9.npz {told}")
    assert files(work) == before


@pytest.mark.parametrize("flags", [[], ["--against", "another"]], ids=["report", "against"])
def test_of_two_reports_at_once_one_waits(work, monkeypatch, flags):
    from common.store import files
    from figures import make_figures

    folder, held = work / "pies/few digits", []
    (work / "another").mkdir()

    def write(*arguments):
        with files.claim(folder / "report.html", wait=False) as is_free:
            held.append(not is_free)
        return []

    for name in ("write_report", "write_against"):
        monkeypatch.setattr(make_figures, name, write)
    assert make_figures.main(["--results", str(folder), *flags]) == 0 and held == [True]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Results with all of the scripts' figures, of networks that never were."""
    folder = tmp_path_factory.mktemp("made_up") / "digits"
    few = dict(models=2, depth_models=2, learning=("supervised",), images=20)
    make_results(folder, **few, methods=("global",), sparsities=(0.9,))
    return folder


@pytest.mark.parametrize("damage", [torn, incomplete])
@pytest.mark.parametrize("kind", ["umap", "pies_distribution", "prediction_depth"])
def test_damaged_figures_are_refused_and_nothing_is_half_new(
    made_up, tmp_path, monkeypatch, capsys, kind, damage
):
    from figures import make_figures
    from figures.report import plots

    draw, folder = plots.draw, shutil.copytree(made_up, tmp_path / "digits")

    def draw_kind(arrays):  # to draw the others too would take longest
        return draw(arrays) if str(arrays.get("figure")) in (kind, "None") else Figure((1, 1))

    monkeypatch.setattr(plots, "draw", draw_kind)
    for name in ("digits/report.html", "digits/report/of_earlier.csv", "anew/of_earlier.png"):
        write(tmp_path / name)()
    [path] = (folder / "supervised" / kind).glob("*global*.npz")
    damage(path)
    before = files(tmp_path)
    arguments = ["--results", str(folder), "--output_dir", str(tmp_path / "anew")]
    assert make_figures.main([*arguments, "--release", str(tmp_path / "copy")]) == 2
    check_the_line(capsys.readouterr().err, f"{path.name} is damaged; move it away")
    assert files(tmp_path) == before


@pytest.mark.parametrize("line", WRONG_FLAGS_OF_FIGURES.strip().splitlines())
def test_wrong_flags_of_the_report_are_one_line(work, capsys, line):
    from figures import make_figures

    flags, told = line.split(" => ")
    before = files(work)
    try:
        status = make_figures.main(["--results", "pies/few digits", *shlex.split(flags)])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    check_the_line(capsys.readouterr().err, told)
    assert files(work) == before


# Whose files: only what the report wrote itself is replaced or deleted.


@pytest.fixture
def report(made_up, tmp_path, monkeypatch, empty_figures):
    """A function that makes a report of copied results, with flags; gives the status."""
    from figures import make_figures

    shutil.copytree(made_up, tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    return lambda *flags: make_figures.main(["--results", "digits", *map(str, flags)])


@pytest.mark.parametrize("flag", ["--results", "--output_dir", "--release"])
def test_what_a_killed_report_left_goes(report, flag):
    folder = Path("digits" if flag == "--results" else "pub")
    write(folder / ".anew_of_earlier/report.html")()
    assert report(flag, folder) == 0
    assert len(files(folder)) > 3 and not list(folder.glob(".anew_*"))


@pytest.mark.parametrize("flags", [[], ["--against", "other"]], ids=["report", "against"])
def test_a_report_that_ends_on_its_way_leaves_the_earlier_one_whole(report, monkeypatch, capsys, flags):
    from figures.report import outputs

    def full(*arguments):
        raise OSError(28, "No space left on device", "report.html")

    shutil.copytree("digits", "other")
    assert report(*flags) == 0
    before = files(Path.cwd())
    monkeypatch.setattr(outputs, "write_page", full)
    assert report(*flags) == 2
    assert "No space left" in capsys.readouterr().err and files(Path.cwd()) == before


def test_other_files_stay(report):
    shutil.copytree("digits", "other")
    assert report("--against", "other") == 0
    [against] = Path("digits/against").iterdir()
    theirs = [Path("digits/report/notes.csv"), Path("digits/similarity/own.png"), against / "notes.csv"]
    theirs += [Path("digits/pub/notes.npz"), Path("digits/drawn/own.png")]
    for path in theirs:
        write(path)()
    flags = "--release", "digits/pub", "--output_dir", "digits/drawn"
    assert report(*flags) == report(*flags) == report("--against", "other") == 0
    assert {path.read_bytes() for path in theirs} == {b"not what should be here"}


NOT_WRITTEN = {
    "digits/report.html": [],
    "digits/report/evidence.csv": [],
    "digits/report": [],
    "pub/results.csv": ["--release", "pub"],
    "pub/supervised/populations/of_others_0.9.npz": ["--release", "pub"],
    "pub/digits_report_evidence.png": ["--output_dir", "pub"],
}


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_a_file_that_the_report_did_not_write_is_not_replaced(report, capsys, name):
    if "evidence.png" in name:
        assert report("--output_dir", "drawn") == 0
        [name, *_] = (f"pub/{path.name}" for path in Path("drawn").glob("*.png"))
    write(name)()
    before = files(Path.cwd())
    flags = NOT_WRITTEN.get(name, ["--output_dir", "pub"])
    assert report(*flags) == 2
    remedies = ["move ... away", *(f"or give another {flag}" for flag in flags[:1])]
    check_the_line(capsys.readouterr().err, f"{name} ... {' ... '.join(remedies)}")
    assert files(Path.cwd()) == before


def test_a_changed_file_of_an_earlier_report_is_not_replaced(report, capsys):
    assert report() == report() == 0
    write("digits/report/evidence.csv")()
    before = files(Path.cwd())
    assert report() == 2 and files(Path.cwd()) == before
    check_the_line(capsys.readouterr().err, "digits/report/evidence.csv is not as this script wrote it")


def test_after_a_kill_between_two_files_the_next_report_is_whole(report, monkeypatch):
    assert report() == 0
    done, replace = [], Path.replace

    def killed(path, target):
        done.append(target)
        if len(done) == 3:
            raise KeyboardInterrupt
        return replace(path, target)

    page = Path("digits/report.html").read_bytes()
    monkeypatch.setattr("figures.report.tables.flat", lambda row: {"another": "row"})
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        report()
    monkeypatch.setattr(Path, "replace", replace)
    assert len(done) == 3 and Path("digits/report.html").read_bytes() == page
    assert report() == 0 and Path("digits/report/populations.csv").read_text().startswith("another\nrow\n")


def test_a_release_has_what_the_results_have(report, capsys):
    def populations(folder):
        return {path.name for path in Path(folder).glob("*/populations/[!.]*")}

    results = Path("digits/supervised/populations")
    shutil.copy(results / "global_0.9.npz", results / "layer_0.9.npz")
    assert report("--release", "pub") == 0 and len(populations("pub")) > 2
    for path in results.glob("layer*"):
        path.unlink()
    assert report("--release", "pub") == 0 and populations("pub") == populations("digits")
    Path("digits").rename("others")
    shutil.copytree("others", "digits/results")
    assert report("--results", "digits/results", "--release", "pub") == 0


def test_a_report_on_the_folder_of_figures_waits(report, capsys, monkeypatch):
    from common.store import table
    from figures import make_figures

    shutil.copytree("digits", "other")
    format_table, others = table.format_table, []

    def meanwhile(rows):
        if not others:
            others.append(Thread(target=make_figures.main, args=[["--results", "other"]]))
            others[0].start()
            others[0].join(0.2)
            assert others[0].is_alive()
        return format_table(rows)

    monkeypatch.setattr(table, "format_table", meanwhile)
    assert report("--output_dir", "other") == 0
    others[0].join()
    assert list(Path("other").glob("*.png")) and Path("other/report.html").exists()


def test_comparisons_with_two_folders_are_two(report):
    for other in ("o/ther", "o_ther", "p/ther"):
        shutil.copytree("digits/supervised", f"{other}/supervised")
        assert report("--against", other) == report("--against", Path(other).resolve()) == 0
    assert len(list(Path("digits/against").glob("*/report.html"))) == 3


def test_a_tilde_is_the_home(work, monkeypatch):
    monkeypatch.setenv("HOME", str(work / "home"))
    assert status_of(SUP, *with_defaults(SUP, ["--epochs", 1, "--index_end", 0, "--save_path=~/x"])) == 0
    assert list(Path("home/x").glob("*.pt")) and not Path("~").exists()


# Errors of the system

PRUNED_MORE = [*ONE, "--pruning_percentages", 0.5]
NO_PERMISSION = "Permission denied; change the permissions there"


@pytest.mark.parametrize(
    "function, number, script, flags, told",
    [
        ("torch.load", errno.ESTALE, SUP_PRUNE, PRUNED_MORE, f"id0.pt: {os.strerror(errno.ESTALE)}"),
        ("torch.load", errno.EACCES, CLR_PRUNE, PRUNED_MORE, f"id0.pt: {NO_PERMISSION}"),
        ("numpy.load", errno.EIO, SUP_PIES, [], f"dense_0.0.npz: {os.strerror(errno.EIO)}"),
        ("zipfile.ZipFile", errno.EACCES, SUP_DEPTH, [], f".npz: {NO_PERMISSION}"),
        ("PIL.Image.open", errno.EACCES, SUP, [], f".png: {NO_PERMISSION}"),
        ("numpy.load", errno.EACCES, SUP_PIES, ["--test_set", "t.npz"], f"t.npz: {NO_PERMISSION}"),
    ],
)
def test_an_error_of_the_system_is_said_in_its_words(  # a row of a table
    work, monkeypatch, capsys, function, number, script, flags, told
):
    np.savez("t.npz", images=np.zeros(3))
    if flags is PRUNED_MORE:  # as external networks
        for path in Path("models/few digits").glob("*_0.0pruning_*.json"):
            path.unlink()

    def fail(path, *_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(function, fail)
    before = files(work)
    assert status_of(script, *with_defaults(script, flags)) == 2
    line = capsys.readouterr().err
    check_the_line(line, told)
    assert "delete" not in line and "damaged" not in line and files(work) == before


def test_a_flag_without_effect_is_said(work, capsys):
    assert status_of(SUP, *with_defaults(SUP, ["--seed", 7])) == 0
    assert "note: --seed: no effect, as published; the seed of a model is its id" in capsys.readouterr().out
    assert status_of(SUP, *with_defaults(SUP, [])) == 0
    assert "no effect" not in capsys.readouterr().out


def test_a_damaged_evaluation_of_which_nothing_is_shown_is_not_released(report, capsys):
    write("digits/supervised/umap/of_before.npz")()
    before = files(Path.cwd())
    assert report("--release", "copy") == 2
    check_the_line(capsys.readouterr().err, "of_before.npz is damaged; move it away")
    assert files(Path.cwd()) == before


def inflate(path, name, megabytes):
    """Puts zeros into a zip file, a thousandth of their size on the disk."""
    kept = {}
    if path.exists():
        with zipfile.ZipFile(path) as file:
            kept = {entry: file.read(entry) for entry in file.namelist() if not entry.endswith(name)}
            name = next((entry for entry in file.namelist() if entry.endswith(name)), name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, content in kept.items():
            file.writestr(entry, content)
        with file.open(name, "w") as entry:
            for _ in range(megabytes):
                entry.write(bytes(1 << 20))


@pytest.fixture
def small_memory(monkeypatch):
    """What unpacks to more than a megabyte is as one of several gigabytes."""
    from common.store import files

    monkeypatch.setattr(files, "LARGEST_BYTES", 1 << 20)


def test_a_bomb_for_weights_is_no_checkpoint(work, capsys, small_memory):
    path = model(SUP_DENSE)
    path.with_suffix(".json").unlink()
    inflate(path, "/data/1", 8)
    assert status_of(SUP_PRUNE, *with_defaults(SUP_PRUNE, [*ONE, "--pruning_percentages", 0.5])) == 2
    check_the_line(
        capsys.readouterr().err, "id0.pt is not a readable checkpoint (ValueError) ... another copy"
    )


def test_a_bomb_for_test_images_is_refused(work, capsys, small_memory):
    inflate(Path("bomb.npz"), "images.npy", 8)
    assert status_of(SUP_PIES, *with_defaults(SUP_PIES, ["--test_set", "bomb.npz"])) == 2
    check_the_line(capsys.readouterr().err, "--test_set bomb.npz ... it would unpack to 8 MB")


def test_cells_that_a_spreadsheet_would_compute_are_text(tmp_path):
    from common.store import table

    cells = ['=HYPERLINK("x")', "@SUM(A1)", "+a", "-a", "-1.5", "plain"]
    table.write_rows(tmp_path / "a.csv", [{"a": cell} for cell in cells])
    lines = [line for [line] in csv.reader((tmp_path / "a.csv").open())]
    assert lines == ["a", *(f"'{cell}" for cell in cells[:4]), *cells[4:]]


@contextlib.contextmanager
def small_disk(size):
    """Nobody, and no process that is started meanwhile, can write a larger file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def as_process(script, *flags):
    return subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)],
        text=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("spoil, script, flags, told", by_id(row for row in ROWS if row[0] in AS_PROCESSES))
def test_a_process_says_the_same(work, spoil, script, flags, told):
    if spoil:
        spoil()
    before = files(work)
    done = as_process(script, *with_defaults(script, flags))
    assert done.returncode == 2
    check_the_line(done.stderr, told)
    assert done.stderr.startswith(f"{script}.py: error: ")
    check_nothing_is_lost_or_half_written(work, before)
    assert not (work / "harm").exists()


def test_the_rows_that_are_processes_are_there():
    assert set(AS_PROCESSES) <= {row[0] for row in ROWS} and len({row[0] for row in ROWS}) == len(ROWS)


def test_the_pickle_with_code_would_do_harm(tmp_path, monkeypatch):
    """Otherwise the rows above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Harmful()))
    assert (tmp_path / "harm").is_dir()


@pytest.mark.parametrize(
    "script, flags, limit, told",
    [
        pytest.param(SUP, ["--save_path", "x"], LIMIT, "_id0.pt", id="model"),
        pytest.param(SUP, ["--save_path", "x", "--save_every", 1], LIMIT, ".pt.state", id="state"),
        pytest.param(CLR_PIES, [], 5_000, ".npz", id="arrays"),
        pytest.param(SUP_PIES, ["--plot_q_score"], LIMIT, ".png", id="picture"),
        pytest.param(SUP, [], 0, "sup_training.log", id="log"),
    ],
)
def test_a_full_disk_is_one_line_and_what_was_finished_stays(work, capsys, script, flags, limit, told):
    before = files(work)
    if limit:
        shutil.rmtree("logs")  # they are short then, and fit
    with small_disk(limit):
        assert status_of(script, *with_defaults(script, flags)) == 2
    check_the_line(
        capsys.readouterr().err, f"{told} ... File too large ... free space there, or name another folder"
    )
    check_nothing_is_lost_or_half_written(work, before)


def test_a_class_without_test_images_is_taken(work, monkeypatch, capsys):
    delete("few digits/test/digit 2")()
    monkeypatch.setattr("common.plots.save_figure", lambda path, figure: None)
    for script in (SUP, SUP_PRUNE, SUP_PIES, SUP_DEPTH):
        assert main(script, *with_defaults(script, ["--save_path", "x"])) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [torn, changed])
def test_damaged_evaluations_are_computed_again(work, capsys, damage):
    paths = sorted(Path("pies/few digits/supervised/evaluations").glob("*.npz"))
    before = {path: dict(np.load(path)) for path in paths}
    rows = list(csv.reader(Path("pies/few digits/results.csv").open()))
    for path in paths:
        damage(path)
    assert len(paths) == 4 and main(SUP_PIES, *with_defaults(SUP_PIES, [])) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("makes it again") >= 4
    for path in paths:
        stored = dict(np.load(path))
        assert stored.keys() == before[path].keys() and all(
            np.array_equal(stored[name], before[path][name]) for name in stored
        )
    assert list(csv.reader(Path("pies/few digits/results.csv").open())) == rows


def test_a_batch_of_one_image_that_cannot_be_normalised_is_one_line(work, capsys):
    flags = "--dataset folder --architecture resnet18 --batch_size 59 --epochs 1 --index_end 0 --save_path x"
    assert main(SUP, *flags.split(), "--data_dir", "few digits") == 2
    check_the_line(capsys.readouterr().err, "--batch_size leaves one image for the last batch")
    assert not list(Path("x").glob("[!.]*"))


class StandIn:
    """For UMAP where neither the packages nor the home can be written; with `fails`, anywhere."""

    fails = False

    def __init__(self, **_):
        if self.fails or not os.path.isdir(os.environ.get("NUMBA_CACHE_DIR", "")):
            raise RuntimeError("cannot cache function 'rdist': no locator available for file 'layouts.py'")

    def fit_transform(self, latent):
        return latent[:, :2]


@pytest.mark.parametrize("fails", [False, True])
def test_a_umap_that_fails_costs_nothing_else(work, monkeypatch, capsys, fails):
    from common import process

    process.CACHES.clear()
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(StandIn, "fails", fails)
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=StandIn))
    shutil.rmtree("pies")
    flags = with_defaults(SUP_PIES, ["--plot_umap", "--plot_q_score"])
    assert main(SUP_PIES, *flags) == (2 if fails else 0)
    said, folder = capsys.readouterr(), Path("pies/few digits")
    if fails:
        check_the_line(said.err, "--plot_umap: UMAP failed (RuntimeError: cannot cache ... leave it out")
    assert "all columns: " in said.out and (folder / "results.csv").exists()
    kinds = ("pies_distribution", "q_score", "umap")
    assert [len(list(folder.glob(f"*/{kind}/*.png"))) for kind in kinds] == [1, 1, 0 if fails else 2]


NOBODY_READS = [(SUP, FLAGS[SUP]), (CLR_PIES, ["--help"]), ("figures/make_figures", ["--help"])]


@pytest.mark.parametrize("script, flags", NOBODY_READS)
def test_a_script_whose_output_nobody_reads_ends_quietly(work, script, flags):
    command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags), *SMALL * (script == SUP)]
    options = {"stderr": subprocess.PIPE, "text": True, "timeout": 60, "check": False}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, **options)
        check_the_line(done.stderr, "No space left on device")
        assert done.returncode == 2
        assert subprocess.run([*command[:2], "--wrong"], **options | {"stderr": full}).returncode == 2
    end, other_end = os.pipe()
    os.close(end)
    done = subprocess.run(command, stdout=other_end, **options)
    os.close(other_end)
    assert (done.returncode, done.stderr) == (141, "")
