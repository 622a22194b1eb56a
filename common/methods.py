"""Names of pruning methods in file names, flags, tables and figures, made of schedule, scope and criterion.

Does not import torch, so that `--help` answers at once.

    dense                        not pruned
    finetuned                    control: not pruned, finetuned like one-shot networks
    small_dense                  not pruned, but narrower: as many weights as remain at a sparsity
    global, layer                one-shot, by magnitude, over the whole network or in each tensor
    global_snip                  one-shot, by a different criterion
    GMP, later_GMP               gradual, early or late, by magnitude in each tensor
    GMP_global_snip              gradual, with a different scope and criterion
    global_iterative0.2_rewind0  iterative: 20 % of the remaining weights each time, then back to epoch 0
"""

import re
from dataclasses import dataclass

from common.criteria import CRITERIA

SCOPES = ("global", "layer", "erk")
# Values of --after that repeat the dense training; `finetune` trains with the flags of the script.
RETRAINED = ("rewind", "reinit", "lr_rewind")
AFTER = (*RETRAINED, "finetune")
REWOUND = ("rewind", "lr_rewind")  # values of --after with a --rewind_epoch
GRADUAL = {"early": "GMP", "late": "later_GMP"}
# --schedule -> (first step, last step, steps between) of gradual pruning. The steps of the late contrastive,
# the early supervised and the head's schedules are published; the other two are ours.
SCHEDULE_STEPS = {
    "encoder": {"early": (62, 2382, 62), "late": (2440, 4760, 62)},
    "supervised": {"early": (1000, 20000, 500), "late": (20000, 39000, 500)},
    "head": {"early": (500, 10000, 250), "late": (500, 10000, 250)},
}
# Steps of the published trainings.
PUBLISHED_STEPS = {"encoder": 500 * 49, "supervised": 205 * 391, "head": 100 * 196}
INTERVALS = 38  # number of intervals between prunings in all published schedules
SMALL = "small_dense"
FINETUNED = "finetuned"
NOT_PRUNED = ("dense", FINETUNED, SMALL)  # methods without criterion and scope, named like their schedules


def is_filter_criterion(criterion: str) -> bool:
    """Whether the criterion ranks whole filters of convolutions."""
    return criterion.startswith("filter_")


def default_scope(schedule: str, criterion: str) -> str:
    """Returns the published scope: global for one-shot pruning, layer for gradual pruning. Filters are always
    ranked within their layer."""
    return "layer" if schedule in GRADUAL or is_filter_criterion(criterion) else "global"


@dataclass(frozen=True)
class PruningMethod:
    """How networks are pruned.

    schedule: dense, finetuned, small_dense, one-shot, early, late or iterative. Only iterative pruning has
    rate (the share of the remaining weights that each iteration prunes), after and rewind_epoch.
    """

    schedule: str
    criterion: str = "magnitude"
    scope: str = "global"
    rate: float = 0.0
    after: str = ""
    rewind_epoch: int = 0

    @property
    def gradual(self) -> bool:
        return self.schedule in GRADUAL

    @property
    def trained_alone(self) -> bool:
        """Whether its networks are trained from scratch instead of from dense networks."""
        return self.gradual or self.schedule in ("dense", SMALL)

    @property
    def finetuned(self) -> bool:
        """Whether the whole classifier is finetuned at the end. Encoder and head then have the same number of
        epochs."""
        return self.schedule in (FINETUNED, "one-shot", "iterative") and self.after not in RETRAINED

    def __str__(self) -> str:
        if self.schedule in NOT_PRUNED:
            return self.schedule
        words = [GRADUAL[self.schedule]] if self.gradual else []
        if self.scope != "layer" or not (self.gradual or is_filter_criterion(self.criterion)):
            words.append(self.scope)
        if self.criterion != "magnitude":
            words.append(self.criterion)
        if self.schedule == "iterative":
            epoch = self.rewind_epoch if self.after in REWOUND else ""
            words += [f"iterative{self.rate}", f"{self.after}{epoch}"]
        return "_".join(words)


_NAME = re.compile(
    rf"(?:(?P<gradual>GMP|later_GMP)(?:_|$))?(?:(?P<scope>{'|'.join(SCOPES)})(?:_|$))?"
    rf"(?:(?P<criterion>{'|'.join(map(re.escape, sorted(CRITERIA, key=len, reverse=True)))})(?:_|$))?"
    r"(?:iterative(?P<rate>0\.\d*[1-9]\d*)_(?P<after>(?:lr_)?rewind(?=\d)|reinit$|finetune$)"
    r"(?P<rewind_epoch>\d*))?"
)


def parse_method(name: str) -> PruningMethod | None:
    """Parses the name of a pruning method; returns None if it is not one."""
    if name in NOT_PRUNED:
        return PruningMethod(name)
    match = _NAME.fullmatch(name)
    if not match or not name:
        return None
    schedule = next(
        (word for word, tag in GRADUAL.items() if tag == match["gradual"]),
        "iterative" if match["rate"] else "one-shot",
    )
    criterion = match["criterion"] or "magnitude"
    method = PruningMethod(
        schedule,
        criterion,
        match["scope"] or default_scope(schedule, criterion),
        float(match["rate"] or 0),
        match["after"] or "",
        int(match["rewind_epoch"] or 0),
    )
    if is_filter_criterion(criterion) and method.scope != "layer":
        return None
    return method if str(method) == name else None


def with_sparsity(method: str, sparsity: float) -> str:
    """Adds the sparsity to a method's name, for titles and labels. Narrower networks are not pruned, but have
    as many weights as pruned ones."""
    if method.endswith(FINETUNED):
        return f"{method}, not pruned"
    as_many = "as many weights as at " if method.endswith(SMALL) else ""
    return f"{method}, {as_many}{100 * sparsity:g} % pruned" if sparsity else method


def iteration_sparsity(rate: float, iteration: int) -> float:
    """Returns the sparsity after `iteration` prunings of the share `rate` of the remaining weights, rounded
    to four digits, as in file names."""
    return round(1 - (1 - rate) ** iteration, 4)


def order(name: str) -> tuple:
    """Returns a key that sorts methods in tables and figures: dense, finetuned, one-shot, early, late,
    iterative, small_dense, then by name."""
    schedules = ("dense", FINETUNED, "one-shot", "early", "late", "iterative", SMALL)
    return schedules.index(parse_method(name).schedule), len(name), name
