"""What a pruning method is called: one word for file names, flags, tables and figures, made of schedule,
scope and criterion.

Only the standard library is imported here, so that `--help` answers at once.

    dense                        not pruned
    finetuned                    dense ones, finetuned as one-shot networks are, nothing pruned: their control
    small_dense                  not pruned, narrower: as many weights as are left at a sparsity
    global, layer                one-shot, by magnitude, over the whole network or in each tensor
    global_snip                  one-shot, by another criterion
    GMP, later_GMP               gradual, early or late, by magnitude in each tensor
    GMP_global_snip              gradual, of another scope and criterion
    global_iterative0.2_rewind0  iterative: 20 % of what remains each time, then back to epoch 0
"""

import re
from dataclasses import dataclass

from common.criteria import CRITERIA

SCOPES = ("global", "layer", "erk")
AFTER = ("rewind", "reinit", "lr_rewind", "finetune")
REWOUND = ("rewind", "lr_rewind")  # to an epoch
GRADUAL = {"early": "GMP", "late": "later_GMP"}
# --schedule: (first step, last step, steps between) of pruning while training, and the steps of the whole
# published training. Published are the late contrastive, the early supervised and the head's steps; early
# contrastive and late supervised are ours.
SCHEDULE_STEPS = {
    "contrastive": {"early": (62, 2382, 62), "late": (2440, 4760, 62)},
    "supervised": {"early": (1000, 20000, 500), "late": (20000, 39000, 500)},
    "head": {"early": (500, 10000, 250), "late": (500, 10000, 250)},
}
PUBLISHED_STEPS = {"contrastive": 500 * 49, "supervised": 205 * 391, "head": 100 * 196}
INTERVALS = 38  # between the first and the last pruning, in all published schedules
SMALL = "small_dense"
FINETUNED = "finetuned"
NOT_PRUNED = ("dense", FINETUNED, SMALL)  # schedules without criterion and scope, whose names they are
# Trained as the dense network was; `finetune` and one-shot networks have a short training of their own.
RETRAINED = ("rewind", "reinit", "lr_rewind")


def is_filter_criterion(criterion: str) -> bool:
    """Whether the criterion ranks whole filters of convolutions."""
    return criterion.startswith("filter_")


def default_scope(schedule: str, criterion: str) -> str:
    """As published: one-shot pruning is global, gradual pruning per layer. Filters are ranked within their
    layer."""
    return "layer" if schedule in GRADUAL or is_filter_criterion(criterion) else "global"


@dataclass(frozen=True)
class PruningMethod:
    """schedule: dense, finetuned, small_dense, one-shot, early, late or iterative. rate (the share of what
    remains, pruned in every iteration), after and rewind_epoch belong to iterative pruning."""

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
        """Whether its networks come from no dense ones."""
        return self.gradual or self.schedule == SMALL

    @property
    def finetuned(self) -> bool:
        """Whether the whole classifier was trained last, with one number of epochs for the encoder and its
        head."""
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
            words += [
                f"iterative{self.rate}",
                f"{self.after}{self.rewind_epoch}" if self.after in REWOUND else self.after,
            ]
        return "_".join(words)


_NAME = re.compile(
    rf"(?:(?P<gradual>GMP|later_GMP)(?:_|$))?(?:(?P<scope>{'|'.join(SCOPES)})(?:_|$))?"
    rf"(?:(?P<criterion>{'|'.join(map(re.escape, sorted(CRITERIA, key=len, reverse=True)))})(?:_|$))?"
    r"(?:iterative(?P<rate>0\.\d*[1-9]\d*)_(?P<after>(?:lr_)?rewind(?=\d)|reinit$|finetune$)"
    r"(?P<rewind_epoch>\d*))?"
)


def parse_method(name: str) -> PruningMethod | None:
    """The pruning method of that name, or None where it is not the name of one."""
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


def describe(name: str) -> str:
    """A method in the words of titles and messages."""
    method = parse_method(name)
    if method.schedule == "dense":
        return "dense"
    if method.schedule == FINETUNED:
        return "finetuned, not pruned"
    if method.schedule == SMALL:
        return "narrower dense networks of as many weights"
    scope = {"global": "global", "layer": "layer-wise", "erk": "Erdős-Rényi"}[method.scope]
    criterion = "" if method.criterion == "magnitude" else f" by {method.criterion}"
    if method.gradual:
        return f"{method.schedule} gradual{'' if method.scope == 'layer' else f' {scope}'} pruning{criterion}"
    if method.schedule == "one-shot":
        return f"one-shot {scope} pruning{criterion}"
    after = {
        "rewind": f"rewound to epoch {method.rewind_epoch}",
        "reinit": "reinitialised",
        "lr_rewind": f"learning rate rewound to epoch {method.rewind_epoch}",
        "finetune": "finetuned",
    }[method.after]
    return f"iterative {scope} pruning{criterion}, {100 * method.rate:g} % an iteration, {after}"


def with_sparsity(method: str, sparsity: float) -> str:
    """A method with its sparsity, in titles and labels: narrower networks have none, but as many weights."""
    if method.endswith(FINETUNED):
        return f"{method}, not pruned"
    as_many = "as many weights as at " if method.endswith(SMALL) else ""
    return f"{method}, {as_many}{100 * sparsity:g} % pruned" if sparsity else method


def iteration_sparsity(rate: float, iteration: int) -> float:
    """The sparsity after so many iterations, each of which prunes the share `rate` of what remains; four
    digits, as in file names."""
    return round(1 - (1 - rate) ** iteration, 4)


def order(name: str) -> tuple:
    """The order of methods in tables and figures: dense, finetuned, one-shot, early, late, iterative,
    small_dense; within these by name."""
    schedules = ("dense", FINETUNED, "one-shot", "early", "late", "iterative", SMALL)
    return schedules.index(parse_method(name).schedule), len(name), name
