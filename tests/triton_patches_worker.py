"""Checks of the Triton kernel of patches under Triton's interpreter: `python triton_patches_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
Each number that the kernel reads or writes has to be one of its arguments'; bfloat16 the interpreter computes wrongly.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import masking_reference
import torch

masking_reference.TYPES = (torch.float64, torch.float32, torch.float16)

import interpreting  # noqa: E402
import test_extract_patches as of_patches  # noqa: E402
from launches import Launches  # noqa: E402
from masking_reference import hold_to_the_contract_of_draws  # noqa: E402

from fastssl.functional import extract_patches  # noqa: E402
from fastssl.kernels.torch import extract_patches as streaming  # noqa: E402
from fastssl.kernels.triton import extract_patches as kernels  # noqa: E402

interpreting.begin()
interpreting.watch_memory()

HERE = ("cpu", "triton")  # where the tests of the op run


def check_layouts_and_sizes():
    """Patches of a pixel, of several pieces or blocks, and those that overlap; as many channels as fill memory."""
    for case in (of_patches.CASES[1], of_patches.CASES[3]):
        of_patches.test_patches_of_every_layout(*HERE, *case, None)
    for channels, patch, grid, gap in ((3, (1, 1), (2, 2), 0), (2, (131, 127), (1, 1), 0), (10, (3, 2), (1, 2), -1)):
        sides = [g * (p + gap) - gap + 3 for g, p in zip(grid, patch, strict=True)]
        images = torch.randint(0, 256, (1, channels, *sides), dtype=torch.uint8)
        for standardize, keep in ((False, 0.0), (True, 0.0), (True, 0.5), (False, 1.0)):
            if patch[0] < 100 or keep < 1:
                options = {"standardize": standardize, "keep_channel_p": keep, **of_patches.statistics(channels)}
                of_patches.check(images, patch, grid, gap, 1, (patch, standardize, keep), **options)


def check_types_and_values():
    of_patches.test_pixels_of_every_type(*HERE, None)
    of_patches.test_constant_patches_are_0(*HERE)
    of_patches.test_numbers_that_are_not_finite_stay_in_their_channel(*HERE)


class Elsewhere:
    """A seed on another device than the images, which is passed to the kernel as a number."""

    device = torch.device("meta")

    def __init__(self, value):
        self.value = value

    def __int__(self):
        return self.value


def check_draws():
    of_patches.test_draws_are_the_same_bits_on_every_backend(*HERE)
    of_patches.test_images_of_one_channel_keep_it(*HERE)
    image = torch.randn(1, 2, 20, 20)
    hold_to_the_contract_of_draws(
        lambda n, **options: extract_patches(image.expand(n, 2, 20, 20), 3, (1, 1), keep_channel_p=0.5, **options),
        "cpu",
    )
    images = torch.randn(2, 3, 9, 9)
    rest = (None, [2, 3], [1, 2], 1, 1, False, 0.5, [1.0] * 3, [0.0] * 3, torch.float32, 5)
    for seed in (0, 1, -5, 2**31, 2**40 + 3, -(2**63)):
        found = kernels.extract_patches_fwd(images, Elsewhere(seed), *rest)
        exact = streaming.extract_patches_fwd(images, torch.tensor(seed), *rest)
        assert torch.equal(found[1], exact[1]), seed
        torch.testing.assert_close(found[0], exact[0])


def check_launches():
    """One launch, whatever is asked for."""
    launches = Launches(kernels)
    for options in ({}, {"standardize": True, "keep_channel_p": 0.5}):
        launches.count = 0
        extract_patches(torch.zeros(2, 3, 9, 9), 2, **options)
        assert launches.count == 1


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
