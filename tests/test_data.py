"""Data sets: digits, folders of images, flips, and downloaded ones from prepared files or a server."""

import errno
import hashlib
import os
import pickle
import re
import shlex
import shutil
import struct
import tarfile
import urllib.error
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, ExifTags, Image
from scipy.io import savemat
from test_scripts import ROOT
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, ImageFolder
from torchvision.datasets import utils as torchvision_utils
from torchvision.transforms.functional import pil_to_tensor

from benchmarks import prepare_images
from common.cli import UserError
from common.data import channel_statistics, dataset_name, load_dataset
from common.datasets import DOWNLOADS


def test_digits_are_all_images_of_scikit_learn_in_a_fixed_stratified_split():
    from sklearn.datasets import load_digits

    data = load_dataset("digits", "data")
    assert data.train_images.shape == (1297, 3, 8, 8) and data.test_images.shape == (500, 3, 8, 8)
    share = data.test_labels.bincount() / (data.test_labels.bincount() + data.train_labels.bincount())
    assert ((share - 500 / 1797).abs() < 0.01).all()
    assert not data.horizontal_flip and not data.vertical_flip and data.class_names == tuple("0123456789")
    found = torch.cat([data.train_images, data.test_images])[:, 0].flatten(1).numpy()
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))


def test_channel_statistics_equal_those_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 9, 11), np.uint8)
    images[:, 2] = 7
    mean, std = channel_statistics(torch.from_numpy(images))
    pixels = images / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std, [*pixels.std((0, 2, 3))[:2], 1], atol=1e-6)


def write_folder(root, classes=("cat", "dog"), size=(10, 12), train=3, test=2, mode="RGB", ending="png"):
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{index}.{ending}")
    return root


def test_a_folder_gives_what_torchvisions_imagefolder_gives(tmp_path):
    root = write_folder(tmp_path / "pets", classes=("b c", "Z", "a", "b"))
    for mode, name in (
        ("L", "10.PNG"),
        ("RGBA", "9.png"),
        ("P", "A.bmp"),
        ("CMYK", "a.jpeg"),
        ("RGB", "é.ppm"),
    ):
        Image.effect_noise((12, 10), 80).convert(mode).save(root / "train/Z" / name)
    data = load_dataset("folder", str(root))
    for half, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        theirs = ImageFolder(root / half, transform=pil_to_tensor)
        assert list(data.class_names) == theirs.classes and labels.tolist() == theirs.targets
        assert labels.dtype == torch.int64 and images.is_contiguous()
        assert torch.equal(images, torch.stack([image for image, _ in theirs]))
    assert len(data.train_images) == 4 * 3 + 5 and data.test_files[3] == "test/a/1.png"
    assert data.name == "pets" and data.horizontal_flip and data.vertical_flip


def test_the_checksum_changes_with_a_pixel_a_label_and_a_class_name(tmp_path):
    def checksums(name, change=lambda root: None, **facts):
        change(root := write_folder(tmp_path / name / "pets", **facts))
        data = load_dataset("folder", str(root))
        return data.checksum, data.train_checksum

    def other_pixel(root):
        image = np.asarray(Image.open(root / "test/cat/0.png")).copy()
        image[0, 0, 0] ^= 1
        Image.fromarray(image).save(root / "test/cat/0.png")

    def other_label(root):  # the same pixels in the same order
        (root / "train/cat/2.png").rename(root / "train/dog/-.png")

    found = [checksums("a"), checksums("b", other_pixel), checksums("c", other_label)]
    found.append(checksums("d", classes=("cat", "eel")))
    whole, of_training = zip(*found)
    assert len(set(whole)) == 4 and len(set(of_training)) == 3 and of_training[0] == of_training[1]


# A PNG of one pixel of 16 bits a channel in RGB, which Pillow does not write.
DEEP_RGB = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000011002000000c0e78f9d"
    "0000000c49444154789c63a8670441000604018195f8cc9e0000000049454e44ae426082"
)


def frames(path):
    Image.new("L", (12, 10)).save(path, "GIF", save_all=True, append_images=[Image.new("L", (12, 10), 9)])


