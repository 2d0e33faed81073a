"""What the tests of masked training share: draws and masks in plain Python, patches by loops, and the accuracy rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from accuracy import ROUNDINGS
from torch import Tensor

from fastssl.reference import philox

RANDOM, MULTIBLOCK, BLOCKWISE, TEXT = 64, 65, 66, 67  # purposes of the draws
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WIDTHS = (1, 3, 16, 64, 96, 127, 768)


def words(seed: int, sample_id: int, view: int, purpose: int, block: int) -> list[int]:
    """The four words of one block of a sample's draws."""
    low, high = sample_id & 0xFFFFFFFF, (sample_id >> 32) & 0xFFFFFFFF
    return philox(seed % 2**64, [low, high, view, purpose + 256 * block])


def token_words(seed: int, sample_id: int, view: int, count: int) -> list[int]:
    """The noise of random masking: word j mod 4 of block j // 4 for token j."""
    blocks = (words(seed, sample_id, view, RANDOM, block) for block in range(-(-count // 4)))
    return [word for block in blocks for word in block][:count]


def random_masks(
    noise: Sequence[Sequence[float]], ratios: Sequence[float], prefix: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids_keep, ids_restore, mask and ids_masked of each row of noise, by sorting Python numbers."""
    patches = len(noise[0])
    kept = [prefix + int(patches * (1 - ratio)) for ratio in ratios]
    most, fewest = max(kept), min(kept)
    rows = []
    for row, k in zip(noise, kept, strict=True):
        ranked = sorted(range(patches), key=lambda j: (math.isnan(row[j]), 0 if math.isnan(row[j]) else row[j], j))
        order = [*range(prefix), *(prefix + j for j in ranked)]
        keep, removed = order[:k], order[k:]
        restore, mask = [0] * len(order), [0.0] * len(order)
        for rank, token in enumerate(keep):
            restore[token] = rank
        for rank, token in enumerate(removed):
            restore[token], mask[token] = most + rank, 1.0
        pad = ([-1] * (most - k), [-1] * (k - fewest))
        rows.append((keep + pad[0], restore, mask, removed + pad[1]))
    keep, restore, mask, removed = (list(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return (
        torch.tensor(keep, dtype=torch.int64).view(n, most),
        torch.tensor(restore, dtype=torch.int64),
        torch.tensor(mask, dtype=torch.float32),
        torch.tensor(removed, dtype=torch.int64).view(n, prefix + patches - fewest),
    )


def patches_by_loops(images: Tensor, patch: Sequence[int], channels_last: bool) -> Tensor:
    """Every patch [N, L, E] of video [N, C, T, H, W], one number after another."""
    x, (t, p, q) = images.tolist(), patch
    n, channels, frames, height, width = images.shape
    inside = [(a, i, j) for a in range(t) for i in range(p) for j in range(q)]
    if channels_last:
        order = [(c, *at) for at in inside for c in range(channels)]
    else:
        order = [(c, *at) for c in range(channels) for at in inside]
    corners = [
        (a, i, j) for a in range(0, frames, t) for i in range(0, height, p) for j in range(0, width, q)
    ]  # fmt: skip
    out = [
        [[x[s][c][a + da][i + di][j + dj] for c, da, di, dj in order] for a, i, j in corners] for s in range(n)
    ]  # fmt: skip
    return torch.tensor(out, dtype=torch.float64).view(n, len(corners), len(order))


def some_ids(n: int, count: int, length: int, kind: str = "distinct") -> Tensor:
    """Token ids int64 [n, count]: distinct, with duplicates, or distinct with some or all of them -1."""
    if kind == "duplicates":
        return torch.randint(0, length, (n, count))
    ids = torch.rand(n, length).argsort(1)[:, :count]
    share = {"distinct": 0.0, "none": 0.3, "nothing": 1.0}[kind]
    return torch.where(torch.rand(ids.shape) < share, -1, ids)


Op = Callable[..., Tensor | tuple[Tensor, ...]]


def outputs_of(op: Op, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of an op as a tuple."""
    out = op(*inputs)
    return out if isinstance(out, tuple) else (out,)


def values_and_gradients(op: Op, inputs: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of an op of float tensors, then the gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = outputs_of(op, leaves)
    chosen = [(o, u) for o, u in zip(outputs, upstream, strict=True) if o.requires_grad]
    gradients = torch.autograd.grad([o for o, _ in chosen], leaves, [u.to(o) for o, u in chosen])
    return [x.detach() for x in (*outputs, *gradients)]


def sum_type(*tensors: Tensor) -> torch.dtype:
    """What sums are kept in: float64 where there is any, else float32."""
    return torch.float64 if torch.float64 in [x.dtype for x in tensors] else torch.float32


def hold_to_the_rule(found: Tensor, eager: Tensor, exact: Tensor, scale: Tensor | float, where: object) -> None:
    """|found - exact| <= 2 |eager - exact| + a few roundings, elementwise.

    `eager` is in the type that sums are kept in, float32 for the halves: the result alone is rounded to its own type.
    `scale` is the size of what is summed: the sum of its terms' absolute values.
    """
    sums, kind = torch.finfo(sum_type(found)), torch.finfo(found.dtype)
    found, eager, exact = (x.double().cpu() for x in (found, eager, exact))
    assert found.shape == exact.shape, f"{where}: shape {tuple(found.shape)}, want {tuple(exact.shape)}"
    assert torch.equal(found.isnan(), exact.isnan()), f"{where}: NaN"
    scale = torch.as_tensor(scale, dtype=torch.float64).cpu()
    # Below its smallest normal number a type rounds to multiples of tiny * eps.
    floor = ROUNDINGS[getattr(torch, kind.dtype)] * kind.eps * exact.abs().clamp_min(kind.tiny)
    floor = floor + ROUNDINGS[getattr(torch, sums.dtype)] * sums.eps * scale
    error, allowed = (found - exact).abs(), 2 * (eager - exact).abs() + floor
    worst = torch.where((found == exact) | exact.isnan(), 0, error / allowed).max() if error.numel() else 0
    assert worst <= 1, f"{where}: error is {worst:.2f} of what is allowed"


def hold_linear_op(op: Op, spec: Op, inputs: Sequence[Tensor], where: object, positive: bool = False) -> list[Tensor]:
    """Hold outputs and all gradients of an op that is linear, with factors 0 and 1, to the rule."""
    outputs = outputs_of(op, inputs)
    upstream = [torch.rand_like(o) if positive else torch.randn_like(o) * 1.7 for o in outputs]
    found = values_and_gradients(op, inputs, upstream)

    def by_spec(dtype: torch.dtype, size: bool = False) -> list[Tensor]:
        x, u = ([t.abs() if size else t for t in tensors] for tensors in (inputs, upstream))
        return values_and_gradients(spec, [t.to(dtype) for t in x], [t.to(dtype) for t in u])

    eager, exact, scale = by_spec(sum_type(*inputs)), by_spec(torch.float64), by_spec(torch.float64, size=True)
    for i, (f, e, x, s) in enumerate(zip(found, eager, exact, scale, strict=True)):
        name = f"output {i}" if i < len(outputs) else f"gradient {i - len(outputs)}"
        if i >= len(outputs):
            assert f.dtype == inputs[i - len(outputs)].dtype, (where, name)
        hold_to_the_rule(f, e, x, s, (where, name))
    return found


def token_layouts(n: int, length: int, width: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Tokens [n, length, width] in memory of every kind."""
    options = {"dtype": dtype, "device": device}
    return {
        "contiguous": torch.randn(n, length, width, **options),
        "transposed": torch.randn(n, width, length, **options).transpose(1, 2),
        "sequence first": torch.randn(length, n, width, **options).transpose(0, 1),
        "every other": torch.randn(2 * n, 2 * length, 2 * width, **options)[::2, ::2, 1::2],
        "one sample": torch.randn(1, length, width, **options).expand(n, length, width),
        "one token": torch.randn(n, 1, width, **options).expand(n, length, width),
        "one number": torch.randn(n, length, 1, **options).expand(n, length, width),
        "unaligned": torch.randn(n * length * width + 1, **options)[1:].view(n, length, width),
    }


def videos(shape: Sequence[int], dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    """Videos [N, C, T, H, W] in memory of every kind."""

    def draw(*sizes: int) -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 256, sizes, dtype=dtype, device=device)
        return torch.randn(*sizes, device=device).to(dtype)

    n, c, t, h, w = shape
    return {
        "contiguous": draw(n, c, t, h, w),
        "channels last": draw(n, t, h, w, c).permute(0, 4, 1, 2, 3),
        "frames first": draw(n, t, c, h, w).transpose(1, 2),
        "transposed": draw(n, c, t, w, h).transpose(3, 4),
        "every other": draw(n, c, t, 2 * h, 3 * w)[..., ::2, 1::3],
        "slice": draw(n + 1, c + 2, t + 1, h + 3, w + 5)[1:, 1:-1, 1:, 2:-1, 3:-2],
        "one image": draw(1, c, t, h, w).expand(n, c, t, h, w),
        "one channel": draw(n, 1, t, h, w).expand(n, c, t, h, w),
    }


def normalized(images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """(x - mean) / std in float64, of x / 255 for integers; ImageNet's statistics unless told, none for floats."""
    channels, x = images.shape[1], images.double()
    if images.dtype == torch.uint8:
        x = x / 255
        mean = mean or {3: (0.485, 0.456, 0.406), 1: (0.449,)}[channels]
        std = std or {3: (0.229, 0.224, 0.225), 1: (0.226,)}[channels]
    if mean is None:
        return x
    a, b = (torch.tensor(s, dtype=torch.float64, device=x.device)[:, None, None, None] for s in (mean, std))
    return (x - a) / b


Draw = Callable[..., tuple[Tensor, ...]]


def hold_to_the_contract_of_draws(draw: Draw, device: str) -> None:
    """Draws are functions of (seed, sample id, view); `draw(n, seed=, sample_ids=, view=)` gives tensors of n rows."""

    def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    ids = torch.tensor([3, 2**40 + 1, 0, 77, 3, 2**62, -1], device=device)
    whole = draw(7, seed=5, sample_ids=ids, view=2)
    for part in (slice(0, 2), slice(2, 7), slice(5, 6)):
        some = draw(len(ids[part]), seed=5, sample_ids=ids[part], view=2)
        assert same(some, tuple(x[part] for x in whole))
    assert same(tuple(x[0] for x in whole), tuple(x[4] for x in whole))
    assert not same(tuple(x[1] for x in whole), tuple(x[5] for x in whole))
    assert same(draw(7, seed=5, sample_ids=torch.stack([ids, 1 - ids], 1)[:, 0], view=2), whole)
    for other in ({"view": 3, "seed": 5}, {"view": 2, "seed": 6}, {"view": 2, "seed": 5 + 2**32}):
        assert not same(draw(7, sample_ids=ids, **other), whole)

    plain = draw(4, seed=9)
    assert same(draw(4, seed=9, sample_ids=torch.arange(4, device=device), view=0), plain)
    for seed in (torch.tensor(9), torch.tensor(9, device=device)):
        assert same(draw(4, seed=seed), plain)
    assert same(draw(4, seed=-1), draw(4, seed=2**64 - 1))

    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append([draw(4), draw(4)])
    assert same(drawn[0][0], drawn[1][0])
    assert same(drawn[0][1], drawn[1][1])
    assert not same(drawn[0][0], drawn[0][1])
    assert not same(drawn[0][0], drawn[2][0])
    before = torch.get_rng_state()
    draw(4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)

    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert same(draw(7, seed=5, sample_ids=ids, view=2), whole)
    finally:
        torch.set_num_threads(threads)
