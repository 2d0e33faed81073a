"""iBOT's loss on masked patches: docstring and checks over the op of DINO's loss."""

from __future__ import annotations

from torch import Tensor

from .. import _checks
from ._dino_loss import dino_loss, weights_of_rows


def ibot_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor | None = None,
    student_temp: float | Tensor = 0.1,
    teacher_temp: float | Tensor = 0.04,
    *,
    weights: Tensor | None = None,
    samples: int = 1,
    soft_targets: bool = False,
) -> Tensor:
    r"""Cross-entropy between a teacher and a student on the M masked patches of a batch of images.

    With p_m = softmax_k(s_mk / student_temp) and q_m = softmax_k((t_mk - center_k) / teacher_temp):

        loss = 1/samples sum_m weights_m [ -sum_k q_mk log p_mk ]

    Args:
        student_logits: the student's logits of the masked patches of all images, [M, K], M >= 1, K >= 1; float32,
            float16, bfloat16 or float64; any strides.
        teacher_logits: the teacher's logits of the same patches, [M, K]; their dtype may differ, but float64 goes with
            float64 alone.
        center, student_temp, teacher_temp, soft_targets: as for `fastssl.functional.dino_loss`; one center, [K].
        weights: float [M], a weight for each patch; 1/M by default. iBOT and DINOv2: 1 / (masked patches of its image).
        samples: the number of images, >= 1, those without masked patches included, where weights are given.

    Returns:
        A 0-d float32 tensor (float64 for float64 logits).

    Raises:
        TypeError, ValueError: as for `fastssl.functional.dino_loss`; weights of another shape, samples < 1.
        RuntimeError: the backend that is forced cannot run this call, or a second derivative is asked for.

    Gradients, memory, precision and determinism are those of `fastssl.functional.dino_loss`.

    Source: Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, 2022, eq. 2; Oquab et al., DINOv2, 2023.

    >>> per_image = mask.sum(1)  # of a mask [B, L]
    >>> weights = (1 / per_image.clamp_min(1))[:, None].expand_as(mask)[mask]
    >>> loss = ibot_loss(student_patches[mask], teacher_patches[mask], center, weights=weights, samples=len(mask))
    """
    student = _checks.float_tensor("student_logits", student_logits, "[M, K]")
    teacher = _checks.float_tensor("teacher_logits", teacher_logits, "[M, K]")
    m, k = student.shape
    if teacher.shape[0] != m:
        raise ValueError(f"teacher_logits: got {teacher.shape[0]} patches, want those of student_logits, {m}")
    if isinstance(center, Tensor) and center.ndim != 1:
        raise ValueError(f"center: got shape {tuple(center.shape)}, want [{k}]")
    _checks.positive_int("samples", samples)
    if weights is not None:
        weights = weights_of_rows("weights", weights, m, student) / samples
    loss = dino_loss(
        student.unsqueeze(0), teacher.unsqueeze(0), center, student_temp, teacher_temp, False, row_weights=weights,
        soft_targets=soft_targets,
    )  # fmt: skip
    return loss if weights is not None or samples == 1 else loss / samples
