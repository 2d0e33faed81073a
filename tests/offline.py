"""Triton kernels compiled for a chip that is not there, and the rules that every one of them obeys.

Needs the compiler, so TRITON_INTERPRET must not be set.
"""

import contextlib
import io
import os
import re

import pytest

if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from fastssl.kernels.triton import launch  # noqa: E402

# architecture compiled for -> key of the launch table, bytes of shared memory a block may have, matrix instruction
CHIPS = {
    80: (80, 166912, "mma.sync"),
    89: (launch.FALLBACK, 101376, "mma.sync"),
    90: (90, 232448, "wgmma.mma_async"),
    100: (100, 232448, "tcgen05.mma"),
}
TENSOR_MEMORY = 512  # columns


def compile_kernel(kernel, arch, types, constants, options, aligned=()):
    """Compile from source and return (ptxas report, compiled kernel); nothing is read from a cache.

    `types` has Triton's name of each argument's type, a tuple of them for a tuple. Pointers, and the arguments
    `aligned`, are multiples of 16.
    """
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    parts = [
        ((i, j) if isinstance(kind, tuple) else (i,), name, part)
        for i, (name, kind) in enumerate(signature.items())
        for j, part in enumerate(kind if isinstance(kind, tuple) else (kind,))
    ]
    wide = [at for at, name, kind in parts if kind != "constexpr" and (kind[0] == "*" or name in aligned)]
    attrs = {at: [["tt.divisibility", 16]] for at in wide}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs)
    log = io.StringIO()
    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope(), contextlib.redirect_stdout(log):
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return log.getvalue(), compiled


def check(report, compiled, arch, products):
    """The rules every kernel obeys; returns registers, shared memory and tensor memory for the curious."""
    _, shared_limit, instruction = CHIPS[arch]
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    tensor_memory = compiled.metadata.tmem_size or 0
    assert re.search(r"\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", report), report
    assert compiled.metadata.shared <= shared_limit, f"{compiled.metadata.shared} bytes of shared memory"
    assert tensor_memory <= TENSOR_MEMORY, f"{tensor_memory} columns of tensor memory"
    if products:
        ptx = compiled.asm["ptx"]
        # Row blocks under 64 are too small for wgmma and tcgen05; mma.sync runs on every architecture.
        assert instruction in ptx or "mma.sync" in ptx, "no tensor-core instructions"
        assert "wgmma.mma_async instructions are serialized" not in report, report
    return registers, compiled.metadata.shared, tensor_memory
