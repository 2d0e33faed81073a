"""Measures a training step of MAE, loss and gradients: `fastssl.methods.MAE` beside the same model in plain PyTorch.

The plain form is the authors': a convolution embeds every patch, positions are added to all, a gather keeps some; the
decoder predicts every patch, and the loss patchifies and normalises the whole images. Both use the same modules, hence
the same weights, and are given the same images and noise, so that loss and gradients must be equal but for rounding.
What rounding may do is measured too: how far each is from the plain form in float64, on a small batch.
"""

from __future__ import annotations

import copy
import functools
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import measured
import torch
from harness import Row, quartiles, rounded
from torch import Tensor

from fastssl import _bench_masking as eager
from fastssl import methods
from fastssl._bench import interleave

STAGES = ("embedding, masking", "encoder", "restore, decoder", "loss", "backward")
TITLE = "MAE, whole step"
PROVIDERS = ("fastssl", "eager")
MEMORY_TIMEOUT_S = 400


@dataclass(frozen=True)
class Step:
    """A step of so many images with an encoder of timm's, and the times that each provider makes it."""

    batch: int = 64
    rounds: int = 2
    encoder: str = "vit_base_patch16_224"
    decoder_dim: int = 512
    decoder_depth: int = 8
    autocast: bool = False  # in bfloat16
    exact_batch: int = 2  # compared with float64

    @property
    def label(self) -> str:
        """For test names."""
        return f"step-{self.encoder}-b{self.batch}{'-bfloat16' if self.autocast else ''}"


def make_method(step: Step, device: str) -> methods.MAE:
    """The method, with weights from a fixed seed."""
    torch.manual_seed(0)
    method = methods.MAE(step.encoder, decoder_dim=step.decoder_dim, decoder_depth=step.decoder_depth)
    return method.to(device).train()


def plain_loss(method: methods.MAE, view: Tensor, noise: Tensor) -> Tensor:
    """The loss of the method's modules, in eager PyTorch."""
    vit: Any = method.encoder
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    kept = int(noise.shape[1] * (1 - method.mask_ratio))
    mask = torch.ones_like(noise)
    mask[:, :kept] = 0
    mask = mask.gather(1, ids_restore)
    x = vit.patch_embed(view) + vit.pos_embed[:, 1:]
    x = eager.eager_gather(x, ids_shuffle[:, :kept])
    class_token = vit.cls_token + vit.pos_embed[:, :1]
    x = vit.norm(vit.blocks(torch.cat([class_token.expand(len(x), -1, -1), x], 1)))
    x = eager.eager_restore(method.decoder_embed(x), ids_restore, method.mask_token, method.decoder_pos_embed)
    for block in method.decoder_blocks:
        x = block(x)
    pred = method.decoder_pred(method.decoder_norm(x))[:, 1:]
    return eager.eager_masked_mse(pred, view, mask, method.patch_size[0])


def loss_of(provider: str, method: methods.MAE, view: Tensor, noise: Tensor) -> Tensor:
    """The loss by one of the two."""
    return method([view], noise=noise) if provider == "fastssl" else plain_loss(method, view, noise)


