"""Checks of the Triton augmentation under Triton's interpreter: `python triton_augment_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
Types are float32 and float16: the interpreter computes bfloat16 wrongly.
"""

import itertools
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import interpreting
import torch
from augmentation import STEPS, UNIT, draw, excess, photographs, reference_views
from launches import Launches

import fastssl
from fastssl import RaggedImages
from fastssl.functional import AugmentParams, Recipe, View
from fastssl.functional import augment as op
from fastssl.kernels.torch import sample_params as torch_params
from fastssl.kernels.triton import augment, sample_params

interpreting.begin()

ROUNDINGS, FILTERS = ("none", "uint8"), ("bilinear", "bicubic")


def compare(images, params, size, **options):
    """Views of a batch, or of a list of images of any sizes, against the reference."""
    channels = images[0].shape[0]
    (view,) = op(images, params, size, **UNIT[channels], **options)
    same = {k: v for k, v in options.items() if k != "memory_format"}
    worst = excess(view, reference_views(list(images), params, size, **same), options.get("rounding") == "uint8")
    assert worst <= 1, f"{size} {options}: error is {worst:.2f} of what is allowed"


def check_every_step():
    images = photographs(3, 31, 26)
    for (step, values), rounding in itertools.product(STEPS.items(), ROUNDINGS):
        params = AugmentParams.neutral(3, image_size=(31, 26))
        params.crop = torch.tensor([[[2, 3, 25, 20]], [[0, 0, 31, 26]], [[20, 11, 4, 3]]])
        for name, value in values.items():
            setattr(params, name, value)
        try:
            compare(images, params, (12, 12), blur_kernel=23, rounding=rounding)
        except AssertionError as error:
            raise AssertionError(f"{step}: {error}") from None


def check_every_order():
    orders = list(itertools.permutations(range(4)))
    images, params = photographs(24, 14, 15), AugmentParams.neutral(24, image_size=(14, 15))
    params.order = torch.tensor(orders)[:, None]
    generator = torch.Generator().manual_seed(1)
    for name in ("brightness", "contrast", "saturation"):
        setattr(params, name, 0.2 + 1.6 * torch.rand(24, 1, generator=generator))
    params.hue = torch.rand(24, 1, generator=generator) - 0.5
    for rounding in ROUNDINGS:
        compare(images, params, (8, 8), rounding=rounding)
    params.contrast = 1.0
    compare(images, params, (8, 8))


