"""How an op enters `torch.ops.fastssl`: one call with its schema and its four functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("fastssl", "DEF")
_AUTOCAST = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def define(
    schema: str,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    save: Callable[..., None],
    autocast: tuple[str, ...] = (),
) -> None:
    """Register an op of the `fastssl` namespace.

    Args:
        schema: its `torch.library` schema, without the namespace.
        forward: the implementation on real tensors, any device.
        fake: the same signature; returns empty tensors of the right shapes, dtypes and device.
        backward, save: as `backward` and `setup_context` of `torch.library.register_autograd`.
        autocast: the arguments that autocast casts to its type (float64 ones stay); the others it leaves alone, and
            whatever the op is made of.
    """
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    name = schema.split("(")[0]
    _library.impl(name, forward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastssl::{name}", fake, lib=_library)
    torch.library.register_autograd(f"fastssl::{name}", backward, setup_context=save, lib=_library)
    op = getattr(torch.ops.fastssl, name).default
    cast = [argument.name in autocast for argument in op._schema.arguments]
    for device, key in _AUTOCAST.items():
        _library.impl(name, _autocast_rule(op, cast, device, key), key)


def define_data_op(schema: str, forward: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register an op that makes data, and so has no derivative: schema, forward and fake as for `define`."""
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    name = schema.split("(")[0]
    _library.impl(name, forward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastssl::{name}", fake, lib=_library)


def _autocast_rule(op: Any, cast: list[bool], device: str, key: str) -> Callable[..., Any]:
    # torch.library.register_autocast would cast every tensor, the temperature included.
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def rule(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        args = tuple(
            a.to(dtype) if chosen and a.dtype != torch.float64 else a for a, chosen in zip(args, cast, strict=True)
        )
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(*args)

    return rule
