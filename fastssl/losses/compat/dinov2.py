"""The losses of `dinov2.loss`.

Differences from DINOv2:

- Sinkhorn-Knopp does not overflow, whatever logits and temperature are, and leaves `n_masked_patches_tensor` as it is;
  the original sums it over the processes in place. The number does not matter to the result. Neither does
  Sinkhorn-Knopp need a process group, nor KoLeo a CUDA device.
- The centre is the mean over the rows of all processes, which may have different numbers of them, where the original
  takes the mean of their means. It stays in float32 when the module is cast to 16 bits.
- `DINOLoss`, `iBOTPatchLoss`: float64 logits stay float64.
- `KoLeoLoss`: rows that are the same and rows of zeros have no gradient, where the original's is up to 1e8 times the
  others', or NaN in 16 bits; two rows that are opposite are neighbours; one row alone is an error.
- The probabilities of the teacher are tensors here as there, which `fastssl.losses.DINOLoss` and `IBOTLoss` never make.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import _checks
from ...functional import dino_loss, ibot_loss, sinkhorn
from ...functional._koleo import koleo_norm
from ._teachers import LateCentered, like_student, patch_weights

__all__ = ["DINOLoss", "KoLeoLoss", "iBOTPatchLoss"]


class DINOLoss(LateCentered):
    """Cross-entropy of a student's views with probabilities of a teacher; see `fastssl.functional.dino_loss`.

    Args:
        out_dim: K, the number of prototypes.
        student_temp: temperature of the student.
        center_momentum: part of the centre that stays at each step.

    The centre is the buffer `center` [1, K]. `update_center` begins to move it, and the next `softmax_center_teacher`
    ends that.
    """

    def __init__(self, out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9) -> None:
        super().__init__(out_dim, 2, center_momentum)
        self.student_temp = student_temp

    def sinkhorn_knopp_teacher(
        self, teacher_output: Tensor, teacher_temp: float | Tensor, n_iterations: int = 3
    ) -> Tensor:
        """Return the probabilities of logits [B, K], evenly spread over the prototypes by the rows of all processes."""
        _checks.positive_int("n_iterations", n_iterations)
        return sinkhorn(teacher_output, n_iterations, teacher_temp, assignments=True, gather_distributed=True)

    def forward(
        self,
        student_output_list: Tensor | Sequence[Tensor],
        teacher_out_softmaxed_centered_list: Tensor | Sequence[Tensor],
    ) -> Tensor:
        """Return the sum over all pairs of a student's logits [B, K] and a teacher's probabilities [B, K]."""
        students, teachers = list(student_output_list), list(teacher_out_softmaxed_centered_list)
        if not students or not teachers:
            raise ValueError(
                f"student_output_list: got {len(students)} by {len(teachers)} views, want at least one pair"
            )
        teachers = [like_student(t, students[0]) for t in teachers]
        loss = dino_loss(students, teachers, None, self.student_temp, skip_same_view=False, soft_targets=True)
        return loss * (len(students) * len(teachers))


class iBOTPatchLoss(LateCentered):
    """Cross-entropy of a student's patches with probabilities of a teacher; see `fastssl.functional.ibot_loss`.

    Args:
        patch_out_dim: K, the number of prototypes.
        student_temp: temperature of the student.
        center_momentum: part of the centre that stays at each step.

    The centre is the buffer `center` [1, 1, K], of patches [B, N, K]; see `DINOLoss`.
    """

    def __init__(self, patch_out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9) -> None:
        super().__init__(patch_out_dim, 3, center_momentum)
        self.student_temp = student_temp

    def sinkhorn_knopp_teacher(
        self,
        teacher_output: Tensor,
        teacher_temp: float | Tensor,
        n_masked_patches_tensor: Tensor | None = None,
        n_iterations: int = 3,
    ) -> Tensor:
        """Return the probabilities of logits [M, K], evenly spread over the prototypes by the rows of all processes."""
        _checks.positive_int("n_iterations", n_iterations)
        return sinkhorn(teacher_output, n_iterations, teacher_temp, assignments=True, gather_distributed=True)

    def forward(self, student_patch_tokens: Tensor, teacher_patch_tokens: Tensor, student_masks_flat: Tensor) -> Tensor:
        """Return the loss of logits and probabilities [B, N, K] of all patches; a mask [B, N] tells which count.

        It is the mean over the images of the mean over the masked patches of each.
        """
        _checks.float_tensor("student_patch_tokens", student_patch_tokens, "[B, N, K]")
        mask = student_masks_flat.to(torch.promote_types(student_patch_tokens.dtype, torch.float32))
        weights = mask / mask.sum(-1, keepdim=True).clamp(min=1.0)
        return self._loss(
            student_patch_tokens.flatten(0, 1), teacher_patch_tokens.flatten(0, 1), weights.flatten(), mask
        )

    def forward_masked(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int | None = None,
        masks_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of logits and probabilities [M, K] of the patches that a mask [B, N] has.

        Only the first `n_masked_patches` rows count, if that is given. `masks_weight` [M] are weights of the patches,
        by default 1 / (masked patches of the image).
        """
        rows = slice(n_masked_patches)
        student, teacher = student_patch_tokens_masked[rows], teacher_patch_tokens_masked[rows]
        if masks_weight is None:
            exact = torch.promote_types(student.dtype, torch.float32)
            masks_weight = patch_weights(student_masks_flat, len(student), exact)
        return self._loss(student, teacher, masks_weight, student_masks_flat)

    def _loss(self, student: Tensor, teacher: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        return ibot_loss(
            student, like_student(teacher, student), None, self.student_temp, weights=weights, samples=len(mask),
            soft_targets=True,
        )  # fmt: skip


class KoLeoLoss(torch.nn.Module):
    """KoLeo of each process's own rows; see `fastssl.functional.koleo`."""

    def pairwise_NNs_inner(self, x: Tensor) -> Tensor:
        """Return, for unit rows [N, d], which other one has the largest product with it, int64 [N]."""
        index: Tensor = torch.ops.fastssl.nearest_rows(x.detach())
        return index

    def forward(self, student_output: Tensor, eps: float = 1e-8) -> Tensor:
        """Return the loss of embeddings [N, d]."""
        return koleo_norm(student_output, eps, 1e-8, 2.0, False)
