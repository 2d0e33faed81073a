"""Checks of the Triton NT-Xent under Triton's interpreter: `python triton_ntxent_worker.py check_name ...`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
The rule is that of accuracy.py, through the op itself, forced onto this backend.
"""

import itertools
import os
import sys
import warnings
from dataclasses import replace

os.environ["TRITON_INTERPRET"] = "1"

import interpreting
import numpy as np
import torch
import torch.nn.functional as F
import triton.language as tl
from accuracy import assert_accurate
from launches import Launches
from triton.runtime.interpreter import TensorHandle

import fastssl
from fastssl.kernels.triton import launch, ntxent
from fastssl.reference import ntxent as reference

warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy on log2(0) and the branches that tl.where drops
torch.set_num_threads(1)
real_empty = torch.empty


def nan_empty(*args, **kwargs):
    """Whatever a kernel leaves unwritten shows."""
    out = real_empty(*args, **kwargs)
    return out.fill_(float("nan")) if out.is_floating_point() else out


torch.empty = nan_empty


def views(n, d, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(1000 * n + d + seed)
    z0, z1 = (torch.randn(n, d, generator=generator) for _ in range(2))
    return z0.to(dtype), (0.7 * z0 + z1).to(dtype)


def eager(z0, z1, tau, grad, dtype):
    """Loss and gradients of the materialising reference in a dtype."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in (z0, z1, tau)]
    loss = reference(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, grad.to(loss.dtype))]


def kernels(z0, z1, tau, grad):
    loss, *saved = ntxent.ntxent_fwd(z0, z1, tau)
    m, d = 2 * z0.shape[0], z0.shape[1]
    zn, inv_norm, lse, nll = saved
    assert loss.shape == ()
    assert all(t.dtype == torch.float32 for t in (loss, inv_norm, nll))
    assert lse.dtype == torch.float64
    assert zn.shape == (m, d)
    assert zn.is_contiguous()
    assert inv_norm.shape == lse.shape == nll.shape == (m,)
    grads = ntxent.ntxent_bwd(grad, z0, z1, tau, *saved)
    for g, z in zip(grads, (z0, z1, tau), strict=True):
        assert (g.shape, g.dtype) == (z.shape, z.dtype)
        assert g.is_contiguous()
    return [loss, *grads]


def compare(z0, z1, tau, what):
    try:
        with fastssl.use_backend("triton"):
            assert_accurate(fastssl.functional.ntxent, z0, z1, tau, upstream=-1.7, tiles_differ=True)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None


def small_blocks(block_m, block_n, block_d, splits, resident=True, mask_all=False):
    """Make every launch use these blocks, so that a small problem has many tiles."""
    forward = launch.Config(block_m, block_n, block_d, resident=resident)
    backward = replace(forward, block_slice=2 * block_d, mask_all=mask_all)
    launch.pick = lambda loop, *_: forward if loop == "sums" else backward
    launch.splits = lambda *_, **__: splits


def check_sizes():
    """Every number of rows with one width or two, and every width with one number of rows or two."""
    widths = itertools.cycle((16, 1, 64, 3, 257, 96, 128))
    for n, d in zip((1, 2, 3, 7, 33, 64, 65, 129) * 2, widths, strict=False):
        compare(*views(n, d), 0.5, f"N {n} d {d}")
    for n, d in ((9, 512), (5, 1000), (3, 1024)):
        compare(*views(n, d), 0.1, f"N {n} d {d}")


def check_results():
    """Shapes, types and layouts of everything a kernel returns."""
    for (n, d), dtype in itertools.product(((1, 1), (7, 3), (33, 64), (3, 1024)), (torch.float32, torch.float16)):
        kernels(*views(n, d, dtype), torch.tensor(0.5), torch.tensor(-1.7))


def check_dtypes():
    for dtype, (n, d), tau in itertools.product(
        (torch.float16, torch.bfloat16), ((7, 3), (33, 64), (65, 96)), (1.0, 0.07)
    ):
        compare(*views(n, d, dtype), tau, f"{dtype} N {n} d {d} tau {tau}")


def check_float16_weights():
    """On a GPU float16 rows stay float16, and so do the weights, about 2 / m: unscaled they would lose most digits."""
    for n, tau in ((3, 0.5), (129, 0.5), (129, 0.01)):
        z0, z1 = views(n, 16, torch.float16)
        tau, grad = torch.tensor(tau), torch.tensor(1000.0)  # of the order of m, to keep eager's gradients normal
        _, zn, *saved = ntxent.ntxent_fwd(z0, z1, tau)
        got = ntxent.ntxent_bwd(grad, z0, z1, tau, zn.half(), *saved)
        want = eager(z0, z1, tau, grad, torch.float64)[1:]
        for g, w in zip(got, want, strict=True):
            assert (g.double() - w).abs().max() <= 4 * torch.finfo(torch.float16).eps / min(1, 10 * tau) * w.abs().max()


def check_temperatures():
    for tau, (n, d) in itertools.product((1.0, 0.5, 0.07, 0.01, 0.005), ((7, 16), (33, 64), (65, 96))):
        compare(*views(n, d), tau, f"tau {tau} N {n} d {d}")
        noise = views(n, d, seed=1)[0]
        compare(views(n, d)[0], noise, tau, f"unrelated views, tau {tau} N {n} d {d}")


def check_deterministic_mode():
    torch.use_deterministic_algorithms(True)
    for tau in (0.5, 0.005):
        compare(*views(65, 64), tau, f"deterministic tau {tau}")
    small_blocks(16, 16, 16, splits=3)
    for n in (5, 33):
        compare(*views(n, 24), 0.1, f"deterministic blocks N {n}")


def check_blocks():
    """Even and odd rings, more splits than column blocks, column blocks below row blocks, chunks of the width."""
    for blocks in ((16, 16, 16, 1), (32, 16, 16, 3), (64, 16, 32, 2), (16, 16, 32, 9)):
        for resident, mask_all, tau in (
            (True, False, 0.2),
            (True, False, 0.01),
            (False, True, 0.2),
            (False, False, 0.01),
        ):
            small_blocks(*blocks, resident=resident, mask_all=mask_all)
            for n in (7, 16, 31, 39):  # whole blocks, ragged ones, positives in the corner of a tile
                compare(*views(n, 40), tau, f"blocks {blocks} resident {resident} N {n} tau {tau}")


def check_strides():
    z0, z1 = views(33, 24)
    wide = torch.randn(33, 60)
    wide[:, 5:53:2] = z1
    variants = {
        "transposed": (z0.t().contiguous().t(), z1),
        "both transposed": (z0.t().contiguous().t(), z1.t().contiguous().t()),
        "every other column": (z0, wide[:, 5:53:2]),
        "expanded": (z0[:1].expand(33, 24), z1),
        "rows of a batch": tuple(torch.cat([z0, z1]).split(33)),
        "interleaved": tuple(torch.stack([z0, z1], 1).unbind(1)),
    }
    for name, (a, b) in variants.items():
        compare(a, b, 0.3, name)


def check_hard_rows():
    z0, z1 = views(9, 16)
    compare(z0, z0.clone(), 0.1, "identical views")
    compare(z0[:1].repeat(9, 1), z1[:1].repeat(9, 1), 0.1, "duplicate rows")
    compare(z0[:1].repeat(9, 1), z0[:1].repeat(9, 1), 0.5, "all rows equal")
    for tau in (0.5, 0.005):
        zero = z0.clone()
        zero[3] = 0
        compare(zero, z1, tau, f"zero row, tau {tau}")
        # Elementwise comparison would see only the largest gradients: here every row is held to its own scale.
        scaled = z0 * torch.tensor([1.0, 1e-20, 1e20, 1e-10, 2e15, 1e-13, 1e18, 1e-6, 1e30])[:, None]
        tau_, grad = torch.tensor(tau), torch.tensor(0.9)
        got, want = kernels(scaled, z1, tau_, grad), eager(scaled, z1, tau_, grad, torch.float64)
        for g, w in zip(got, want, strict=True):
            rows = w.reshape(-1, w.shape[-1] if w.ndim else 1)
            error = (g.double().reshape(rows.shape) - rows).abs().amax(1) / rows.abs().amax(1)
            assert error.nan_to_num(0.0).max() < 2e-5 / min(1.0, 10 * tau), (
                f"norms of any magnitude, tau {tau}: {error}"
            )


def check_tiny_losses():
    """Far below one rounding of the scores, where eager float32 and float64 both lose every digit of p - 1."""
    for tau in (0.05, 0.02, 0.01):
        z0, z1 = views(8, 64)
        tau, grad = torch.tensor(tau), torch.tensor(2.5)
        got = kernels(z0, z0.lerp(z1, 0.2), tau, grad)
        leaves = [t.detach().double().requires_grad_() for t in (z0, z0.lerp(z1, 0.2), tau)]
        z = F.normalize(torch.cat(leaves[:2]))
        i = torch.arange(16)
        s = z @ z.T / leaves[2]
        hidden = torch.eye(16, dtype=torch.bool) | (i[:, None] == (i + 8) % 16)
        loss = F.softplus(s.masked_fill(hidden, -torch.inf).logsumexp(1) - s[i, (i + 8) % 16]).mean()
        assert loss < 1e-3
        assert got[0] > 0
        for g, w in zip(got, (loss, *torch.autograd.grad(loss, leaves, grad.double())), strict=True):
            torch.testing.assert_close(g.double(), w, rtol=2e-5 / tau, atol=(2e-5 / tau * w.abs().max()).item())


def check_bad_numbers():
    z0, z1 = views(5, 8)
    for bad, tau in itertools.product((float("nan"), float("inf")), (0.5, 0.005)):
        broken = z0.clone()
        broken[2, 3] = bad
        assert ntxent.ntxent_fwd(broken, z1, torch.tensor(tau))[0].isnan(), f"{bad} in z, tau {tau}"
    for n, tau in itertools.product((1, 5), (0.0, -0.5, float("nan"))):
        assert ntxent.ntxent_fwd(z0[:n], z1[:n], torch.tensor(tau))[0].isnan(), f"temperature {tau}"


def check_temperature_forms():
    z0, z1 = views(9, 16)
    results = []
    for tau in (torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float16)):
        results.append(kernels(z0, z1, tau, torch.tensor(1.3)))
    # As for z on a GPU and a temperature on the CPU. The interpreter would pass a bare float on as it is.
    scalar = tl.tensor(TensorHandle(np.array([0.25], dtype=np.float32), tl.float32), tl.float32)
    launch.readable = lambda *_: scalar
    results.append(kernels(z0, z1, torch.tensor(0.25), torch.tensor(1.3)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(
                a.double(), b.double(), rtol=2e-3 if b.dtype == torch.float16 else 1e-6, atol=1e-9
            )


def check_launches():
    """Three launches forward, two backward, whatever the size."""
    launches = Launches(ntxent)
    for n in (1, 70):
        z0, z1 = views(n, 8)
        launches.count = 0
        saved = ntxent.ntxent_fwd(z0, z1, torch.tensor(0.5))[1:]
        assert launches.count <= 3, f"{launches.count} launches forward"
        launches.count = 0
        ntxent.ntxent_bwd(torch.tensor(1.0), z0, z1, torch.tensor(0.5), *saved)
        assert launches.count <= 2, f"{launches.count} launches backward"


if __name__ == "__main__":
    interpreting.run(globals(), sys.argv[1:])
