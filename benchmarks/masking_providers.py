"""The ops of masked training that are compared: their inputs, and how each provider computes them.

`masking_measure.py` checks that all providers of a case agree, by values where nothing is random. Eager PyTorch is
what MAE's authors do: noise, two sorts, gathers; SimMIM's loss is on images that a pixel shuffle puts together.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import provided
import torch
import torch.nn.functional as F
from torch import Tensor

from fastssl import _bench_masking as eager
from fastssl import functional
from fastssl._normalization import channel_statistics

PATCH, CHANNELS = 16, 3
ELEMENTS = CHANNELS * PATCH**2  # of a patch
STATISTICS = channel_statistics(CHANNELS, None, None)
Inputs = dict[str, Tensor]
Outputs = Tensor | tuple[Tensor, ...]
Form = Callable[[Inputs], Outputs]


@dataclass(frozen=True)
class Problem:
    """A case of `CASES` and its sizes, with the seconds that its timing may take and the providers to compare."""

    case: str
    n: int = 64
    length: int = 196  # tokens of a sample, the class token left out
    dim: int = 768
    dtype: str = "float32"
    providers: tuple[str, ...] | None = None  # None: all there are
    budget_s: float = 3

    @property
    def label(self) -> str:
        """For test names."""
        return f"{self.case}-b{self.n}-l{self.length}-d{self.dim}-{self.dtype}"

    @property
    def kept(self) -> int:
        """Tokens of a sample that stay."""
        return int(self.length * (1 - CASES[self.case].mask_ratio))

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return PATCH * round(self.length**0.5)


FormOf = Callable[[Problem], Form]


@dataclass(frozen=True)
class Case:
    """An op, or a few together.

    Attributes:
        title: of its rows.
        inputs: tensors by name, of a problem, a device and a seed.
        forms: of the problem, what each provider computes from the inputs.
        leaves: inputs that gradients are taken by; none: a forward pass is all there is.
        random: whether each call draws masks, so that values differ.
        mask_ratio: part of the tokens that is removed.
        op: of fastssl, whose backends can be forced.
    """

    title: str
    inputs: Callable[[Problem, str, int], Inputs]
    forms: dict[str, FormOf]
    leaves: tuple[str, ...]
    random: bool = False
    mask_ratio: float = 0.75
    op: str = "gather_tokens"


def _randn(problem: Problem, device: str, seed: int, **shapes: tuple[int, ...]) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, problem.dtype)
    return {name: torch.randn(shape, generator=generator).to(device, dtype) for name, shape in shapes.items()}


def _images(problem: Problem, device: str, seed: int, uint8: bool = False) -> Tensor:
    shape, generator = (problem.n, CHANNELS, problem.side, problem.side), torch.Generator().manual_seed(seed)
    if uint8:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
    return torch.randn(shape, generator=generator).to(device)


def _masks(problem: Problem, device: str, seed: int) -> functional.TokenMasks:
    ratio = CASES[problem.case].mask_ratio
    return functional.random_masking(problem.n, problem.length, ratio, seed=seed, device=device)


# Random masks alone.
def _mask_ids(problem: Problem) -> Form:
    n, length, seeds = problem.n, problem.length, iter(range(2**62))

    def form(x: Inputs) -> Outputs:
        return tuple(functional.random_masking(n, length, seed=next(seeds), device=x["like"].device))

    return form


def _eager_ids(problem: Problem) -> Form:
    return lambda x: eager.eager_random_masking(problem.n, problem.length, 0.75, x["like"].device)


def _lightly_masks(n: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    utils = importlib.import_module("lightly.models.utils")
    return utils.random_token_mask((n, length), 0.75, mask_class_token=True, device=device)


def _lightly_ids(problem: Problem) -> Form:
    return lambda x: _lightly_masks(problem.n, problem.length, x["like"].device)


# Random masks and the tokens that they keep.
def _tokens(problem: Problem, device: str, seed: int) -> Inputs:
    return _randn(problem, device, seed, x=(problem.n, problem.length, problem.dim))


def _gather(problem: Problem) -> Form:
    n, length, seeds = problem.n, problem.length, iter(range(2**62))

    def form(inputs: Inputs) -> Outputs:
        x = inputs["x"]
        masks = functional.random_masking(n, length, seed=next(seeds), device=x.device)
        return functional.gather_tokens(x, masks.ids_keep)

    return form


def _eager_visible(x: Tensor) -> Tensor:
    return eager.eager_gather(x, eager.eager_random_masking(x.shape[0], x.shape[1], 0.75, x.device)[0])


def _lightly_gather(problem: Problem) -> Form:
    utils = importlib.import_module("lightly.models.utils")

    def form(inputs: Inputs) -> Outputs:
        x = inputs["x"]
        return utils.get_at_index(x, _lightly_masks(x.shape[0], x.shape[1], x.device)[0])

    return form


def _timm_dropout() -> torch.nn.Module:
    return importlib.import_module("timm.layers").PatchDropout(0.75, num_prefix_tokens=0).train()


def _timm_gather(problem: Problem) -> Form:
    dropout = _timm_dropout()
    return lambda inputs: dropout(inputs["x"])


# From images to the embedded visible patches.
def _embedding(problem: Problem, device: str, seed: int, uint8: bool = False) -> Inputs:
    d, length = problem.dim, problem.length
    weights = _randn(problem, device, seed, weight=(d, CHANNELS, PATCH, PATCH), bias=(d,), pos=(1, length, d))
    images = _images(problem, device, seed, uint8)
    return {"images": images if uint8 else images.to(weights["weight"].dtype), **weights}


def _embed(problem: Problem) -> Form:
    n, length, seeds = problem.n, problem.length, iter(range(2**62))

    def form(x: Inputs) -> Outputs:
        ids = functional.random_masking(n, length, seed=next(seeds), device=x["images"].device).ids_keep
        dtype = x["weight"].dtype
        patches, places = functional.mask_patchify(x["images"], ids, PATCH, x["pos"] + x["bias"], dtype=dtype)
        out = torch.addmm(places.flatten(0, 1), patches.flatten(0, 1), x["weight"].flatten(1).T)
        return out.view(places.shape)

    return form


def _embed_all(x: Inputs) -> Tensor:
    images = x["images"]
    if images.dtype == torch.uint8:
        mean, std = (torch.tensor(numbers)[:, None, None].to(images.device) for numbers in STATISTICS)
        images = (images.float() / 255 - mean) / std
    return F.conv2d(images, x["weight"], x["bias"], stride=PATCH).flatten(2).transpose(1, 2) + x["pos"]


def _timm_embed(problem: Problem) -> Form:
    dropout = _timm_dropout()
    return lambda x: dropout(_embed_all(x))


# The decoder's input.
def _shuffled(problem: Problem, device: str, seed: int) -> Inputs:
    n, d, rows = problem.n, problem.dim, 1 + problem.kept
    positions = (1, 1 + problem.length, d)
    tensors = _randn(problem, device, seed, visible=(n, rows, d), mask_token=(1, 1, d), pos=positions)
    masks = _masks(problem, device, seed)
    with_class = F.pad(masks.ids_keep + 1, (1, 0))  # as lightly counts them
    return {**tensors, "ids_restore": masks.ids_restore, "ids_keep": with_class}


def _restore(problem: Problem) -> Form:
    return lambda x: functional.restore_tokens(
        x["visible"], x["ids_restore"], x["mask_token"], x["pos"], prefix_tokens=1
    )


def _eager_restore(x: Inputs) -> Outputs:
    return eager.eager_restore(x["visible"], x["ids_restore"], x["mask_token"], x["pos"])


def _lightly_restore(problem: Problem) -> Form:
    utils = importlib.import_module("lightly.models.utils")

    def form(x: Inputs) -> Outputs:
        tokens = utils.repeat_token(x["mask_token"], (problem.n, 1 + problem.length))
        return utils.set_at_index(tokens, x["ids_keep"], x["visible"]) + x["pos"]

    return form


# The loss.
def _predictions(problem: Problem, device: str, seed: int) -> Inputs:
    pred = _randn(problem, device, seed, pred=(problem.n, problem.length, ELEMENTS))
    return {**pred, "images": _images(problem, device, seed), "mask": _masks(problem, device, seed).mask}


def _loss(problem: Problem) -> Form:
    return lambda x: functional.masked_mse(x["pred"], x["images"], x["mask"], PATCH)


def _eager_loss(x: Inputs) -> Outputs:
    return eager.eager_masked_mse(x["pred"], x["images"], x["mask"], PATCH)


def _masked_predictions(problem: Problem, device: str, seed: int) -> Inputs:
    masks = _masks(problem, device, seed)
    pred = _randn(problem, device, seed, pred=(*masks.ids_masked.shape, ELEMENTS))
    return {**pred, "images": _images(problem, device, seed), "ids": masks.ids_masked, "mask": masks.mask}


def _masked_loss(problem: Problem) -> Form:
    return lambda x: functional.masked_mse(x["pred"], x["images"], x["ids"], PATCH)


def _eager_masked_loss(x: Inputs) -> Outputs:
    target = eager.eager_gather(eager.eager_patches(x["images"], PATCH), x["ids"])
    return (x["pred"] - eager.eager_normalized(target)).square().mean()


def _lightly_masked_loss(problem: Problem) -> Form:
    utils = importlib.import_module("lightly.models.utils")

    def form(x: Inputs) -> Outputs:
        target = utils.get_at_index(utils.patchify(x["images"], PATCH), x["ids"])
        return F.mse_loss(x["pred"], utils.normalize_mean_var(target))

    return form


def _simmim(problem: Problem) -> Form:
    return lambda x: functional.masked_mse(
        x["pred"], x["images"], x["mask"], PATCH, norm_pix=False, loss="l1", channels_last=False
    )


def _eager_simmim(x: Inputs) -> Outputs:
    n, length, _ = x["pred"].shape
    side = round(length**0.5)
    made = F.pixel_shuffle(x["pred"].transpose(1, 2).reshape(n, -1, side, side), PATCH)
    mask = x["mask"].view(n, side, side).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).unsqueeze(1)
    error = (x["images"] - made).abs()
    return (error * mask).sum() / (mask.sum() + 1e-5) / CHANNELS


def _forms(own: FormOf, by_eager: FormOf, **peers: FormOf) -> dict[str, FormOf]:
    def compiled(problem: Problem) -> Form:
        return torch.compile(by_eager(problem), dynamic=False)  # static shapes, the best case of the compiler

    return {"fastssl": own, "eager": by_eager, "compile": compiled, **peers}


CASES = {
    "ids": Case(
        "random masks", lambda p, device, seed: {"like": torch.empty(0, device=device)},
        _forms(_mask_ids, _eager_ids, lightly=_lightly_ids), (), random=True, op="random_masking",
    ),
    "tokens": Case(
        "masks + gather", _tokens,
        _forms(_gather, lambda p: lambda x: _eager_visible(x["x"]), lightly=_lightly_gather, timm=_timm_gather),
        ("x",), random=True,
    ),
    "embed-float": Case(
        "masks + patch embedding, float images", _embedding,
        _forms(_embed, lambda p: lambda x: _eager_visible(_embed_all(x)), timm=_timm_embed),
        ("weight", "bias", "pos"), random=True, op="mask_patchify",
    ),
    "embed-uint8": Case(
        "masks + patch embedding, uint8 images", functools.partial(_embedding, uint8=True),
        _forms(_embed, lambda p: lambda x: _eager_visible(_embed_all(x)), timm=_timm_embed),
        ("weight", "bias", "pos"), random=True, op="mask_patchify",
    ),
    "restore": Case(
        "restore", _shuffled, _forms(_restore, lambda p: _eager_restore, lightly=_lightly_restore),
        ("visible", "mask_token"), op="restore_tokens",
    ),
    "loss": Case(
        "loss, all predicted", _predictions, _forms(_loss, lambda p: _eager_loss), ("pred",), op="masked_mse"
    ),
    "loss-masked": Case(
        "loss, masked predicted", _masked_predictions,
        _forms(_masked_loss, lambda p: _eager_masked_loss, lightly=_lightly_masked_loss), ("pred",), op="masked_mse",
    ),
    "simmim": Case(
        "SimMIM's loss", _predictions, _forms(_simmim, lambda p: _eager_simmim), ("pred",), mask_ratio=0.6,
        op="masked_mse",
    ),
}  # fmt: skip
PACKAGES = {"lightly": "lightly", "timm": "timm"}  # that providers need


def backends(problem: Problem, device: str) -> list[str]:
    """Backends of fastssl that run a problem here; `auto` takes the first."""
    like = torch.empty(1, 1, problem.dim, dtype=getattr(torch, problem.dtype), device=device)
    return provided.backends(CASES[problem.case].op, like)


def available(problem: Problem, device: str) -> list[str]:
    """Names of the problem's providers that can run here; the backend that `auto` takes is left to "fastssl"."""
    return provided.available(CASES[problem.case].forms, PACKAGES, backends(problem, device), problem.providers)