def check_sizes():
    """Several tiles, less than a tile, one pixel; enlarged, reduced, and left as they are."""
    sizes = [((16, 16), (16, 16)), ((40, 35), (14, 25)), ((5, 33), (50, 36)), ((12, 20), (1, 1)), ((1, 1), (13, 8)),
             ((7, 1), (9, 30)), ((64, 3), (2, 40))]  # fmt: skip
    for i, ((size, image_size), filter_) in enumerate(itertools.product(sizes, FILTERS)):
        for channels, rounding in ((3, ROUNDINGS[i // 2 % 2]), (1, ROUNDINGS[1 - i // 2 % 2])):
            params = draw(3, size, image_size, seed=len(sizes) + size[0])
            kernel = None if filter_ == "bilinear" else 9
            compare(
                photographs(3, *image_size, channels), params, size,
                interpolation=filter_, rounding=rounding, blur_kernel=kernel,
            )  # fmt: skip


def check_wide_blur():
    """Radii of several blocks, as far as the sides go."""
    images, params = photographs(3, 40, 70), AugmentParams.neutral(3, image_size=(40, 70))
    params.sigma = torch.tensor([[9.0], [200.0], [0.001]])
    for kernel in (None, 41):
        compare(images, params, (37, 66), blur_kernel=kernel)


def check_layouts():
    images, size = photographs(3, 20, 23), (14, 18)
    params = draw(3, size, (20, 23))
    wide = torch.zeros(3, 3, 40, 46, dtype=torch.uint8)
    wide[:, :, ::2, ::2] = images
    expected = op(images, params, size)[0]
    for same in (
        images.contiguous(memory_format=torch.channels_last), images.transpose(2, 3).contiguous().transpose(2, 3),
        wide[:, :, ::2, ::2], images.permute(0, 2, 3, 1), list(images),
    ):  # fmt: skip
        assert torch.equal(op(same, params, size)[0], expected)
    for dtype in (torch.float32, torch.float16):
        view = op(images, params, size, dtype=dtype, memory_format=torch.channels_last)[0]
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(view, expected.to(dtype))


def check_ragged():
    shapes, size = [(30, 40), (7, 9), (1, 1), (60, 12)], (20, 12)
    for channels, rounding in ((3, "none"), (3, "uint8"), (1, "none")):
        images = [photographs(1, h, w, channels, seed=h)[0] for h, w in shapes]
        params = draw(len(shapes), size, RaggedImages.from_images(images).sizes)
        compare(images, params, size, rounding=rounding)


def check_groups_and_chunks():
    """Views of several sizes in one call; a workspace that holds two views at a time."""
    images, recipe = photographs(3, 25, 30), fastssl.transforms.DINO(20, local_size=12, local_views=2).recipe
    params = fastssl.functional.sample_params(recipe, 3, 7, image_size=(25, 30))
    views = op(images, params, recipe.sizes, interpolation="bicubic")
    for v, view in enumerate(views):
        assert torch.equal(view, op(images, params[:, v], recipe.sizes[v], interpolation="bicubic")[0])
    augment.STATE_BYTES = 2 * 4 * 3 * 20 * 20
    assert all(map(torch.equal, op(images, params, recipe.sizes, interpolation="bicubic"), views))


def check_bad_parameters():
    """On a GPU nobody has looked at them: crops are clamped into the image, and nothing else is read out of bounds."""
    images, n = photographs(1, 9, 11), 8
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        params = torch.randint(-(2**31), 2**31, (n, 1, 12), generator=generator).int()
        args = (images.expand(n, 3, 9, 11), None, params, [6], [7], [1], False, 0, [0.0] * 3, [1.0] * 3)
        augment.augment_fwd(*args, torch.float32, False, False)
    params = AugmentParams.neutral(n, image_size=(9, 11))
    params.crop = torch.tensor([[[-5, 20, 100, 4]]])
    clamped = params.clone()
    clamped.crop = torch.tensor([[[0, 7, 9, 4]]])
    args = (images.expand(n, 3, 9, 11), None, params.packed, *args[3:])
    (view,) = augment.augment_fwd(*args, torch.float32, False, False)
    assert torch.equal(view[0], op(images.expand(n, 3, 9, 11), clamped, (6, 7), **UNIT[3])[0])


def check_launches():
    """Three launches for each size of view, whatever the batch; one for the parameters."""
    launches = Launches(augment, sample_params)
    recipe = fastssl.transforms.DINO(8, local_size=4, local_views=2).recipe
    for n in (1, 5):
        launches.count = 0
        params = fastssl.functional.sample_params(recipe, n, 0, image_size=(9, 9))
        assert launches.count == 1
        op(photographs(n, 9, 9), params, recipe.sizes)
        assert launches.count == 1 + 3 * 2


def check_sample_params():
    """The same bits as in torch: seeds of any size, wherever they are, ids and image sizes of every sample."""
    views = (
        View(224, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, jitter_each_p=(0.9, 0.5, 0.7, 0.3), gray_p=0.2,
             blur_p=0.5, solarize_p=0.2, vflip_p=0.3, rotate_p=0.6),
        View(8, scale=(0.9, 1), ratio=(2, 3)),
        View(8, scale=(0.5, 1), ratio=(0.1, 0.2)),
    )  # fmt: skip
    table, n = Recipe(views).table(), 150
    ids = torch.randint(-(2**62), 2**62, (n,), generator=torch.Generator().manual_seed(0))
    ids[:5] = torch.tensor([0, 1, 2**32, 2**32 - 1, -1])
    heights, widths = torch.randint(1, 900, (2, n), generator=torch.Generator().manual_seed(1))
    cases = [(heights, widths), (torch.full((1,), 375).expand(n), torch.full((1,), 500).expand(n))]
    for seed, (h, w) in itertools.product((0, -1, 2**63 - 1), cases):
        want = torch_params.sample_params_fwd(torch.tensor(seed), ids, h, w, table)
        assert torch.equal(sample_params.sample_params_fwd(torch.tensor(seed), ids, h, w, table), want), seed
    for seed in (1, 16, -5, 2**31, 2**40 + 3, -(2**63)):  # on the CPU, for a kernel on a GPU, it is a number
        want = torch_params.sample_params_fwd(torch.tensor(seed), ids[:9], heights[:9], widths[:9], table[:28])
        got = torch.empty_like(want)
        sample_params.sample_params_kernel[(1, 1)](
            seed, ids, heights, widths, torch.tensor(table, dtype=torch.float64), got, 9, 1, 1, 1, 1, BLOCK=16
        )
        assert torch.equal(got, want), seed


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
