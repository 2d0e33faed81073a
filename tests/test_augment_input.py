"""What augmentation refuses, and in which words; and the batches it takes."""

from __future__ import annotations

import io

import pytest
import torch
from augmentation import photographs

from fastssl import RaggedImages, transforms
from fastssl.functional import AugmentParams, Recipe, View, augment


def uint8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def neutral(n: int = 2, views: int = 1, size=(6, 8)) -> AugmentParams:
    return AugmentParams.neutral(n, views, image_size=size)


def edited(**fields) -> AugmentParams:
    params = neutral()
    for name, value in fields.items():
        getattr(params, name)[1, 0] = torch.tensor(value)
    return params


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.zeros(2, 3, 6, 8), TypeError, r"images: got dtype torch.float32, want uint8"),
        (uint8(2, 3, 6, 8).numpy(), TypeError, "images: got ndarray, want"),
        (uint8(2, 4, 6, 8), ValueError, r"images: got shape \(2, 4, 6, 8\), want \[B, C, H, W\] or \[B, H, W, C\]"),
        (uint8(3, 6, 8), ValueError, "images: got shape"),
        (uint8(0, 3, 6, 8), ValueError, "images: got shape"),
        (uint8(2, 3, 0, 8), ValueError, "images: got shape"),
        ([], ValueError, "images: got 0 images, want at least 1"),
        ([uint8(3, 6, 8), uint8(1, 6, 8)], ValueError, r"images\[1\]: got 1 channels, want 3"),
        ([uint8(3, 6, 8), uint8(2, 6, 8)], ValueError, r"images\[1\]: got shape \(2, 6, 8\)"),
        ([uint8(3, 6, 8), torch.zeros(3, 6, 8)], TypeError, r"images\[1\]: got dtype torch.float32"),
        ([uint8(3, 6, 8), "cat.jpg"], TypeError, r"images\[1\]: got str"),
    ],
)
def test_images(images, error, says):
    with pytest.raises(error, match=says):
        augment(images, neutral(), 4)
    with pytest.raises(error, match=says):
        transforms.SimCLR(8)(images)


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        (torch.zeros(2, 1, 12), TypeError, "params: got Tensor, want AugmentParams"),
        (neutral(3), ValueError, "params: got 3 samples, want 2, one an image"),
        (edited(crop=[0, 0, 7, 8]), ValueError, r"params.crop\[1, 0\]: got \[0, 0, 7, 8\] for an image of 6 x 8"),
        (edited(crop=[1, 0, 6, 8]), ValueError, r"params.crop\[1, 0\]"),
        (edited(crop=[-1, 0, 2, 2]), ValueError, r"params.crop\[1, 0\]"),
        (edited(crop=[0, 0, 0, 2]), ValueError, r"params.crop\[1, 0\]"),
        (edited(crop=[2**31 - 1, 0, 2**31 - 1, 2]), ValueError, r"params.crop\[1, 0\]"),
        (edited(order=[0, 1, 2, 2]), ValueError, r"params.order\[1, 0\]: got \[0, 1, 2, 2\], want a permutation"),
        (edited(order=[0, 1, 2, 200]), ValueError, r"params.order\[1, 0\]"),
        (edited(turns=4), ValueError, r"params.turns\[1, 0\]: got 4, want 0 to 3"),
        (edited(brightness=-0.1), ValueError, r"params.brightness\[1, 0\]: got -0.1\d*, want a finite factor >= 0"),
        (edited(contrast=float("nan")), ValueError, r"params.contrast\[1, 0\]: got nan"),
        (edited(saturation=float("inf")), ValueError, r"params.saturation\[1, 0\]: got inf"),
        (edited(hue=0.51), ValueError, r"params.hue\[1, 0\]: got 0.5\d*, want a shift in \[-0.5, 0.5\]"),
        (edited(sigma=-1.0), ValueError, r"params.sigma\[1, 0\]: got -1"),
        (edited(sigma=float("inf")), ValueError, r"params.sigma\[1, 0\]: got inf"),
        (edited(threshold=-1.0), ValueError, r"params.threshold\[1, 0\]: got -1"),
    ],
)
def test_params(params, error, says):
    with pytest.raises(error, match=says):
        augment(photographs(2, 6, 8), params, 4)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"size": 0}, ValueError, "size: got 0, want an int >= 1"),
        ({"size": (4, 0)}, ValueError, r"size: got \(4, 0\)"),
        ({"size": [4, 4]}, ValueError, "size: got 2 sizes, want 1, one a view"),
        ({"size": 4.0}, ValueError, "size: got 4.0"),
        ({"interpolation": "nearest"}, ValueError, "interpolation: got 'nearest', want 'bilinear' or 'bicubic'"),
        ({"blur_kernel": 2}, ValueError, "blur_kernel: got 2, want an odd int"),
        ({"dtype": torch.float64}, TypeError, "dtype: got torch.float64, want float32"),
        ({"memory_format": torch.preserve_format}, ValueError, "memory_format: got torch.preserve_format"),
        ({"rounding": "float"}, ValueError, "rounding: got 'float', want 'none' or 'uint8'"),
        ({"mean": (0.5,)}, ValueError, "mean: got 1 numbers, want 3, one a channel"),
        ({"std": (0.5, 0.5, 0.0)}, ValueError, "std: got .*, want numbers > 0"),
    ],
)
def test_options(options, error, says):
    with pytest.raises(error, match=says):
        augment(photographs(2, 6, 8), neutral(), **{"size": 4, **options})


