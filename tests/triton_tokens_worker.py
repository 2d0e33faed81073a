"""Checks of the Triton kernels of tokens under Triton's interpreter: `python triton_tokens_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
Most of them are the tests of the ops, run on this backend, but for bfloat16: the interpreter computes it wrongly.
In all of them each number that a kernel reads or writes has to be one of its arguments'.
"""

import contextlib
import itertools
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import masking_reference
import pytest
import torch
from triton.runtime import interpreter

masking_reference.TYPES = (torch.float64, torch.float32, torch.float16)

import interpreting  # noqa: E402
import masked_loss  # noqa: E402
import test_gather_tokens as of_gather  # noqa: E402
import test_mask_patchify as of_patches  # noqa: E402
import test_masked_mse as of_loss  # noqa: E402
import test_masked_mse_backward as of_loss_backward  # noqa: E402
import test_restore_tokens as of_restore  # noqa: E402
from launches import Launches  # noqa: E402
from masking_reference import hold_linear_op, some_ids, token_layouts, videos  # noqa: E402

from fastssl import reference  # noqa: E402
from fastssl.functional import gather_tokens, mask_patchify, masked_mse, restore_tokens  # noqa: E402
from fastssl.kernels.triton import gather_tokens as gather_kernels  # noqa: E402
from fastssl.kernels.triton import launch  # noqa: E402
from fastssl.kernels.triton import mask_patchify as patch_kernels  # noqa: E402
from fastssl.kernels.triton import masked_mse as loss_kernels  # noqa: E402
from fastssl.kernels.triton import restore_tokens as restore_kernels  # noqa: E402

interpreting.begin()

HERE = ("cpu", "triton")  # where the tests of the ops run
FLOATS = (torch.float32, torch.float16)


interpreting.watch_memory()


def check_that_memory_is_watched():
    x, out, ids = torch.randn(1, 4, 8), torch.empty(1, 2, 8), torch.tensor([[3, 4]])
    run = gather_kernels.gather_tokens_kernel[(1,)]
    for tokens, fits in ((4, True), (5, False)):  # a launcher that lies about the tokens of x
        with (
            contextlib.nullcontext() if fits else pytest.raises(interpreter.InterpreterError, match="left its tensors")
        ):
            run(x, ids, out, tokens, 2, 0, *x.stride(), *ids.stride(), WIDTH=8, **launch.tile(8))
    of_gather.test_ids_out_of_range_name_nothing(*HERE)
    of_restore.test_ids_that_name_no_visible_token(*HERE)
    of_patches.test_ids_out_of_range_name_nothing(*HERE)
    of_loss.test_ids_out_of_range_name_nothing(*HERE)


def check_gather_tokens():
    """Tiles of one and of several blocks of rows and columns, and of widths that no block divides."""
    cases = (
        (1, 1, 1, 0, "distinct", 1), (3, 7, 4, 1, "none", 3), (2, 50, 50, 0, "distinct", 16),
        (2, 33, 0, 2, "distinct", 5), (2, 19, 28, 4, "duplicates", 65), (1, 2, 130, 0, "duplicates", 3),
        (2, 9, 6, 1, "nothing", 64), (1, 20, 9, 1, "none", 768), (1, 12, 9, 0, "none", 300),
    )  # fmt: skip
    for dtype, (n, length, kept, prefix, kind, width) in itertools.product(FLOATS, cases):
        x = torch.randn(n, prefix + length, width).to(dtype)
        of_gather.check(x, some_ids(n, kept, length, kind), prefix, (n, length, kept, prefix, kind, width))
    of_gather.test_nan_and_inf_are_copied(*HERE)


def check_layouts_of_gathered_tokens():
    ids = some_ids(3, 5, 8, "none")
    strided = torch.stack([ids, -ids], 2)[..., 0]
    for layout, x in token_layouts(3, 9, 24, torch.float32, "cpu").items():
        of_gather.check(x, strided, 1, layout)
    for same in (ids.T.contiguous().T, ids[:1].expand(3, 5), ids[:, ::2]):
        of_gather.check(x, same, 1, "ids")
    of_gather.test_upstream_gradient_of_any_layout(*HERE)
    of_gather.test_ids_of_random_masks(*HERE)


