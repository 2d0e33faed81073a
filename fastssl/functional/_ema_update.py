"""A teacher network that follows a student as its exponential moving average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from .._wide import Wide

_HALVES = (torch.float16, torch.bfloat16)
_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)
_VALUES = "float32_values"  # the submodule of a teacher of 16 bits


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float | Tensor) -> None:
    r"""Move a teacher towards a student, in place: an exponential moving average of its weights.

        t <- m t + (1 - m) s        for each parameter and each floating or complex buffer; other buffers are copied

    Args:
        teacher: any module. Its tensors may require gradients, and are of any types.
        student: a module with the same parameters and buffers by name and shape, of any types and on any device; it may
            be wrapped by DistributedDataParallel or compiled. No tensor of the teacher may be one of the student's.
        momentum: m in [0, 1], a number or a 0-d float tensor on the teacher's device. A tensor on an accelerator is not
            read, so that a CUDA graph of the update can be replayed with other values in it.

    Raises:
        TypeError, ValueError: an argument is of another type, shape, device or value; the message names it.

    The average is computed in float32 (float64 for a float64 teacher) whatever the types. 16 bits cannot hold it: of a
    weight near 1, a step under 0.002 (bfloat16) or 0.0002 (float16) rounds to none. On the first call, a teacher of 16
    bits therefore gets a submodule `float32_values`, whose buffers are the exact values under the same names. They are
    part of its state dict, keep their type under ``.to()``, ``.half()`` and ``.bfloat16()``, and are rounded to the
    teacher's weights in each call. A state dict without them, such as the student's, loads as well: the average goes on
    from what was loaded. It does not go on from weights that are written to by hand. To load a state dict with them
    into a teacher that has none yet, call ``ema_update(teacher, student, 1.0)`` before, which changes nothing else. A
    teacher that is cast up to float32 takes them over in the next call, and drops them.

    A parameter of float32 costs 12 bytes of traffic, by either form of momentum: a number takes a few launches for all
    parameters, a tensor one launch for each. Students of another type are cast first, all at once.

    Source: Tarvainen and Valpola, Mean Teachers Are Better Role Models, 2017, eq. 1; BYOL and DINO in the same form.

    >>> teacher = copy.deepcopy(student).requires_grad_(False)
    >>> fastssl.functional.ema_update(teacher, student, 0.996)
    """
    for name, module in (("teacher", teacher), ("student", student)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name}: got {type(module).__name__}, want an nn.Module")
    teacher = _unwrapped(teacher)
    pairs = _pairs(teacher, _unwrapped(student))
    check_momentum(momentum, {t.device for t, _ in pairs.values()}, "the teacher's")
    exact = _exact_values(teacher, {name: t for name, (t, _) in pairs.items()})

    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for name, (t, s) in pairs.items():
        if t.is_floating_point() or t.is_complex():
            average = exact.get(name, t)
            mine, theirs = groups.setdefault((average.device, average.dtype), ([], []))
            mine.append(average)
            theirs.append(s if s.dtype == average.dtype and s.device == average.device else s.to(average))
        else:
            t.copy_(s)
    for (_, dtype), (mine, theirs) in groups.items():
        # The host would read a 0-d tensor in the place of a number, but not a list of them.
        step: Any = step_of(momentum, dtype)
        torch._foreach_lerp_(mine, theirs, [step] * len(mine) if isinstance(step, Tensor) else step)
    if exact:
        torch._foreach_copy_([pairs[name][0] for name in exact], list(exact.values()))


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module in wrappers that put a word before the names of its tensors."""
    while isinstance(module, _WRAPPERS) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, _WRAPPERS) else module._orig_mod  # type: ignore[assignment]
    return module


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under all of their names, without the exact values that a teacher keeps."""
    found, parts = {}, [("", module)]
    while parts:
        path, part = parts.pop()
        for own in (part._parameters, part._buffers):
            found.update({path + leaf: t for leaf, t in own.items() if t is not None})
        for name, child in reversed(part._modules.items()):  # so that the first one is the next to be taken
            if child is not None and not isinstance(child, _Float32Values):
                # Parts that are compiled in place have one more word in their path.
                parts.append((path if name == "_orig_mod" else f"{path}{name}.", child))
    return found


def _pairs(teacher: nn.Module, student: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the tensors of both by name, each of the teacher's once; those with several names have one."""
    mine, theirs = _tensors(teacher), _tensors(student)
    for owner, names, other in (("student", mine.keys() - theirs.keys(), "teacher"),
                                ("teacher", theirs.keys() - mine.keys(), "student")):  # fmt: skip
        if names:
            raise ValueError(f"{owner}: got no tensor {min(names)!r}, want the parameters and buffers of the {other}")
    seen: set[int] = set()
    pairs = {}
    for name, t in mine.items():
        s = theirs[name]
        if s.shape != t.shape:
            raise ValueError(f"student: got {name!r} of shape {tuple(s.shape)}, want the teacher's, {tuple(t.shape)}")
        if t.untyped_storage()._cdata == s.untyped_storage()._cdata and t.storage_offset() == s.storage_offset():
            raise ValueError(f"teacher: got {name!r}, which is the student's own tensor, want a copy of it")
        if id(t) not in seen:
            seen.add(id(t))
            pairs[name] = t, s
    return pairs


