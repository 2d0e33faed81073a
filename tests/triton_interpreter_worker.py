"""Checks of the Triton NT-Xent under Triton's interpreter: `python triton_interpreter_worker.py check_name`.

A process of its own, because TRITON_INTERPRET must be set before triton is imported and cannot be taken back.
The rule: elementwise |kernel - ref64| <= 2 max |eager at the same dtype - ref64| + one rounding of the largest value.
"""

import itertools
import math
import os
import sys
import warnings
from dataclasses import replace

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime.interpreter import TensorHandle  # noqa: E402

from fastssl.kernels.triton import launch, ntxent  # noqa: E402
from fastssl.reference import ntxent as reference  # noqa: E402

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
    assert loss.shape == () and loss.dtype == torch.float32
    assert zn.shape == (m, d) and zn.is_contiguous() and inv_norm.shape == lse.shape == nll.shape == (m,)
    grads = ntxent.ntxent_bwd(grad, z0, z1, tau, *saved)
    for g, z in zip(grads, (z0, z1, tau), strict=True):
        assert g.shape == z.shape and g.dtype == z.dtype and g.is_contiguous()
    return [loss, *grads]


def compare(z0, z1, tau, what):
    tau = torch.as_tensor(tau, dtype=torch.float32)
    grad = torch.tensor(-1.7)
    got = kernels(z0, z1, tau, grad)
    want = eager(z0, z1, tau, grad, torch.float64)
    plain = eager(z0, z1, tau, grad, z0.dtype)
    # The floor: one rounding of the largest value, and one of lse (up to 1 / tau + log m) inside the exponentials; the
    # latter also of the terms that cancel in the Jacobian and in the temperature's gradient, which shrink with the loss.
    eps32, m = torch.finfo(torch.float32).eps, 2 * z0.shape[0]
    rounding = eps32 * (1 / tau + math.log(m))
    inv_norm = 1 / torch.cat([z0, z1]).double().norm(dim=1).clamp_min(1e-12).min()
    cancelling = grad.abs() * min(1.0, m * want[0].item()) * torch.stack([0 * tau, inv_norm / (m * tau), 1 / tau**2])
    for name, g, w, p, c in zip(
        ("loss", "grad_z0", "grad_z1", "grad_tau"), got, want, plain, cancelling[[0, 1, 1, 2]], strict=True
    ):
        eps = torch.finfo(z0.dtype if name.startswith("grad_z") else torch.float32).eps
        floor = eps * w.abs().max() + rounding * (w.abs().max() + c) + torch.finfo(torch.float32).tiny
        bound = 2 * (p.double() - w).abs().max().nan_to_num(0.0) + floor
        error = (g.double() - w).abs().max()
        assert error <= bound, f"{what} {name}: error {error:.3e}, bound {bound:.3e}, largest {w.abs().max():.3e}"


def small_blocks(block_m, block_n, block_d, splits, resident=True, mask_all=False):
    """Make every launch use these blocks, so that a small problem has many tiles."""
    forward = launch.Config(block_m, block_n, block_d, resident=resident)
    backward = replace(forward, block_slice=2 * block_d, mask_all=mask_all)
    launch.pick = lambda op, *_: forward if op == "ntxent_fwd" else backward
    launch.splits = lambda *_: splits


def check_sizes():
    for n, d in itertools.product((1, 2, 3, 7, 33, 64, 65, 129), (1, 3, 16, 64, 96, 128, 257)):
        if n * d <= 65 * 257:
            compare(*views(n, d), 0.5, f"N {n} d {d}")
    for n, d in ((9, 512), (5, 1000), (3, 1024)):
        compare(*views(n, d), 0.1, f"N {n} d {d}")


def check_dtypes():
    for dtype, (n, d), tau in itertools.product(
        (torch.float16, torch.bfloat16), ((7, 3), (33, 64), (65, 96)), (1.0, 0.07)
    ):
        compare(*views(n, d, dtype), tau, f"{dtype} N {n} d {d} tau {tau}")


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
    """Even and odd rings of blocks, several splits (also more than there are column blocks), column blocks smaller than row
    blocks, several chunks of the width; both ranges of the temperature."""
    for blocks in ((16, 16, 16, 1), (32, 16, 16, 3), (64, 16, 32, 2), (16, 16, 32, 9)):
        for resident, mask_all, tau in ((True, False, 0.2), (True, False, 0.01), (False, True, 0.2), (False, False, 0.01)):
            small_blocks(*blocks, resident=resident, mask_all=mask_all)
            for n in (7, 16, 23, 32):
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
        scaled = z0 * torch.tensor([1.0, 1e-20, 1e20, 1e-10, 1e10, 1e-13, 1e18, 1e-6, 1e30])[:, None]
        tau_, grad = torch.tensor(tau), torch.tensor(0.9)
        got, want = kernels(scaled, z1, tau_, grad), eager(scaled, z1, tau_, grad, torch.float64)
        for g, w in zip(got, want, strict=True):
            rows = w.reshape(-1, w.shape[-1] if w.ndim else 1)
            error = (g.double().reshape(rows.shape) - rows).abs().amax(1) / rows.abs().amax(1)
            assert error.nan_to_num(0.0).max() < 2e-5 / min(1.0, 10 * tau), (
                f"norms of any magnitude, tau {tau}: {error}"
            )


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
    # As for z on a GPU and a temperature on the CPU; the interpreter leaves a bare float as it is, the compiler does not.
    scalar = tl.tensor(TensorHandle(np.array([0.25], dtype=np.float32), tl.float32), tl.float32)
    ntxent._tau_argument = lambda *_: scalar
    results.append(kernels(z0, z1, torch.tensor(0.25), torch.tensor(1.3)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(
                a.double(), b.double(), rtol=2e-3 if b.dtype == torch.float16 else 1e-6, atol=1e-9
            )


def check_launches():
    """Three launches forward, two backward, whatever the size."""
    count = 0

    class Counting:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            nonlocal count
            count += 1
            return self.kernel[grid]

    for name in [name for name in vars(ntxent) if name.endswith("_kernel")]:
        setattr(ntxent, name, Counting(getattr(ntxent, name)))
    for n in (1, 70):
        z0, z1 = views(n, 8)
        count = 0
        loss, *saved = ntxent.ntxent_fwd(z0, z1, torch.tensor(0.5))
        assert count <= 3, f"{count} launches forward"
        count = 0
        ntxent.ntxent_bwd(torch.tensor(1.0), z0, z1, torch.tensor(0.5), *saved)
        assert count <= 2, f"{count} launches backward"


def check_unsupported():
    assert ntxent.unsupported(torch.float32, 1) is None and ntxent.unsupported(torch.bfloat16, 1000) is None
    assert "float64" in ntxent.unsupported(torch.float64, 64)
    assert "2000" in ntxent.unsupported(torch.float32, 2000)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