def check_restore_tokens():
    cases = (
        (1, 1, 1, 0, 1), (3, 7, 4, 1, 3), (2, 30, 30, 0, 16), (2, 23, 0, 0, 64), (2, 11, 0, 2, 96), (5, 19, 8, 4, 65),
        (2, 9, 5, 1, 768), (1, 9, 4, 0, 300),
    )  # fmt: skip
    for dtype, (n, length, kept, prefix, width) in itertools.product(FLOATS, cases):
        visible, ids, token, pos, _ = of_restore.problem(n, length, kept, width, prefix, dtype, "cpu")
        for positions in (pos, pos[0], None) if n == 3 else (pos,):
            of_restore.check(visible, ids, token, positions, prefix, (n, length, kept, prefix, width))
    of_restore.test_mixed_types(*HERE, None)
    of_restore.test_nan_and_inf_go_on(*HERE)
    of_restore.test_masks_of_different_sizes(*HERE)


def check_layouts_of_restored_tokens():
    _, ids, token, pos, _ = of_restore.problem(3, 11, 5, 24, 1, torch.float32, "cpu")
    strided = torch.stack([ids, -ids], 2)[..., 0]
    for layout, visible in token_layouts(3, 6, 24, torch.float32, "cpu").items():
        of_restore.check(visible, strided, token, pos, 1, layout)
    wide = torch.randn(30, 48)
    for same in (ids.T.contiguous().T, ids[:1].expand(3, 11)):
        of_restore.check(visible, same, wide[0, ::2], wide.T[::2, :12].T, 1, "strided parameters")
    of_restore.check(visible, ids, token, pos[:, :1].expand(1, 12, 24), 1, "one position")
    of_restore.test_upstream_gradient_of_any_layout(*HERE)
    of_restore.test_only_the_gradients_asked_for(*HERE)