def check_momentum(momentum: float | Tensor, devices: set[torch.device], whose: str) -> None:
    """Check a number in [0, 1], or a 0-d tensor on all of these devices, which is read on a CPU alone."""
    if not isinstance(momentum, Tensor):
        _checks.fraction("momentum", momentum)
        return
    if momentum.ndim != 0 or not momentum.dtype.is_floating_point:
        got = f"{momentum.dtype} tensor of shape {tuple(momentum.shape)}"
        raise ValueError(f"momentum: got a {got}, want a number or a 0-d float tensor")
    for device in devices - {momentum.device}:
        raise ValueError(f"momentum: got a tensor on {momentum.device}, want {whose} device, {device}")
    if momentum.device.type == "cpu" and not torch.compiler.is_compiling():
        _checks.fraction("momentum", float(momentum))


def step_of(momentum: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """Return 1 - momentum, the difference of numbers that are close, with all the digits that momentum has."""
    if not isinstance(momentum, Tensor):
        return 1 - momentum
    return (1 - momentum.to(torch.promote_types(momentum.dtype, dtype))).to(dtype)


class _Float32Values(Wide):
    """The exact values of tensors of 16 bits, in a tree of modules with their names. No cast changes their type."""

    def __init__(self) -> None:
        super().__init__()
        self.outdated = False  # by a state dict that came without them

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.outdated = bool(self._buffers) and not any(prefix + name in state_dict for name in self._buffers)
        if not self.outdated:
            super()._load_from_state_dict(state_dict, prefix, *rest)


def _exact_values(teacher: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 values of a teacher's tensors of 16 bits by name; those of wider ones are handed back."""
    halves = {name: t for name, t in tensors.items() if t.dtype in _HALVES}
    root: Any = teacher._modules.get(_VALUES)
    if root is None:
        if not halves:
            return {}
        root = _Float32Values()
        teacher.add_module(_VALUES, root)
    exact = {}
    for name, t in tensors.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, _Float32Values())
            node = node._modules[part]
        kept = node._buffers.get(leaf)
        if t.dtype in _HALVES:
            if kept is None:
                node.register_buffer(leaf, t.float())
            elif node.outdated:
                kept.copy_(t)
            exact[name] = node._buffers[leaf]
        elif kept is not None:
            if not node.outdated:
                t.copy_(kept)
            del node._buffers[leaf]
    for node in root.modules():
        node.outdated = False
    if not halves:
        delattr(teacher, _VALUES)
    return exact
