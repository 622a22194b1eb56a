"""What the flags of a call mean for the process."""

from test_scripts import SMALL

import clr_training
from common import learners, study, training


def test_the_throw_away_head_begins_as_the_final_head_does(digits_on_disk, monkeypatch):
    """As published: the first 2 epochs of a schedule of --head_epochs."""
    words = [*SMALL, "--debug_classification_head", "--debug_classification_head_epochs", "1"]
    flags = clr_training.build_parser().parse_args([*words, "--head_epochs", "50"])
    opened = next(study.open_studies("clr_training", flags))
    trained = []

    def fit(head, run, epochs):
        trained.append((head.rates, epochs))
        return [{"test_accuracy": 0.1}]

    monkeypatch.setattr(training, "fit", fit)
    learners.ContrastiveLearner(opened, 0).at_epoch(1)
    assert trained == [(training.head_learning_rates(50), range(2))]