def check_sums_over_many_samples():
    """Parts of the batch, one after another and beside each other; all terms positive, so that a running sum shows."""
    images, ids_of_patches = torch.zeros(1, 1, 1, 4).expand(40, 1, 1, 4), torch.randint(-1, 4, (40, 3))
    chosen = launch.splits_of_samples
    for splits, width in ((1, 1), (2, 3), (17, 1)):
        assert chosen(splits, 40) <= 40
        launch.splits_of_samples = lambda programs, samples, splits=splits: splits
        visible, ids, token, pos, _ = of_restore.problem(40, 17, 8, width, 0, torch.float32, "cpu")
        of_restore.check(visible, ids, token, pos, 0, ("restore", splits), positive=True)
        hold_linear_op(
            lambda pos: mask_patchify(images, ids_of_patches, 1, pos)[1],
            lambda pos: reference.gather_tokens(pos.expand(40, -1, -1), ids_of_patches),
            [torch.randn(4, width)], ("positions", splits), positive=True,
        )  # fmt: skip
    for programs, samples in itertools.product((1, 7, 600), (1, 5, 256, 257, 4096)):
        assert 1 <= chosen(programs, samples) <= samples
        assert -(-samples // chosen(programs, samples)) <= 256  # one after another


def check_patches():
    for shape, patch in (of_patches.CASES[i] for i in (1, 4, 6, 7)):
        of_patches.test_patches_of_every_layout(*HERE, shape, patch, None)
    of_patches.test_any_size_type_and_layout(*HERE)


def check_pixels():
    of_patches.test_pixels_of_every_type(*HERE, None)
    of_patches.test_every_pixel_value(*HERE)
    of_patches.test_other_patches_are_not_touched(*HERE)
    for shape, patch, layout in (
        ((1, 3, 1, 64, 32), (1, 32, 32), "channels last"), ((1, 3, 2, 33, 34), (2, 33, 17), "every other"),
        ((1, 4, 4, 16, 16), (2, 16, 16), "frames first"), ((2, 1, 1, 28, 28), (1, 14, 14), "slice"),
    ):  # fmt: skip
        for dtype, last in itertools.product((torch.uint8, torch.float16), (False, True)):
            tokens = of_patches.tokens_of(shape, patch)
            ids, images = torch.randint(-1, tokens, (shape[0], 3)), videos(shape, dtype)[layout]
            of_patches.check(images, ids, patch, last, (shape, last), *of_patches.statistics(shape[1]))


def check_positions():
    images = torch.randint(0, 256, (3, 3, 12, 8), dtype=torch.uint8)
    for dtype, (width, kind, count) in itertools.product(
        FLOATS, ((1, "distinct", 6), (65, "none", 4), (16, "duplicates", 20), (3, "distinct", 0), (768, "none", 3))
    ):
        ids, wide = some_ids(3, count, 6, kind), torch.randn(6, 2 * width + 1).to(dtype)
        for pos in (wide[None, :, :width].contiguous(), wide[:, 1::2]):
            patches, found = mask_patchify(images, ids, 4, pos)
            exact = reference.gather_tokens(pos.reshape(6, -1).expand(3, -1, -1), ids)
            assert torch.equal(found, exact), (width, kind)
            assert torch.equal(patches, mask_patchify(images, ids, 4)), (width, kind)
        hold_linear_op(
            lambda pos, ids=ids: mask_patchify(images, ids, 4, pos)[1],
            lambda pos, ids=ids: reference.gather_tokens(pos.expand(3, -1, -1), ids), [pos], (width, kind),
        )  # fmt: skip


def check_forms_of_the_loss():
    for loss, norm_pix in itertools.product(masked_loss.LOSSES, (True, False)):
        of_loss.test_forms(*HERE, torch.float32, loss, norm_pix, None)
        if norm_pix and loss == "mse":
            of_loss.test_forms(*HERE, torch.float16, loss, norm_pix, None)


def check_images_of_the_loss():
    for shape, patch in (
        ((2, 16, 1, 6, 9), (1, 6, 3)), ((1, 3, 4, 8, 12), (2, 4, 4)), ((1, 2, 1, 5, 7), (1, 1, 1)),
    ):  # fmt: skip
        of_loss.test_images_of_every_layout(*HERE, shape, patch, None)
    of_loss.test_any_size_type_and_layout(*HERE)


def check_values_of_the_loss():
    of_loss.test_published_value_of_a_zero_prediction(*HERE)
    of_loss.test_images_and_predictions_of_every_type(*HERE, None)
    of_loss.test_predictions_of_every_layout(*HERE, None)
    of_loss.test_flat_and_dark_patches(*HERE)
    for loss in masked_loss.LOSSES:
        of_loss.test_what_is_not_masked_is_not_read(*HERE, loss)
        for poison in (float("nan"), float("inf"), -float("inf")):
            of_loss.test_nan_and_inf_reach_the_loss(*HERE, loss, poison)
    for dtype in FLOATS:
        of_loss.test_no_masked_token_gives_nan(*HERE, dtype)


def check_large_patches_of_the_loss():
    """Patches of 4096 elements stay in registers, one more and they go in pieces."""
    for channels, patch in ((1, (1, 64, 64)), (1, (1, 17, 241)), (3, (2, 40, 40)), (16, (1, 30, 30))):
        shape = (1, channels, 2 * patch[0], *patch[1:])
        mask, pixels = torch.tensor([[0.5, 2.0]]), videos(shape, torch.uint8)
        pred = torch.randn(1, 2, channels * patch[0] * patch[1] * patch[2])
        for loss, norm_pix, last in (
            ("mse", True, True), ("mse", False, False), ("l1", True, False), ("smooth_l1", True, True),
        ):  # fmt: skip
            options = {"loss": loss, "norm_pix": norm_pix, "channels_last": last, "beta": 0.3}
            options |= masked_loss.statistics(channels)
            images = pixels["channels last" if last else "contiguous"]
            masked_loss.check(pred, images, mask, patch, (patch, options), **options)
        ids = torch.tensor([[1]])
        masked_loss.check(pred.half()[:, :1], images.float(), ids, patch, (patch, "ids"))


def check_gradients_of_the_loss():
    for dtype in FLOATS:
        of_loss_backward.test_backward_twice_gives_the_same(*HERE, dtype)
    of_loss_backward.test_half_gradients_do_not_underflow_under_a_scaler(*HERE, "mse")
    of_loss_backward.test_gradients_accumulate(*HERE)
    of_loss_backward.test_second_derivatives_say_no(*HERE)
    of_loss_backward.test_loss_without_a_gradient_is_the_same(*HERE)


def check_sums_of_the_loss():
    """More weights than one program adds up in a step, and more programs than a step of the last sum takes."""
    loss_kernels.BLOCK = loss_kernels.REDUCTION = 16
    for n, rows in ((3, 2000), (1, 2047), (2, 1025)):
        pred, images, weights = torch.rand(n, rows, 1), torch.rand(n, 1, 1, rows), torch.rand(n, rows)
        video = images[:, :, None]
        masked_loss.check(pred, video, weights, (1, 1, 1), (n, rows), norm_pix=False)
        ids = some_ids(n, rows, rows, "none")
        masked_loss.check(pred, video, ids, (1, 1, 1), (n, rows, "ids"), norm_pix=False)


def check_scaling():
    for dtype, size in itertools.product(FLOATS, (1, 37, 8192, 8193)):
        x = torch.randn(size).to(dtype)
        for factor, kind in itertools.product((1.0, 0.3, 0.0, -65536.0), (torch.float32, torch.float64)):
            scaled, number = x.clone(), torch.tensor(factor, dtype=kind)
            loss_kernels.scale_(scaled, number)
            assert torch.equal(scaled, (x.float() * number.float()).to(dtype)), (dtype, size, factor)


def check_runs_are_equal():
    """Twice the same bits, sums over parts of the batch and duplicates included."""
    images, ids = torch.randint(0, 256, (7, 3, 12, 8), dtype=torch.uint8), torch.randint(-1, 6, (7, 9))
    shapes = ((7, 6, 33), (33,), (9, 33), (6, 33), (7, 6, 48))
    leaves = [torch.randn(*shape, requires_grad=True) for shape in shapes]
    x, token, pos, positions, pred = leaves

    def run():
        outputs = (
            gather_tokens(x, ids), restore_tokens(x, ids, token, pos), mask_patchify(images, ids, 4, positions)[1],
            masked_mse(pred, images, torch.linspace(0, 1, 42).view(7, 6), 4),
        )  # fmt: skip
        return [*outputs, *torch.autograd.grad([o.square().sum() for o in outputs], leaves)]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def check_launches():
    launches = Launches(gather_kernels, patch_kernels, restore_kernels, loss_kernels)
    ids, x = torch.tensor([[0, 3, -1], [2, 2, 1]]), torch.randn(2, 5, 8)
    images, same = torch.randn(2, 3, 1, 4, 8), ([1.0] * 3, [0.0] * 3)
    patch, loss = [1, 2, 4], ([1, 2, 4], 0, 1.0, True, True, *same)
    pred, weights = torch.randn(2, 4, 24), torch.rand(2, 4)
    for count, call in (
        (1, lambda: gather_kernels.gather_tokens_fwd(x, ids, 1)),
        (1, lambda: gather_kernels.gather_tokens_bwd(torch.randn(2, 4, 8), ids, 5, 1)),
        (1, lambda: patch_kernels.mask_patchify_fwd(images, ids, patch, None, *same, False, torch.half)),
        (1, lambda: patch_kernels.mask_patchify_fwd(images, ids, patch, x[0, :4], *same, False, torch.half)),
        (1, lambda: patch_kernels.mask_patchify_bwd(torch.randn(1, 3, 8), ids[:1], 4)),
        (2, lambda: patch_kernels.mask_patchify_bwd(torch.randn(2, 3, 8), ids, 4)),
        (1, lambda: restore_kernels.restore_tokens_fwd(x, ids, x[0, 0], None, 1, torch.float32)),
        (3, lambda: restore_kernels.restore_tokens_bwd(torch.randn(2, 4, 8), ids, 5, 1, True)),
        (3, lambda: restore_kernels.restore_tokens_bwd(torch.randn(2, 4, 8), ids, 5, 1, False)),
        (3, lambda: loss_kernels.masked_mse_fwd(pred[:, :3], images, ids, None, *loss, True)),
        (3, lambda: loss_kernels.masked_mse_fwd(pred, images, None, weights, *loss, False)),
        (1, lambda: loss_kernels.scale_(torch.randn(9000), torch.tensor(2.0))),
    ):  # fmt: skip
        launches.count = 0
        call()
        assert launches.count == count


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
