"""PIEs, Q-Score, prediction depth and what pruning keeps, against slow loops, scikit-learn and golden
values."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from sklearn.neighbors import KNeighborsClassifier

from common import metrics, neighbours

NAN = np.nan


def slow_modal(predictions):
    """[(label, tied)] image by image: the smallest of the most frequent classes."""
    modal = []
    for votes in map(Counter, predictions.T.tolist()):
        most = [label for label, count in votes.items() if count == max(votes.values())]
        modal.append((min(most), len(most) > 1))
    return modal


def slow_q_score(latent):
    """(q, z, l1) of one latent in plain Python floats."""
    values = [float(value) for value in latent]
    norm = sum(value**2 for value in values) ** 0.5
    values = [value / norm for value in values]
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    z, l1 = (max(values) - mean) / std, sum(abs(value) for value in values)
    return z / l1, z, l1


def slow_depth(knn, label):
    """Places walked back from the last for as long as the k-NN of an image agrees."""
    depth = len(knn)
    while depth > 0 and knn[depth - 1] == label:
        depth -= 1
    return depth


def clustered_points(count, size, seed, offset=0.0, classes=10):
    """Overlapping clusters in float32: neighbours of several classes, so that votes are not unanimous."""
    rng = np.random.default_rng(seed)
    centres = 0.35 * np.random.default_rng(size).standard_normal((classes, size))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + rng.standard_normal((count, size)) + offset).astype(np.float32), labels


def knn_labels(train, labels, test, num_classes=10, k=neighbours.NEIGHBOURS):
    arrays = (torch.as_tensor(values) for values in (train, labels, test))
    return neighbours.knn_labels(*arrays, num_classes, k).numpy()


# PIEs


@pytest.mark.parametrize("models, classes", [(1, 3), (2, 2), (8, 10)])
def test_modal_labels_ties_and_pies_equal_a_slow_count(models, classes):
    rng = np.random.default_rng(models)
    dense, pruned = rng.integers(0, classes, (models, 300)), rng.integers(0, classes, (7, 300))
    labels, tied = metrics.modal_labels(dense, classes)
    assert list(zip(labels.tolist(), tied.tolist())) == slow_modal(dense)
    pruned_labels = np.array([label for label, _ in slow_modal(pruned)])
    is_pie = metrics.find_pies(dense, pruned, classes)
    assert is_pie.tolist() == (labels != pruned_labels).tolist()
    sure = metrics.disagreement(dense, pruned, classes)
    shares = [(each == labels).mean(0) - (each == pruned_labels).mean(0) for each in (dense, pruned)]
    np.testing.assert_allclose(sure["confidence"], (shares[0] - shares[1]) / 2, atol=1e-12)
    assert sure["votes"].tolist() == (pruned == pruned_labels).sum(0).tolist()
    counts = Counter(dense[0, is_pie].tolist())
    assert metrics.pies_per_class(is_pie, dense[0], 12).tolist() == [counts[label] for label in range(12)]


def test_pies_equal_the_golden_ones():
    golden = np.load(GOLDEN / "pies.npz")
    is_pie = metrics.find_pies(golden["dense_predictions"], golden["pruned_predictions"], 10)
    np.testing.assert_array_equal(is_pie, golden["is_pie"].astype(bool))


@pytest.mark.parametrize("shape", [(4,), (0, 4)])
def test_predictions_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        metrics.find_pies(np.zeros((2, 4), int), np.zeros(shape, int), 10)


LABELS = np.array([0, 1, 2])


@pytest.mark.parametrize("wrong", [[0, 1, 3], [0, -1, 2], [0.0, 1.0, 2.0]], ids=str)
@pytest.mark.parametrize(
    "count",
    [
        lambda wrong: metrics.disagreement(LABELS[None], wrong[None], 3),
        lambda wrong: metrics.pies_per_class(LABELS > 0, wrong, 3),
        lambda wrong: metrics.class_recalls(LABELS[None], wrong, 3),
    ],
    ids=["votes", "PIEs", "recalls"],
)
def test_only_classes_are_counted(count, wrong):
    with pytest.raises(ValueError, match="whole numbers between 0 and 2"):
        count(np.array(wrong))


# Q-Score


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_q_scores_equal_a_slow_loop_at_any_scale(scale):
    latent = np.random.default_rng(0).standard_normal((50, 24)) * 7 + 1
    latent[:10] = np.abs(latent[:10])
    latent[0], latent[0, 3] = 1, 1 + 1e-6  # nearly equal dimensions are scored
    latent = (scale * latent).astype(np.float32)
    expected = np.array([*map(slow_q_score, latent)])
    for column, (name, values) in enumerate(metrics.q_scores(latent).items()):
        assert name == ("q_score", "z_score", "l1_norm")[column] and values.dtype == np.float64
        np.testing.assert_allclose(values, expected[:, column], rtol=1e-8)


@pytest.mark.parametrize("name", ["q_score", "z_score", "l1_norm"])
def test_q_scores_equal_the_golden_values(name):
    golden = np.load(GOLDEN / "q_score.npz")
    np.testing.assert_allclose(metrics.q_scores(golden["latent"])[name], golden[name], rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 0.1, -0.7, 12345.678])
def test_latents_of_zeros_or_equal_dimensions_have_no_q_score_and_spoil_no_other(value):
    latent = np.random.default_rng(0).random((3, 127)).astype(np.float32)
    whole = metrics.q_scores(latent)
    latent[1] = value
    for name, values in metrics.q_scores(latent).items():
        np.testing.assert_array_equal(values[[0, 2]], whole[name][[0, 2]])
        expected = 127**0.5 if value and name == "l1_norm" else NAN
        assert values[1] == pytest.approx(expected, nan_ok=True)


@pytest.mark.filterwarnings("error")
def test_the_mean_is_over_the_models_whose_value_is_defined():
    values = np.array([[1.0, 2.0, NAN, 0.0, NAN], [3.0, NAN, NAN, 0.0, 5.0], [8.0, 4.0, NAN, 3.0, NAN]])
    np.testing.assert_array_equal(metrics.mean_over_defined(values), [4.0, 3.0, NAN, 1.0, 5.0])


# k-NN


@pytest.mark.parametrize(
    "size, offset, rows", [(16, 0.0, None), (128, 0.0, 7), (16, 1000.0, 0), (128, 1000.0, 399)]
)
def test_knn_labels_equal_scikit_learns_in_chunks_of_any_size(monkeypatch, size, offset, rows):
    train, labels = clustered_points(1500, size, 1, offset)
    test, _ = clustered_points(400, size, 2, offset)
    if rows is not None:
        monkeypatch.setattr(neighbours, "CHUNK_BYTES", rows * 4 * len(train))
    # In float64: scikit-learn's own distances in float32 would not do far from the origin.
    reference = KNeighborsClassifier(n_neighbors=30).fit(train.astype(float), labels)
    np.testing.assert_array_equal(knn_labels(train, labels, test), reference.predict(test.astype(float)))


def test_knn_labels_equal_the_golden_ones_at_every_place():
    golden = np.load(GOLDEN / "prediction_depth.npz")
    classes, k = golden["train_labels"].max() + 1, golden["k"].item()
    assert neighbours.NEIGHBOURS == k
    for train, test, expected in zip(golden["train"], golden["test"], golden["knn_predictions"]):
        np.testing.assert_array_equal(knn_labels(train, golden["train_labels"], test, classes, k), expected)


@pytest.mark.parametrize(
    "train, k",
    [
        (torch.full((900, 5), 0.1), 30),  # the mean of these is rounded
        (torch.tensor([[9.0], [0.5], [0.0], [0.5]]).repeat(200, 1), 250),
        (torch.cat([torch.full((31, 3), 7.0), torch.zeros(800, 3)]), 40),
    ],
    ids=["constant", "ties at the last place alone", "the last ones"],
)
def test_of_equally_distant_points_the_first_ones_are_neighbours(train, k):
    test = torch.cat([train[:1], train[-1:], torch.zeros(1, train.shape[1])])
    distances = (test[:, None].double() - train.double()).square().sum(2)
    expected = distances.sort(stable=True).indices[:, :k].sort().values
    assert torch.equal(neighbours.nearest(distances.float(), k).sort().values, expected)
    classes = torch.arange(len(train)).flip(0) % 7
    votes = torch.nn.functional.one_hot(classes[expected], 7).sum(1)
    assert torch.equal(neighbours.knn_labels(train, classes, test, 7, k), votes.argmax(1))


@pytest.mark.parametrize("value", [np.nan, np.inf, 2e19])
def test_points_without_finite_distances_are_refused(value):
    train, labels = clustered_points(40, 3, 1)
    spoilt = train.copy()
    spoilt[7, 1] = value
    for one, other in ((spoilt, train), (train, spoilt)):
        with pytest.raises(FloatingPointError, match="not finite"):
            knn_labels(one, labels, other)


def test_fewer_training_points_than_neighbours_are_refused():
    train, labels = clustered_points(30, 4, 1)
    assert knn_labels(train, labels, train[:3]).tolist() == [np.bincount(labels).argmax()] * 3
    with pytest.raises(ValueError, match="at least 30"):
        knn_labels(train[:29], labels[:29], train)


# Prediction depth


@pytest.mark.parametrize("places", [1, 7])
def test_depths_equal_slow_loops(places):
    rng = np.random.default_rng(places)
    labels = rng.integers(0, 10, 400)
    knn = np.where(rng.random((places, 400)) < 0.75, labels, rng.integers(0, 10, (places, 400)))
    expected = [slow_depth(*image) for image in zip(knn.T, labels)]
    assert metrics.prediction_depth(knn, labels).tolist() == expected and {0, places} <= {*expected}
    assert metrics.label_prediction_depth(knn, labels).tolist() == [max(1, depth) for depth in expected]


def test_label_depths_equal_the_golden_ones():
    golden = np.load(GOLDEN / "prediction_depth.npz")
    depth = metrics.label_prediction_depth(golden["knn_predictions"], golden["test_labels"])
    np.testing.assert_array_equal(depth, golden["depth_label_variant"])


# What is lost and what is kept


def test_recalls_and_accuracies_equal_slow_counts_and_are_not_defined_without_images():
    rng = np.random.default_rng(0)
    labels, images = rng.choice([0, 1, 2, 4], 150), rng.random(150) < 0.3
    predictions = np.where(rng.random((6, 150)) < 0.6, labels, rng.integers(0, 6, (6, 150))).astype(np.int16)

    def accuracy(model, chosen):
        right = [predictions[model, image] == labels[image] for image in np.flatnonzero(chosen)]
        return sum(right) / len(right) if right else NAN

    recalls = [[accuracy(model, labels == label) for label in range(6)] for model in range(6)]
    np.testing.assert_allclose(metrics.class_recalls(predictions, labels, 6), recalls)
    for chosen in (images, images & False):
        expected = [accuracy(model, chosen) for model in range(6)]
        np.testing.assert_allclose(metrics.accuracy_on(chosen, predictions, labels), expected)


def test_pies_are_lost_gained_or_wrong_twice_and_nothing_else():
    cases = {(0, 1, 0): "lost", (1, 0, 0): "gained", (1, 2, 0): "wrong", (0, 0, 0): None, (1, 1, 0): None}
    changes = metrics.lost_and_gained(*map(np.array, zip(*cases)))
    for image, kind in enumerate(cases.values()):
        assert [name for name, chosen in changes.items() if chosen[image]] == ([kind] if kind else [])


def test_auroc_equals_a_count_of_all_pairs_with_ties_and_without_what_has_no_score():
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + positive, 1)
    scores[:3] = NAN
    above, below = (scores[chosen & ~np.isnan(scores)] for chosen in (positive, ~positive))
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in above for b in below]
    assert 0.5 in wins and metrics.auroc(scores, positive) == pytest.approx(np.mean(wins))
    for none_or_all in (False, True):
        assert np.isnan(metrics.auroc(scores, np.full(60, none_or_all)))


def slow_calibration_error(logits, labels, bins):
    inside = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels):
        shares = [np.exp(value) / sum(map(np.exp, row)) for value in row]
        confidence = max(shares)
        index = next(b for b in range(bins) if confidence <= (b + 1) / bins or b == bins - 1)
        inside[index].append((shares.index(confidence) == label) - confidence)
    return sum(abs(sum(gaps)) for gaps in inside) / len(labels)


@pytest.mark.parametrize("bins", [1, 15])
def test_the_calibration_error_equals_a_slow_one(bins):
    rng = np.random.default_rng(bins)
    logits, labels = rng.normal(0, 2, (200, 4)), rng.integers(0, 4, 200)
    labels[:120] = logits[:120].argmax(1)
    expected = slow_calibration_error(logits, labels, bins)
    assert metrics.calibration_error(logits + 1000, labels, bins) == pytest.approx(expected) and expected > 0
    sure = np.array([[0.0, -np.inf], [-np.inf, 0.0]], np.float16)
    assert metrics.calibration_error(sure, np.array([0, 0]), bins) == 0.5


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]], ids=str)
def test_logits_without_a_softmax_have_no_calibration_error(row):
    """NaN as a place in an array lies outside of it."""
    with pytest.raises(ValueError, match="not finite"):
        metrics.calibration_error(np.array([[0.0, 1.0], row]), np.array([0, 1]))


def test_agreement_counts_equal_predictions():
    assert metrics.agreement(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2])) == 0.75


def slow_cka(x, y):
    """By kernels of all pairs of images: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, l = (centre @ values @ values.T @ centre for values in (x, y))
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def test_linear_cka_equals_that_of_kernels():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (40, 6))
    y = x[:, :4] + rng.normal(size=(40, 4))
    assert metrics.linear_cka(x, y) == pytest.approx(slow_cka(x, y)) and 0.3 < slow_cka(x, y) < 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 12345.678])
def test_a_constant_latent_is_like_no_other(value):
    other, constant = np.random.default_rng(0).normal(size=(41, 6)), np.full((41, 2), value)
    constant[:, 1] *= 7
    for pair in ((other, constant), (constant, other), (constant, constant)):
        assert np.isnan(metrics.linear_cka(*pair))


def test_changes_of_probabilities_are_products_over_pairs_of_seeds_and_need_two():
    dense, pruned = np.random.default_rng(0).dirichlet([1, 2, 3], (2, 4, 5))
    change = pruned - dense
    pairs = [change[k] * change[m] for k in range(4) for m in range(4) if k != m]
    assert metrics.probability_changes(dense, pruned) == pytest.approx(np.mean(pairs, 0).sum(1))
    assert np.isnan(metrics.probability_changes(dense[:1], pruned[:1])).all()