def inputs(method: methods.MAE, batch: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normalised images of noise, and the noise that orders their patches."""
    generator = torch.Generator().manual_seed(seed)
    view = torch.randn(batch, 3, *method.encoder.patch_embed.img_size, generator=generator)
    noise = torch.rand(batch, method.grid[0] * method.grid[1], generator=generator)
    return view.to(device), noise.to(device)


class _Clock:
    """Times, in milliseconds since the first mark, at which the device comes by."""

    def __init__(self, device: str) -> None:
        self.cuda, self.marks = device.startswith("cuda"), []

    def mark(self, *unused: object) -> None:
        """Note the present; hooks of modules call it with what they have."""
        if self.cuda:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(1e3 * time.perf_counter())

    def stages_ms(self) -> tuple[float, ...]:
        """Milliseconds between the marks."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        if self.cuda:
            torch.cuda.synchronize()
            return tuple(a.elapsed_time(b) for a, b in pairs)
        return tuple(b - a for a, b in pairs)


def timed_step(step: Step, provider: str, method: methods.MAE, view: Tensor, noise: Tensor) -> tuple[float, ...]:
    """Milliseconds of the stages of one step; the gradients stay with the parameters."""
    method.zero_grad(set_to_none=True)
    clock = _Clock(view.device.type)
    vit: Any = method.encoder
    hooks = [
        vit.blocks.register_forward_pre_hook(clock.mark),
        vit.norm.register_forward_hook(clock.mark),
        method.decoder_pred.register_forward_hook(clock.mark),
    ]
    try:
        clock.mark()
        with torch.autocast(view.device.type, torch.bfloat16, enabled=step.autocast):
            loss = loss_of(provider, method, view, noise)
        clock.mark()
        loss.backward()
        clock.mark()
    finally:
        for hook in hooks:
            hook.remove()
    return clock.stages_ms()


def _gradients(step: Step, provider: str, method: methods.MAE, view: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The loss and the gradients by name."""
    method.zero_grad(set_to_none=True)
    with torch.autocast(view.device.type, torch.bfloat16, enabled=step.autocast):
        loss = loss_of(provider, method, view, noise)
    loss.backward()
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), **found}


def difference(found: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of a gradient, relative to its norm, over the parameters; the loss counts as one."""
    assert found.keys() == other.keys()
    return max(((found[k].double() - other[k]).norm() / other[k].double().norm()).item() for k in found)


def _numbers(step: Step, method: methods.MAE, device: str) -> dict[str, dict[str, float]]:
    """By provider: the loss, how far its gradients are from the plain ones, and both from float64."""
    view, noise = inputs(method, step.batch, device)
    plain = _gradients(step, "eager", method, view, noise)
    own = _gradients(step, "fastssl", method, view, noise)
    numbers = {
        "fastssl": {"loss": own["loss"].item(), "difference": difference(own, plain)},
        "eager": {"loss": plain["loss"].item(), "difference": 0.0},
    }
    del own, plain
    view, noise = inputs(method, step.exact_batch, device)
    few = {name: _gradients(step, name, method, view, noise) for name in PROVIDERS}
    exact = _gradients(
        Step(step.exact_batch), "eager", copy.deepcopy(method).double(), view.double(), noise
    )  # fmt: skip
    for name in PROVIDERS:
        numbers[name]["error"] = difference(few[name], exact)
    return numbers


def measure(step: Step, device: str) -> list[Row]:
    """Measure a step; return one row a provider."""
    peaks = {name: _peak_mib(step, name, device) for name in PROVIDERS}
    method = make_method(step, device)
    numbers = _numbers(step, method, device)
    view, noise = inputs(method, step.batch, device)
    steps = {
        name: functools.partial(_turn, step, name, method, view, noise) for name in PROVIDERS
    }  # fmt: skip
    # The steps that gave the gradients were the warm-up.
    times = interleave(steps, step.rounds, warmup=3 if device.startswith("cuda") else 0)
    whole = {name: statistics.median(sum(t) for t in taken) for name, taken in times.items()}
    rows = []
    for name in PROVIDERS:
        first, third = quartiles([sum(t) for t in times[name]])
        stages = {s: statistics.median(t[i] for t in times[name]) for i, s in enumerate(STAGES)}
        rows.append(rounded({
            "op": "masking", "case": "step", "title": TITLE, "provider": name, "device": device.split(":")[0],
            "n": step.batch, "length": noise.shape[1], "encoder": step.encoder, "mode": "fwd_bwd",
            "dtype": "bfloat16" if step.autocast else "float32", "time_ms": whole[name], "q1_ms": first, "q3_ms": third,
            "rounds": step.rounds, "time_over_fastssl": whole[name] / whole["fastssl"], "peak_mib": peaks[name],
            **{f"ms_{i}": ms for i, ms in enumerate(stages.values())}, **numbers[name],
            "exact_batch": step.exact_batch,
        }))  # fmt: skip
    return rows


def _turn(
    step: Step, provider: str, method: methods.MAE, view: Tensor, noise: Tensor, turn: int
) -> tuple[float, ...]:  # fmt: skip
    return timed_step(step, provider, method, view, noise)


def _peak_mib(step: Step, provider: str, device: str) -> float | None:
    arguments = {"step": asdict(step), "provider": provider}
    return measured.peaks_mib("masking_step", arguments, device, MEMORY_TIMEOUT_S).get("step")


def preload(step: dict[str, Any], provider: str) -> None:
    """Import what the call of `memory_case` needs."""
    importlib.import_module("timm")


def memory_case(
    step: dict[str, Any], provider: str, device: str
) -> tuple[Callable[[], object], dict[str, Callable[[], object]]]:
    """A step of one image to go before, and the step, with the gradients that it leaves."""
    made = Step(**step)
    method = make_method(made, device)

    def warm_up() -> None:
        timed_step(made, provider, method, *inputs(method, 1, device))
        method.zero_grad(set_to_none=True)

    return warm_up, {"step": functools.partial(timed_step, made, provider, method, *inputs(method, made.batch, device))}


def describe(rows: Sequence[Row]) -> None:
    """Print the rows of a step."""
    for row in rows:
        stages = ", ".join(f"{stage} {row[f'ms_{i}']:.0f}" for i, stage in enumerate(STAGES))
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        print(
            f"{row['title']}, {row['encoder']}, batch {row['n']}, {row['dtype']}: {row['provider']:8}"
            f"{row['time_ms']:9.0f} ms {peak} MiB, loss {row['loss']:.6f}, gradients {row['difference']:.1e} from the"
            f" plain ones, {row['error']:.1e} from float64 ({stages})", flush=True,
        )  # fmt: skip


def own(step: Step, device: str) -> Callable[[], object]:
    """A small step of fastssl's: the whole one has been measured, and takes long."""
    method = make_method(step, device)
    view, noise = inputs(method, 1, device)
    return lambda: timed_step(step, "fastssl", method, view, noise)