def link(path, target):
    path.unlink()
    path.symlink_to(target)


UNSAFE = {
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "not a file"),
    "a link out": (lambda path: link(path, path.parents[3] / "a.png"), "1.png is a link out of"),
    "a link round": (lambda path: link(path, path), "not a file"),
    "a program": (lambda path: path.write_bytes(EPS), "cannot identify image file"),
    "a value too large": (lambda path: path.write_bytes(b"P2 12 10 255 " + b"999 " * 120), "too large"),
    "frames": (frames, "2 frames"),
    "16 bits, grey": (lambda path: Image.new("I;16", (12, 10)).save(path), "more than 8 bits"),
    "16 bits, RGB": (lambda path: path.write_bytes(DEEP_RGB), "more than 8 bits"),
}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_no_picture_of_the_folder_is_refused_at_once(tmp_path, monkeypatch, name):
    root = write_folder(tmp_path / "pets")
    shutil.copy(root / "test/cat/0.png", tmp_path / "a.png")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    spoil, words = UNSAFE[name]
    spoil(root / "train/dog/1.png")
    with pytest.raises(UserError, match=words) as error:
        load_dataset("folder", str(root))
    assert "\n" not in str(error.value)


def test_of_a_photograph_with_a_preview_behind_it_the_photograph_is_taken(tmp_path):
    """As many cameras and telephones write: a JPEG of the format MPO."""
    root = write_folder(tmp_path / "pets", ending="jpg")
    before = load_dataset("folder", str(root)).train_images
    path = root / "train/dog/1.jpg"
    white = Image.new("L", (12, 10), 255)
    white.save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (4, 3))], quality=95)
    after = load_dataset("folder", str(root)).train_images
    assert after[4].float().mean() > 250 and (after[:4] == before[:4]).all()


@pytest.mark.parametrize("name", ["test", "train/cat"])
def test_a_folder_may_be_a_link_and_hold_links_that_stay_inside(tmp_path, name):
    (write_folder(tmp_path / "pets") / name).rename(tmp_path / "elsewhere")
    root = tmp_path / "linked"
    root.symlink_to(tmp_path / "pets")
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is a link out of {root}; .* --follow_links"):
        load_dataset("folder", str(root))
    linked = load_dataset("folder", str(root), follow_links=True)
    (root / name).unlink()
    (tmp_path / "elsewhere").rename(root / "inside")
    (root / name).symlink_to(root / "inside")
    data = load_dataset("folder", str(root))
    assert data.train_images.shape == (6, 3, 10, 12) and data.checksum == linked.checksum


def claim_size(path, side):
    """A picture that says it has so many pixels, and has none: it cannot be decoded."""
    Image.new("RGB", (12, 10)).save(path, "BMP")
    path.write_bytes(path.read_bytes()[:18] + struct.pack("<ii", side, side) + path.read_bytes()[26:54])


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    root = write_folder(tmp_path / "pets")
    claim_size(root / "train/dog/1.png", 9000)
    with pytest.raises(UserError, match="different sizes, .* 12x10 and .* 9000x9000"):
        load_dataset("folder", str(root))
    for path in root.glob("*/*/*.png"):
        claim_size(path, 13000)
    with pytest.raises(UserError, match="Image size .* exceeds"):
        load_dataset("folder", str(root))


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    root, exif = write_folder(tmp_path / "pets", ending="jpg"), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = root / "train/dog/1.jpg"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    found = load_dataset("folder", str(root)).train_images[4].permute(1, 2, 0)
    assert (found.numpy() == np.rot90(np.asarray(Image.open(path)), -1)).all()


def test_images_of_different_sizes_are_refused_with_the_command_that_resizes_them(tmp_path, capsys):
    root = write_folder(tmp_path / "my pets", size=(8, 8))
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255  # its middle, which is kept
    Image.fromarray(wide).save(root / "test/cat/0.bmp")
    shutil.copy(root / "test/cat/1.png", root / "test/cat/0.png.png")  # its name without ending is a file's
    with pytest.raises(UserError, match="different sizes.* resize them: ") as error:
        load_dataset("folder", str(root))
    python, script, *flags = shlex.split(str(error.value).split("resize them: ")[1])
    assert python == "python" and (ROOT / script).samefile(prepare_images.__file__)
    assert flags[-2:] == ["--size", "8"] and prepare(*flags) == 0
    data = load_dataset("folder", shlex.split(capsys.readouterr().out)[-1])
    assert data.train_images.shape == (6, 3, 8, 8) and data.class_names == ("cat", "dog")
    expected = ("test/cat/0.bmp.png", "test/cat/0.png.png", "test/cat/0.png.png.png")
    assert data.test_files[:3] == expected
    assert (data.test_images[0] > 200).all()


