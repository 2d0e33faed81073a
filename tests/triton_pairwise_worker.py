"""Checks of the engine's Triton kernels under Triton's interpreter: `python triton_pairwise_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
The rule is that of the ops' own tests, through the ops, forced onto this backend; bfloat16 is left out, which the
interpreter computes wrongly.
"""

import itertools
import math
import os
import sys
import warnings
from dataclasses import replace

os.environ["TRITON_INTERPRET"] = "1"

import interpreting
import numpy as np
import test_pairwise_logsumexp as of_logsumexp
import test_pairwise_softplus as of_softplus
import torch
import triton.language as tl
from launches import Launches
from triton.runtime.interpreter import TensorHandle

import fastssl
from fastssl.functional import pairwise_logsumexp, pairwise_softplus
from fastssl.kernels.triton import launch
from fastssl.kernels.triton import pairwise_logsumexp as logsumexp_kernels
from fastssl.kernels.triton import pairwise_softplus as softplus_kernels

warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy on log2(0) and the branches that tl.where drops
torch.set_num_threads(1)
torch.manual_seed(0)
fastssl.use_backend("triton")
real_empty = torch.empty

HERE = ("cpu", "triton")  # where the tests of the ops run
FLOATS = (torch.float32, torch.float16)


def nan_empty(*args, **kwargs):
    """Whatever a kernel leaves unwritten shows."""
    out = real_empty(*args, **kwargs)
    return out.fill_(float("nan")) if out.is_floating_point() else out


torch.empty = nan_empty
torch.empty_like = lambda x: nan_empty(x.shape, dtype=x.dtype, device=x.device)


def small_blocks(block_m, block_n, block_d, splits, resident=True, mask_all=False):
    """Make every launch use these blocks, so that a small problem has many tiles."""
    forward = launch.Config(block_m, block_n, block_d, resident=resident)
    backward = replace(forward, block_slice=2 * block_d, mask_all=mask_all)
    launch.pick = lambda loop, *_: forward if loop == "pairwise_sums" else backward
    launch.splits = lambda *_, **__: splits


def check_softmax_sizes():
    for m, n, d in ((1, 1, 1), (2, 7, 3), (65, 64, 16), (33, 129, 96), (129, 3, 257), (9, 5, 512), (3, 4, 1024)):
        x, y = of_logsumexp.problem(m, n, d)
        of_logsumexp.assert_accurate(x, y, normalize=True, columns=True)
        of_logsumexp.assert_accurate(x, y, 3.0, y_fixed=True, normalize=True)
        of_logsumexp.assert_accurate(x, None, 2.0, exclude="diagonal", normalize=True)


def check_softmax_types_and_scales():
    # A score of 50 times 200: tiles of two shapes would have it a rounding apart in the two passes.
    small_blocks(64, 32, 32, splits=2, resident=False)
    for dtype, scale in itertools.product(FLOATS, of_logsumexp.SCALES):
        for m, n, d, normalize in ((1, 5, 16, True), (70, 3, 3, False), (65, 100, 24, True), (65, 100, 24, False)):
            x, y = of_logsumexp.problem(m, n, d, dtype)
            of_logsumexp.assert_accurate(x, y, scale, normalize=normalize, columns=True)
            of_logsumexp.assert_accurate(x, y, scale, y_fixed=True, normalize=normalize)
            of_logsumexp.assert_accurate(x, None, scale, normalize=normalize)


def check_softmax_exclusions():
    for (m, n), scale in itertools.product(((7, 7), (66, 40), (40, 66)), (1.0, 50.0, -2.0, 100.0)):
        x, y = of_logsumexp.problem(m, n, 24)
        several = of_logsumexp.groups(4, m), of_logsumexp.groups(4, n)
        everything = torch.zeros(m, dtype=torch.int64), torch.zeros(n, dtype=torch.int32)
        for exclude in ("diagonal", several, everything):
            of_logsumexp.assert_accurate(x, y, scale, exclude=exclude, normalize=True, columns=True)
            of_logsumexp.assert_accurate(x, y, scale, exclude=exclude, normalize=True, y_fixed=True)
            own = exclude if isinstance(exclude, str) else exclude[0]
            of_logsumexp.assert_accurate(x, None, scale, exclude=own, normalize=True)


def check_softmax_hard_rows():
    for case in ("duplicates", "zero rows", "tiny norms", "huge norms", "mixed norms", "huge scores"):
        of_logsumexp.test_accuracy_on_hard_rows(*HERE, case, None)


def check_softmax_op():
    of_logsumexp.test_strides(*HERE, None)
    of_logsumexp.test_a_fixed_y_may_change_before_the_backward_pass(*HERE)
    of_logsumexp.test_only_the_gradients_asked_for(*HERE)
    for poison, scale in itertools.product((math.nan, math.inf, -math.inf), (2.0, 100.0)):
        of_logsumexp.test_nan_and_inf_reach_the_result(*HERE, poison, scale)


