"""The stand-ins for lightly, open_clip and info-nce-pytorch against the originals."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import info_nce
import lightly.loss
import open_clip.loss
import pytest
import torch
import torch.nn.functional as F
from drop_in import assert_same, results, views
from hypothesis import given, settings
from hypothesis import strategies as st

from fastssl.losses import compat
from fastssl.losses.compat import info_nce as info_nce_here
from fastssl.losses.compat import lightly as lightly_here
from fastssl.losses.compat import moco_v3 as moco_v3_here
from fastssl.losses.compat import open_clip as open_clip_here
from fastssl.losses.compat import pytorch_metric_learning as pml_here
from fastssl.losses.compat import solo as solo_here
from fastssl.losses.compat.supcon import SupConLoss

SEEDS, TAUS = st.integers(0, 2**32), st.sampled_from([1.0, 0.5, 0.1, 0.07])
ROWS, WIDTHS = st.integers(2, 40), st.integers(2, 40)
any_problem = settings(max_examples=40, deadline=None)


def weight_fn(out0: torch.Tensor, out1: torch.Tensor) -> torch.Tensor:
    """Not symmetric, and with a gradient of its own."""
    return (out0[:, 0] - 2 * out1[:, 1]).exp()


@any_problem
@given(n=ROWS, d=WIDTHS, tau=TAUS, seed=SEEDS, sigma=st.sampled_from([0.1, 0.5, 2.0]))
def test_lightly_contrastive(n: int, d: int, tau: float, seed: int, sigma: float) -> None:
    z = views(n, d, torch.Generator().manual_seed(seed))
    for arguments in ({}, {"weight_fn": weight_fn}):
        pair = (module.DCLLoss(tau, **arguments) for module in (lightly.loss, lightly_here))
        assert_same(*pair, z, 1 / tau, f"DCL {arguments}")
    assert_same(lightly.loss.DCLWLoss(tau, sigma), lightly_here.DCLWLoss(tau, sigma), z, 1 / tau, "DCLW")
    assert_same(lightly.loss.NTXentLoss(tau), lightly_here.NTXentLoss(tau), z, 1 / tau, "NT-Xent")


@any_problem
@given(n=ROWS, d=WIDTHS, seed=SEEDS, weights=st.tuples(*[st.sampled_from([0.0, 0.005, 1.0, 25.0])] * 3))
def test_lightly_redundancy(n: int, d: int, seed: int, weights: tuple[float, float, float]) -> None:
    z = views(n, d, torch.Generator().manual_seed(seed))
    spread = torch.stack(z).std(1).min().item()
    pair = (module.BarlowTwinsLoss(weights[1]) for module in (lightly.loss, lightly_here))
    # With two rows standardised ones are all 1 or -1, and gradients are what is left of terms that cancel.
    assert_same(*pair, z, where="Barlow Twins", term=8 * (1 + weights[1] * d) / n / spread)
    pair = (module.VICRegLoss(*weights, eps=1e-3) for module in (lightly.loss, lightly_here))
    assert_same(*pair, z, where="VICReg", term=8 * sum(weights) / n)


@any_problem
@given(shape=st.lists(st.integers(2, 7), min_size=2, max_size=4), seed=SEEDS)
def test_lightly_of_more_axes(shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = [torch.randn(*shape, generator=generator).double() for _ in range(2)]
    assert_same(lightly.loss.VICRegLoss(), lightly_here.VICRegLoss(), z, where="VICReg", term=200 / math.prod(shape))
    for dim in range(-len(shape), len(shape)):
        pair = (module.NegativeCosineSimilarity(dim, 1e-3) for module in (lightly.loss, lightly_here))
        assert_same(*pair, z, where=f"cosine {dim}", term=8 / min(x.norm(dim=dim).min().item() for x in z))


def test_lightly_memory_bank() -> None:
    original, ours = (module.NTXentLoss(0.1, (16, 8)) for module in (lightly.loss, lightly_here))
    ours.memory_bank.rows.copy_(original.memory_bank.bank)
    for step in range(4):
        z = [x.requires_grad_() for x in views(4, 8, torch.Generator().manual_seed(step))]
        found, wanted = (results(loss, z, torch.float32) for loss in (ours, original))
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.memory_bank.rows, original.memory_bank.bank)


@any_problem
@given(
    n=st.integers(1, 40), d=WIDTHS, scale=st.sampled_from([1.0, 10.0, 100.0, -3.0]), seed=SEEDS,
    bias=st.sampled_from([None, -10.0, 2.5]), shape=st.sampled_from([(), (1,)]), output_dict=st.booleans(),
)  # fmt: skip
def test_open_clip(
    n: int, d: int, scale: float, seed: int, bias: float | None, shape: tuple[int, ...], output_dict: bool
) -> None:
    x, y = (F.normalize(z.float(), dim=1).double() for z in views(n, d, torch.Generator().manual_seed(seed)))
    scalars = [torch.full(shape, v, dtype=torch.float64) for v in (scale, bias) if v is not None]

    for loss_name, kind in (("ClipLoss", "clip"), ("SigLipLoss", "siglip")):
        losses = (getattr(module, loss_name)(cache_labels=True) for module in (open_clip.loss, open_clip_here))
        calls = (_call(loss, kind, bias, output_dict) for loss in losses)
        assert_same(*calls, [x, y, *scalars], abs(scale), f"{loss_name} {scale} {bias}")


def _call(loss: torch.nn.Module, kind: str, bias: float | None, output_dict: bool):  # type: ignore[no-untyped-def]
    def call(*tensors: torch.Tensor) -> torch.Tensor:
        arguments = tensors if bias is not None or kind == "clip" else (*tensors, None)
        out = loss(*arguments, output_dict=output_dict)
        return out["contrastive_loss"] if output_dict else out

    return call


@any_problem
@given(
    n=st.integers(1, 40), m=st.integers(1, 30), d=WIDTHS, tau=TAUS, seed=SEEDS,
    reduction=st.sampled_from(["mean", "sum", "none"]), mode=st.sampled_from([None, "unpaired", "paired"]),
)  # fmt: skip
def test_info_nce(n: int, m: int, d: int, tau: float, seed: int, reduction: str, mode: str | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [*views(n, d, generator)]
    if mode is not None:
        tensors.append(torch.randn(*([n, m, d] if mode == "paired" else [m, d]), generator=generator).double())
    arguments = (tau, reduction, mode or "unpaired")
    modules = (info_nce, info_nce_here)
    assert_same(*(module.InfoNCE(*arguments) for module in modules), tensors, n / tau, f"{arguments}")
    others = [] if mode else [None]
    calls = (lambda *x, f=module.info_nce: f(*x, *others, *arguments) for module in modules)
    assert_same(*calls, tensors, n / tau, f"{arguments}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(dtype: torch.dtype) -> None:
    x, y = (F.normalize(z, dim=1).to(dtype).requires_grad_() for z in views(6, 8, torch.Generator()))
    calls = {
        "DCL": lightly_here.DCLLoss(), "DCLW": lightly_here.DCLWLoss(), "Barlow": lightly_here.BarlowTwinsLoss(),
        "VICReg": lightly_here.VICRegLoss(), "cosine": lightly_here.NegativeCosineSimilarity(),
        "CLIP": lambda x, y: open_clip_here.ClipLoss()(x, y, 10.0), "InfoNCE": info_nce_here.InfoNCE(),
        "SigLIP": lambda x, y: open_clip_here.SigLipLoss()(x, y, torch.tensor([10.0]), torch.tensor([-10.0])),
    }  # fmt: skip
    for name, call in calls.items():
        loss = call(x, y)
        assert loss.dtype == torch.float32, name
        assert all(grad.dtype == dtype for grad in torch.autograd.grad(loss, (x, y))), name
        with torch.autocast("cpu", torch.bfloat16):
            assert call(x, y).dtype == torch.float32, name


COMPILED = {
    "DCL": lambda x, y, labels: lightly_here.DCLLoss(weight_fn=weight_fn)(x, y),
    "CLIP": lambda x, y, labels: open_clip_here.ClipLoss()(x, y, torch.tensor([10.0]), torch.tensor(1.0)),
    "SigLIP": lambda x, y, labels: open_clip_here.SigLipLoss()(x, y, 10.0, -10.0),
    "InfoNCE": lambda x, y, labels: info_nce_here.info_nce(x, y),
    "labels": lambda x, y, labels: pml_here.NTXentLoss()(x, labels),
    "references": lambda x, y, labels: pml_here.SupConLoss()(x, labels, None, y, labels.flip(0)),
    "SupCon": lambda x, y, labels: SupConLoss()(torch.stack([x, y], 1), labels),
    "queue": lambda x, y, labels: solo_here.mocov2plus_loss_func(x, y, y.T),
    "MoCo v3": lambda x, y, labels: moco_v3_here.contrastive_loss(x, y, 0.2),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_whole(name: str) -> None:
    call = COMPILED[name]
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (6, 9):
        x, y = (z.float().requires_grad_() for z in views(n, 4, torch.Generator()))
        found, wanted = (f(x, y, torch.arange(n) // 2) for f in (compiled, call))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(wanted, x))


def test_nothing_leads_to_the_originals() -> None:
    names = ", ".join(f"{compat.__name__}.{name}" for name in MODULES)
    originals = "{'lightly', 'pytorch_metric_learning', 'open_clip', 'info_nce', 'solo'}"
    code = f"import sys, {names}; print({originals} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr


MODULES = ("lightly", "pytorch_metric_learning", "open_clip", "supcon", "solo", "info_nce", "moco_v3")


def test_modules_are_listed() -> None:
    assert all(f"`{name}`" in (compat.__doc__ or "") for name in MODULES)


def test_modules_copy_and_pickle(tmp_path) -> None:  # type: ignore[no-untyped-def]
    x, y = views(5, 4, torch.Generator())
    for loss in (lightly_here.DCLWLoss(0.2, 0.3), lightly_here.NTXentLoss(0.2), info_nce_here.InfoNCE(0.2)):
        torch.save(loss, tmp_path / "loss.pt")
        for other in (copy.deepcopy(loss), torch.load(tmp_path / "loss.pt", weights_only=False)):
            assert other(x, y) == loss(x, y)


Z = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: lightly_here.DCLLoss(gather_distributed="rings"), ValueError, "gather_distributed: got 'rings'"),
        (lambda: lightly_here.DCLLoss(0)(Z, Z), ValueError, "temperature: got 0"),
        (lambda: lightly_here.DCLLoss()(Z[:1], Z[:1]), ValueError, "z0: got 1 pair, want at least 2"),
        (lambda: lightly_here.BarlowTwinsLoss()(Z[:1], Z[:1]), ValueError, "z_a: got 1 row, want at least 2"),
        (lambda: lightly_here.VICRegLoss()(Z, Z[:2]), ValueError, r"z_b: got \(2, 3\)"),
        (lambda: open_clip_here.ClipLoss(world_size=0), ValueError, "world_size: got 0"),
        (lambda: open_clip_here.ClipLoss(world_size=2, use_horovod=True), ValueError, "use_horovod: got True"),
        (lambda: open_clip_here.ClipLoss(world_size=2)(Z, Z, 1.0), ValueError, r"rank, world_size: got \(0, 2\)"),
        (lambda: open_clip_here.ClipLoss()(Z, Z, torch.ones(2)), ValueError, "logit_scale: got"),
        (lambda: open_clip_here.SigLipLoss(dist_impl="tree"), ValueError, "dist_impl: got 'tree'"),
        (lambda: open_clip_here.SigLipLoss()(Z, Z[:2], 1.0, 0.0), ValueError, "text_features: got shape"),
        (lambda: info_nce_here.info_nce(Z, Z, reduction="max"), ValueError, "reduction: got 'max'"),
    ],
)
def test_bad_input(call, error: type[Exception], said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=said):
        call()
