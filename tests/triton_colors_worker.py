"""Checks of the Triton kernels of colours under Triton's interpreter: `python triton_colors_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
Each number that a kernel reads or writes has to be one of its arguments'; bfloat16 the interpreter computes wrongly.
"""

import itertools
import math
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import masking_reference
import torch

masking_reference.TYPES = (torch.float64, torch.float32, torch.float16)

import interpreting  # noqa: E402
import test_lab_bins as of_colors  # noqa: E402
import test_sparse_cross_entropy as of_loss  # noqa: E402
from launches import Launches  # noqa: E402

from fastssl.functional import ab_bins, lab_bins, sparse_cross_entropy  # noqa: E402
from fastssl.kernels.triton import lab_bins as color_kernels  # noqa: E402
from fastssl.kernels.triton import sparse_cross_entropy as loss_kernels  # noqa: E402

interpreting.begin()
interpreting.watch_memory()

HERE = ("cpu", "triton")  # where the tests of the ops run


def check_colors():
    """Every type and layout, more pixels than a block and fewer, strides."""
    of_colors.test_known_colors(*HERE)
    cases = [(torch.uint8, 1, "planes"), (torch.float32, 2, "interleaved"), (torch.float16, 4, "strided")]
    for dtype, stride, layout in cases:
        images = of_colors.images_of(dtype, n=2, height=5, width=17, layout=layout)
        of_colors.check(images, stride=stride, where=(dtype, stride, layout))
    of_colors.check(of_colors.images_of(torch.float32), stride=1000, normalized=True, where="normalised")


def check_bins():
    """Cells with too many bins, points beyond the cells, more neighbours than a cell has; equal distances."""
    images = of_colors.images_of(height=3, width=7)
    kinds = {
        "one": (torch.zeros(1, 2), 1), "dense": (10 * torch.randn(150, 2), 10), "few": (60 * torch.randn(7, 2), 7),
        "far away": (1000 + 50 * torch.randn(30, 2), 3), "more than a cell has": (60 * torch.randn(40, 2), 19),
        "strided": (torch.stack([ab_bins(), ab_bins()], -1)[..., 0], 16),
    }  # fmt: skip
    for kind, (bins, neighbors) in kinds.items():
        of_colors.check(images, bins, neighbors, where=kind)
    of_colors.check(-2 * images.float() / 255, where="beyond")
    of_colors.test_of_equal_distances_the_lower_index_comes_first(*HERE)


def check_colors_that_are_not_finite():
    images = of_colors.images_of(torch.float32, n=1, height=1, width=9)
    clean = lab_bins(images, neighbors=3)
    for channel, bad in enumerate((math.nan, math.inf, -math.inf)):
        spoilt = images.clone()
        spoilt[0, channel, 0, 4] = bad
        lab, index, weight = lab_bins(spoilt, neighbors=3)
        assert not lab[..., 4].isfinite().any()
        assert weight[..., 4].isnan().all()
        assert 0 <= index.min() <= index.max() < 313
        assert torch.equal(lab[..., :4], clean.lab[..., :4])
        assert torch.equal(index[..., :4], clean.index[..., :4])


def check_layouts_and_sizes():
    """Rows and columns of classes, all at once and in pieces; one place and many."""
    shapes = (((1, 1), 1), ((7, 3), 1), ((3, 7, 5), 3), ((2, 313, 9, 3), 10), ((2, 20, 70), 4), ((3, 1100), 2),
              ((1, 1030, 3), 2))  # fmt: skip
    for i, (shape, count) in enumerate(shapes):
        for layout, dtype in zip(("columns", "rows"), (torch.float32, torch.float16), strict=True):
            kind = (torch.int32, torch.int64)[i % 2]
            data = of_loss.problem(shape, count, dtype, layout=layout, index_type=kind)
            for reduction in of_loss.REDUCTIONS if i == 2 else (of_loss.REDUCTIONS[i % 3],):
                of_loss.check(*data, reduction, (shape, layout, dtype, reduction))


def check_values():
    of_loss.test_loss_at_chance(*HERE)
    of_loss.test_scales(*HERE, torch.float32)
    of_loss.test_weights_that_cancel(*HERE)
    of_loss.test_an_index_may_come_again_and_one_may_name_nothing(*HERE)


def check_numbers_that_are_not_finite():
    for layout in ("columns", "rows"):
        logits, index, weight = of_loss.problem((1, 20, 5), 3, layout=layout)
        index, weight = index.clamp_min(0), weight + 0.1
        clean = sparse_cross_entropy(logits, index, weight, "none")
        for bad, q in itertools.product((math.nan, math.inf), (0, 19)):
            spoilt = logits.clone()
            spoilt[0, q, 3] = bad
            leaf = spoilt.requires_grad_()
            found = sparse_cross_entropy(leaf, index, weight, "none")
            assert not found[0, 3].isfinite()
            assert torch.equal(found[0, :3], clean[0, :3])
            (grad,) = torch.autograd.grad(found.sum(), leaf)
            assert grad[0, :, 3].isnan().any()
            assert grad[0, :, :3].isfinite().all()
        logits[0, 7] = -math.inf
        never = torch.where(index == 7, 8, index)
        assert sparse_cross_entropy(logits, never, weight, "none").isfinite().all()
        assert (sparse_cross_entropy(logits, torch.full_like(never, 7), weight, "none") == math.inf).all()


def check_what_is_out_of_range_names_no_class():
    """Indices on a GPU are not looked at: the kernels have to."""
    logits, index, weight = of_loss.problem((2, 20, 9), 3, index_type=torch.int64)
    wrong = torch.where(index < 0, torch.tensor([20, -7, 2**32 + 1])[:, None], index)
    arguments = (0, True, "triton")
    found, expected = (torch.ops.fastssl.sparse_cross_entropy(logits, i, weight, *arguments) for i in (wrong, index))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def check_as_ops():
    of_loss.test_only_the_gradients_asked_for(*HERE)
    for dtype in (torch.float32, torch.float16):
        of_loss.test_backward_twice_gives_the_same(*HERE, dtype)
    of_loss.test_second_derivatives_say_no(*HERE, "mean")
    of_loss.test_second_derivatives_say_no(*HERE, "none")
    of_loss.test_the_gradient_lies_as_the_logits_do(*HERE)


def check_launches():
    """As few as the docstrings say."""
    logits, index, weight = of_loss.problem((2, 20, 9), 3)
    leaf = logits.requires_grad_()
    loss, colors = Launches(loss_kernels), Launches(color_kernels)
    sparse_cross_entropy(leaf, index, weight).backward()
    assert loss.count == 1
    sparse_cross_entropy(leaf, index, weight, "none").sum().backward()
    assert loss.count == 3
    for stride, launches in ((1, 2), (2, 5)):
        lab_bins(of_colors.images_of(height=2, width=3), stride=stride)
        assert colors.count == launches


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
