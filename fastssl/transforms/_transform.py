from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .._images import RaggedImages, as_batch
from ..functional import AugmentParams, Recipe, augment, sample_params

Images = Tensor | RaggedImages | Sequence[Tensor]


class Transform:
    """A recipe that is called with a batch of uint8 images and returns the list of its views, on their device.

    Every sample has parameters of its own in each view, the order of the colour steps included. They are drawn from
    a seed, which `torch.manual_seed` governs unless one is given; see `fastssl.functional.sample_params`.

    Args:
        recipe: the views and the distribution of every step.
        dtype: of the views: float32, float16 or bfloat16.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``, which convolutions are faster in.
        rounding: "none" computes as torchvision's v2 transforms on float tensors, "uint8" as those on uint8 tensors.

    Raises:
        TypeError, ValueError: on a call, the images or parameters are of another type, shape or range.

    >>> transform = fastssl.transforms.Transform(Recipe((View(size=64, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8),)))
    >>> (view,) = transform(images)
    >>> params = transform.sample(images, seed=0)  # to keep, to edit, to replay
    >>> (same,) = transform(images, params)
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        rounding: str = "none",
    ) -> None:
        if not isinstance(recipe, Recipe):
            raise TypeError(f"recipe: got {type(recipe).__name__}, want a fastssl.functional.Recipe")
        self.recipe, self.dtype, self.memory_format, self.rounding = recipe, dtype, memory_format, rounding

    def sample(
        self,
        images: Images,
        *,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> AugmentParams:
        """Draw the parameters of all views of `images`, on their device.

        Args:
            images: as for a call; only their number, sizes and device matter.
            seed: of the draws; by default taken from `generator`.
            sample_ids: int64 [B], such as indices into the data set, which with the seed make the draws independent
                of the batch; by default the places in the batch.
            generator: where the seed comes from if none is given; by default PyTorch's own on the CPU.
        """
        batch = as_batch(images)
        if seed is None:
            where = "cpu" if generator is None else generator.device
            seed = torch.randint(2**62, (), generator=generator, device=where)
        image_size = batch.extents[:, 1:] if isinstance(batch, RaggedImages) else (batch.shape[2], batch.shape[3])
        return sample_params(
            self.recipe, len(batch), seed, image_size=image_size, sample_ids=sample_ids, device=batch.device
        )

    def __call__(
        self,
        images: Images,
        params: AugmentParams | None = None,
        *,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Return the views of `images`, each [B, C, height, width].

        Args:
            images: uint8 [B, C, H, W] or [B, H, W, C], C 1 or 3; `fastssl.RaggedImages`; or a list of images.
            params: what to do, from `sample`; by default drawn.
            seed, sample_ids, generator: as for `sample`.
        """
        batch = as_batch(images)
        if params is None:
            params = self.sample(batch, seed=seed, sample_ids=sample_ids, generator=generator)
        recipe = self.recipe
        return augment(
            batch, params, recipe.sizes, interpolation=recipe.interpolation, blur_kernel=recipe.blur_kernel,
            mean=recipe.mean, std=recipe.std, dtype=self.dtype, memory_format=self.memory_format,
            rounding=self.rounding,
        )  # fmt: skip

    def __repr__(self) -> str:
        groups = [(size, len(list(views))) for size, views in itertools.groupby(self.recipe.sizes)]
        views = ", ".join(f"{count} of {height}x{width}" for (height, width), count in groups)
        return f"{type(self).__name__}(views {views}; {self.recipe.interpolation})"
