"""Checks of the Triton kernels of teachers in Triton's interpreter: `python triton_teachers_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
Most of them are the tests of the op, run on this backend, but for bfloat16: the interpreter computes it wrongly.
In all of them each number that a kernel reads or writes has to be one of its arguments'.
"""

import itertools
import math
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import interpreting
import test_dino_loss as of_dino
import test_dino_loss_op as dino_op
import test_sinkhorn as of_sinkhorn
import torch
from distillation import assert_accurate, evaluate, logits, problem
from launches import Launches

from fastssl.functional import dino_loss, sinkhorn
from fastssl.kernels.torch import dino_loss as streaming
from fastssl.kernels.triton import dino_loss as dino_kernels
from fastssl.kernels.triton import launch
from fastssl.kernels.triton import sinkhorn as sinkhorn_kernels

interpreting.begin()
interpreting.watch_memory()
interpreting.round_fma_once()

HERE = ("cpu", "triton")  # where the tests of the op run
FLOATS = (torch.float32, torch.float16)
WIDTHS = (1, 3, 16, 127, 257, 1000)


def slices_of(tiles):
    """Make every program take so many tiles, so that short rows have several slices."""

    def slices(rows, width, block, device):
        return -(-width // (tiles * block)), tiles

    launch.slices = slices


def check_dino_shapes():
    of_dino.test_uniform_rows_cost_log_k(*HERE, 1000)
    of_dino.test_a_certain_teacher_costs_the_students_surprise(*HERE)
    for i, (dtype, k) in enumerate(itertools.product(FLOATS, WIDTHS)):
        student, teacher = problem(3, 2, (1, 2, 3, 7)[i % 4], k, dtype)
        assert_accurate(student, teacher, torch.randn(k))


def check_dino_slices():
    """One tile a slice and several, of which the last may not be whole, or the last slice have fewer."""
    for tiles, k in ((1, 1024), (1, 600), (2, 1280), (3, 700), (64, 256)):
        slices_of(tiles)
        assert_accurate(*problem(3, 2, 2, k, size=3.0), torch.randn(2, k))
        assert_accurate(*problem(1, 1, 3, k, torch.float16), None, skip_same_view=False, row_weights=torch.rand(3))


def check_dino_views():
    """Of one launch and of several, which begin in the middle of a stack; a center for each view."""
    for i, ((s, t), k) in enumerate(itertools.product((*of_dino.VIEWS, (14, 2), (26, 1)), (33, 64))):
        student, teacher = problem(s, t, 2, k)
        assert_accurate(student, teacher, torch.randn(t, k), skip_same_view=i % 3 != 0)
    student, teacher = problem(17, 3, 2, 40)
    assert_accurate([student[:2], student[2:15], student[15:]], [teacher[:1], teacher[1:]], torch.randn(40))


def check_dino_types_and_temperatures():
    temps = itertools.cycle(((0.1, 0.04), (1.0, 0.07), (0.1, 1.0)))
    for dtype, size, k in itertools.product(FLOATS, (1.0, 30.0, 1000.0), (3, 257)):
        student, teacher = problem(4, 2, 3, k, dtype, size=size)
        taus = next(temps)
        assert_accurate(student, teacher, (size * torch.randn(k)).to(dtype), *taus)
        assert_accurate(student, teacher, None, *taus)
    for dtypes in itertools.permutations(FLOATS):
        of_dino.test_accuracy_of_a_teacher_of_another_type(*HERE, dtypes, None)


def check_dino_batches():
    """Rows that only some of the views have."""
    for i, (student_rows, teacher_rows) in enumerate(
        (((6, 3), (4, 7)), ((5, 5, 2), (5, 5)), ((1, 8, 3, 8), (2,)), ((2,), (9, 1, 4)), ((3, 20), (20, 5)))
    ):
        student, teacher = logits(0, student_rows, 130), logits(0, teacher_rows, 130, seed=1)
        weights = {"row_weights": torch.randn(max(student_rows + teacher_rows))}
        assert_accurate(student, teacher, torch.randn(130), **weights)
        assert_accurate(student, teacher, torch.randn(len(teacher), 130), skip_same_view=i % 2 == 0)
    of_dino.test_accuracy_of_stacks_in_a_list(*HERE, None)
    of_dino.test_rows_of_no_pair_do_not_matter(*HERE)


def check_dino_targets_and_weights():
    of_dino.test_accuracy_of_soft_targets(*HERE, None)
    of_dino.test_accuracy_with_row_weights(*HERE, None)
    slices_of(2)
    student, teacher = problem(4, 3, 2, 500)
    assert_accurate(student, teacher.softmax(-1), soft_targets=True)


def check_dino_layouts():
    for layout, dtype in zip(of_dino.LAYOUTS, itertools.cycle(FLOATS), strict=False):
        of_dino.test_accuracy_over_strides(*HERE, layout, dtype, None)


def check_dino_numerics():
    for side in ("student", "teacher"):
        of_dino.test_a_constant_on_a_row_changes_nothing(*HERE, side)
    of_dino.test_small_losses_of_large_logits_keep_their_digits(*HERE, 50, 501.3125)
    of_dino.test_nan_in_center_and_weights_reaches_the_loss(*HERE)
    for poison, side in itertools.product((math.nan, math.inf), (0, 1)):
        of_dino.test_nan_and_inf_reach_the_loss(*HERE, poison, side, 40)
    slices_of(1)  # most of which have nothing
    student, teacher = problem(3, 2, 2, 700)
    values = []
    for nothing in (-math.inf, -1e6):
        teacher[..., 5:650] = nothing
        values.append(evaluate(dino_loss, student, teacher, None, 0.1, 0.04, 1.0, {}))
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name])
    student[1, 1] = teacher[1, 1] = -math.inf
    assert dino_loss(student, teacher).isnan()


