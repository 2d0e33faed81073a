"""Checks of the Triton masks under Triton's interpreter: `python triton_masking_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
Masks are the same bits on every backend, so nothing here has a tolerance.
"""

import importlib
import itertools
import math
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import interpreting
import test_blockwise_masking
import test_multiblock_masking
import test_random_masking
import test_text_masking
import torch
from launches import Launches
from masking_reference import hold_to_the_contract_of_draws, random_masks, token_words

import fastssl
from fastssl import reference
from fastssl.functional import blockwise_masking, multiblock_masking, random_masking, text_masking

interpreting.begin()

HERE = ("cpu", "triton")  # where the tests of the ops run
IDS = torch.tensor([2**40 + 5, 0, -1, 2**32, 2**62, 7, 2**32 - 1])
KERNELS = {
    (op, backend): importlib.import_module(f"fastssl.kernels.{backend}.{op}_masking")
    for op in ("random", "multiblock", "blockwise", "text")
    for backend in ("triton", "torch")
}


def same_in_torch(draw, where):
    """What a call of an op draws is what torch ops draw."""
    found = draw()
    with fastssl.use_backend("torch"):
        exact = draw()
    if isinstance(found, fastssl.functional.TokenMasks):
        found, exact = ((*masks, masks.ids_masked) for masks in (found, exact))
    elif isinstance(found, torch.Tensor):
        found, exact = (found,), (exact,)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where


def check_random_masks_of_a_seed():
    """One program and many, whole and ragged blocks of 32 tokens, comparisons in one and in several chunks of 256."""
    for length in (1, 3, 31, 33, 49, 196, 257):
        n, seed = 1 if length > 100 else 3, 2**61 + length
        noise = [token_words(seed, int(i), 4, length) for i in IDS[:n]]
        for ratio in (0.75,) if length > 100 else (0, 0.5, 0.9):
            masks = random_masking(n, length, ratio, seed=seed, view=4, sample_ids=IDS[:n])
            test_random_masking.assert_equal(masks, random_masks(noise, [ratio] * n, 0), (length, ratio))
    same_in_torch(lambda: random_masking(1, 260, 0.9, seed=-3, prefix_tokens=1, view=2**32 - 1), "several chunks")


def check_random_masks_of_noise():
    for dtype in (torch.float64, torch.float32, torch.float16):
        test_random_masking.test_ties_nan_and_zeros_in_noise(*HERE, dtype)
    close = 1 + torch.rand(3, 40, dtype=torch.float64) * 1e-9  # all equal in float32
    equal = torch.zeros(2, 270)  # ties in several chunks: their order alone
    equal[1, ::2] = -0.0
    for noise in (close, equal, torch.rand(40, 6).T, torch.rand(20, 1).expand(20, 9), torch.randn(1, 1)):
        same_in_torch(lambda noise=noise: random_masking(*noise.shape, noise=noise), noise.shape)
    noise = torch.rand(1, 516)
    same_in_torch(lambda: random_masking(1, 516, 0.9, noise=noise), "several chunks")


def check_random_masks_of_different_sizes():
    """Rows padded by less and by more than a chunk of 64, prefixes of less and more."""
    ratios = [0.5, 0.75, 0, 0.999, 0.1]
    for prefix, patches in itertools.product((0, 1, 70), (1, 13, 90)):
        noise = torch.rand(5, patches)
        masks = random_masking(5, prefix + patches, ratios, noise=noise, prefix_tokens=prefix)
        test_random_masking.assert_equal(masks, random_masks(noise.tolist(), ratios, prefix), (prefix, patches))
    for prefix, patches in ((0, 1), (5, 61)):
        words = [token_words(7, int(i), 3, patches) for i in IDS[:5]]
        options = {"seed": 7, "view": 3, "sample_ids": IDS[:5], "prefix_tokens": prefix}
        masks = random_masking(5, prefix + patches, torch.tensor(ratios, dtype=torch.float64), **options)
        test_random_masking.assert_equal(masks, random_masks(words, ratios, prefix), (prefix, patches))


def check_draws():
    """Functions of (seed, sample id, view), whatever the batch."""
    tokens = torch.arange(150, 173).expand(7, 23)
    hold_to_the_contract_of_draws(lambda n, **options: tuple(random_masking(n, 21, prefix_tokens=1, **options)), "cpu")
    blocks = {"num_blocks": 1, "temporal_scale": (0.4, 0.9)}
    hold_to_the_contract_of_draws(lambda n, **options: (multiblock_masking(n, (9, 6, 13), **blocks, **options),), "cpu")
    hold_to_the_contract_of_draws(
        lambda n, **options: (blockwise_masking(n, (6, 40), 9, min_patches=9, aspect_ratio=(1, 1), **options),), "cpu"
    )
    hold_to_the_contract_of_draws(lambda n, **options: text_masking(tokens[:n], 103, 30522, **options), "cpu")


