"""DINO's loss: docstring, checks, schema, fake, autograd. The maths is in the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define

Views = Tensor | Sequence[Tensor]

_backend.register(
    "dino_loss",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def dino_loss(
    student_logits: Views,
    teacher_logits: Views,
    center: Tensor | None = None,
    student_temp: float | Tensor = 0.1,
    teacher_temp: float | Tensor = 0.04,
    skip_same_view: bool = True,
    *,
    row_weights: Tensor | None = None,
    soft_targets: bool = False,
) -> Tensor:
    r"""Cross-entropy between the views of a teacher and those of a student, without their softmaxes in memory.

    With p_vb = softmax_k(s_vbk / student_temp) of the student's view v of image b, q_tb =
    softmax_k((t_tbk - center_k) / teacher_temp) of the teacher's view t, and B_tv = min(B_t, B_v) images in both:

        loss = mean over pairs (t, v), t != v, of 1/B_tv sum_{b < B_tv} [ -sum_k q_tbk log p_vbk ]

    Args:
        student_logits: the student's S views, [S, B, K], or a list of views [B_v, K]; an item of the list may also be
            several views of one batch size, [V, B_v, K]. Row b of each view is of image b; a view may have the first
            B_v images alone. B, K >= 1; float32, float16, bfloat16 or float64; any strides.
        teacher_logits: the teacher's T views, [T, B, K] or a list, likewise; view t of the teacher and view t of the
            student are the same crop. Their dtype may differ from the student's, bfloat16 from float32, say, but
            float64 goes with float64 alone, and all views of one side have one dtype.
        center: what is subtracted from the teacher's logits: float [K], or [T, K], one a view; None for nothing. It is
            copied, and may be updated before the backward pass.
        student_temp, teacher_temp: temperatures > 0, numbers or 0-d tensors on the logits' device. A student_temp that
            requires grad gets its gradient. The value of a tensor on an accelerator is not checked, as that would
            synchronise the host: there, a temperature <= 0 gives a loss of NaN or inf.
        skip_same_view: leave out the pairs t = v, of the same crop.
        row_weights: float [B], B the largest batch of a view: sum_b row_weights_b [...] in place of the mean over rows.
        soft_targets: teacher_logits are the probabilities q themselves, such as those of Sinkhorn-Knopp; teacher_temp
            does not matter, and there is no center. They need not add up to 1.

    Returns:
        A 0-d float32 tensor (float64 for float64 logits).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shapes or devices that differ, an empty view or list, no pair of different views, a
            center along with soft_targets, or a temperature that is not a finite number > 0.
        RuntimeError: the backend that is forced cannot run this call, or a second derivative is asked for.

    The student's logits and temperature have gradients; nothing of the teacher's side has, even where it requires
    grad: teacher_logits, center, teacher_temp and row_weights are data. Logits and gradients apart, nothing of size
    [B, K] is made or saved, on any backend: the forward pass keeps one number for each row, the backward pass reads
    the logits once more. Autocast changes no dtype: 16-bit logits are read as they are. Exponentials are taken in
    float32 relative to the row's maximum, and the sums that cancel in float64, so that a constant added to a row of
    logits changes nothing, whatever the temperature. The second derivative is refused.

    NaN in a row that counts, or inf where it has no limit, gives NaN, as in eager PyTorch: a teacher's logit of -inf
    is a probability of 0, a student's of -inf costs inf where q > 0 and NaN where q = 0, for 0 times -inf is NaN.
    CPU results are bit-identical from run to run for a given thread count.

    Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, eq. 3 and algorithm 1.

    >>> loss = dino_loss([student_global, student_local], teacher_global, center)  # [2, B, K], [8, B, K]; [2, B, K]
    """
    students, teachers = _stacks("student_logits", student_logits), _stacks("teacher_logits", teacher_logits)
    first = students[0]
    _sides_agree(first, teachers[0])
    s, t = (sum(x.shape[0] for x in stacks) for stacks in (students, teachers))
    if skip_same_view and s == t == 1:
        raise ValueError("skip_same_view: got True for one view on each side, which leaves no pair; want False")
    if center is not None:
        if soft_targets:
            raise ValueError("center: got one along with soft_targets, which are probabilities already; want None")
        center = _center(center, t, first)
    if row_weights is not None:
        rows = max(x.shape[1] for x in (*students, *teachers))
        row_weights = weights_of_rows("row_weights", row_weights, rows, first)
    student_tau = _checks.positive_scalar("student_temp", student_temp, first.device)
    teacher_tau = _checks.positive_scalar("teacher_temp", teacher_temp, first.device)
    loss: Tensor = torch.ops.fastssl.dino_loss(
        students, [x.detach() for x in teachers], center, student_tau, teacher_tau.detach(), row_weights,
        bool(skip_same_view), bool(soft_targets), _backend.requested(),
    )[0]  # fmt: skip
    return loss


def _stacks(name: str, logits: object) -> list[Tensor]:
    """Check the views of one side and return them as stacks [V, B_v, K], none of them copied."""
    if isinstance(logits, Tensor):
        return [_checks.float_tensor(name, logits, "[V, B, K]")]
    if not isinstance(logits, (list, tuple)):
        raise TypeError(f"{name}: got {type(logits).__name__}, want a tensor [V, B, K] or a list of views [B, K]")
    if not logits:
        raise ValueError(f"{name}: got an empty list, want at least one view")
    stacks: list[Tensor] = []
    for i, view in enumerate(logits):
        each = f"{name}[{i}]"
        stacked = isinstance(view, Tensor) and view.ndim == 3
        x = _checks.float_tensor(each, view, "[V, B, K]" if stacked else "[B, K]")
        stacks.append(x if stacked else x.unsqueeze(0))
        like = stacks[0]
        if x.shape[-1] != like.shape[-1]:
            raise ValueError(f"{each}: got width {x.shape[-1]}, want that of {name}[0], {like.shape[-1]}")
        if x.dtype != like.dtype:
            raise TypeError(f"{each}: got dtype {x.dtype}, want that of {name}[0], {like.dtype}")
        if x.device != like.device:
            raise ValueError(f"{each}: got device {x.device}, want that of {name}[0], {like.device}")
    return stacks


def _sides_agree(student: Tensor, teacher: Tensor) -> None:
    if teacher.shape[-1] != student.shape[-1]:
        raise ValueError(
            f"teacher_logits: got width {teacher.shape[-1]}, want that of student_logits, {student.shape[-1]}"
        )
    if teacher.device != student.device:
        raise ValueError(f"teacher_logits: got device {teacher.device}, want that of student_logits, {student.device}")
    if (teacher.dtype == torch.float64) != (student.dtype == torch.float64):
        raise TypeError(
            f"teacher_logits: got dtype {teacher.dtype} for {student.dtype} students, want float64 for both"
        )


def _center(center: object, views: int, like: Tensor) -> Tensor:
    """Check a center [K] or [T, K] and return it as [1, K] or [T, K]."""
    width = like.shape[-1]
    if not isinstance(center, Tensor) or not center.is_floating_point():
        got = f"dtype {center.dtype}" if isinstance(center, Tensor) else type(center).__name__
        raise TypeError(f"center: got {got}, want a float tensor [{width}] or [{views}, {width}]")
    # Not a comparison of tuples, which is false where a size is symbolic and the other one a number.
    if center.ndim not in (1, 2) or center.shape[-1] != width or (center.ndim == 2 and center.shape[0] != views):
        raise ValueError(f"center: got shape {tuple(center.shape)}, want [{width}] or [{views}, {width}]")
    if center.device != like.device:
        raise ValueError(f"center: got device {center.device}, want that of student_logits, {like.device}")
    center = center.detach()
    return center if center.ndim == 2 else center.unsqueeze(0)


def weights_of_rows(name: str, weights: object, rows: int, like: Tensor) -> Tensor:
    """Check a weight for each row and return them without gradient in the type of the loss."""
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        got = f"dtype {weights.dtype}" if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"{name}: got {got}, want a float tensor [{rows}]")
    if tuple(weights.shape) != (rows,):
        raise ValueError(f"{name}: got shape {tuple(weights.shape)}, want [{rows}], one for each row")
    if weights.device != like.device:
        raise ValueError(f"{name}: got device {weights.device}, want that of student_logits, {like.device}")
    return weights.detach().to(_exact(like)).contiguous()


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(stacks: list[Tensor]) -> list[Tensor]:
    """Stacks whose rows are contiguous, which the kernels ask for."""
    return [x if x.stride(-1) == 1 else x.contiguous() for x in stacks]


def _forward(
    students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor, teacher_temp: Tensor,
    row_weights: Tensor | None, skip_same_view: bool, soft_targets: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("dino_loss", students[0], backend)
    exact = _exact(students[0])
    # A copy, which the next update does not reach. It is made in here, as a compiler may find one outside needless.
    kept = None if center is None else center.to(exact, copy=True, memory_format=torch.contiguous_format)
    loss, student_lse, teacher_norm = kernels.dino_loss_fwd(
        _rows(students), _rows(teachers), kept, student_temp, teacher_temp, row_weights, skip_same_view, soft_targets
    )
    none = loss.new_empty((0,), dtype=exact)
    return loss.to(exact), student_lse, teacher_norm, none if kept is None else kept


def _forward_fake(
    students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor, teacher_temp: Tensor,
    row_weights: Tensor | None, skip_same_view: bool, soft_targets: bool, backend: str,
) -> Any:  # fmt: skip
    first = students[0]
    # Log-sum-exps are kept in float64: rounded to float32, they would shift every probability of their row.
    lse, norm = (
        first.new_empty((sum(x.shape[0] for x in side), max(x.shape[1] for x in side)), dtype=torch.float64)
        for side in (students, teachers)
    )
    exact = _exact(first)
    return (
        first.new_empty((), dtype=exact),
        lse,
        norm,
        first.new_empty((0,) if center is None else center.shape, dtype=exact),
    )


def _backward(
    grad: Tensor, students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor,
    teacher_temp: Tensor, row_weights: Tensor | None, student_lse: Tensor, teacher_norm: Tensor, skip_same_view: bool,
    soft_targets: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("dino_loss", students[0], backend)
    return kernels.dino_loss_bwd(
        grad, _rows(students), _rows(teachers), center, student_temp, teacher_temp, row_weights, student_lse,
        teacher_norm, skip_same_view, soft_targets,
    )  # fmt: skip


def _backward_fake(grad: Tensor, students: list[Tensor], *rest: Any) -> Any:
    return [x.new_empty(x.shape) for x in students], students[0].new_empty((), dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    students, teachers, center, *others, ctx.skip_same_view, ctx.soft_targets, ctx.backend = inputs
    ctx.students, ctx.teachers = len(students), len(teachers)
    *norms, kept = output[1:]
    ctx.save_for_backward(*students, *teachers, None if center is None else kept, *others, *norms)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *unused: Any) -> tuple[Any, ...]:
    none = [None] * ctx.students, [None] * ctx.teachers, *(None,) * 7
    if grad is None:
        return none
    saved = ctx.saved_tensors
    students, teachers = saved[: ctx.students], saved[ctx.students : ctx.students + ctx.teachers]
    center, student_temp, teacher_temp, row_weights, student_lse, teacher_norm = saved[ctx.students + ctx.teachers :]
    grads, grad_temp = torch.ops.fastssl.dino_loss_backward(
        grad, students, teachers, center, student_temp, teacher_temp, row_weights, student_lse, teacher_norm,
        ctx.skip_same_view, ctx.soft_targets, ctx.backend,
    )  # fmt: skip
    need_students, need_temp = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    grads = [g if needed else None for g, needed in zip(grads, need_students, strict=True)]
    return grads, none[1], None, grad_temp.to(student_temp) if need_temp else None, *none[4:]


def _refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "fastssl.functional.dino_loss and ibot_loss have no second derivative; use create_graph=False here"
    )


define(
    "dino_loss(Tensor[] students, Tensor[] teachers, Tensor? center, Tensor student_temp, Tensor teacher_temp,"
    " Tensor? row_weights, bool skip_same_view, bool soft_targets, str backend)"
    " -> (Tensor loss, Tensor student_lse, Tensor teacher_norm, Tensor kept_center)",
    _forward, _forward_fake, _differentiate, _save,
)  # fmt: skip
define(
    "dino_loss_backward(Tensor grad, Tensor[] students, Tensor[] teachers, Tensor? center, Tensor student_temp,"
    " Tensor teacher_temp, Tensor? row_weights, Tensor student_lse, Tensor teacher_norm, bool skip_same_view,"
    " bool soft_targets, str backend) -> (Tensor[] grads, Tensor grad_student_temp)",
    _backward, _backward_fake, _refuse, lambda ctx, inputs, output: None,
)  # fmt: skip