def check_bad_temperatures():
    student, teacher = problem(3, 2, 2, 20)
    good, zero, below = (torch.tensor(x) for x in (0.1, 0.0, -0.1))
    for temps in ((good, zero), (below, good)):
        assert dino_kernels.dino_loss_fwd([student], [teacher], None, *temps, None, True, False)[0].isnan()
    for bad in (zero, below):
        assert sinkhorn_kernels.sinkhorn_pass(student[0], torch.zeros(20), bad, True)[1].isnan().all()


def check_dino_op():
    dino_op.test_only_the_gradients_asked_for(*HERE)
    dino_op.TYPES = (torch.float64, *FLOATS)
    dino_op.test_output_types(*HERE)
    for kind in ("stacks", "list", "soft"):
        dino_op.test_opcheck(torch.float32, *HERE, kind)


def check_dino_kernels():
    """All that they return, rows that a view lacks included; temperatures in float64, as a host gives them."""
    students, teachers = ([torch.randn(v, b, 70) for v, b in side] for side in (((2, 4), (1, 2)), ((1, 3), (1, 5))))
    taus = [torch.tensor(x, dtype=torch.float64) for x in (0.1, 0.04)]
    for soft, center in ((False, torch.randn(1, 70)), (False, torch.randn(2, 70)), (True, None)):
        results = []
        for kernels in (dino_kernels, streaming):
            data = students, teachers, center, *taus, None
            loss, *norms = kernels.dino_loss_fwd(*data, True, soft)
            for dtype in (torch.float32, torch.float64):
                grads, grad_temp = kernels.dino_loss_bwd(torch.tensor(1.5, dtype=dtype), *data, *norms, True, soft)
                results.append((loss, *norms, *grads, grad_temp))
        for found in results[:2]:
            for a, b in zip(found, results[2], strict=True):
                assert (a.dtype, a.is_contiguous()) == (b.dtype, True)
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def check_sinkhorn():
    """Ragged rows and columns, of scores that differ by much and by little."""
    shapes = ((1, 1), (1, 257), (5, 300), (41, 16), (9, 1024), (3, 77), (2, 3), (7, 1), (19, 130))
    sizes = itertools.cycle(itertools.product(of_sinkhorn.LOGITS, of_sinkhorn.TEMPS))
    for shape, dtype in itertools.product(shapes, FLOATS):
        for size, temp in itertools.islice(sizes, 2):
            of_sinkhorn.check(size * torch.randn(shape).to(dtype), temp, (shape, dtype, temp, size))