def prepare(*words):
    return prepare_images.main(list(map(str, words)))


def test_images_shrunk_by_a_factor_are_means_of_their_pixels(tmp_path):
    root, target = write_folder(tmp_path / "pets", size=(16, 32)), tmp_path / "half"
    assert prepare(root, target, "--factor", 2, "--train_per_class", 1) == 0
    assert load_dataset("folder", str(target)).train_images.shape == (2, 3, 8, 16)
    first = np.asarray(Image.open(root / "train/cat/0.png"), float)
    means = first.reshape(8, 2, 16, 2, 3).mean((1, 3))
    assert (np.asarray(Image.open(target / "train/cat/0.png")) == np.round(means)).all()


def test_what_cannot_be_prepared_is_refused_in_one_line_and_leaves_nothing(tmp_path, capsys):
    root = write_folder(tmp_path / "pets", size=(9, 9))
    (root / "test/dog/1.png").write_text("no image")
    (tmp_path / ".preparing_new/of a killed call").mkdir(parents=True)
    for words in (["--size", 8], ["--factor", 2], ["--factor", 9, "--skip"]):
        assert prepare(root, tmp_path / "new", *words) == 2
        assert capsys.readouterr().err.count("\n") == 1 and listed(tmp_path) == ["pets"]
    with pytest.raises(SystemExit):
        prepare(root, "", "--size", 8)
    assert "'' is not a path" in capsys.readouterr().err


def write_photos(root):
    """A folder of two classes, not split: 10 photos each of mixed sizes; a link, and three files that are no
    images, one of them in no class."""
    write_folder(root / "wide", size=(20, 30), train=5)
    write_folder(root / "high", size=(24, 18), train=5)
    for name in ("cat", "dog"):
        (root / "photos" / name).mkdir(parents=True)
        for number, path in enumerate(sorted(root.glob(f"*/train/{name}/*"))):
            shutil.copy(path, root / "photos" / name / f"{number}.png")
    (root / "photos/cat/9.png").unlink()
    (root / "photos/cat/9.png").symlink_to(root / "wide/test/cat/0.png")
    for name in ("cat/broken.jpg", "dog/notes.txt", "labels.csv"):
        (root / "photos" / name).write_text("no image")
    return root / "photos"


def test_a_folder_of_classes_is_split_by_seed_class_and_name_alone(tmp_path, capsys):
    photos = write_photos(tmp_path)
    assert prepare(photos, tmp_path / "first", "--skip", "--test_share", 0.3) == 2
    assert "of different sizes" in capsys.readouterr().err

    def split(name, *words):
        assert prepare(photos, tmp_path / name, "--size", 8, "--skip", "--test_share", 0.3, *words) == 0
        return {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).glob("*/*/*")}

    first = split("first")
    printed = capsys.readouterr().out
    assert "left out 3 files:" in printed and "20 images; train on them" in printed
    assert all(
        f"{photos}/{name} is " in printed for name in ("cat/broken.jpg", "dog/notes.txt", "labels.csv")
    )
    data = load_dataset("folder", str(tmp_path / "first"))
    assert data.test_labels.bincount().tolist() == [3, 3] and len(data.train_images) == 14
    for path in photos.glob("*/*.png"):  # other times and pixels
        Image.new("RGB", (9, 9)).save(path)
    assert split("second") == first != split("third", "--seed", 1)


