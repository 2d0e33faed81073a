"""DINOv2: DINO, with a second loss on patches that are masked for the student, and features that keep apart."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks
from .._settings import check
from ..functional import blockwise_masking
from ..losses import IBOTLoss, KoLeoLoss
from ._momentum import MomentumEncoder, cosine_momentum, in_precision_of
from ._multi_crop import GLOBAL_VIEWS
from ._vit import check_vit, encode_tokens
from .dino import DINO


class DINOv2(DINO):
    """DINOv2: DINO's student and teacher, of a vision transformer, with three losses.

        loss = dino_loss(features of all views)
             + ibot_weight ibot_loss(masked patches of the global views)
             + koleo_weight (koleo(features of global view 0) + koleo(features of global view 1))

    In half of the global views some patches are hidden from the student by a learned token; it predicts to which
    prototypes the teacher, which sees everything, assigns them. Both losses spread the teacher's logits evenly over the
    prototypes by Sinkhorn-Knopp. Training steps and schedules are those of `DINO`, but that the teacher's
    temperature rises at each step of its warm-up.

    Args:
        encoder: a VisionTransformer of timm without classifier, such as ``timm.create_model("vit_small_patch14_dinov2",
            num_classes=0, img_size=224, dynamic_img_size=True)``, with class token or without; or the name of one.
        mask_ratio: least and greatest part of the patches to hide in an image; ratios are spread evenly between.
        mask_probability: part of the images in which patches are hidden, in (0, 1].
        ibot_weight, koleo_weight: weights >= 0 of the two losses.
        separate_heads: a head of its own for the patches; otherwise one head does both.
        centering: "sinkhorn", "mean" or "none", as for `DINO`.
        momentum: part of the teacher that stays at the first step, in [0, 1); it rises to 1 along half a cosine.
        out_dim ... steps_per_epoch: as for `DINO`; `out_dim`, `hidden_dim` and `bottleneck_dim` of each head.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder cannot be masked.
        MissingExtraError: timm is not installed.

    How many patches are hidden in all is the same in every step, and nothing waits for the device. They are rectangles,
    as of `fastssl.functional.blockwise_masking`, and random patches where these do not come to the number. In several
    processes Sinkhorn-Knopp and KoLeo are over the images of all. The authors besides lower the learning rate from
    block to block, raise the weight decay to 0.4, clip each module's gradient rather than each parameter's, and search
    neighbours among the images of each process.

    Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision", and its code; Zhou et al.
    2022, "iBOT: Image BERT Pre-Training with Online Tokenizer".

    >>> method = fastssl.methods.DINOv2("vit_small_patch14_dinov2", steps_per_epoch=len(loader))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    # Of the authors, whose rate is 4e-3 for a batch of 1024.
    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "weight_decay": 0.04, "warmup_epochs": 10}

    def __init__(
        self,
        encoder: nn.Module | str,
        *,
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_probability: float = 0.5,
        ibot_weight: float = 1.0,
        koleo_weight: float = 0.1,
        separate_heads: bool = True,
        centering: str = "sinkhorn",
        momentum: float = 0.992,
        **options: Any,
    ) -> None:
        low, high = (_checks.fraction("mask_ratio", ratio) for ratio in mask_ratio)
        if not 0 < low <= high:
            raise ValueError(f"mask_ratio: got {mask_ratio}, want 0 < least <= greatest <= 1")
        if _checks.fraction("mask_probability", mask_probability) == 0:
            raise ValueError(f"mask_probability: got {mask_probability}, want a number in (0, 1]")
        for name, weight in (("ibot_weight", ibot_weight), ("koleo_weight", koleo_weight)):
            check(name, weight, (int, float), 0)
        super().__init__(encoder, centering=centering, momentum=momentum, **options)
        check_vit(self.encoder)
        self.mask_token = nn.Parameter(torch.zeros(self.width))
        self.patch_projector = head = self.new_head() if separate_heads else None
        self.patch_teacher = None if head is None else MomentumEncoder(nn.Identity(), head)
        like = self.loss
        self.patch_loss = IBOTLoss(
            like.out_dim, like.student_temp, like.teacher_temp, like.center_momentum, like.centering
        )
        self.koleo = KoLeoLoss(gather_distributed=True)
        self.mask_ratio, self.mask_probability = (low, high), mask_probability
        self.ibot_weight, self.koleo_weight = ibot_weight, koleo_weight

    def masks(self, n: int, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw which of the L patches of n images are hidden, M of them in all, whatever is drawn.

        Returns:
            mask bool [n, L]; ids int64 [M], the places of the hidden patches among all n L, in ascending order; weights
            float32 [M], 1 / (hidden patches of the image).
        """
        length, images = grid[0] * grid[1], max(1, int(n * self.mask_probability))
        low, high = (round(ratio * 10**6) for ratio in self.mask_ratio)

        def hidden(image: Any) -> Any:
            # In integers, which host and device cannot round differently: the host knows M without asking.
            return length * (2 * images * low + (high - low) * (2 * image + 1)) // (2 * images * 10**6)

        total = sum(max(1, hidden(image)) for image in range(images))
        which = torch.randperm(n, device=device)[:images]
        counts = hidden(torch.arange(images, device=device)).clamp(min=1)
        counts = torch.zeros(n, dtype=torch.int64, device=device).scatter(0, which, counts)
        blocks = blockwise_masking(n, grid, counts, min_patches=4, max_patches=max(1, length // 2), device=device)
        # Blocks first, then others at random up to the number.
        order = torch.rand(n, length, device=device).sub(blocks.float()).argsort(1).argsort(1)
        mask = order < counts[:, None]
        ids = mask.flatten().logical_not().argsort(stable=True)[:total]
        return mask, ids, 1 / counts[ids // length]

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of two global views and any number of local ones; move the centres.

        Raises:
            ValueError: the views are fewer, of different images, of one image alone, whose features have none to keep
                apart from, or of a size that the encoder does not take.
        """
        images, whole = self.check(views), torch.cat(views[:GLOBAL_VIEWS])
        embed: Any = self.encoder.patch_embed
        mask, ids, weights = self.masks(len(whole), embed.dynamic_feat_size(whole.shape[-2:]), whole.device)
        features, patches = encode_tokens(self.encoder, whole, mask, self.mask_token)
        every = [features, *([self.features(views[GLOBAL_VIEWS:])] if len(views) > GLOBAL_VIEWS else [])]
        students = self.projector(torch.cat(every)).view(len(views), images, -1)
        hidden = (self.patch_projector or self.projector)(patches.flatten(0, 1).index_select(0, ids))
        teachers, seen = self.teach(whole, ids)
        teachers = teachers.view(GLOBAL_VIEWS, images, -1)

        temp = self.current_teacher_temp()
        loss: Tensor = self.loss(students, teachers, temp)
        loss = loss + self.ibot_weight * self.patch_loss(hidden, seen, weights, len(whole), temp)
        # Of each view by itself: two views of an image are to be close.
        first, second = features.split(images)
        apart: Tensor = self.koleo(first) + self.koleo(second)
        return loss + self.koleo_weight * apart

    @torch.no_grad()
    def teach(self, whole: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits of images [N, K] and of some of their patches [M, K]; nothing is masked."""
        with in_precision_of(whole):
            features, patches = encode_tokens(self.teacher.encoder, whole)
            of_patches = (self.patch_teacher or self.teacher).projector
            return self.teacher.projector(features), of_patches(patches.flatten(0, 1).index_select(0, ids))

    def warmup_stages(self) -> int:
        """Return how many times the warm-up sets the teacher's temperature: at each step, as the authors."""
        return self.steps(self.warmup_teacher_temp_epochs)

    def after_step(self, step: int, total_steps: int) -> None:
        """Move the teacher, as `DINO` does, and its head for patches."""
        super().after_step(step, total_steps)
        if self.training and self.patch_projector is not None and self.patch_teacher is not None:
            momentum = cosine_momentum(self.momentum, step - 1, total_steps)
            self.patch_teacher.follow(nn.Identity(), self.patch_projector, momentum)
