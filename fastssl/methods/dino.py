"""DINO: a student that sees crops of an image predicts which prototypes its slow teacher sees in the whole of it."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import _checks, transforms
from ..losses import DINOLoss
from ._dino_head import DINOHead
from ._momentum import MomentumEncoder, cosine_momentum
from ._multi_crop import GLOBAL_VIEWS, MultiCrop, clip_each
from ._two_views import Transform


class DINO(MultiCrop):
    """DINO: encoder, head and their momentum copy, the teacher, a plain module for any training loop.

    The student sees all views, the teacher the two global ones. With p_v = softmax(student's logits of view v / 0.1)
    and q_t = softmax((teacher's logits of view t - center) / teacher_temp), the loss is the mean of the cross-entropies
    -sum_k q_tk log p_vk over all pairs of different views; see `fastssl.functional.dino_loss`. Two opposite forces keep
    the teacher from saying the same about every image: the low temperature sharpens, the centre spreads.

    One training step is ``loss = method(method.augment(images))``, the backward pass, ``method.before_step(step,
    total_steps)``, the optimizer's step, and ``method.after_step(step, total_steps)``, with steps counted from 1.
    `fastssl.fit` does all that.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), for images of all sizes
            that it is shown, such as a ResNet or ``timm.create_model("vit_small_patch16_224", num_classes=0,
            dynamic_img_size=True)``; or the name of a timm model, for RGB images.
        out_dim: K, the number of prototypes.
        hidden_dim, bottleneck_dim: widths of the head, see `DINOHead`.
        norm_last_layer: keep the prototypes at unit length.
        batch_norm: batch norm in the head, which the authors use for ResNets.
        student_temp: temperature > 0 of the student.
        teacher_temp: temperature > 0 of the teacher after its warm-up.
        warmup_teacher_temp: its temperature in the first epoch.
        warmup_teacher_temp_epochs: epochs in which it goes from the one to the other, in equal steps; 0 for none.
        momentum: part of the teacher that stays at the first step, in [0, 1); it rises to 1 along half a cosine.
        centering: "mean", a moving mean of the teacher's logits over the batches; "sinkhorn", which spreads each batch
            evenly by three iterations of Sinkhorn-Knopp; or "none", with which training collapses.
        center_momentum: part of the moving mean that stays at each step.
        clip_grad: greatest norm of the gradient of each parameter, or None.
        freeze_last_layer: epochs at the start in which the last layer of the head stays as it is.
        local_views: local views of the default transform.
        transform: a batch of uint8 images -> list of float views, two global ones first, in any number and sizes; by
            default `transforms.DINO` for views over 64 pixels, and up to 64 the steps of `transforms.SimCLRSmall` with
            crops of two sizes.
        image_size: height and width of the global views of the default transform; by default those of the images, and
            224 for images of different sizes.
        local_size: of its local views; by default 3/7 of it in whole patches (96 of 224), half of it up to 64 pixels.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.
        steps_per_epoch: what schedules in epochs need: in a loop of your own ``len(loader)``; `fastssl.fit` sets it.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Teacher, centre and the number of steps are in the state dict, and schedules are functions of that number: a resumed
    run is the run. The teacher is kept in float32 or float64, is never differentiated, and drops nothing out. In
    several processes the loss is that of their own images, for DistributedDataParallel to average, and the centre that
    of all. The authors raise the weight decay to 0.4 along half a cosine, which is up to the loop: `fit` keeps it.

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", and its code.

    >>> method = fastssl.methods.DINO("vit_small_patch16_224", steps_per_epoch=len(loader))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    >>> loss.backward()
    >>> method.before_step(step, total_steps)  # under a GradScaler, after scaler.unscale_(optimizer)
    >>> optimizer.step()
    >>> method.after_step(step, total_steps)
    """

    # Of the authors, for a batch of 256.
    defaults: ClassVar[dict[str, Any]] = {"lr": 5e-4, "weight_decay": 0.04, "warmup_epochs": 10}
    step: Tensor

    def __init__(
        self,
        encoder: nn.Module | str,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
        student_temp: float = 0.1,
        teacher_temp: float = 0.07,
        warmup_teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 30,
        momentum: float = 0.996,
        centering: str = "mean",
        center_momentum: float = 0.9,
        clip_grad: float | None = 3.0,
        freeze_last_layer: int = 1,
        local_views: int = 8,
        transform: Transform | None = None,
        image_size: int | None = None,
        local_size: int | None = None,
        feature_dim: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        limits = {"warmup_teacher_temp": warmup_teacher_temp, "clip_grad": 1.0 if clip_grad is None else clip_grad}
        for name, value in limits.items():
            _checks.positive_scalar(name, value, torch.device("cpu"))
        _checks.count("warmup_teacher_temp_epochs", warmup_teacher_temp_epochs)
        _checks.count("freeze_last_layer", freeze_last_layer)
        momentum = _checks.fraction("momentum", momentum, below_one=True)
        super().__init__(encoder, transform, image_size, feature_dim, local_views, local_size, steps_per_epoch)
        self.new_head = partial(DINOHead, self.width, out_dim, hidden_dim, bottleneck_dim, norm_last_layer, batch_norm)
        self.projector: nn.Module = self.new_head()
        self.teacher = MomentumEncoder(self.encoder, self.projector)
        self.loss = DINOLoss(out_dim, student_temp, teacher_temp, center_momentum, centering)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # of the optimizer so far
        self.warmup_teacher_temp, self.warmup_teacher_temp_epochs = warmup_teacher_temp, warmup_teacher_temp_epochs
        self.momentum, self.clip_grad, self.freeze_last_layer = momentum, clip_grad, freeze_last_layer
        self.train(self.training)

    def train(self, mode: bool = True) -> DINO:
        """Set the mode; the teacher is never in training mode but for its batch norms, so that it drops nothing out."""
        super().train(mode)
        for part in self.teacher.modules():
            part.training = mode and isinstance(part, _BatchNorm)
        return self

    def published(self, size: int, local_size: int) -> transforms.Transform:
        """Return the published transform for large images."""
        return transforms.DINO(
            size, local_size=local_size, local_views=self.local_views, memory_format=torch.channels_last
        )

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of two global views and any number of local ones; move the centre.

        Raises:
            ValueError: the views are fewer, of different images or of a size that the encoder does not take.
        """
        images = self.check(views)
        students = self.projector(self.features(views)).view(len(views), images, -1)
        teachers = self.teacher(torch.cat(views[:GLOBAL_VIEWS])).view(GLOBAL_VIEWS, images, -1)
        loss: Tensor = self.loss(students, teachers, self.current_teacher_temp())
        return loss

    def current_teacher_temp(self) -> float | Tensor:
        """Return the teacher's temperature in this step, which rises by equal amounts until the warm-up ends."""
        if self.warmup_teacher_temp_epochs == 0:
            return self.loss.teacher_temp
        steps, stages = self.steps(self.warmup_teacher_temp_epochs), self.warmup_stages()
        # On the device, where the number of steps is.
        progress = (self.step // (steps // stages)).double().div(max(stages - 1, 1)).clamp(max=1)
        return self.warmup_teacher_temp + (self.loss.teacher_temp - self.warmup_teacher_temp) * progress

    def warmup_stages(self) -> int:
        """Return how many times the warm-up sets the teacher's temperature: once an epoch, as the authors."""
        return self.warmup_teacher_temp_epochs

    def before_step(self, step: int, total_steps: int) -> None:
        """Clip the gradients, and take those of the last layer away at first, before each step of the optimizer.

        Args:
            step: the number of the step, from 1.
            total_steps: of the whole run.
        """
        if self.clip_grad is not None:
            clip_each(self.parameters(), self.clip_grad)
        if step <= self.steps(self.freeze_last_layer):
            for head in self.modules():
                if isinstance(head, DINOHead):
                    head.drop_last_gradients()

    def after_step(self, step: int, total_steps: int) -> None:
        """Move the teacher towards the student that the optimizer has changed, after each of its steps.

        Args:
            step: the number of the step, from 1.
            total_steps: of the whole run.
        """
        if self.training:
            # The authors count the steps of the schedule from 0.
            self.teacher.follow(self.encoder, self.projector, cosine_momentum(self.momentum, step - 1, total_steps))
            self.step.fill_(step)
