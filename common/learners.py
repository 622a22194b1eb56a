"""Supervised and contrastive learning: how networks are built, trained and stored.

`SupervisedLearner` and `ContrastiveLearner` have the same interface, so that training and pruning treat them
alike. To add a learning method, add a class with this interface and return it from `learner_of`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from torch import nn

from common import models, settings, training
from common.cli import logger
from common.losses import LOSSES
from common.models import Classifier
from common.pruning import Masks
from common.store import records
from common.study import Study
from common.training import prepare, seed_weights

DEBUG_HEAD_EPOCHS = 2  # of a throw-away head, with the learning rates of the first --head_epochs


@dataclass(frozen=True)
class Initialization:
    """Initial weights of a training: new ones, or those in the file `weights`, saved after `epoch` epochs.

    key, head_key: new weights, and those of a classifier head, depend on these.
    """

    key: tuple
    head_key: tuple
    weights: Path | None = None
    epoch: int = 0


class SupervisedLearner:
    """A network in one file, trained with cross-entropy."""

    parts = ("supervised",)

    @staticmethod
    def settings(part: int) -> type:
        """Returns the class with the hyperparameters of a part's training."""
        return settings.SupervisedTraining

    def __init__(self, study: Study, seed: int, start: Initialization | None = None):
        shape, self.study, self.seed = study.architecture, study, seed
        start = start or Initialization((seed, "supervised", "weights"), ())
        seed_weights(*start.key)
        classes = len(study.data.class_names)
        network = models.SupervisedNetwork(shape, classes, study.match_sparsity)
        if start.weights:
            records.load_state(network, records.read_payload(start.weights), start.weights)
        self.network = self.kept = prepare(network, study.device)

    def key(self, part: int) -> tuple:
        """Returns the key on which orders, views and dropout in a part's training depend."""
        return self.seed, "supervised"

    def training(self, part: int, settings: dict) -> training.Training:
        """Returns the training of a part, which trains the learner's network in place."""
        return training.CrossEntropy(self.network, self.study.data, settings)

    def part_masks(self, part: int, masks: Masks) -> Masks:
        """Returns the masks of a part, out of those of the whole classifier, under the part's names."""
        return masks

    def payload(self, part: int) -> dict:
        """Returns the content of a trained part's file."""
        return records.cpu_state(self.network)

    def counted(self, part: int) -> nn.Module:
        """Returns the network whose sparsity a part's record contains."""
        return self.network

    def load(self, part: int, path: Path) -> None:
        """Loads a finished part, on which the next one is trained. Supervised networks have only one part."""

    def at_epoch(self, done: int) -> None:
        """Called at the start and after every epoch with the number of epochs done."""

    def classifier(self) -> Classifier:
        return self.network

    @staticmethod
    def payloads(classifier: Classifier) -> tuple[dict, ...]:
        """Returns the contents of a finetuned network's files."""
        return (records.cpu_state(classifier),)


class ContrastiveLearner:
    """An encoder with its projection head, trained with a contrastive loss, in one file, and a linear
    classifier trained on the frozen encoder in another."""

    parts = ("encoder", "head")

    @staticmethod
    def settings(part: int) -> type:
        return settings.HeadTraining if part else settings.ContrastiveTraining

    def __init__(self, study: Study, seed: int, start: Initialization | None = None):
        shape, self.study, self.seed = study.architecture, study, seed
        self.start = start or Initialization((seed, "contrastive", "weights"), (seed, "head"))
        seed_weights(*self.start.key)
        model = models.ContrastiveEncoder(shape, study.match_sparsity)
        if self.start.weights:
            weights = self.start.weights
            records.load_state(model, records.read_payload(weights), weights)
        self.model = self.kept = prepare(model, study.device)
        self.head = self.new_head(*self.start.head_key)

    def new_head(self, *key) -> models.ClassificationHead:
        """Returns an untrained linear classifier; its weights depend on `key`."""
        seed_weights(*key, "weights")
        head = models.ClassificationHead(self.model.encoder.latent_size, len(self.study.data.class_names))
        return prepare(head, self.study.device)

    def key(self, part: int) -> tuple:
        return self.start.head_key if part else (self.seed, "contrastive")

    def training(self, part: int, settings: dict) -> training.Training:
        data = self.study.data
        if part == 0:
            return training.Contrastive(self.model, data, settings)
        return training.Head(self.model.encoder, self.head, data, settings)

    def part_masks(self, part: int, masks: Masks) -> Masks:
        prefix = ("encoder.", "classification_head.")[part]
        return {name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)}

    def payload(self, part: int) -> dict:
        return {"head" if part else "model": records.cpu_state(self.head if part else self.model)}

    def counted(self, part: int) -> nn.Module:
        return self.classifier() if part else self.model.encoder

    def load(self, part: int, path: Path) -> None:
        records.load_state(self.model.encoder, records.encoder_state(records.read_payload(path)), path)

    def at_epoch(self, done: int) -> None:
        """With --debug_classification_head, regularly trains a throw-away head and logs its accuracy."""
        flags = self.study.flags
        if not (flags.debug_classification_head and done) or done % flags.debug_classification_head_epochs:
            return
        key = (self.seed, "debug head", done - 1)
        head, description = (
            self.new_head(*key),
            f"{self.study.learning_method} seed {self.seed} throw-away head",
        )
        head_training = training.Head(
            self.model.encoder, head, self.study.data, settings.from_flags(settings.HeadTraining, flags)
        )
        epochs = range(min(DEBUG_HEAD_EPOCHS, flags.head_epochs))
        history = training.fit(head_training, training.TrainingContext(key, description), epochs)
        logger.info(
            "%s after epoch %d: test accuracy %.2f %%", description, done, 100 * history[-1]["test_accuracy"]
        )

    def classifier(self) -> Classifier:
        return models.ContrastiveClassifier(self.model.encoder, self.head)

    @staticmethod
    def payloads(classifier: Classifier) -> tuple[dict, ...]:
        """Returns the encoder without projection head, as published, and the classifier head."""
        states = (
            records.cpu_state(classifier.encoder),
            records.cpu_state(classifier.classification_head),
        )
        return {"model": states[0]}, {"head": states[1]}


Learner = SupervisedLearner | ContrastiveLearner


def learner_of(study: Study) -> Callable[..., Learner]:
    """Returns the learner class of the study's learning method."""
    return {"supervised": SupervisedLearner, **dict.fromkeys(LOSSES, ContrastiveLearner)}[
        study.learning_method
    ]