def check_sinkhorn_slices_and_parts():
    """Rows in several slices, samples in several parts."""
    slices_of(1)
    launch.parts_of_samples = lambda blocks, samples, rows, device: (-(-samples // rows), rows)
    for shape, dtype, size, temp in (
        ((7, 600), torch.float32, 1.0, 0.05),
        ((19, 64), torch.float16, 10.0, 0.1),
        ((6, 512), torch.float32, 1e3, 0.04),
    ):
        of_sinkhorn.check(size * torch.randn(shape).to(dtype), temp, (shape, dtype, temp, size))
    for x in (torch.randn(20, 12).T, torch.randn(8, 80)[::2, :70], torch.randn(1, 9).expand(10, 9)):
        of_sinkhorn.check(x, 0.05, x.stride())


def check_sinkhorn_passes():
    """What a pass returns, against its definition."""
    x, center, tau = torch.randn(13, 70), torch.randn(70), torch.tensor(0.1)
    scores = (x.double() - center) / tau.double()
    rows, columns = sinkhorn_kernels.sinkhorn_pass(x, center, tau, True)
    torch.testing.assert_close(rows, scores.logsumexp(1), rtol=1e-6, atol=1e-6)
    exact = (x.double() / tau.double() - scores.logsumexp(1, keepdim=True)).logsumexp(0)
    torch.testing.assert_close(columns, exact, rtol=1e-6, atol=1e-6)
    alone, nothing = sinkhorn_kernels.sinkhorn_pass(x, center, tau, False)
    assert torch.equal(alone, rows)
    assert nothing.shape == (0,)
    zeros, columns = sinkhorn_kernels.sinkhorn_pass(x, None, tau.double(), True)
    assert torch.equal(zeros, torch.zeros(13, dtype=torch.float64))
    torch.testing.assert_close(columns, (x.double() / tau.double()).logsumexp(0), rtol=1e-6, atol=1e-6)


def check_sinkhorn_edges():
    tau = torch.tensor(0.1)
    for center in (None, torch.zeros(4)):
        rows, columns = sinkhorn_kernels.sinkhorn_pass(torch.empty(0, 4), center, tau, True)
        assert (rows.shape, columns.tolist()) == ((0,), [-math.inf] * 4)
    for poison in (math.nan, math.inf):
        x = torch.randn(5, 6)
        x[2, 3] = poison
        assert sinkhorn(x).isnan().all()
    x[2, 3] = -math.inf  # closes a prototype to a sample
    exact = torch.ops.fastssl.sinkhorn_pass(x.double(), torch.zeros(6).double(), tau.double(), True, "torch")
    for found, want in zip(sinkhorn_kernels.sinkhorn_pass(x, torch.zeros(6), tau, True), exact, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)


def check_launches():
    """Few, whatever the size: three and two of equal batches, one more for every other batch size or twelve views."""
    launches = Launches(dino_kernels, sinkhorn_kernels)
    x = torch.randn(40, 12)
    for count, call in (
        ((3, 2), lambda: dino_loss(*views(3, 2, 2))), ((3, 2), lambda: dino_loss(*views(12, 2, 3))),
        ((4, 3), lambda: dino_loss(*views(13, 2, 1))),
        ((4, 3), lambda: dino_loss([*views(2, 2, 3)[0], *views(3, 2, 2)[0]], views(3, 2, 3)[1])),
        ((2, 0), lambda: sinkhorn(x, 1)), ((10, 0), lambda: sinkhorn(x, 3)),
    ):  # fmt: skip
        launches.count = 0
        out = call()
        forward, launches.count = launches.count, 0
        if out.requires_grad:
            out.backward()
        assert (forward, launches.count) == count, (forward, launches.count, count)


def views(s, t, b):
    student, teacher = problem(s, t, b, 20)
    return student.requires_grad_(), teacher


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