def build(problem: Problem, provider: str) -> Form:
    """What a provider computes; "fastssl-torch" is fastssl on that backend."""
    return provided.build(CASES[problem.case].forms, problem, provider)


def make_inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """The inputs of a problem; those that gradients are taken by require them."""
    case = CASES[problem.case]
    inputs = case.inputs(problem, device, seed)
    return {name: x.requires_grad_() if name in case.leaves else x for name, x in inputs.items()}


def upstream_of(out: Outputs, seed: int = 0) -> Tensor | None:
    """An upstream gradient: 1 for a loss, as in training, else random numbers; None where there is no backward pass."""
    if not isinstance(out, Tensor):
        return None
    if out.ndim == 0:
        return torch.ones_like(out)
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)


def backward(problem: Problem, out: Outputs, inputs: Inputs, upstream: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients by the leaves."""
    leaves = [inputs[name] for name in CASES[problem.case].leaves]
    return torch.autograd.grad(out, leaves, upstream) if leaves else ()


def preload(problem: dict[str, Any], provider: str, mode: str | None = None) -> None:
    """Import what the calls of `memory_case` need."""
    provided.preload(provider, PACKAGES)
    if provider != "compile":
        build(Problem(**problem), provider)


def memory_case(
    problem: dict[str, Any], provider: str, mode: str | None = None, device: str = "cpu"
) -> tuple[Callable[[], object], provided.Calls]:
    """The calls of `provided.memory_calls`; the upstream gradient is there before."""
    made = Problem(**problem)
    inputs, form = make_inputs(made, device), build(made, provider)
    gradient = upstream_of(form(inputs))
    back = functools.partial(backward, made, inputs=inputs, upstream=gradient)
    return provided.memory_calls(lambda: form(inputs), back if CASES[made.case].leaves else None, mode)
