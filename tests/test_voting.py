"""Majority votes: against slow counts, and one tie rule for all of them."""

from collections import Counter

import numpy as np
import pytest

from common import metrics, voting


def slow_labels(predictions, sets, best=min):
    """The smallest, or best, of the most frequent classes."""

    def modal(votes):
        counts = Counter(votes)
        return best(label for label in counts if counts[label] == max(counts.values()))

    return [[modal(votes) for votes in predictions[members].T.tolist()] for members in sets]


def draw(classes, networks, images=80):
    rng = np.random.default_rng(classes)
    return rng.integers(0, classes, (networks, images)), rng.random((15, networks)) < 0.7


@pytest.mark.parametrize("votes_at_once", [15 * 7 - 1, 10**6])
@pytest.mark.parametrize("classes, networks", [(2, 6), (3, 7), (12, 30)])
def test_modal_labels_of_sets_equal_slow_votes(classes, networks, votes_at_once, monkeypatch):
    monkeypatch.setattr(voting, "CHUNK", votes_at_once)
    predictions, sets = draw(classes, networks)
    sets[:, 0] = True  # nobody votes in an empty set
    labels = voting.modal_labels_of_sets(predictions.astype(np.int16), sets, classes)
    assert labels.tolist() == slow_labels(predictions, sets) and labels.dtype == np.int16


@pytest.mark.parametrize("best", [min, max])
def test_one_rule_breaks_the_ties_of_all_votes(best, monkeypatch):
    """With another rule every vote follows it."""
    if best is max:
        monkeypatch.setattr(voting, "tie_ranks", np.arange)
    predictions, _ = draw(3, 4, 200)
    everyone = np.ones((1, 4), bool)
    [expected] = slow_labels(predictions, everyone, best)
    labels, tied = voting.modal_labels(predictions, 3)
    assert labels.tolist() == expected and 0 < tied.sum() < 200
    assert voting.modal_labels_of_sets(predictions, everyone, 3)[0].tolist() == expected
    # Where all of the other population say the modal label nothing disagrees.
    agreeing = metrics.disagreement(predictions, np.array([expected]), 3)
    assert not agreeing["confidence"].any() and not metrics.find_pies(predictions, labels[None], 3).any()


def test_the_lead_is_that_over_the_second_class():
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 4]])
    assert voting.vote_lead(counts).tolist() == [2, 0, 4]
    assert voting.vote_lead(counts[:, :1]).tolist() == [3, 2, 0]