def check_softmax_blocks():
    """Even and odd rings, more splits than column blocks, column blocks below row blocks, chunks of the width."""
    sizes = itertools.cycle(((17, 50), (40, 7), (64, 32)))
    for blocks in ((16, 16, 16, 1), (32, 16, 16, 3), (64, 16, 32, 2), (16, 16, 32, 9)):
        for resident, mask_all in ((True, False), (False, True)):
            small_blocks(*blocks, resident=resident, mask_all=mask_all)
            m, n = next(sizes)
            x, y = of_logsumexp.problem(m, n, 40)
            ids = of_logsumexp.groups(3, m), of_logsumexp.groups(3, n)
            for scale, exclude in ((5.0, None), (100.0, ids), (-5.0, ids)):
                of_logsumexp.assert_accurate(x, y, scale, exclude=exclude, normalize=True, columns=True)
                of_logsumexp.assert_accurate(x, y, scale, y_fixed=True, exclude=exclude, normalize=True)
                of_logsumexp.assert_accurate(x, None, scale, exclude=exclude and ids[0], normalize=True)


def check_softmax_deterministic():
    torch.use_deterministic_algorithms(True)
    small_blocks(16, 16, 16, splits=3)
    for scale in (3.0, 100.0):
        x, y = of_logsumexp.problem(37, 55, 24)
        of_logsumexp.assert_accurate(x, y, scale, normalize=True, columns=True)
        of_logsumexp.assert_accurate(x, None, scale, exclude="diagonal", normalize=True)


def check_float16_weights():
    """Weights of the order of 1 / n, under upstream gradients of any size, and of rows with a small share of it."""
    for size in (2.0**-40, 1.0, 2.0**40):
        x, y = of_logsumexp.problem(20, 700, 16, torch.float16)
        leaves = [t.float().requires_grad_() for t in (x, y)]
        upstream = torch.logspace(0, -4, 20) * size
        grads = []
        for products in (torch.float16, torch.float32):
            row_lse, col_lse, _ = torch.ops.fastssl.pairwise_logsumexp(
                *leaves, torch.tensor(0.3), None, None, products, False, True, False, "triton"
            )
            for total in ((row_lse * upstream).sum(), (row_lse * upstream).sum() - (col_lse[:20] * upstream).sum()):
                grads += torch.autograd.grad(total, leaves, retain_graph=True)
        for half, full in zip(grads[:4], grads[4:], strict=True):
            assert (half - full).abs().max() <= 4 * torch.finfo(torch.float16).eps * full.abs().max()
        error = (grads[0] - grads[4]).abs().amax(1) / grads[4].abs().amax(1)
        assert error.max() <= 8 * torch.finfo(torch.float16).eps, error


def check_softmax_gradient_of_given_lse():
    """A ring over processes gives the log-sum-exp over all blocks of y. Either of the two terms may be absent."""
    x, y = of_logsumexp.problem(33, 20, 24)
    for scale, bounded in ((2.0, True), (-90.0, False), (0.0, False)):
        s = torch.tensor(scale)
        unit = [torch.nn.functional.normalize(t) for t in (x, y)]
        a, b = (t.double() for t in unit)
        scores = scale * (a @ b.T)
        row_lse, col_lse = (scores.logsumexp(axis) + 0.7 for axis in (1, 0))
        row_lse[3], col_lse[5] = -math.inf, -math.inf
        grad_row, grad_col = torch.randn(33), torch.randn(20)
        for row, col in ((grad_row, grad_col), (grad_row, None), (None, grad_col)):
            weights = torch.zeros_like(scores)
            if row is not None:
                weights[row_lse > -math.inf] += ((scores - row_lse[:, None]).exp() * row[:, None])[row_lse > -math.inf]
            if col is not None:
                keep = col_lse > -math.inf
                weights[:, keep] += ((scores - col_lse).exp() * col)[:, keep]
            exact = scale * weights @ b, scale * weights.T @ a, (weights * (a @ b.T)).sum()
            for need in itertools.product((True, False), repeat=2):
                found = logsumexp_kernels.pairwise_logsumexp_bwd(
                    row, col, *unit, s, None, None, row_lse, None if col is None else col_lse, torch.float32, bounded,
                    *need,
                )  # fmt: skip
                for f, e, wanted in zip(found, exact, (*need, True), strict=True):
                    if wanted:
                        torch.testing.assert_close(f.double(), e, rtol=2e-5, atol=2e-5 * (1 + abs(scale)))
                    else:
                        assert f.shape == (0, 24)