REFUSED_PHOTOS = {
    "unreadable": (lambda photos: None, ["--test_share", 0.3], "labels.csv is .*; .*notes.txt .*--skip"),
    "not split": (lambda photos: None, [], "neither train/ nor test/; --test_share 0.2 splits"),
    "split": (
        lambda photos: photos.joinpath("test").mkdir(),
        ["--test_share", 0.3],
        "train/ or test/ already",
    ),
    "one class": (lambda photos: shutil.rmtree(photos / "cat"), ["--test_share", 0.3], "1 class folders"),
    "a share of all": (
        lambda photos: None,
        ["--test_share", 0.99, "--skip"],
        "0.99 leaves none of the 10 images in",
    ),
    "a class unreadable": (
        lambda photos: [path.write_text("") for path in photos.glob("dog/*")],
        ["--test_share", 0.3, "--skip"],
        "no file in .*dog can be read",
    ),
}


@pytest.mark.parametrize("name", REFUSED_PHOTOS)
def test_photos_that_cannot_be_prepared_are_refused_in_one_line(tmp_path, capsys, name):
    photos = write_photos(tmp_path)
    spoil, flags, words = REFUSED_PHOTOS[name]
    spoil(photos)
    assert prepare(photos, tmp_path / "new", "--size", 8, *flags) == 2
    printed = capsys.readouterr().err
    assert re.search(words, printed) and printed.count("\n") == 1
    assert listed(tmp_path) == ["high", "photos", "wide"]


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path):
    root = write_folder(tmp_path / "pets")
    for part in ("train", "test"):
        (root / part / ".ipynb_checkpoints").mkdir()
        (root / part / "cat/.DS_Store").write_text("")
    assert load_dataset("folder", str(root)).class_names == ("cat", "dog")


@pytest.mark.parametrize("name", [*DOWNLOADS, "digits", "seed_1"])
def test_a_folder_may_not_take_the_name_of_a_built_in_data_set(tmp_path, name):
    with pytest.raises(UserError, match="rename it"):
        dataset_name("folder", str(tmp_path / name))
    assert dataset_name("folder", str(tmp_path / "pets") + "/") == "pets"
    with pytest.raises(UserError, match="'digit' is no data set; give one of cifar10"):
        load_dataset("digit", "data")


# Data sets that torchvision downloads


CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
downloaded = pytest.mark.parametrize("name", DOWNLOADS)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_cifar(kind, folder, monkeypatch):
    """A tiny archive in the layout of CIFAR, which torchvision takes for the real one."""
    base, classes = folder / kind.base_folder, 20 if kind is CIFAR100 else 10
    base.mkdir(parents=True)
    generator = np.random.default_rng(0)
    key = "fine_labels" if kind is CIFAR100 else "labels"
    for name, _ in kind.train_list + kind.test_list:
        pixels = generator.integers(0, 256, (20, 3072), dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": pixels, key: [i % classes for i in range(20)]}))
    meta = base / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [f"class{i}" for i in range(classes)]}))
    archive = folder / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, kind.base_folder)
    for halves in ("train_list", "test_list"):
        checked = [[name, md5(base / name)] for name, _ in getattr(kind, halves)]
        monkeypatch.setattr(kind, halves, checked)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    shutil.rmtree(base)


def make_svhn(folder, monkeypatch):
    """Tiny files in the layout of SVHN, in which 10 is a zero."""
    folder.mkdir()
    generator, checked = np.random.default_rng(0), {}
    for split in ("train", "test"):
        url, name, _ = SVHN.split_list[split]
        pixels = generator.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        savemat(folder / name, {"X": pixels, "y": np.arange(20, dtype=np.uint8)[:, None] % 10 + 1})
        checked[split] = [url, name, md5(folder / name)]
    monkeypatch.setattr(SVHN, "split_list", checked)


@pytest.fixture
def server(tmp_path, monkeypatch, request):
    """Tiny stand-ins for a data set's files in a folder, and no network."""
    name, folder = request.getfixturevalue("name"), tmp_path / "server"
    make_svhn(folder, monkeypatch) if name == "svhn" else make_cifar(CIFAR[name], folder, monkeypatch)

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", no_network)
    monkeypatch.setattr(torchvision_utils, "_get_redirect_url", lambda url, **_: url)
    return folder


