"""Triton's interpreter, for the workers of test_triton_interpreter.py: what it gets wrong, and what it does not check.

Import it after TRITON_INTERPRET is set.
"""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from triton.language import core, semantic
from triton.runtime import interpreter

import fastssl


def begin() -> None:
    """Let a worker run the Triton kernels alone, from one seed, on tensors that are full of NaN when they are made."""
    # numpy on inf - inf, on log(0), and on the branches that tl.where drops
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fastssl.use_backend("triton")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # whatever a kernel leaves unwritten shows


def run(module: Mapping[str, Any], checks: Sequence[str], limit_s: int = 600) -> None:
    """Run checks of a worker, each in a fork of its own, as importing takes longer than most of them.

    Prints, as each one ends, a line of JSON: [its name, what it wrote if it failed, else None].
    """
    hurry()
    for check in checks:
        with tempfile.TemporaryFile() as words:
            child = os.fork()
            if child == 0:
                signal.alarm(limit_s)
                os.dup2(words.fileno(), 1)
                os.dup2(words.fileno(), 2)
                try:
                    module[check]()
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(1)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            words.seek(0)
            said = words.read().decode(errors="replace")
        print(json.dumps([check, f"status {status}\n{said}" if status else None]), flush=True)


def watch_memory() -> None:
    """Make the interpreter refuse what is outside of the tensors of a launch."""
    spans: list[tuple[int, int]] = []
    builder = interpreter.InterpreterBuilder
    call, convert = interpreter.GridExecutor.__call__, interpreter._implicit_cvt
    load, store = builder.create_masked_load, builder.create_masked_store

    def launch_anew(self: Any, *args: Any, **kwargs: Any) -> Any:
        spans.clear()
        return call(self, *args, **kwargs)

    def remember(arg: Any) -> Any:
        if isinstance(arg, torch.Tensor) and arg.numel():
            last = sum((size - 1) * stride for size, stride in zip(arg.shape, arg.stride(), strict=True))
            spans.append((arg.data_ptr(), arg.data_ptr() + last * arg.element_size()))
        return convert(arg)

    def look_at(pointers: Any, mask: Any) -> None:
        at = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
        inside = np.zeros(at.shape, bool)
        for first, last in spans:
            inside |= (at >= first) & (at <= last)
        assert inside.all(), "a kernel left its tensors"

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        look_at(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        look_at(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    interpreter.GridExecutor.__call__, interpreter._implicit_cvt = launch_anew, remember
    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store


def round_fma_once() -> None:
    """Make tl.fma of float32 round once, as the hardware does: the product of two is exact in float64."""

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        wide = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(wide.astype(x.data.dtype), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = fma


def hurry() -> None:
    """Leave out what the interpreter does again at every call, most of its time; what it computes stays."""
    prepared: set[int] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = self.fn.__globals__
        if id(module) not in prepared:
            prepared.add(id(module))
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call

    types, slow = {}, interpreter._get_np_dtype

    def np_dtype(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in types:
            types[name] = slow(kind.scalar)
        return types[name]

    interpreter._get_np_dtype = np_dtype

    @functools.cache
    def shape_and_size(shape: tuple[int, ...]) -> Any:
        return core.tuple([core.constexpr(side) for side in shape]), core.constexpr(math.prod(shape))

    def init(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shape_and_size(tuple(type.shape) if type.is_block() else ())

    core.tensor.__init__ = init

    # Whether an integer overflows is told in Triton's debug mode alone, but computed without it, too.
    semantic.TritonSemantic.binary_op_sanitize_overflow_impl = lambda *_: None