def check_scale_forms():
    """A scale on the device, as here; one on the host, of which column sums need no second launch; wide and narrow."""
    x, y = (torch.nn.functional.normalize(t) for t in of_logsumexp.problem(20, 30, 16))
    ids = [torch.arange(k, dtype=torch.int32) for k in (20, 30)]

    def results(scale):
        args = (x, y, scale, *ids, torch.float32)
        total = softplus_kernels.pairwise_softplus_fwd(x, y, scale, torch.zeros(20), *ids, torch.float32, False, 1, 1)
        return *logsumexp_kernels.pairwise_logsumexp_fwd(*args, True, True, False)[:2], *total

    first = results(torch.tensor(0.25))
    others = [results(torch.tensor(0.25, dtype=dtype)) for dtype in (torch.float64, torch.float16)]
    # As for x on a GPU and a scale on the CPU. The interpreter would pass a bare float on as it is.
    scalar = tl.tensor(TensorHandle(np.array([0.25], dtype=np.float32), tl.float32), tl.float32)
    launch.readable = lambda *_: scalar
    others.append(results(torch.tensor(0.25)))
    launches = Launches(logsumexp_kernels)
    logsumexp_kernels._surely_plain = lambda _: True
    others.append(results(torch.tensor(0.25)))
    assert launches.count == 5  # sums, two logarithms, and two gradients of the sigmoid loss
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def check_softplus_of_one_pair():
    """Every digit of the term and of its derivative, however small."""
    one, ids = torch.ones(1, 1), torch.zeros(1, dtype=torch.int32)
    for t in (-80.0, -20.0, -5.0, -1.0, -0.6, -0.3, -1e-3, 0.0, 1e-3, 0.3, 0.6, 1.0, 2.0, 5.0, 20.0, 300.0):
        total, *_, grad_bias = softplus_kernels.pairwise_softplus_fwd(
            one * t, one, torch.tensor(1.0), torch.zeros(1), ids, ids + 1, torch.float32, False, False, False
        )
        exact = torch.tensor(t, dtype=torch.float64)
        tolerance = torch.finfo(torch.float32).eps * (3 + abs(t))  # exp(t) enlarges a rounding of t by t
        for found, want in ((total, torch.nn.functional.softplus(exact, threshold=1e3)), (grad_bias, exact.sigmoid())):
            assert (found.double() - want).abs() <= tolerance * want, (t, found, want)


def check_softplus():
    for m, n, d in ((1, 1, 1), (2, 7, 3), (65, 64, 16), (33, 129, 96), (129, 3, 257), (9, 5, 512), (3, 4, 1024)):
        of_softplus.assert_accurate(*of_softplus.problem(m, n, d), 10.0, -10.0, normalize=True)
    of_softplus.test_a_bias_for_each_row(*HERE, None)
    of_softplus.test_small_terms_keep_their_digits(*HERE)
    of_softplus.test_only_the_gradients_asked_for(*HERE)
    for poison in (math.nan, math.inf):
        of_softplus.test_nan_and_inf_reach_the_loss(*HERE, poison)


def check_softplus_types_and_logits():
    for dtype, (scale, bias) in itertools.product(FLOATS, of_softplus.LOGITS):
        for i, (m, n, d) in enumerate(((1, 5, 16), (70, 3, 3), (65, 100, 24))):
            x, y = of_softplus.problem(m, n, d, dtype)
            labels = {"same": of_softplus.labels(3, m, n)}
            for only_same, more in itertools.product((True, False), ({}, labels)):
                normalize = only_same ^ bool(more) ^ bool(i % 2)
                of_softplus.assert_accurate(x, y, scale, bias, normalize=normalize, only_same=only_same, **more)


def check_softplus_blocks():
    for blocks in ((16, 16, 16, 1), (32, 16, 16, 3), (16, 16, 32, 9)):
        for resident, mask_all in ((True, False), (False, True)):
            small_blocks(*blocks, resident=resident, mask_all=mask_all)
            for (m, n), only_same in itertools.product(((17, 50), (64, 32), (40, 7)), (True, False)):
                x, y = of_softplus.problem(m, n, 40)
                of_softplus.assert_accurate(
                    x, y, 4.0, -3.0, same=of_softplus.labels(3, m, n), only_same=only_same, normalize=True
                )


def check_launches():
    """Few, whatever the size."""
    launches = Launches(logsumexp_kernels, softplus_kernels)

    def count(form, most):
        launches.count = 0
        loss = form().sum()
        forward, launches.count = launches.count, 0
        loss.backward()
        found = forward, launches.count
        assert all(n <= m for n, m in zip(found, most, strict=True)), f"{found} launches, want at most {most}"

    for rows in (1, 70):
        x, y = (t.requires_grad_() for t in of_logsumexp.problem(rows, rows + 3, 8))
        count(lambda: pairwise_logsumexp(x, None, normalize=True), (2, 4))  # noqa: B023
        count(lambda: pairwise_logsumexp(x, y.detach()), (2, 0))  # noqa: B023
        count(lambda: pairwise_logsumexp(x, y), (2, 6))  # noqa: B023
        count(lambda: torch.cat(pairwise_logsumexp(x, y, columns=True, normalize=True)), (4, 6))  # noqa: B023
        count(lambda: pairwise_softplus(x, y), (5, 0))  # noqa: B023


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