def check_downloaded(name, root):
    data = load_dataset(name, str(root))
    train = 100 if name == "cifar10" else 20
    assert data.train_images.shape == (train, 3, 32, 32) and data.test_images.shape == (20, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8 and data.train_labels.dtype == torch.int64
    first = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    if name == "svhn":
        first = first.reshape(32, 32, 3, 20).transpose(3, 2, 0, 1)
        assert data.train_labels.tolist() == [*range(1, 10), 0] * 2 and data.class_names == tuple(
            "0123456789"
        )
    else:
        assert data.class_names[3] == "class3" and data.train_labels[3] == 3
    assert (data.train_images[:20].numpy() == first.reshape(20, 3, 32, 32)).all()
    known = DOWNLOADS[name].statistics or channel_statistics(data.train_images)
    assert (data.mean, data.std) == known and data.name == name
    assert data.horizontal_flip == data.vertical_flip == (name != "svhn")


def listed(root):
    return sorted(path.name for path in root.iterdir() if path.name != ".locks")


@downloaded
def test_a_data_set_is_read_from_prepared_files_and_then_from_its_copy(server, name):
    check_downloaded(name, server)
    if name in CIFAR:
        (server / CIFAR[name].filename).unlink()
        check_downloaded(name, server)
        assert listed(server) == [CIFAR[name].base_folder]
    server.chmod(0o500)  # a copy that may only be read
    check_downloaded(name, server)
    server.chmod(0o700)


class Trap:
    """Leaves a file in the working folder when it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


@pytest.mark.parametrize("name, file", [("cifar10", "test_batch"), ("cifar100", "meta")])
def test_a_damaged_copy_is_never_unpickled_but_replaced_from_the_archive(
    server, tmp_path, monkeypatch, name, file
):
    monkeypatch.chdir(tmp_path)
    check_downloaded(name, server)
    path = server / CIFAR[name].base_folder / file
    path.write_bytes(pickle.dumps(Trap()))
    check_downloaded(name, server)
    path.write_bytes(pickle.dumps(Trap()))
    (server / CIFAR[name].filename).unlink()
    with pytest.raises(UserError, match="the download failed"):
        load_dataset(name, str(server))
    assert not (tmp_path / "unpickled").exists()


def test_a_file_with_another_checksum_is_never_parsed(tmp_path, monkeypatch):
    make_svhn(tmp_path / "server", monkeypatch)
    monkeypatch.setattr("scipy.io.loadmat", None)
    for path in (tmp_path / "server").iterdir():
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UserError, match="train_32x32.mat is damaged or incomplete; move it away"):
        load_dataset("svhn", str(tmp_path / "server"))


@downloaded
@pytest.mark.parametrize("damaged", [False, True])
def test_without_network_one_line_says_which_files_go_where(server, tmp_path, name, damaged):
    root, files = tmp_path / "data", listed(server)
    root.mkdir()
    for file in files if damaged else ():
        (root / file).write_bytes(b"half of it")
    with pytest.raises(UserError) as error:
        load_dataset(name, str(root))
    message = str(error.value)
    told = ["is damaged or incomplete; move it away"] if damaged else [*files, "--dataset digits"]
    assert "\n" not in message and all(word in message for word in (*told, str(root)))
    assert f"no intact {DOWNLOADS[name].title}" in message
    assert listed(root) == (files if damaged else [])
    assert not damaged or all((root / file).read_bytes() == b"half of it" for file in files)


@pytest.mark.parametrize("name", ["cifar100"])
def test_a_full_disk_is_no_failed_download(server, tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", full)
    with pytest.raises(OSError, match="No space left on device: .*data"):
        load_dataset(name, str(tmp_path / "data"))


@downloaded
def test_a_download_is_checked_and_a_torn_one_replaced(server, tmp_path, monkeypatch, name):
    def download(url, path, *_, torn):
        content = (server / Path(path).name.removeprefix(".")).read_bytes()
        Path(path).write_bytes(content[:-10] if torn else content)

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", partial(download, torn=True))
    with pytest.raises(UserError, match="the download failed"):
        load_dataset(name, str(tmp_path / "data"))
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", partial(download, torn=False))
    check_downloaded(name, tmp_path / "data")
