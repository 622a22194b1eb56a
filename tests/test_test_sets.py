"""Other test images: corruptions against slow obvious versions, files and folders, what is refused."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_few_digits
from PIL import Image
from scipy.ndimage import gaussian_filter

import sup_pie_kmodels_detection
import sup_prediction_depth
import sup_pruning_finetune
import sup_training
from common import test_sets
from common.cli import UserError
from common.data import load_dataset
from common.study import open_studies

OWN = ["--dataset", "folder", "--data_dir", "few digits", "--model_depth", "10", "--widen_factor", "1"]
LATER = [*OWN, "--models_number", "2", "--pruning_methods", "global", "--pruning_percentages", "0.9"]


def random_images(count=4, side=16):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(0))


def one(data, name):
    [(short, other)] = test_sets.other_test_sets(data, str(name))
    return short, other


@pytest.mark.parametrize("name, std", [("noise_1", 0.04), ("noise_3", 0.16)])
def test_noise_has_its_strength_and_is_the_same_every_time(name, std):
    images = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    noisy = test_sets.corrupt(images, name)
    noise = (noisy.double() - 128) / 255
    assert abs(noise.mean()) < 0.002 and abs(noise.std() / std - 1) < 0.03
    assert torch.equal(noisy, test_sets.corrupt(images, name))
    assert not torch.equal(noisy[0], noisy[1])


@pytest.mark.parametrize("name, factor", [("contrast_1", 0.6), ("contrast_3", 0.2)])
def test_contrast_by_hand(name, factor):
    images = random_images()
    pixels = images.double()
    grey = (0.2989 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2]).mean((1, 2))
    wanted = factor * pixels + (1 - factor) * grey[:, None, None, None]
    assert (test_sets.corrupt(images, name).double() - wanted).abs().max() <= 2


@pytest.mark.parametrize("name, sigma", [("blur_1", 0.5), ("blur_3", 1.5)])
def test_blur_equals_scipys(name, sigma):
    images = random_images()
    wanted = gaussian_filter(images.double().numpy(), sigma, mode="mirror", radius=2, axes=(2, 3))
    assert np.abs(test_sets.corrupt(images, name).numpy() - wanted).max() <= 1


@pytest.mark.parametrize("name, quality", [("jpeg_1", 40), ("jpeg_3", 10)])
def test_jpeg_through_pillow(name, quality):
    images = random_images(2)
    for image, found in zip(images, test_sets.corrupt(images, name)):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(file)).transpose(2, 0, 1).astype(float)
        assert np.abs(found.numpy() - wanted).mean() < 4


def test_a_folder_and_files_are_read_and_the_clean_checksum_stays(digits_on_disk):
    data = load_dataset("folder", "few digits")
    short, same = one(data, "few digits/test")
    assert short == "test" and torch.equal(same.test_images, data.test_images)
    assert torch.equal(same.test_labels, data.test_labels) and same.checksum == data.checksum
    assert same.evaluated != data.evaluated == data.checksum
    images = data.test_images.permute(0, 2, 3, 1).numpy()
    np.savez("ten2.npz", images=images, labels=data.test_labels.numpy())
    short, other = one(data, "ten2.npz")
    assert short == "ten2" and other.evaluated == same.evaluated
    assert one(replace(data, checksum="of other training images"), "ten2.npz")[1].evaluated != same.evaluated
    assert torch.equal(other.test_images, data.test_images) and other.test_labels.dtype == torch.int64
    np.savez("labels.npz", images=images, labels=data.test_labels.numpy()[::-1])
    assert one(data, "labels.npz")[1].evaluated != same.evaluated
    assert [name for name, _ in test_sets.other_test_sets(data, "corrupted")] == list(test_sets.CORRUPTIONS)


def test_a_file_of_five_severities_gives_one_of_them(digits_on_disk):
    data = load_dataset("folder", "few digits")
    blocks = np.zeros((5, *data.test_images.permute(0, 2, 3, 1).shape), np.uint8)
    blocks[2], blocks[4] = data.test_images.permute(0, 2, 3, 1), 7
    np.save("gaussian_noise.npy", blocks.reshape(-1, 8, 8, 3))
    np.save("labels.npy", np.tile(data.test_labels.numpy().astype(np.uint8), 5))
    for severity, wanted in ((3, data.test_images), (5, torch.full_like(data.test_images, 7))):
        [(short, other)] = test_sets.other_test_sets(data, "gaussian_noise.npy", severity)
        assert short == f"gaussian_noise_severity{severity}"
        assert torch.equal(other.test_images, wanted) and torch.equal(other.test_labels, data.test_labels)


GOOD, LABELS = np.zeros((3, 8, 8, 3), np.uint8), np.arange(3)
REFUSED = {
    "images are float64": {"images": GOOD.astype(float), "labels": LABELS},
    "images are uint8": {"images": GOOD[:, :7], "labels": LABELS},
    "each image needs a label": {"images": GOOD, "labels": LABELS[:2]},
    "each image needs a label between 0 and 2": {"images": GOOD, "labels": LABELS + 1},
    "allow_pickle=False": {"images": np.array([{}], object), "labels": LABELS},
    "cannot be read": {"images": GOOD},
}


def test_what_is_refused_in_one_line(digits_on_disk):
    data = load_dataset("folder", "few digits")

    def check(name, words):
        with pytest.raises(UserError, match=words) as refused:
            one(data, name)
        assert "\n" not in str(refused.value)

    for words, arrays in REFUSED.items():
        np.savez("other.npz", **arrays)
        check("other.npz", words)
    Image.new("RGB", (9, 8)).save("few digits/test/digit 1/zz.png")
    check("few digits/test", "zz.png must be 8x8 pixels")


def test_scripts_store_a_test_set_apart(tmp_path, monkeypatch, capsys, unsaved_figures):
    monkeypatch.chdir(tmp_path)
    write_few_digits(tmp_path / "few digits")
    short = [*OWN, "--batch_size", "30"]
    assert sup_training.main([*short, "--epochs", "1", "--index_end", "1"]) == 0
    tuned = ["--models_number", "2", "--pruning_percentages", "0.9"]
    assert sup_pruning_finetune.main([*short, *tuned, "--epochs", "1"]) == 0
    assert sup_pie_kmodels_detection.main(LATER) == 0
    clean = tmp_path / "pies/few digits"
    before = {path: path.read_bytes() for path in clean.rglob("*.*") if path.is_file()}
    data = load_dataset("folder", "few digits")
    # In the form of CIFAR-10.1: v6_data.npy, uint8, and v6_labels.npy, int32, beside it.
    np.save("v6_data.npy", data.test_images.permute(0, 2, 3, 1).numpy()[5:25])
    np.save("v6_labels.npy", (data.test_labels.numpy()[5:25] + 1).astype(np.int32) % 3)
    for script in (sup_pie_kmodels_detection, sup_prediction_depth):
        assert script.main([*LATER, "--test_set", "v6_data.npy"]) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    apart = clean / "test_sets/v6"
    stored = np.load(apart / "supervised/populations/global_0.9.npz")
    assert (apart / "results.csv").is_file() and "test set" in str(stored["data_title"])
    assert stored["labels"].tolist() == ((data.test_labels[5:25] + 1) % 3).tolist()
    clean_one, other = (
        np.load(folder / "supervised/evaluations" / f"{stored['evaluations'][0]}.npz")["predictions"]
        for folder in (clean, apart)
    )
    assert other.tolist() == clean_one[5:25].tolist()
    assert stored["accuracy"][0] == (other == stored["labels"]).mean()
    np.save("v6_labels.npy", data.test_labels.numpy()[5:25])
    assert sup_pie_kmodels_detection.main([*LATER, "--test_set", "v6_data.npy"]) == 2
    assert "holds results of other images; rename the test set" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["few digits", "linked"])
def test_images_that_lie_elsewhere_are_read_where_links_are_followed(digits_on_disk, folder):
    write_few_digits(digits_on_disk / "linked")
    image = digits_on_disk / folder / "test/digit 1/03.png"
    image.symlink_to(image.rename(digits_on_disk / "elsewhere.png"))
    words = [*OWN, "--test_set", "linked/test"]
    parser = sup_pie_kmodels_detection.build_parser()
    with pytest.raises(UserError, match="03.png is a link out of .* --follow_links"):
        list(open_studies("a script", parser.parse_args(words)))
    [study] = open_studies("a script", parser.parse_args([*words, "--follow_links"]))
    assert len(study.data.test_images) == 36
