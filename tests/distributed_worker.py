"""Several gloo processes on one machine: `python distributed_worker.py MODE WORLD FOLDER`.

Torch is imported once, and the processes are forks of this one. What they find is FOLDER/found.json; the exit status is
the number of processes that failed, and FOLDER/failed_RANK tells when and why. Every loss is one line of LOSSES.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accuracy import ROUNDINGS
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from fastssl import functional as F
from fastssl import losses
from fastssl.functional import _distributed  # noqa: F401  what it imports is imported once, before the processes fork

STRATEGIES = ("all_gather", "ring")
SIZES = {2: ((5, 5), (7, 1)), 4: ((4, 4, 4, 4), (5, 1, 3, 2)), 5: ((3, 1, 2, 1, 2),)}  # rows of each process
WIDTH_IN, WIDTH = 6, 5
QUEUE = torch.nn.functional.normalize(torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(3)))
LABELS = torch.tensor([7, -(2**40), 2**50, 3])
TEMPERATURE, BIAS = 0.3, -0.7
LEAST = {"loss": 1, "temperature": TEMPERATURE**-2}
Kind = dict[str, Any]

# A loss of both views [N, d], labels [N], a learnt number > 0 and another one; g has gather_distributed.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "ntxent": lambda a, b, c, t, u, **g: F.ntxent(a, b, t, **g),
    "NTXentLoss": lambda a, b, c, t, u, **g: losses.NTXentLoss(0.2, **g)(a, b),
    "info_nce": lambda a, b, c, t, u, **g: F.info_nce(a, b, temperature=t, **g),
    "info_nce_sum": lambda a, b, c, t, u, **g: F.info_nce(a, b, None, t, "sum", normalize=False, **g),
    "info_nce_both": lambda a, b, c, t, u, **g: F.info_nce(a, b, None, t, symmetric=True, **g),
    "info_nce_unpaired": lambda a, b, c, t, u, **g: F.info_nce(a, b, torch.cat([b, a]) ** 2, t, **g),
    "info_nce_paired": lambda a, b, c, t, u, **g: F.info_nce(
        a, b, torch.stack([a, b, b - a], 1) ** 2, t, negative_mode="paired", **g
    ),
    "moco": lambda a, b, c, t, u, **g: F.moco(a, b, QUEUE, t, **g),
    "clip": lambda a, b, c, t, u, **g: F.clip(a, b, 1 / t, **g),
    "clip_self": lambda a, b, c, t, u, **g: F.clip(*(a / 8,) * 2, 1 / t, normalize=False, **g),
    "siglip": lambda a, b, c, t, u, **g: F.siglip(a, b, 1 / t, u, **g),
    "siglip_c": lambda a, b, c, t, u, **g: F.siglip(a, b, 1 / t, u, c, **g),
    "supcon": lambda a, b, c, t, u, **g: F.supcon(torch.cat([a, b]), c.repeat(2), t, **g),
    "multi_positive": lambda a, b, c, t, u, **g: F.multi_positive_ntxent(torch.cat([a, b]), c.repeat(2), t, **g),
    "dcl": lambda a, b, c, t, u, **g: F.dcl(a, b, t, **g),
    "dclw": lambda a, b, c, t, u, **g: F.dclw(a, b, t, **g),
    "hard_negative": lambda a, b, c, t, u, **g: F.hard_negative_ntxent(a, b, t, **g),
    "cpc": lambda a, b, c, t, u, **g: F.cpc(
        [torch.stack([a, b], 1), (a + b).unsqueeze(1)], torch.stack([b, a, a - b], 1), t, **g
    ),
    "alignment": lambda a, b, c, t, u, **g: F.alignment(a, b, **g),
    "uniformity": lambda a, b, c, t, u, **g: F.uniformity(torch.cat([a, b]), t, **g),
    "barlow_twins": lambda a, b, c, t, u, **g: losses.BarlowTwinsLoss(**g)(a, b),
    "vicreg": lambda a, b, c, t, u, **g: losses.VICRegLoss(**g)(a, b),
}


class Model(torch.nn.Module):
    """A linear encoder with a learnt temperature and bias, the same on every process."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(WIDTH, WIDTH_IN, generator=draw).to(dtype))
        self.temperature = torch.nn.Parameter(torch.tensor(TEMPERATURE).to(dtype))
        self.bias = torch.nn.Parameter(torch.tensor(BIAS).to(dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x @ self.weight.T, self.temperature.clone(), self.bias.clone()


def step(loss: Callable[..., Tensor], x: Tensor, labels: Tensor, gather: Any, many: bool) -> dict[str, Tensor]:
    """Return the loss of views [N, 2, d_in] and its gradients of the embeddings and of the model."""
    model = Model(x.dtype)
    encoder = DistributedDataParallel(model) if many else model
    z, t, u = encoder(x.flatten(0, 1))
    z.retain_grad()
    a, b = z.view(len(x), 2, -1).unbind(1)
    value = loss(a, b, labels, t, u, gather_distributed=gather)
    (value + 0 * (t + u).to(value)).backward()  # a parameter without a gradient would stop the averaging of all
    grads = {"weight": model.weight.grad, "temperature": model.temperature.grad, "bias": model.bias.grad}
    return {"loss": value.detach(), "embeddings": z.grad.view(len(x), -1), **grads}


def data(total: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(total, 1, WIDTH_IN, generator=draw) + 0.5 * torch.randn(total, 2, WIDTH_IN, generator=draw)
    return x.to(dtype), LABELS[torch.randint(len(LABELS), (total,), generator=draw)]


def compare(loss: Callable[..., Tensor], strategy: str, sizes: tuple[int, ...]) -> Kind:
    """Compare processes of these sizes with one that has the whole batch; the worst of all processes."""
    rank, world = dist.get_rank(), len(sizes)
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    found: dict[str, float] = {}

    def note(name: str, value: Tensor) -> None:
        # NaN is the worst of all, which neither max() nor ReduceOp.MAX would say.
        value = float(value.double().nan_to_num(torch.inf, torch.inf))
        found[name] = max(found.get(name, 0.0), value)

    whole = {t: step(loss, *data(sum(sizes), t), False, False) for t in (torch.float64, torch.float32)}
    for dtype, one in whole.items():
        x, labels = data(sum(sizes), dtype)
        many = step(loss, x[own], labels[own], strategy, True)
        # DistributedDataParallel takes the mean, so that each process brings `world` times its share.
        many["embeddings"] = many["embeddings"] / world
        exact = {name: value.double() for name, value in whole[torch.float64].items()}
        for name, value in many.items():
            part = own if name == "embeddings" else slice(None)
            # The size of the terms that are summed, as in the rule of `accuracy`.
            wanted, scale = exact[name], exact[name].abs().max().clamp_min(LEAST.get(name, 1e-3))
            wanted, alone = (v[part] if v.ndim else v for v in (wanted, one[name].double()))
            error = (value.double() - wanted).abs()
            if dtype == torch.float64:
                note("exact", (error / scale).max())
            else:
                allowed = 2 * (alone - wanted).abs() + ROUNDINGS[dtype] * torch.finfo(dtype).eps * scale
                note("float32", (error / allowed).max())
        squares = torch.stack([(v**2).sum().double() for v in (many["embeddings"], exact["embeddings"][own])])
        dist.all_reduce(squares)
        note("ratio", ((squares[0] / squares[1]).sqrt() - 1).abs())
    names = sorted(found)
    worst = torch.tensor([found[name] for name in names], dtype=torch.float64)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return dict(zip(names, worst.tolist(), strict=True))


def compared(folder: Path) -> Kind:
    """All losses, by both strategies, in even and uneven batches."""
    return {
        f"{name} {strategy} {sizes}": compare(loss, strategy, sizes)
        for sizes in SIZES[dist.get_world_size()]
        for name, loss in LOSSES.items()
        for strategy in STRATEGIES
    }


class Largest(TorchDispatchMode):
    """The most elements that a tensor made meanwhile has."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                self.bytes = max(self.bytes, t.numel() * t.element_size())
        return out


def others(folder: Path) -> Kind:
    """What is not compared with one process: memory, compilation, NaN, 16-bit types, and a loss without gradient."""
    rank, world, found = dist.get_rank(), dist.get_world_size(), {}
    draw = torch.Generator().manual_seed(rank)
    n, d = 96, 16
    x, y = (torch.randn(n, d, generator=draw) for _ in range(2))
    labels = torch.arange(n) % 7
    for strategy in STRATEGIES:
        for name in ("ntxent", "info_nce", "clip", "siglip", "supcon"):

            def loss(a: Tensor, b: Tensor, call: Any = LOSSES[name], strategy: str = strategy) -> Tensor:
                return call(a, b, labels, 0.5, 0.0, gather_distributed=strategy)

            def gradients(a: Tensor, b: Tensor, loss: Callable[..., Tensor] = loss) -> list[Tensor]:
                a, b = (t.clone().requires_grad_() for t in (a, b))
                value = loss(a, b)
                value.backward()
                return [value.detach(), a.grad.float(), b.grad.float()]

            def worst(found: list[Tensor], wanted: list[Tensor]) -> float:
                return max(float((u - v).abs().max() / v.abs().max()) for u, v in zip(found, wanted, strict=True))

            where = f"{name} {strategy}"
            with torch.autograd.set_multithreading_enabled(False), Largest() as largest:
                eager = gradients(x, y)
            found[f"blocks {where}"] = largest.bytes / (n * d * 4)
            with torch.no_grad():
                found[f"no grad {where}"] = worst([loss(x, y)], eager[:1])
            if name == "ntxent":
                compiled = torch.compile(loss, backend="aot_eager")
                found[f"compiled {where}"] = worst(gradients(x, y, compiled), eager)
            broken = x.clone()
            broken[0, 0] = torch.nan if rank == world - 1 else broken[0, 0]
            found[f"nan {where}"] = float(loss(broken, y).isnan())
            for dtype in (torch.bfloat16, torch.float16):
                half = x.to(dtype), y.to(dtype)
                error = worst(gradients(*half), gradients(*(t.float() for t in half)))
                found[f"roundings {dtype} {where}"] = error / torch.finfo(dtype).eps
            with torch.autocast("cpu", torch.bfloat16):
                cast = gradients(x, y)
            found[f"roundings autocast {where}"] = worst(cast, gradients(x.bfloat16(), y.bfloat16())) / 2**-8
    return found


def ended(folder: Path) -> Kind:
    """A process that ends hard, or stalls, between two steps; the folder is named after the strategy."""
    rank = dist.get_rank()
    a, b = (torch.randn(4, WIDTH).requires_grad_() for _ in range(2))
    for turn in range(3):
        if turn == 1 and rank == 1:
            (folder / "at").write_text(repr(time.time()))
            if folder.parent.name == "killed":
                os._exit(0)
            while time.time() < float((folder / "at").read_text()) + 60 and len(list(folder.glob("failed_*"))) < 2:
                time.sleep(0.1)
            os._exit(0)
        F.ntxent(a, b, gather_distributed=folder.name).backward()
    return {}


MODES = {"losses": compared, "others": others, "ended": ended}
TIMEOUT = 4  # seconds, of a group that loses a process


def process(mode: str, rank: int, world: int, folder: Path) -> None:
    """Run one process to its end."""
    dist.init_process_group(
        "gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=world,
        timeout=datetime.timedelta(seconds=TIMEOUT if mode == "ended" else 120),
    )  # fmt: skip
    try:
        found = MODES[mode](folder)
    except Exception:
        (folder / f"failed_{rank}").write_text(f"{time.time()}\n{traceback.format_exc()}")
        raise
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(mode: str, world: int, folder: Path) -> int:
    """Fork the processes, wait for all, and return the number of those that failed."""
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            try:
                process(mode, rank, world, folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