def check_multiblock_masks():
    test_multiblock_masking.test_every_backend_draws_the_reference(*HERE)
    test_multiblock_masking.test_places_follow_from_the_words_of_philox(*HERE)
    for grid, shared in itertools.product(((16, 14, 14), (1, 14, 14), (1, 1, 1100)), (True, False)):
        options = {"shared_size": shared, "temporal_scale": (0.3, 0.8), "num_blocks": 3}
        masks = multiblock_masking(2, grid, seed=3, sample_ids=2**40 + torch.arange(2), **options)
        exact = reference.multiblock_masking(2, grid, 3, first_id=2**40, **options)
        assert torch.equal(masks, exact), (grid, shared)


def check_blockwise_masks():
    """Rows of one word and of several, masks of 32 words and more, aspects and sizes at their ends."""
    cases = [
        ((1, 1), 1, {}), ((1, 9), 5, {"min_patches": 1}), ((9, 1), 9, {"min_patches": 1}), ((14, 14), 75, {}),
        ((14, 14), 20, {"max_patches": 10, "min_patches": 4}), ((8, 8), 64, {"min_patches": 4}), 
        ((5, 70), 150, {"aspect_ratio": (0.01, 0.1)}), ((33, 33), 300, {"aspect_ratio": (1.0, 1.0)}),
        ((70, 3), 60, {"aspect_ratio": (2.0, 9.0), "min_patches": 100}), ((64, 64), 1000, {"min_patches": 300}),
    ]  # fmt: skip
    for first, (grid, target, options) in enumerate(cases):
        first += 2**40
        exact = reference.blockwise_masking(2, grid, target, 11, first_id=first, view=first % 3, **options)
        ids = first + torch.arange(2)
        masks = blockwise_masking(2, grid, target, seed=11, sample_ids=ids, view=first % 3, **options)
        assert torch.equal(masks, exact), (grid, target, options)
    test_blockwise_masking.test_single_patches_follow_from_the_words_of_philox(*HERE)
    targets = torch.tensor([[0, 1], [196, 1], [75, 1], [1, 1], [-3, 1], [500, 1]])[:, 0]
    same_in_torch(lambda: blockwise_masking(6, (14, 14), targets, seed=4), "a number for each sample")


def check_text_masks():
    test_text_masking.test_every_backend_draws_the_reference(*HERE)
    test_text_masking.test_choices_follow_from_the_words_of_philox(*HERE)
    test_text_masking.test_certain_and_impossible(*HERE)
    test_text_masking.test_strides_and_tokens_of_any_value(*HERE, None)
    tokens = torch.randint(0, 30522, (2, 700))  # several programs a sample
    special = tokens % 5 == 0
    same_in_torch(lambda: text_masking(tokens, 103, 30522, special_tokens=special, seed=-1), "a long text")
    same_in_torch(lambda: text_masking(tokens, 103, 30522, random_prob=0.2, seed=1), "nothing left as it is")


class Elsewhere:
    """A seed on another device than the masks, which is passed to a kernel as a number."""

    device = torch.device("meta")

    def __init__(self, value):
        self.value = value

    def __int__(self):
        return self.value


def calls(seed, backend):
    """What each op draws for four samples with a seed."""
    cpu, tokens = torch.device("cpu"), torch.arange(18).view(2, 9)
    table, log_aspect = [0.15, 0.4, 0.75, 1.5, 0.5, 1.0], [math.log(0.3), -math.log(0.3)]
    arguments = {
        "random": (seed, None, None, None, 2, 11, 1, 4, 7, 5, cpu),
        "multiblock": (seed, None, 2, [3, 5, 6], 2, table, False, 5, cpu),
        "blockwise": (seed, None, torch.tensor(9).expand(2), 2, 6, 5, 2, 30, log_aspect, 5, cpu),
        "text": (tokens, None, seed, None, 3, 30, [2**31, 2**31, 2**30], -100, 5),
    }
    for op, given in arguments.items():
        out = getattr(KERNELS[op, backend], f"{op}_masking_fwd")(*given)
        yield op, out if isinstance(out, tuple) else (out,)


def check_seeds_that_are_numbers():
    for seed in (0, 1, -5, 2**31, 2**40 + 3, -(2**63)):
        for (op, found), (_, exact) in zip(
            calls(Elsewhere(seed), "triton"), calls(torch.tensor(seed), "torch"), strict=True
        ):
            assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True)), (op, seed)


def check_launches():
    """One launch a mask, whatever its size."""
    launches = Launches(*(module for (_, backend), module in KERNELS.items() if backend == "triton"))
    noise = torch.rand(2, 90)
    for draw in (
        lambda: random_masking(3, 40, seed=1), lambda: random_masking(2, 93, [0.1, 0.9], noise=noise, prefix_tokens=3),
        lambda: multiblock_masking(2, (3, 8, 9), seed=1), lambda: blockwise_masking(3, (6, 6), 9, seed=1),
        lambda: text_masking(torch.zeros(2, 600, dtype=torch.int64), 1, 9, seed=1),
    ):  # fmt: skip
        launches.count = 0
        draw()
        assert launches.count == 1


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