def test_odd_turns_need_a_square_view():
    with pytest.raises(ValueError, match=r"params.turns\[1, 0\]: got 1, want .* even unless the view is square"):
        augment(photographs(2, 6, 8), edited(turns=1), (4, 5))
    augment(photographs(2, 6, 8), edited(turns=2), (4, 5))


def test_a_ragged_crop_is_checked_against_its_own_image():
    images = [uint8(3, 6, 8), uint8(3, 3, 3)]
    with pytest.raises(ValueError, match=r"params.crop\[1, 0\]: got \[0, 0, 6, 8\] for an image of 3 x 3"):
        augment(images, neutral(), 4)


def test_ragged_images():
    images = [torch.randint(0, 256, (3, h, h + 2), dtype=torch.uint8) for h in (3, 9, 1)]
    batch = RaggedImages.from_images([images[0], images[1].permute(1, 2, 0), images[2]])
    assert [torch.equal(a, b) for a, b in zip(images, batch, strict=True)] == [True] * 3
    assert batch.sizes.tolist() == [[3, 5], [9, 11], [1, 3]]
    assert len(batch) == 3
    assert "3 images of 3 channels, 1x3 to 9x11" in repr(batch)
    assert torch.equal(batch.to("cpu").pixels, batch.pixels)
    file = io.BytesIO()
    torch.save([batch.pixels, batch.extents], file)
    again = RaggedImages(batch.pixels, batch.extents, 3)
    assert torch.equal(again[1], images[1])
    with pytest.raises(ValueError, match="ends beyond the 169 bytes"):
        RaggedImages(batch.pixels[:169], batch.extents, 3)
    with pytest.raises(ValueError, match="extents: got a height or width below 1"):
        RaggedImages(batch.pixels, batch.extents * 0, 3)
    with pytest.raises(ValueError, match="channels: got 2"):
        RaggedImages(batch.pixels, batch.extents, 2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: transforms.SimCLR(0), "size: got 0"),
        (lambda: transforms.SimCLR(views=0), "views: got 0"),
        (lambda: transforms.SimCLR(scale=(0.5, 0.2)), "scale: got"),
        (lambda: transforms.SimCLR(jitter=(-1, 0, 0, 0)), "jitter: got"),
        (lambda: transforms.SimCLR(gray_p=1.5), "gray_p: got 1.5"),
        (lambda: transforms.SimCLR(interpolation="lanczos"), "interpolation: got 'lanczos'"),
        (lambda: transforms.DINO(local_views=-1), "local_views: got -1"),
        (lambda: transforms.SwAV(local_size=0), "size: got 0"),
    ],
)
def test_recipes(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_transform_needs_a_recipe():
    with pytest.raises(TypeError, match="recipe: got View, want"):
        transforms.Transform(View(8))
    assert (
        repr(transforms.Transform(Recipe((View(8), View((4, 6)))))) == "Transform(views 1 of 8x8, 1 of 4x6; bilinear)"
    )
