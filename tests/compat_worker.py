"""Stand-ins and originals on two gloo processes: `python compat_worker.py FOLDER` writes FOLDER/found.json.

For each case it holds the largest difference of values and of gradients, in float64. Gradients of embeddings are
compared on each process, those of scalars, which every process has, in their mean.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import compat_formulas as formulas
import lightly.loss
import open_clip.loss
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from fastssl import losses
from fastssl.losses.compat import lightly as lightly_here
from fastssl.losses.compat import moco_v3, solo
from fastssl.losses.compat import open_clip as open_clip_here

WORLD, N, D = 2, 6, 5
Loss = Callable[..., Tensor]
CLIP = {"local_loss": (False, True), "gather_with_grad": (False, True)}


def everyone(x: Tensor) -> Tensor:
    """Rows of all processes, with gradients."""
    return torch.cat(all_gather(x))


def fixed(x: Tensor) -> Tensor:
    """Rows of all processes, without gradients."""
    with torch.no_grad():
        return everyone(x)


def own_rows() -> slice:
    return slice(N * dist.get_rank(), N * dist.get_rank() + N)


def simclr(x: Tensor, y: Tensor) -> Tensor:
    """Rows of this process against those of all, of which some are positives on the other process."""
    z = everyone(F.normalize(torch.cat([x, y]), dim=1))
    ids = torch.arange(2 * N * WORLD) % 7
    self = torch.eye(len(z), dtype=torch.bool)
    positives = (ids[:, None] == ids) & ~self
    scores = z @ z.T / 0.2
    nll = scores.masked_fill(self, -torch.inf).logsumexp(1) - scores.masked_fill(~positives, -torch.inf).logsumexp(1)
    return nll[2 * N * dist.get_rank() :][: 2 * N].mean()


def simclr_here(x: Tensor, y: Tensor) -> Tensor:
    ids = torch.arange(2 * N * WORLD) % 7
    return solo.simclr_loss_func(torch.cat([x, y]), ids[2 * N * dist.get_rank() :][: 2 * N], 0.2)


def moco(x: Tensor, y: Tensor) -> Tensor:
    scores = F.normalize(x, dim=1) @ F.normalize(fixed(y), dim=1).T / 0.2
    return F.cross_entropy(scores, torch.arange(len(scores[0]))[own_rows()]) * 0.4


def nnclr(x: Tensor, y: Tensor) -> Tensor:
    scores = F.normalize(x, dim=1) @ everyone(F.normalize(y, dim=1)).T / 0.2
    return F.cross_entropy(scores, torch.arange(len(scores[0]))[own_rows()])


def vicreg(x: Tensor, y: Tensor) -> Tensor:
    return formulas.vicreg(x, y, 25.0, 0, 0) + formulas.vicreg(everyone(x), everyone(y), 0, 25.0, 1.0)


def barlow(x: Tensor, y: Tensor) -> Tensor:
    """The matrices are summed in place, which the derivative does not see."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (x, y))
    c = a.T @ b / N
    c = (c + (sum(fixed(c).chunk(WORLD)) - c).detach()) / WORLD
    weights = torch.full_like(c, 5e-3).fill_diagonal_(1)
    return 0.025 * (weights * (c - torch.eye(D)).square()).sum()


def clip(module, exact: bool = False, **arguments: bool) -> Loss:  # type: ignore[no-untyped-def]
    told = {"exact_gradient": True} if exact else {}
    loss = module.ClipLoss(rank=dist.get_rank(), world_size=WORLD, **arguments, **told)
    return lambda x, y, scale, bias: loss(F.normalize(x), F.normalize(y), scale, bias)


def siglip(module, way: str | None) -> Loss:  # type: ignore[no-untyped-def]
    loss = module.SigLipLoss(rank=dist.get_rank(), world_size=WORLD, dist_impl=way)
    return lambda x, y, scale, bias: loss(F.normalize(x), F.normalize(y), scale, bias)


def weight_fn(out0: Tensor, out1: Tensor) -> Tensor:
    return (out0[:, 0] - 2 * out1[:, 1]).exp()


