"""CPC: predict what comes several steps ahead, among everything that comes so in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks, functional, transforms
from .._images import RaggedImages
from ..functional import extract_patches
from ._encoder import build_encoder, encode, frozen
from ._one_view import Transform
from ._pretext import Pretext

STEPS = {"images": 5, "signals": 12}  # that are predicted ahead


class CPC(Pretext):
    """Contrastive predictive coding: any encoder, a recurrent network over its features, and linear predictions.

    The features z_t of a sequence make a context c_t = GRU(z_1 ... z_t), and W_k c_t must find z_{t+k} among all those
    of the batch that lie k steps after a context, of the same sequences and of others:

        loss = mean over k = 1 .. K and t of [ logsumexp_j <W_k c_t, z_j> - <W_k c_t, z_{t+k}> ]

    over temperature; by chance the mean over k of the log of the number of candidates. The softmax is over the
    candidates of each prediction. One step is ``loss = method(method.augment(images))``.

    An image is a grid of overlapping patches, each of which the encoder sees alone. Its columns are the sequences, from
    above; the network also sees the two neighbours of each patch in its row, so that a context knows a triangle above
    it. What would find a patch without a look at what is in it, and what is done against it:

    - colour and brightness, which are much the same all over an image: with `keep_channel_p` a patch keeps one channel,
      drawn for it alone, and with `standardize` each channel has mean 0 and deviation 1;
    - lines that go on from one patch to the next: each is moved on its own by up to `jitter` pixels;
    - batch norm, through whose statistics the patches of an image know each other: an encoder with it is refused.

    A signal is a sequence as it is. Its encoder has ``frames(x [N, C, T]) -> [N, T', f]``, as `signal_encoder` has.

    Args:
        encoder: a module [B, C, h, w] -> features [B, f] or [B, f, h', w'] (averaged over them), for images of any
            size; or one of signals; or the name of a timm model for RGB images, which gets layer norm for batch norm.
        context_dim: width of the contexts.
        steps_ahead: K; by default 5 rows of an image, 12 frames of a signal; no more than there are.
        temperature: > 0.
        normalize: whether predictions and features are compared by their cosine.
        grid: rows and columns of patches, which overlap by half.
        jitter: see above; by default in proportion to the authors' 2 of 256. A patch is smaller by twice as much, so
            that it stays in its cell: 60 pixels a side of 64.
        keep_channel_p, standardize: see `fastssl.functional.extract_patches`.
        batch_norm: take an encoder with batch norm.
        transform: a batch of uint8 images -> list of one float view; by default a square crop of half the image or
            more, mirrored half of the time, but for grey characters up to 16 pixels. Signals stay as they are.
        image_size: height and width of the view of the default transform; by default those of the images, and 224 for
            images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding"; one channel:
    Doersch et al. 2015, Henaff et al. 2020. The network over an image is a GRU down the columns, not a PixelCNN.

    >>> encoder = fastssl.methods.small_resnet(norm_layer="layernorm2d")
    >>> method = fastssl.methods.CPC(encoder, grid=3)
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 2e-4}

    def __init__(
        self,
        encoder: nn.Module | str,
        context_dim: int = 256,
        steps_ahead: int | None = None,
        temperature: float = 1.0,
        normalize: bool = False,
        grid: int = 7,
        jitter: int | None = None,
        keep_channel_p: float = 1.0,
        standardize: bool = True,
        batch_norm: bool = False,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        if isinstance(encoder, str):
            made = build_encoder(encoder)
            encoder = build_encoder(encoder, norm_layer="layernorm2d") if _has_batch_norm(made) else made
        super().__init__(encoder, transform, image_size, feature_dim)
        if _has_batch_norm(encoder) and not batch_norm:
            raise ValueError(
                "encoder: got batch norm, through whose statistics the patches of an image know each other; want layer "
                "norm, as of build_encoder(name, norm_layer='layernorm2d'), or batch_norm=True"
            )
        _checks.positive_int("context_dim", context_dim)
        self.reads_signals = hasattr(encoder, "frames")
        steps = STEPS["signals" if self.reads_signals else "images"] if steps_ahead is None else steps_ahead
        _checks.positive_int("steps_ahead", steps)
        _checks.positive_scalar("temperature", temperature, torch.device("cpu"))
        _checks.int_in("grid", grid, 2, 1000)
        if jitter is not None:
            _checks.count("jitter", jitter)
        self.steps_ahead = steps if self.reads_signals else min(steps, grid - 1)
        self.temperature, self.normalize, self.grid, self.jitter = float(temperature), normalize, grid, jitter
        self.keep_channel_p = _checks.fraction("keep_channel_p", keep_channel_p)
        self.standardize, self.context_dim = standardize, context_dim
        # Of signals there are no neighbours.
        self.mix = nn.Conv2d(self.width, context_dim, (1, 1 if self.reads_signals else 3), padding="same")
        self.context = nn.GRU(context_dim, context_dim, batch_first=True)
        self.predictors = nn.ModuleList(nn.Linear(context_dim, self.width, bias=False) for _ in range(self.steps_ahead))

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return one float32 view [B, C, size, size] of uint8 images [B, C, H, W] or `RaggedImages`, in a list.

        Signals float [B, C, T] are the view as they are, where there is no `transform`.
        """
        if self.reads_signals and self.transform is None:
            if not isinstance(images, Tensor) or images.ndim != 3:
                raise ValueError("images: want signals [B, C, T], which the encoder reads")
            return [images.float()]
        return super().augment(images)

    def layout(self, side: int) -> tuple[int, int, int]:
        """Return side, gap (below 0) and jitter of the patches of a view of so many pixels a side.

        Raises:
            ValueError: the view is too small for patches of two pixels.
        """
        pitch = side // (self.grid + 1)
        jitter = round(2 * side / 256) if self.jitter is None else self.jitter
        size = 2 * (pitch - jitter)
        if size < 2:
            raise ValueError(
                f"views: got images of {side} pixels, want at least {(jitter + 1) * (self.grid + 1)} for a grid of "
                f"{self.grid} x {self.grid} patches of 2, each moved by up to {jitter}"
            )
        return size, pitch - size, jitter

    def cut(self, view: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the patches [N, grid^2, C, p, p] of a view as the encoder sees them, and their corners."""
        size, gap, jitter = self.layout(min(view.shape[2:]))
        return extract_patches(
            view, size, (self.grid, self.grid), gap, jitter,
            standardize=self.standardize, keep_channel_p=self.keep_channel_p, seed=seed,
        )  # fmt: skip

    def embed(self, view: Tensor, *, seed: int | None = None) -> Tensor:
        """Return the features [N, Q, T, f] of the sequences of a view, Q of each sample: columns, from the left."""
        if self.reads_signals:
            if view.ndim != 3:
                raise ValueError(f"views: got shape {tuple(view.shape)}, want signals [N, C, T]")
            frames: Tensor = self.encoder.frames(view)  # type: ignore[operator]
            return frames[:, None]
        if view.ndim != 4:
            raise ValueError(f"views: got shape {tuple(view.shape)}, want images [N, C, H, W]")
        patches, _ = self.cut(view, seed)
        z = encode(self.encoder, patches.flatten(0, 1))
        return z.view(len(view), self.grid, self.grid, -1).transpose(1, 2)

    def predict(self, z: Tensor) -> list[Tensor]:
        """Return what each context expects k = 1 .. K steps ahead: [N Q, T - k, f] of features z [N, Q, T, f]."""
        n, q, steps, _ = z.shape
        mixed = self.mix(z.permute(0, 3, 2, 1)).relu()  # [N, d, T, Q]
        contexts, _ = self.context(mixed.permute(0, 3, 2, 1).reshape(n * q, steps, -1))
        ahead = range(1, min(self.steps_ahead, steps - 1) + 1)
        return [self.predictors[k - 1](contexts[:, : steps - k]) for k in ahead]

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view, images [N, C, H, W] or signals [N, C, T].
            seed: of the patches; by default drawn.

        Raises:
            ValueError: there is not one view, or it is of another shape, or makes sequences of one step.
        """
        if len(views) != 1:
            raise ValueError(f"views: got {len(views)}, want 1")
        z = self.embed(views[0], seed=seed)
        if z.shape[2] < 2:
            raise ValueError(
                f"views: got {tuple(views[0].shape)}, of which the encoder makes one step; want at least 2"
            )
        predictions = [p.to(z.dtype) for p in self.predict(z)]
        return functional.cpc(predictions, z.flatten(0, 1), self.temperature, self.normalize).float()

    def pictures(self, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Show images, the rows of them that are seen, and below these the patches of the batch that are predicted.

        Args:
            images: uint8 [N, C, H, W]; or float signals [N, C, T].
            seed: of what the encoder sees of patches.

        Returns:
            Rows of pictures float32 [N, C, H, W] in [0, 1] by name: "image", "seen", and "predicted": what is seen, and
            for each place below the patch that the prediction from the last row seen finds closest, of all patches of
            the batch in that row. Of signals, "k ahead": how probable each moment (from the left) seems from each (from
            above), [N, 1, T - k, T - k].
        """
        with frozen(self):
            return self._signal_pictures(images) if self.reads_signals else self._image_pictures(images, seed)

    def _scores(self, predictions: Tensor, z: Tensor) -> Tensor:
        if self.normalize:
            predictions, z = F.normalize(predictions, dim=-1), F.normalize(z, dim=-1)
        return predictions @ z.mT / self.temperature

    def _signal_pictures(self, signals: Tensor) -> dict[str, Tensor]:
        z = self.embed(signals.float())
        rows = {}
        for k, prediction in enumerate(self.predict(z), 1):
            if k in (1, self.steps_ahead):
                chances = self._scores(prediction, z[:, 0, k:]).softmax(-1)
                rows[f"{k} ahead"] = (chances / chances.amax((1, 2), keepdim=True))[:, None]
        return rows

    def _image_pictures(self, images: Tensor, seed: int) -> dict[str, Tensor]:
        view = transforms.normalize(images)
        size, gap, _ = self.layout(min(view.shape[2:]))
        z = self.embed(view, seed=seed)
        last = (self.grid - 1) // 2  # row that is seen
        edge = last * (size + gap) + size  # where it ends
        seen = view.clone()
        seen[:, :, edge:] = 0
        predicted = seen.clone()
        # The patches where they would lie without a jitter, in all their colours; the lower ones over the upper.
        for k, prediction in enumerate(self.predict(z)[: self.grid - 1 - last], 1):
            row, top = z[:, :, last + k].flatten(0, 1), (last + k) * (size + gap)
            found = self._scores(prediction[:, last], row).argmax(-1).view(len(view), -1).tolist()
            for image, choices in zip(predicted, found, strict=True):
                for column, choice in enumerate(choices):
                    source, place = divmod(choice, self.grid)
                    left, from_left = column * (size + gap), place * (size + gap)
                    below = max(0, edge - top)
                    patch = view[source, :, top + below : top + size, from_left : from_left + size]
                    image[:, top + below : top + size, left : left + size] = patch
        return {
            name: transforms.to_pixels(row) for name, row in (("image", view), ("seen", seen), ("predicted", predicted))
        }


def _has_batch_norm(encoder: object) -> bool:
    modules = encoder.modules() if isinstance(encoder, nn.Module) else ()
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
