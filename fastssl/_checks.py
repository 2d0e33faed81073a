"""Input checks shared by the ops. Each message names the argument, what it got and what it wants."""

from __future__ import annotations

import math

import torch

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _is_float_tensor(name: str, x: object) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, want a torch.Tensor")
    if x.dtype not in _FLOATS:
        raise TypeError(f"{name}: got dtype {x.dtype}, want float64, float32, float16 or bfloat16")
    return x


def paired_embeddings(z0: object, z1: object) -> None:
    """Check two embedding matrices [N, d] of one shape, dtype and device, with N and d at least 1."""
    a, b = _is_float_tensor("z0", z0), _is_float_tensor("z1", z1)
    if a.ndim != 2:
        raise ValueError(f"z0: got shape {tuple(a.shape)}, want [N, d]")
    if b.shape != a.shape:
        raise ValueError(f"z1: got shape {tuple(b.shape)}, want the shape of z0, {tuple(a.shape)}")
    if a.shape[0] == 0 or a.shape[1] == 0:
        raise ValueError(f"z0: got shape {tuple(a.shape)}, want N >= 1 and d >= 1")
    alike("z1", b, "z0", a)


def alike(name: str, x: torch.Tensor, other: str, like: torch.Tensor) -> None:
    """Check the dtype and device of another tensor; under autocast, which casts both, dtypes may differ."""
    if x.device != like.device:
        raise ValueError(f"{name}: got device {x.device}, want the device of {other}, {like.device}")
    if x.dtype != like.dtype and not torch.is_autocast_enabled(like.device.type):
        raise TypeError(f"{name}: got dtype {x.dtype}, want the dtype of {other}, {like.dtype}")


def ids(name: str, value: object, count: int, device: torch.device) -> torch.Tensor:
    """Check integer ids, such as labels, of `count` rows on a device."""
    if not isinstance(value, torch.Tensor) or value.dtype.is_floating_point or value.dtype.is_complex:
        got = f"dtype {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"{name}: got {got}, want an int tensor [{count}]")
    if value.shape != (count,):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, want [{count}]")
    if value.device != device:
        raise ValueError(f"{name}: got device {value.device}, want {device}")
    return value


def float_tensor(name: str, x: object, shape: str) -> torch.Tensor:
    """Check a float tensor of as many axes as `shape` names, such as "[N, L, D]", none of length 0 but those in ()."""
    t = _is_float_tensor(name, x)
    axes = shape.strip("[]").split(", ")
    empty = any(size == 0 for size, axis in zip(t.shape, axes, strict=False) if not axis.startswith("("))
    if t.ndim != len(axes) or empty:
        raise ValueError(f"{name}: got shape {tuple(t.shape)}, want {shape.replace('(', '').replace(')', '')}")
    return t


def token_ids(name: str, ids: object, like: torch.Tensor, shape: str, limit: int | None) -> torch.Tensor:
    """Check token ids: int64 [N, ...] on the device of `like`, with its N; on the CPU also -1 <= ids < limit.

    The values of ids on an accelerator are not read, because that would stall it; the kernels take what is out of
    range as -1, which names no token.
    """
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"{name}: got {type(ids).__name__}, want an int64 tensor {shape}")
    if ids.dtype != torch.int64:
        raise TypeError(f"{name}: got dtype {ids.dtype}, want int64")
    if ids.ndim != 2 or ids.shape[0] != like.shape[0]:
        raise ValueError(f"{name}: got shape {tuple(ids.shape)}, want {shape} with N = {like.shape[0]}")
    if ids.device != like.device:
        raise ValueError(f"{name}: got device {ids.device}, want {like.device}")
    if limit is not None and ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in ids.aminmax())
        if low < -1 or high >= limit:
            wrong = low if low < -1 else high
            raise ValueError(f"{name}: got {wrong}, want ids from 0 to {limit - 1}, or -1 for none")
    return ids


def int_in(name: str, value: object, low: int, high: int) -> None:
    """Check an int in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}: got {value!r}, want an int in [{low}, {high}]")


def fraction(name: str, value: object, *, below_one: bool = False) -> float:
    """Check a number in [0, 1], or in [0, 1), and return it as a float."""
    end = ")" if below_one else "]"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {type(value).__name__}, want a number in [0, 1{end}")
    if not (0 <= value < 1 if below_one else 0 <= value <= 1):
        raise ValueError(f"{name}: got {value}, want a number in [0, 1{end}")
    return float(value)


def positive_int(name: str, value: object) -> None:
    """Check an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: got {value!r}, want an int >= 1")


def count(name: str, value: object) -> None:
    """Check an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}: got {value!r}, want an int >= 0")


def positive_scalar(name: str, value: object, device: torch.device) -> torch.Tensor:
    """Return a finite scalar > 0, such as a temperature, as a 0-d tensor; see `scalar`."""
    return scalar(name, value, device, positive=True)


def scalar(name: str, value: object, device: torch.device, *, positive: bool = False) -> torch.Tensor:
    """Return a finite scalar, a number or a 0-d tensor, as a 0-d tensor.

    A tensor on an accelerator is not read, because that would stall the device. A number stays on the host in
    eager mode, where it costs no launch; a compiled graph gets it on `device`, which keeps CUDA graphs possible.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim != 0 or value.dtype not in _FLOATS:
            raise ValueError(
                f"{name}: got a {value.dtype} tensor of shape {tuple(value.shape)}, want a number or a 0-d float tensor"
            )
        if value.device != device:
            raise ValueError(f"{name}: got a tensor on {value.device}, want the embeddings' device, {device}")
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            _require_finite(name, float(value.detach()), positive)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {type(value).__name__}, want a number or a 0-d float tensor")
    _require_finite(name, value, positive)
    if not torch.compiler.is_compiling():
        return torch.tensor(value, dtype=torch.float64)
    # torch.full and torch.tensor would make the value a constant of the graph, and recompile at the next one.
    return torch.ones((), dtype=torch.float64, device=device) * value


def _require_finite(name: str, value: float, positive: bool) -> None:
    if not (0 < value < math.inf if positive else -math.inf < value < math.inf):
        raise ValueError(f"{name}: got {value}, want a finite number{' > 0' if positive else ''}")
