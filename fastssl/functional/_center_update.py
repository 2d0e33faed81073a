"""The moving mean of a teacher's logits, which keeps DINO from one and the same answer to everything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .. import _checks
from ._ema_update import check_momentum, step_of

_WIDENED = 1 << 20  # elements of 16 bits that a CPU widens at a time


@torch.no_grad()
def center_update(
    center: Tensor,
    teacher_logits: Tensor | Sequence[Tensor],
    momentum: float | Tensor = 0.9,
    *,
    gather_distributed: bool = True,
) -> None:
    r"""Move a centre towards the mean of a teacher's logits, in place.

        c_k <- m c_k + (1 - m) mean_b t_bk        over all rows b of all views, and of all processes

    Args:
        center: c, [K], float32 or float64, any strides.
        teacher_logits: t, [..., B, K], or a list of such views; float64, float32, float16 or bfloat16, any strides.
        momentum: m in [0, 1], a number or a 0-d float tensor on the device of the centre, which is not read there.
        gather_distributed: the mean over the rows of all processes of torch.distributed's default group, if there is
            one. They may have different numbers of rows, and some of them none: sums and counts are exchanged, in one
            collective.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Sums are in float32, or float64 for float64 logits, which are read once. Nothing waits for the device.

    Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, eq. 4.

    >>> loss = fastssl.functional.dino_loss(student_logits, teacher_logits, center)
    >>> fastssl.functional.center_update(center, teacher_logits)
    """
    _checks.float_tensor("center", center, "[K]")
    if center.dtype.itemsize < 4:
        raise TypeError(f"center: got dtype {center.dtype}, want float32 or float64, which can hold a small step")
    check_momentum(momentum, {center.device}, "the centre's")
    if torch.compiler.is_compiling():
        momentum = _checks.scalar("momentum", momentum, center.device)  # a number would be a constant of the graph
    together = gather_distributed and in_group()
    total, rows = column_sums("teacher_logits", teacher_logits, center, empty=together)
    if together:
        from ._collectives import mean_of_processes

        mean = mean_of_processes(total, rows, center)
    else:
        mean = total / rows
    center.lerp_(mean.to(center.dtype), step_of(momentum, center.dtype))  # type: ignore[arg-type]


def in_group() -> bool:
    """Tell whether there are other processes in torch.distributed's default group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def column_sums(name: str, logits: object, center: Tensor, *, empty: bool = False) -> tuple[Tensor, int]:
    """Return the sums [K] over the rows of all views, in float32 or better, and the number of rows."""
    views = {f"{name}[{i}]": view for i, view in enumerate(logits)} if isinstance(logits, (list, tuple)) else None
    total, rows, width = None, 0, center.shape[0]
    for each, view in ({name: logits} if views is None else views).items():
        if not isinstance(view, Tensor) or view.dtype not in _checks._FLOATS:
            got = f"dtype {view.dtype}" if isinstance(view, Tensor) else type(view).__name__
            raise TypeError(f"{each}: got {got}, want a float tensor [..., B, K]")
        if view.ndim < 2 or view.shape[-1] != width:
            raise ValueError(f"{each}: got shape {tuple(view.shape)}, want [..., B, K] with the centre's K = {width}")
        if view.device != center.device:
            raise ValueError(f"{each}: got device {view.device}, want that of the centre, {center.device}")
        exact = torch.float64 if view.dtype == torch.float64 else torch.float32
        part = _sum_of_rows(view, exact)
        total = part if total is None else total + part
        rows += view.shape[:-1].numel()
    if total is None or (rows == 0 and not empty):
        raise ValueError(f"{name}: got no rows, want at least one")
    return total, rows


def _sum_of_rows(view: Tensor, exact: torch.dtype) -> Tensor:
    if view.device.type != "cpu" or view.dtype == exact or not view.is_contiguous() or torch.compiler.is_compiling():
        return view.sum(tuple(range(view.ndim - 1)), dtype=exact)
    # Summed at once a CPU would widen them all into main memory, and takes ten times as long.
    total = torch.zeros(view.shape[-1], dtype=exact)
    for part in view.flatten(0, -2).split(max(1, _WIDENED // view.shape[-1])):
        total += part.to(exact).sum(0)
    return total
