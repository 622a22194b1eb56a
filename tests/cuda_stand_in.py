"""A stand-in for a CUDA device, on a CPU: what can be known of the GPU path without a GPU.

Its tensors are CPU tensors whose storage is tagged as being on `cuda`. A function mode answers `.device`,
`.is_cuda`, `.to`, `.cuda`, `device=...` and torch.cuda's questions. A dispatch mode sees every operation,
those of the backward pass too. It refuses tensors of different devices in one operation, and operations that
torch.use_deterministic_algorithms(True) refuses on CUDA. It counts waits for the device, copies to it, and
the bytes of live storages.

    with CudaStandIn() as device_stand_in, watched_training(device_stand_in):
        ...  # in a training step a wait or a copy to the device is refused

What it cannot see: kernels and their rounding, speed, streams and asynchrony, pinned memory, CUDA's random
numbers (dropout on the device draws others), workspaces and fragmentation, other processes (--workers),
torch.compile, precision settings, and `.device` inside torch's own Python functions, which it does not enter.
A gradient that autograd itself would copy between devices stays where it is.
"""

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, NAME = torch.device("cpu"), "stand-in"

# From the documentation of torch.use_deterministic_algorithms in torch 2.14: what throws on CUDA.
NONDETERMINISTIC = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward"),
    *("avg_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_unpool2d", "max_unpool3d"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
    *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward"),
    *("put_", "put", "histc", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
}
# ... and what throws with some arguments only.
NONDETERMINISTIC_WITH = {
    "bincount": lambda bound: bound["weights"] is not None,
    "median": lambda bound: "dim" in bound,
    "nanmedian": lambda bound: "dim" in bound,
    "scatter_reduce": lambda bound: bound["reduce"] == "prod",
    "scatter_reduce_": lambda bound: bound["reduce"] == "prod",
    "_embedding_bag_dense_backward": lambda bound: bound["mode"] == 2,
}
# The host needs a number from the device before it can go on: the shape or the value of the result.
WAITING = {
    *("_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount", "histc", "repeat_interleave"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "_linalg_check_errors"),
}


class Misuse(AssertionError):
    """What would fail, or wait, on a GPU."""


class CudaStandIn:
    """A context in which torch has CUDA devices that are none.

    Args:
        devices: how many there are.
    Attributes:
        phase: what the program is doing, as `during` sets it; in FORBIDDEN phases nothing may wait.
        waits, uploads: (phase, what) -> how often the host waited for the device, and how often it copied
            something to it (which waits too, for memory that is not pinned).
        live, peak: bytes of storages on the devices now, and at most.
    """

    FORBIDDEN = ("step",)

    def __init__(self, devices: int = 1):
        self.devices, self.phase = devices, ""
        self.waits: Counter = Counter()
        self.uploads: Counter = Counter()
        self.phases: Counter = Counter()
        self.live = self.peak = 0
        self.bound: torch.device | None = None  # where the tensors that are being made will be

    def __enter__(self) -> "CudaStandIn":
        answers = {
            "is_available": lambda: True,
            "device_count": lambda: self.devices,
            "current_device": lambda: 0,
            "get_device_name": lambda device=None: NAME,
            "synchronize": lambda device=None: self.wait("synchronize"),
            "memory_allocated": lambda device=None: self.live,
        }
        self.stack = contextlib.ExitStack()
        for name, answer in answers.items():
            self.stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        self.stack.enter_context(_Dispatch(self))
        self.stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, self.phase = self.phase, self.phase if self.phase in self.FORBIDDEN else phase
        self.phases[phase] += 1
        try:
            yield
        finally:
            self.phase = before

    def wait(self, what: str) -> None:
        if self.phase in self.FORBIDDEN:
            raise Misuse(f"{what}: waits for the device in a {self.phase}")
        self.waits[self.phase, what] += 1

    def upload(self, what: str) -> None:
        if self.phase in self.FORBIDDEN:
            raise Misuse(f"{what}: copies to the device in a {self.phase}")
        self.uploads[self.phase, what] += 1

    def place(self, tensor: Tensor, device: torch.device) -> None:
        """Tags the tensor's storage, and so all views of it."""
        storage = tensor.untyped_storage()
        present = getattr(storage, "stand_in", CPU)
        if present == device:
            return
        if present != CPU:
            storage.on_death()
        storage.stand_in = device
        if device != CPU:
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            storage.on_death = weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def device_of(tensor: Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "stand_in", CPU)


def as_device(device: torch.device | str | int) -> torch.device:
    """With its number, as torch gives it."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return device if device == CPU else torch.device("cuda", device.index or 0)


class _Functions(TorchFunctionMode):
    """Answers what Python asks of tensors, and remembers where new ones are to be."""

    def __init__(self, stand_in: CudaStandIn):
        super().__init__()
        self.stand_in = stand_in

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, tensor = dict(kwargs or {}), args[0] if args else None
        if func in QUESTIONS:
            return QUESTIONS[func](device_of(tensor))
        if func in MOVES:
            return self._move(tensor, *MOVES[func](args[1:], kwargs))
        if func in LEAVING and device_of(tensor) != CPU:
            self.stand_in.wait(func.__name__)
        if func in FOR_THE_CPU_ONLY and device_of(tensor) != CPU:
            raise Misuse(f"{func.__name__} of a tensor on {device_of(tensor)}")
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = as_device(kwargs.pop("device"))
        self._check(device)
        generator = kwargs.get("generator")
        if device != CPU and generator is not None and generator.device == CPU:
            raise Misuse(f"{func.__name__} on {device} with a generator of the CPU")
        if device != CPU and func in (torch.tensor, torch.as_tensor):
            self.stand_in.upload(func.__name__)
        with self._bound_for(device):
            made = func(*args, **kwargs, device=CPU)
        for each in tree_leaves(made):
            self.stand_in.place(each, device)
        return made

    def _move(self, tensor: Tensor, device, dtype, copy: bool, memory_format) -> Tensor:
        source = device_of(tensor)
        device = source if device is None else as_device(device)
        self._check(device)
        memory_format = memory_format or torch.preserve_format
        with self._bound_for(device):
            copy = copy or device != source
            return tensor.to(CPU, dtype or tensor.dtype, copy=copy, memory_format=memory_format)

    def _check(self, device: torch.device) -> None:
        if (device.index or 0) >= self.stand_in.devices:
            raise Misuse(f"{device} is none of {self.stand_in.devices} devices")

    @contextlib.contextmanager
    def _bound_for(self, device: torch.device) -> Iterator[None]:
        before, self.stand_in.bound = self.stand_in.bound, device
        try:
            yield
        finally:
            self.stand_in.bound = before


def _to(rest: tuple, kwargs: dict) -> tuple:
    copy = kwargs.pop("copy", False)
    device, dtype, _, memory_format = torch._C._nn._parse_to(*rest, **kwargs)
    return device, dtype, copy, memory_format


QUESTIONS = {
    Tensor.device.__get__: lambda device: device,
    Tensor.is_cuda.__get__: lambda device: device != CPU,
}
MOVES = {
    Tensor.to: _to,
    Tensor.cuda: lambda rest, kwargs: (rest[0] if rest else kwargs.get("device", 0), None, False, None),
    Tensor.cpu: lambda rest, kwargs: (CPU, None, False, None),
}
LEAVING = {Tensor.tolist, Tensor.untyped_storage, Tensor._typed_storage, Tensor.storage}
FOR_THE_CPU_ONLY = {Tensor.numpy, Tensor.__array__}


class _Dispatch(TorchDispatchMode):
    """Looks at every operation that torch does."""

    def __init__(self, stand_in: CudaStandIn):
        super().__init__()
        self.stand_in = stand_in

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            devices = {device_of(each) for each in tensors}
            name = func._schema.name.removeprefix("aten::")
            used = devices - {CPU}
            if used:
                self._look(func, name, args, kwargs, tensors)
            result = func(*args, **kwargs)
            goal = self.stand_in.bound or next(iter(used), CPU)
            for made in tree_leaves(result):
                if isinstance(made, Tensor) and device_of(made) == CPU and goal != CPU:
                    if not any(made.untyped_storage() is each.untyped_storage() for each in tensors):
                        self.stand_in.place(made, goal)
            if name == "_to_copy" and self.stand_in.bound and tensors:
                self._count_copy(name, device_of(tensors[0]), self.stand_in.bound)
            return result

    def _count_copy(self, name: str, source: torch.device, goal: torch.device) -> None:
        if goal == CPU and source != CPU:
            self.stand_in.wait(f"{name} to the CPU")
        elif goal != CPU and source == CPU:
            self.stand_in.upload(name)

    # What is looked at: the operation, its name without overload, its arguments, the tensors among them.
    def _look(self, func, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        stand_in, names = self.stand_in, [argument.name for argument in func._schema.arguments]
        defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
        bound = {**defaults, **dict(zip(names, args)), **kwargs}
        if name == "copy_":
            return self._count_copy(name, *(device_of(bound[each]) for each in ("src", "self")))
        if name in NONDETERMINISTIC or NONDETERMINISTIC_WITH.get(name, lambda bound: False)(bound):
            raise Misuse(f"{name} has no deterministic implementation on CUDA")
        strangers = tensors
        if name in ("index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"):
            strangers = [bound["self"]]
            self._look_at_index(name, bound)
        written = [bound[each.name] for each in func._schema.arguments if each.alias_info is not None]
        written = [each for each in tree_leaves(written) if isinstance(each, Tensor)]
        scalars_may_mix = torch.Tag.pointwise in func.tags or name.rstrip("_") in ("fill", "masked_fill")
        places = {
            device_of(each)
            for each in strangers
            if not (scalars_may_mix and each.dim() == 0 and not any(each is out for out in written))
            or device_of(each) != CPU
        }
        if len(places) > 1 or (strangers is not tensors and CPU in places):
            shapes = [f"{tuple(each.shape)} on {device_of(each)}" for each in tensors]
            raise Misuse(f"{name} of tensors on different devices: {', '.join(shapes)}")
        if name in WAITING and bound.get("output_size") is None:
            stand_in.wait(name)

    def _look_at_index(self, name: str, bound: dict) -> None:
        indices = [each for each in bound["indices"] if each is not None]
        values, masks = (
            bound.get("values"),
            [each for each in indices if each.dtype in (torch.bool, torch.uint8)],
        )
        if device_of(bound["self"]) == CPU:
            return  # an index on the device, refused below
        if values is not None and values.dim() and device_of(values) == CPU:
            raise Misuse(f"{name} of values on the CPU")
        if values is not None and values.numel() == 1 and not bound["accumulate"] and masks == indices[:1]:
            return  # torch fills by the mask
        if masks:
            self.stand_in.wait(f"{name} by a mask")
        for each in [*indices, *([] if values is None else [values])]:
            if device_of(each) == CPU:
                self.stand_in.upload(name)


@contextlib.contextmanager
def watched_training(stand_in: CudaStandIn) -> Iterator[None]:
    """Tells the stand-in what `common.training.fit` is doing: 'epoch' and in it 'scores' and 'masks' (of a
    pruning), 'step' (from the learning rate to the progress bar), 'save' (of a state or checkpoint).
    `phases["logged"]` counts epochs."""
    from common import pruning, training
    from common.store import prune, runs

    step = contextlib.ExitStack()

    def begin(original, *args):
        step.enter_context(stand_in.during("step"))
        return original(*args)

    def end(original, *args):
        step.close()
        return original(*args)

    def fit(original, *args, **kwargs):
        with stand_in.during("epoch"), step:  # an error leaves the step too
            return original(*args, **kwargs)

    def within(phase):
        def call(original, *args, **kwargs):
            with stand_in.during(phase):
                return original(*args, **kwargs)

        return call

    with contextlib.ExitStack() as patches:
        for module, name, call in (
            *((module, "fit", fit) for module in (training, runs, prune)),
            (training, "set_learning_rate", begin),
            (training, "advance", end),
            (training, "log_epoch", within("logged")),
            (pruning, "score_weights", within("scores")),
            (pruning, "next_masks", within("masks")),
            (torch, "save", within("save")),
        ):
            watched = functools.partial(call, getattr(module, name))
            patches.enter_context(mock.patch.object(module, name, watched))
        yield
