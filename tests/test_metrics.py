"""PIEs, Q-Score and prediction depth against slow loops, scikit-learn and golden values."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from sklearn.neighbors import KNeighborsClassifier

from common import metrics


def slow_modal(predictions):
    """[(label, tied)] image by image: the smallest of the most frequent classes."""
    modal = []
    for image in range(predictions.shape[1]):
        votes = Counter(predictions[:, image].tolist())
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


def slow_depth(knn, predictions):
    """Places walked back from the last for as long as the k-NN agrees."""
    depths = []
    for image in range(knn.shape[1]):
        depth = len(knn)
        while depth > 0 and knn[depth - 1, image] == predictions[image]:
            depth -= 1
        depths.append(depth)
    return depths


def slow_label_depth(knn, labels):
    depths = []
    for image in range(knn.shape[1]):
        wrong = [place for place in range(len(knn)) if knn[place, image] != labels[image]]
        depths.append(1 + wrong[-1] if wrong else 1)
    return depths


def clustered_points(count, size, seed, offset=0.0, classes=10):
    """Overlapping clusters in float32: neighbours of several classes, so that votes are not unanimous."""
    rng = np.random.default_rng(seed)
    centres = 0.35 * np.random.default_rng(size).standard_normal((classes, size))
    labels = rng.integers(0, classes, count)
    return (centres[labels] + rng.standard_normal((count, size)) + offset).astype(np.float32), labels


def knn_labels(train, labels, test, num_classes=10, k=metrics.NEIGHBOURS):
    return metrics.knn_labels(
        *(torch.as_tensor(values) for values in (train, labels, test)), num_classes, k
    ).numpy()


# PIEs


@pytest.mark.parametrize("models, classes", [(1, 3), (2, 2), (5, 3), (8, 10), (30, 10)])
def test_modal_labels_and_ties_equal_a_slow_count(models, classes):
    predictions = np.random.default_rng(models).integers(0, classes, (models, 300))
    labels, tied = metrics.modal_labels(predictions, classes)
    assert list(zip(labels.tolist(), tied.tolist())) == slow_modal(predictions)
    assert labels.dtype == np.int64 and tied.dtype == bool


def test_a_tie_goes_to_the_smallest_class_id():
    predictions = np.array([[2, 3, 0, 1, 4], [1, 3, 0, 4, 0], [2, 0, 0, 1, 3], [1, 0, 0, 4, 1]])
    labels, tied = metrics.modal_labels(predictions, 5)
    assert labels.tolist() == [1, 0, 0, 1, 0]
    assert tied.tolist() == [True, True, False, True, True]


def test_pies_equal_a_slow_comparison_of_populations_of_different_sizes():
    rng = np.random.default_rng(0)
    dense, pruned = rng.integers(0, 4, (7, 500)), rng.integers(0, 4, (4, 500))
    expected = [one != other for (one, _), (other, _) in zip(slow_modal(dense), slow_modal(pruned))]
    is_pie = metrics.find_pies(dense, pruned, 4)
    assert is_pie.dtype == bool and is_pie.tolist() == expected
    assert 0 < is_pie.sum() < 500


def test_pies_equal_the_golden_ones():
    golden = np.load(GOLDEN / "pies.npz")
    is_pie = metrics.find_pies(golden["dense_predictions"], golden["pruned_predictions"], 10)
    np.testing.assert_array_equal(is_pie, golden["is_pie"].astype(bool))
    assert 0 < is_pie.sum() < len(is_pie)


def test_equal_populations_have_no_pies():
    predictions = np.random.default_rng(0).integers(0, 10, (5, 100))
    assert not metrics.find_pies(predictions, predictions[::-1], 10).any()


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 3, 4), ()])
def test_predictions_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        metrics.modal_labels(np.zeros(shape, dtype=np.int64), 10)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_predictions_outside_the_classes_are_refused(wrong):
    predictions = np.zeros((3, 4), dtype=np.int64)
    predictions[1, 2] = wrong
    with pytest.raises(ValueError, match="between 0 and 9"):
        metrics.modal_labels(predictions, 10)
    with pytest.raises(ValueError, match="between 0 and 9"):
        metrics.find_pies(np.zeros_like(predictions), predictions, 10)


LABELS, OUTSIDE = np.array([0, 1, 2]), [[0, 1, 3], [0, -1, 2], [0, 1, 2**63 - 1], [0.0, 1.0, np.nan]]


@pytest.mark.parametrize("wrong", OUTSIDE, ids=str)
@pytest.mark.parametrize(
    "count",
    [
        lambda wrong: metrics.vote_counts(wrong[None], 3),
        lambda wrong: metrics.disagreement(LABELS[None], wrong[None], 3),
        lambda wrong: metrics.pies_per_class(LABELS > 0, wrong, 3),
        lambda wrong: metrics.class_recalls(LABELS[None], wrong, 3),
    ],
    ids=["votes", "disagreement", "PIEs", "recalls"],
)
def test_only_classes_are_counted(count, wrong):
    with pytest.raises(ValueError, match="whole numbers between 0 and 2"):
        count(np.array(wrong))


def test_vote_counts_count_the_models():
    predictions = np.array([[0, 2], [2, 2], [0, 1]])
    assert metrics.vote_counts(predictions, 4).tolist() == [[2, 0, 1, 0], [0, 1, 2, 0]]


def test_pies_are_counted_by_their_true_class():
    rng = np.random.default_rng(0)
    is_pie, labels = rng.random(200) < 0.3, rng.integers(0, 6, 200)
    slow = Counter(label for pie, label in zip(is_pie.tolist(), labels.tolist()) if pie)
    assert metrics.pies_per_class(is_pie, labels, 8).tolist() == [slow[label] for label in range(8)]
    assert metrics.pies_per_class(np.zeros(200, dtype=bool), labels, 8).tolist() == [0] * 8


# Q-Score


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_q_scores_equal_a_slow_loop(dtype):
    latent = (np.random.default_rng(0).standard_normal((50, 24)) * 7 + 1).astype(dtype)
    latent[:10] = np.abs(latent[:10])
    scores = metrics.q_scores(latent)
    expected = np.array([slow_q_score(row) for row in latent])
    for column, name in enumerate(("q_score", "z_score", "l1_norm")):
        assert scores[name].shape == (50,) and scores[name].dtype == np.float64
        np.testing.assert_allclose(scores[name], expected[:, column], rtol=1e-10)


@pytest.mark.parametrize("name", ["q_score", "z_score", "l1_norm"])
def test_q_scores_equal_the_golden_values(name):
    golden = np.load(GOLDEN / "q_score.npz")
    np.testing.assert_allclose(metrics.q_scores(golden["latent"])[name], golden[name], rtol=1e-6)


def test_q_scores_of_a_latent_by_hand():
    scores = metrics.q_scores(
        np.array([[0.0, 3, 0, 4]])
    )  # unit: 0, 0.6, 0, 0.8; mean 0.35, variance 0.25 - 0.35^2
    z = 0.45 / (0.25 - 0.35**2) ** 0.5
    assert scores["l1_norm"][0] == pytest.approx(1.4)
    assert scores["z_score"][0] == pytest.approx(z)
    assert scores["q_score"][0] == pytest.approx(z / 1.4)


def test_q_scores_do_not_depend_on_the_scale():
    latent = np.random.default_rng(1).random((20, 16))
    for name, values in metrics.q_scores(latent).items():
        for scale in (1e-6, 1e6):
            np.testing.assert_allclose(metrics.q_scores(scale * latent)[name], values, rtol=1e-9)


@pytest.mark.filterwarnings("error")
def test_a_latent_of_zeros_has_no_score_at_all():
    latent = np.random.default_rng(0).random((3, 128))
    expected = metrics.q_scores(latent)
    latent[1] = 0
    for name, values in metrics.q_scores(latent).items():
        assert np.isnan(values[1])
        np.testing.assert_array_equal(values[[0, 2]], expected[name][[0, 2]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7, 1e-5, 12345.678])
def test_a_latent_of_equal_dimensions_has_an_l1_norm_but_no_z_or_q_score(value):
    for dtype in (np.float32, np.float64):
        scores = metrics.q_scores(np.full((2, 127), value, dtype=dtype))
        assert np.isnan(scores["q_score"]).all() and np.isnan(scores["z_score"]).all()
        np.testing.assert_allclose(scores["l1_norm"], 127**0.5)


def test_a_latent_of_nearly_equal_dimensions_is_scored():
    latent = np.ones((1, 16))
    latent[0, 3] += 1e-6
    assert metrics.q_scores(latent)["z_score"][0] == pytest.approx(15**0.5, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_the_mean_is_over_the_models_whose_value_is_defined():
    nan = np.nan
    values = np.array([[1.0, 2.0, nan, 0.0, nan], [3.0, nan, nan, 0.0, 5.0], [8.0, 4.0, nan, 3.0, nan]])
    np.testing.assert_array_equal(metrics.mean_over_defined(values), [4.0, 3.0, nan, 1.0, 5.0])


# k-NN


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("size", [16, 128])
def test_knn_labels_equal_scikit_learns(size, offset):
    train, labels = clustered_points(1500, size, 1, offset)
    test, _ = clustered_points(400, size, 2, offset)
    # In float64: scikit-learn's own distances in float32 would not do far from the origin.
    expected = (
        KNeighborsClassifier(n_neighbors=30)
        .fit(train.astype(np.float64), labels)
        .predict(test.astype(np.float64))
    )
    np.testing.assert_array_equal(knn_labels(train, labels, test), expected)
    assert len(set(expected.tolist())) == 10


@pytest.mark.parametrize("k", [1, 2, 7])
def test_knn_labels_equal_a_slow_search(k):
    train, labels = clustered_points(60, 3, 1)
    test, _ = clustered_points(25, 3, 2)
    expected = []
    for point in test.astype(np.float64):
        distances = [np.linalg.norm(other - point) for other in train.astype(np.float64)]
        votes = Counter(labels[np.argsort(distances)[:k]].tolist())
        expected.append(min(label for label, count in votes.items() if count == max(votes.values())))
    assert knn_labels(train, labels, test, k=k).tolist() == expected


def test_knn_labels_equal_the_golden_ones_at_every_place():
    golden = np.load(GOLDEN / "prediction_depth.npz")
    classes = golden["train_labels"].max() + 1
    for place, expected in enumerate(golden["knn_predictions"]):
        ours = knn_labels(
            golden["train"][place], golden["train_labels"], golden["test"][place], classes, golden["k"].item()
        )
        np.testing.assert_array_equal(ours, expected)


def test_as_many_neighbours_vote_as_gave_the_golden_values():
    assert metrics.NEIGHBOURS == np.load(GOLDEN / "prediction_depth.npz")["k"]


@pytest.mark.parametrize("rows", [0, 1, 7, 99, 100, 1000])
def test_knn_labels_do_not_depend_on_the_chunk_size(monkeypatch, rows):
    train, labels = clustered_points(300, 16, 1)
    test, _ = clustered_points(100, 16, 2)
    expected = knn_labels(train, labels, test)
    sizes = []
    addmm = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda *args, **options: sizes.append(len(args[1])) or addmm(*args, **options)
    )
    monkeypatch.setattr(metrics, "CHUNK_BYTES", rows * 4 * len(train))
    np.testing.assert_array_equal(knn_labels(train, labels, test), expected)
    assert sum(sizes) == 100 and max(sizes) == min(max(rows, 1), 100)


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([7, 7, 2, 2], 2),
        ([2, 2, 7, 7], 2),
        ([9, 9, 9, 0], 9),
        ([5, 4, 3, 1], 1),
        ([9, 0, 0, 9], 0),
        ([3, 8, 8, 3], 3),
    ],
)
def test_a_tied_vote_goes_to_the_smallest_class(labels, expected):
    train = torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0], [90, 0], [91, 0], [92, 0]])
    train_labels = torch.tensor(labels + [6, 6, 6])
    assert metrics.knn_labels(train, train_labels, torch.zeros(1, 2), 10, k=4).tolist() == [expected]


@pytest.mark.parametrize(
    "train, k",
    [
        (torch.full((900, 5), 0.1), 30),  # the mean of these is rounded
        (torch.cat([torch.full((900, 1), 1 / 3), torch.zeros(900, 1)], 1), 1),
        (torch.tensor([[0.25], [3.0]]).repeat(450, 1), 30),
        (torch.tensor([[9.0], [0.5], [0.0], [0.5]]).repeat(200, 1), 250),
        (torch.cat([torch.full((31, 3), 7.0), torch.zeros(800, 3)]), 40),
    ],
    ids=["constant", "constant columns", "two points", "ties at the last place alone", "the last ones"],
)
def test_of_equally_distant_points_the_first_ones_are_neighbours(train, k):
    test, labels = (
        torch.cat([train[:1], train[-1:], torch.zeros(1, train.shape[1])]),
        torch.arange(len(train)),
    )
    distances = (test[:, None].double() - train.double()).square().sum(2)
    expected = distances.sort(stable=True).indices[:, :k].sort().values
    assert torch.equal(metrics.nearest(distances.float(), k).sort().values, expected)
    # Every training point is a class of its own: the smallest one wins.
    found = metrics.knn_labels(train, labels, test, len(train), k)
    assert torch.equal(found, expected[:, 0])
    classes = labels.flip(0) % 7
    votes = torch.nn.functional.one_hot(classes[expected], 7).sum(1)
    assert torch.equal(metrics.knn_labels(train, classes, test, 7, k), votes.argmax(1))


def test_without_ties_the_neighbours_are_those_of_topk():
    distances = torch.randn(40, 500, generator=torch.Generator().manual_seed(0))
    for k in (1, 30, 499, 500):
        assert torch.equal(
            metrics.nearest(distances, k).sort().values,
            distances.topk(k, largest=False).indices.sort().values,
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 2e19])
def test_points_without_finite_distances_are_refused(value):
    train, labels = clustered_points(40, 3, 1)
    spoilt = train.copy()
    spoilt[7, 1] = value
    for one, other in ((spoilt, train), (train, spoilt)):
        with pytest.raises(FloatingPointError, match="not finite"):
            knn_labels(one, labels, other)


def test_knn_labels_of_half_precision_points_are_those_of_the_same_points_in_float32():
    train, labels = clustered_points(300, 16, 1)
    test, _ = clustered_points(100, 16, 2)
    train, test = torch.as_tensor(train).half(), torch.as_tensor(test).half()
    np.testing.assert_array_equal(
        knn_labels(train, labels, test), knn_labels(train.float(), labels, test.float())
    )


def test_as_many_training_points_as_neighbours_are_enough_and_fewer_are_refused():
    train, labels = clustered_points(30, 4, 1)
    most = Counter(labels.tolist())
    expected = min(label for label, count in most.items() if count == max(most.values()))
    assert knn_labels(train, labels, train[:3]).tolist() == [expected] * 3
    with pytest.raises(ValueError, match="at least 30"):
        knn_labels(train[:29], labels[:29], train)


# Prediction depth


# 1: the k-NN of this place agrees, the first place first.
@pytest.mark.parametrize(
    "agreement, depth, label_depth",
    [
        ("1111", 0, 1),
        ("0111", 1, 1),
        ("1011", 2, 2),
        ("0011", 2, 2),
        ("1101", 3, 3),
        ("0101", 3, 3),
        ("1110", 4, 4),
        ("0000", 4, 4),
        ("1", 0, 1),
        ("0", 1, 1),
    ],
)
def test_depths_by_hand(agreement, depth, label_depth):
    knn = np.array([[5] if place == "1" else [2] for place in agreement])
    assert metrics.prediction_depth(knn, np.array([5])).tolist() == [depth]
    assert metrics.label_prediction_depth(knn, np.array([5])).tolist() == [label_depth]


@pytest.mark.parametrize("places", [1, 7, 16])
def test_depths_equal_slow_loops(places):
    rng = np.random.default_rng(places)
    predictions = rng.integers(0, 10, 400)
    knn = np.where(rng.random((places, 400)) < 0.75, predictions, rng.integers(0, 10, (places, 400)))
    depth, label_depth = (
        metrics.prediction_depth(knn, predictions),
        metrics.label_prediction_depth(knn, predictions),
    )
    assert depth.tolist() == slow_depth(knn, predictions)
    assert label_depth.tolist() == slow_label_depth(knn, predictions)
    assert depth.min() == 0 and label_depth.min() == 1 and depth.max() == label_depth.max() == places


def test_label_depths_equal_the_golden_ones():
    golden = np.load(GOLDEN / "prediction_depth.npz")
    depth = metrics.label_prediction_depth(golden["knn_predictions"], golden["test_labels"])
    np.testing.assert_array_equal(depth, golden["depth_label_variant"])
    # Without the least value of 1 the rest of the rule is the other variant's.
    baldock = metrics.prediction_depth(golden["knn_predictions"], golden["test_labels"])
    np.testing.assert_array_equal(np.maximum(baldock, 1), golden["depth_label_variant"])
    assert baldock.tolist() == slow_depth(golden["knn_predictions"], golden["test_labels"])


def test_recalls_equal_a_slow_count_and_are_not_defined_for_a_class_without_images():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4], 150)
    predictions = np.where(rng.random((6, 150)) < 0.6, labels, rng.integers(0, 6, (6, 150))).astype(np.int16)
    recalls = metrics.class_recalls(predictions, labels, 6)
    for model, label in np.ndindex(6, 6):
        right = [predictions[model, image] == label for image in range(150) if labels[image] == label]
        expected = sum(right) / len(right) if right else np.nan
        assert recalls[model, label] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(recalls[:, [3, 5]]).all()


def test_recalls_of_hand_made_predictions():
    recalls = metrics.class_recalls(np.array([[0, 0, 1, 1], [1, 0, 0, 0]]), np.array([0, 0, 1, 1]), 2)
    assert recalls.tolist() == [[1, 1], [0.5, 0]]


# What is lost and what is kept


def test_accuracies_on_some_images_equal_a_slow_count_and_are_not_defined_on_none():
    rng = np.random.default_rng(0)
    images, labels, predictions = rng.random(80) < 0.3, rng.integers(0, 3, 80), rng.integers(0, 3, (4, 80))
    slow = []
    for model in predictions:
        right = [model[i] == labels[i] for i in range(80) if images[i]]
        slow.append(sum(right) / len(right))
    assert metrics.accuracy_on(images, predictions, labels).tolist() == pytest.approx(slow)
    assert np.isnan(metrics.accuracy_on(np.zeros(80, dtype=bool), predictions, labels)).all()


def test_pies_are_lost_gained_or_wrong_twice_and_nothing_else():
    cases = {(0, 1, 0): "lost", (1, 0, 0): "gained", (1, 2, 0): "wrong", (0, 0, 0): None, (1, 1, 0): None}
    changes = metrics.lost_and_gained(*map(np.array, zip(*cases)))
    for image, kind in enumerate(cases.values()):
        assert [name for name, chosen in changes.items() if chosen[image]] == ([kind] if kind else [])


def slow_auroc(scores, positive):
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, is_positive in zip(scores, positive)
        for b, other in zip(scores, positive)
        if is_positive and not other and a == a and b == b
    ]
    return sum(wins) / len(wins)


def test_auroc_equals_a_count_of_all_pairs_with_ties_and_without_what_has_no_score():
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + positive, 1)
    scores[:3] = np.nan
    assert len(set(scores)) < 55, "some are tied"
    assert metrics.auroc(scores, positive) == pytest.approx(slow_auroc(scores, positive))
    assert metrics.auroc(-scores, positive) == pytest.approx(1 - metrics.auroc(scores, positive))
    assert metrics.auroc(np.arange(4), np.arange(4) > 1) == 1
    for none_or_all in (False, True):
        assert np.isnan(metrics.auroc(scores, np.full(60, none_or_all)))


def slow_calibration_error(logits, labels, bins):
    inside = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels):
        shares = [np.exp(value) / sum(map(np.exp, row)) for value in row]
        confidence = max(shares)
        index = next(b for b in range(bins) if confidence <= (b + 1) / bins or b == bins - 1)
        inside[index].append((shares.index(confidence) == label, confidence))
    gaps = [
        len(pairs) / len(labels) * abs(np.mean([r for r, _ in pairs]) - np.mean([c for _, c in pairs]))
        for pairs in inside
        if pairs
    ]
    return sum(gaps)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_the_calibration_error_equals_a_slow_one(bins):
    rng = np.random.default_rng(bins)
    logits, labels = rng.normal(0, 2, (200, 4)), rng.integers(0, 4, 200)
    labels[:120] = logits[:120].argmax(1)
    expected = slow_calibration_error(logits, labels, bins)
    assert metrics.calibration_error(logits, labels, bins) == pytest.approx(expected) and expected > 0
    assert metrics.calibration_error(logits + 1000, labels, bins) == pytest.approx(expected)


def test_sure_networks_are_calibrated_as_often_as_they_are_right():
    sure = np.array([[0.0, -np.inf], [-np.inf, 0.0], [0.0, -np.inf], [0.0, -np.inf]], np.float16)
    assert metrics.calibration_error(sure, np.array([0, 1, 0, 0])) == 0
    assert metrics.calibration_error(sure, np.array([0, 1, 0, 1])) == 0.25
    assert metrics.BINS == 15


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf], [np.nan, np.nan]], ids=str)
def test_logits_without_a_softmax_have_no_calibration_error(row):
    """NaN as a place in an array lies outside of it."""
    with pytest.raises(ValueError, match="not finite"):
        metrics.calibration_error(np.array([[0.0, 1.0], row]), np.array([0, 1]))


def test_agreement_counts_equal_predictions():
    assert metrics.agreement(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2])) == 0.75


def slow_cka(x, y):
    """By kernels of all pairs of images: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""

    def centred(kernel):
        n = len(kernel)
        return (np.eye(n) - 1 / n) @ kernel @ (np.eye(n) - 1 / n)

    k, l = (centred(values @ values.T) for values in (x, y))
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def test_linear_cka_equals_that_of_kernels_and_sees_neither_rotation_nor_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (40, 6))
    y = x[:, :4] + rng.normal(size=(40, 4))
    assert metrics.linear_cka(x, y) == pytest.approx(slow_cka(x, y)) and 0.3 < slow_cka(x, y) < 0.9
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert metrics.linear_cka(x, 7 * x @ rotation + 1) == pytest.approx(1)
    assert metrics.linear_cka(x, y) == pytest.approx(metrics.linear_cka(y, x))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 12345.678, 1e-30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_latent_is_like_no_other(value, dtype):
    other, constant = np.random.default_rng(0).normal(size=(41, 6)), np.full((41, 2), value, dtype)
    constant[:, 1] *= 7
    for pair in ((other, constant), (constant, other), (constant, constant)):
        assert np.isnan(metrics.linear_cka(*pair))