def cases() -> dict[str, tuple[Loss, Loss]]:
    """Original and stand-in; the values of those whose names have a * are parts of ours, their mean."""
    both = lightly.loss, lightly_here
    there = {
        "lightly NTXentLoss*": (m.NTXentLoss(0.2, gather_distributed=True) for m in both),
        "lightly DCLLoss*": (m.DCLLoss(0.2, weight_fn, True) for m in both),
        "lightly DCLWLoss*": (m.DCLWLoss(0.2, 0.3, True) for m in both),
        "lightly BarlowTwinsLoss": (m.BarlowTwinsLoss(gather_distributed=True) for m in both),
        "lightly VICRegLoss*": (m.VICRegLoss(gather_distributed=True) for m in both),
        "solo simclr": (simclr, simclr_here),
        "solo mocov3": (moco, lambda x, y: solo.mocov3_loss_func(x, y, 0.2)),
        "MoCo v3": (moco, lambda x, y: moco_v3.contrastive_loss(x, y, 0.2)),
        "solo nnclr": (nnclr, lambda x, y: solo.nnclr_loss_func(x, y, 0.2)),
        "solo vicreg*": (vicreg, solo.vicreg_loss_func),
        "solo barlow": (barlow, solo.barlow_loss_func),
    }
    for local in (False, True):
        for grad in (False, True):
            modes = {"local_loss": local, "gather_with_grad": grad}
            there[f"open_clip ClipLoss {modes}"] = tuple(clip(m, **modes) for m in (open_clip.loss, open_clip_here))
            # Exact is what the original has with gradients; the value stays that of the mode.
            original = clip(open_clip.loss, local_loss=local, gather_with_grad=True)
            there[f"open_clip ClipLoss exact {modes}"] = original, clip(open_clip_here, True, **modes)
    for way in (None, "bidir", "shift", "reduce", "gather"):
        there[f"open_clip SigLipLoss {way}"] = tuple(siglip(m, way) for m in (open_clip.loss, open_clip_here))
    one = formulas.barlow
    exact = lambda x, y: solo.barlow_loss_func(x, y, exact_gradient=True) / 0.025  # noqa: E731
    there["solo barlow exact"] = lightly.loss.BarlowTwinsLoss(gather_distributed=True), exact
    whole = lambda f: lambda x, y: f(everyone(x), everyone(y))  # noqa: E731
    there["BarlowTwinsLoss"] = whole(lambda x, y: one(x, y, 5e-3, 1.0)), losses.BarlowTwinsLoss(gather_distributed=True)
    mine = losses.VICRegLoss(gather_distributed="ring")
    there["VICRegLoss"] = whole(lambda x, y: formulas.vicreg(x, y, 25.0, 12.5, 1.0)), mine
    return {name: tuple(pair) for name, pair in there.items()}  # type: ignore[misc]


def step(loss: Loss, scalars: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the value, the gradients of the embeddings, and the mean over processes of those of scalars."""
    draw = torch.Generator().manual_seed(7 + dist.get_rank())
    z = [torch.randn(N, D, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2)]
    given = [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (5.0, -2.0)] if scalars else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = loss(*z, *given)
    value.backward()
    for x in given:
        dist.all_reduce(x.grad)
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in z]
    return value.detach(), grads, [x.grad / WORLD for x in given]


def compare(name: str, original: Loss, ours: Loss) -> dict[str, float]:
    wanted, found = (step(loss, "open_clip" in name) for loss in (original, ours))
    value = wanted[0].clone()
    if "*" in name:
        dist.all_reduce(value)
        value /= WORLD
    apart = torch.stack([(value - found[0]).abs(), *(
        max((w - f).abs().max() for w, f in zip(w, f, strict=True)) if w else torch.zeros(()).double()
        for w, f in zip(wanted[1:], found[1:], strict=True)
    )])  # fmt: skip
    dist.all_reduce(apart, dist.ReduceOp.MAX)
    return dict(zip(("value", "embeddings", "scalars"), apart.tolist(), strict=True))


def uneven() -> dict[str, float]:
    """Processes with batches of different sizes against one with all of it."""
    sizes = (4, 1)
    draw = torch.Generator().manual_seed(3)
    z = [torch.randn(sum(sizes), D, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2)]
    found = {}
    for loss in (losses.BarlowTwinsLoss, losses.VICRegLoss):
        value = loss()(*z)
        grads = torch.autograd.grad(value, z)
        rows = slice(0, sizes[0]) if dist.get_rank() == 0 else slice(sizes[0], None)
        own = [x.detach()[rows].requires_grad_() for x in z]
        part = loss(gather_distributed=True)(*own)
        parts = torch.autograd.grad(part, own)
        apart = max((p / WORLD - g[rows]).abs().max() for p, g in zip(parts, grads, strict=True))
        apart = torch.stack([(part - value).abs().detach(), apart])
        dist.all_reduce(apart, dist.ReduceOp.MAX)
        found[loss.__name__] = apart.max().item()
    return found


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=WORLD)
    found = {name: compare(name, *pair) for name, pair in cases().items()}
    found["uneven"] = uneven()
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.multiprocessing.start_processes(work, (Path(sys.argv[1]),), WORLD, start_method="fork")
