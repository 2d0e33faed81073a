"""Every entry of the launch table compiled for its architecture, with no GPU: no spills, memory under the chip's limit,
tensor-core instructions where a matrix product is meant. Needs the compiler, so TRITON_INTERPRET must not be set.
"""

import pytest
from offline import CHIPS, check
from offline import compile_kernel as compile_offline

from fastssl.kernels.triton import launch, ntxent_kernels, pairwise_kernels

WIDTHS, SOME_WIDTHS = (32, 64, 128, 256, 512, 1024), (32, 128, 512, 1024)
POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
EMBEDDINGS = ("z0", "z1", "zn", "x", "y", "grad_z0", "grad_z1")
FIXED = {"n": "i32", "m": "i32", "period": "i32", "splits": "i32", "w_shift": "fp32", "lse": "*fp64", "pos": "*fp64"}
NONE = {"row_ids": None, "col_ids": None, "col_sum": None}
SUMS = NONE | {"RECIPROCAL": True, "BOUNDED": True, "IF_PLAIN": True}  # as the forward pass asks for them


def compile_kernel(kernel, arch, constants, options, dtype="float32", tau="*fp32"):
    """Compile with the types of an NT-Xent problem, aligned as for widths of whole 16s."""
    types, strides = (
        {"tau": tau, "scale": tau} | FIXED,
        [name for name in kernel.arg_names if name.startswith("stride")],
    )
    for name in kernel.arg_names:
        types.setdefault(name, "i32" if name in strides else POINTERS[dtype if name in EMBEDDINGS else "float32"])
    return compile_offline(kernel, arch, types, constants, options, strides)


def split(kwargs):
    """Launch arguments into kernel constants and compiler options."""
    options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages")}
    return kwargs, options


def cases():
    """(arch, dtype, precision, width): widths, on one chip all, in the commonest forms, one where little differs."""
    for arch in CHIPS:
        for width in WIDTHS if arch == 90 else SOME_WIDTHS:
            yield arch, "bfloat16", "ieee", width
            yield arch, "float32", "tf32x3", width
        yield arch, "float16", "ieee", 128
        for width in (64, 512):
            yield arch, "float32", "tf32", width
        yield arch, "float32", "bf16", 128
        yield arch, "bfloat16", "ieee", 257  # rows that are not whole 16-byte words
        yield arch, "float32", "tf32x3", 257
    yield 90, "bfloat16", "ieee", 96


@pytest.mark.parametrize(("arch", "dtype", "precision", "width"), cases())
def test_forward(arch, dtype, precision, width, record_property):
    size = 4 if dtype == "float32" else 2
    for config in launch.configs("sums", CHIPS[arch][0], size, width):
        constants, options = split(config.kwargs())
        constants |= SUMS | {"WIDTH": width, "PRECISION": precision, "HALF": True}
        tau = "fp32" if width == 64 else "*fp32"  # scalar and pointer form of the temperature
        result = compile_kernel(pairwise_kernels.pairwise_sums_kernel, arch, constants, options, dtype, tau)
        record_property("registers, shared, tensor memory", check(*result, arch, products=True))


@pytest.mark.parametrize(("arch", "dtype", "precision", "width"), cases())
def test_backward(arch, dtype, precision, width, record_property):
    size = 4 if dtype == "float32" else 2
    for config in launch.configs("gradient", CHIPS[arch][0], size, width):
        constants, options = split(config.kwargs() | launch.epilogue(config, width))
        constants |= {"WIDTH": width, "PRECISION": precision, "stride_z0_col": 1, "stride_z1_col": 1}
        tau = "fp32" if width == 64 else "*fp32"
        result = compile_kernel(ntxent_kernels.ntxent_bwd_kernel, arch, constants, options, dtype, tau)
        record_property("registers, shared, tensor memory", check(*result, arch, products=True))


@pytest.mark.parametrize("arch", CHIPS)
def test_other_forms(arch):
    """Deterministic forward, strided inputs, and the reductions."""
    constants, options = split(launch.configs("sums", CHIPS[arch][0], 2, 128)[0].kwargs())
    constants |= SUMS | {"WIDTH": 128, "PRECISION": "ieee", "HALF": False}
    check(
        *compile_kernel(pairwise_kernels.pairwise_sums_kernel, arch, constants, options, "bfloat16"),
        arch,
        products=True,
    )
    config = launch.configs("gradient", CHIPS[arch][0], 2, 128)[0]
    constants, options = split(config.kwargs() | launch.epilogue(config, 128))
    constants |= {"WIDTH": 128, "PRECISION": "ieee"}
    check(*compile_kernel(ntxent_kernels.ntxent_bwd_kernel, arch, constants, options, "bfloat16"), arch, products=True)
    for tau in ("*fp32", "fp32", "*bf16", "*fp64"):
        constants, options = split(launch.REDUCTION.kwargs())
        check(
            *compile_kernel(ntxent_kernels.ntxent_bwd_tau_kernel, arch, constants, options, tau=tau),
            arch,
            products=False,
        )
        constants["DETERMINISTIC"] = tau == "fp32"
        check(
            *compile_kernel(ntxent_kernels.ntxent_finish_kernel, arch, constants, options, tau=tau),
            arch,
            products=False,
        )


@pytest.mark.parametrize("n_is_one", [False, True])
@pytest.mark.parametrize("strides", [(1, None, None, 1), (None, 1, 1, None), (1, None, 1, None)])
def test_specializations(strides, n_is_one):
    """Integer arguments of 1 become constants at run time: batches of one pair, one split, transposed inputs."""
    names = ("stride_z0_row", "stride_z0_col", "stride_z1_row", "stride_z1_col")
    ones = {name: 1 for name, value in zip(names, strides, strict=True) if value == 1} | ({"n": 1} if n_is_one else {})
    for kernel, config, extra in (
        (ntxent_kernels.ntxent_normalize_kernel, launch.rows(128), ones),
        (pairwise_kernels.pairwise_sums_kernel, launch.configs("sums", 90, 2, 128)[-1], ones | {"splits": 1}),
        (ntxent_kernels.ntxent_bwd_kernel, launch.configs("gradient", 90, 2, 128)[-1], ones),
        (ntxent_kernels.ntxent_finish_kernel, launch.REDUCTION, ones | {"splits": 1}),
        (ntxent_kernels.ntxent_bwd_tau_kernel, launch.REDUCTION, ones),
    ):
        constants, options = split(config.kwargs() | launch.epilogue(config, 128))
        constants |= SUMS | {"WIDTH": 128, "PRECISION": "ieee", "DETERMINISTIC": False, "HALF": True} | extra
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        check(*compile_kernel(kernel, 90, constants, options, "bfloat16"), 90, products="PRECISION" in constants)


@pytest.mark.parametrize("arch", CHIPS)
@pytest.mark.parametrize("width", [16, 128, 257, 1024])
def test_normalize(arch, width):
    for dtype in POINTERS:
        constants, options = split(launch.rows(width).kwargs())
        constants |= {"WIDTH": width, "stride_z0_col": 1, "stride_z1_col": 1}
        result = compile_kernel(ntxent_kernels.ntxent_normalize_kernel, arch, constants, options, dtype)
        check(*result, arch, products=False)
