"""The engine's kernels compiled for each architecture, with no GPU, under the rules of offline.py.

Needs the compiler, so TRITON_INTERPRET must not be set.
"""

import pytest
from offline import CHIPS, check
from offline import compile_kernel as compile_offline

from fastssl.kernels.triton import launch, pairwise_kernels, pairwise_softplus

WIDTHS, SOME_WIDTHS = (32, 64, 128, 256, 512, 1024), (32, 128, 512, 1024)
POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
TYPES = {
    "row_ids": "*i32", "col_ids": "*i32", "lse": "*fp64", "row_lse": "*fp64", "col_lse": "*fp64", "row_dot": "*fp64",
    "sums": "*fp64", "total": "*fp64", "grad_scale": "*fp64", "values": "*fp64", "w_shift": "fp32", "factor": "fp32",
    "m": "i32", "n": "i32", "period": "i32", "splits": "i32", "count": "i32",
}  # fmt: skip
NO_IDS = {"row_ids": None, "col_ids": None}

# name -> (kernel, loop of the launch table, what is fixed)
SUMS = {"period": None, "RECIPROCAL": False, "BOUNDED": True, "HALF": False, "IF_PLAIN": True}
ONLINE = SUMS | {"BOUNDED": False, "col_sum": None}
_sums, _gradient = pairwise_kernels.pairwise_sums_kernel, pairwise_kernels.pairwise_gradient_kernel
_attend, _softplus = pairwise_kernels.pairwise_attend_kernel, pairwise_softplus.pairwise_softplus_kernel
FORMS = {
    "columns": (_sums, "pairwise_sums", SUMS | NO_IDS),
    "columns, ids": (_sums, "pairwise_sums", SUMS),
    "second pass for columns": (_sums, "pairwise_sums", SUMS | NO_IDS | {"IF_PLAIN": False, "col_sum": None}),
    "symmetric, ids": (_sums, "pairwise_sums", SUMS | {"HALF": True, "col_sum": None}),
    "online": (_sums, "pairwise_sums", ONLINE | NO_IDS),
    "online, ids": (_sums, "pairwise_sums", ONLINE),
    "gradient": (_gradient, "pairwise", NO_IDS | {"BOUNDED": True}),
    "gradient, ids": (_gradient, "pairwise", {"BOUNDED": True}),
    "gradient, online": (_gradient, "pairwise", {"BOUNDED": False}),
    "gradient of rows": (_gradient, "pairwise", NO_IDS | {"BOUNDED": True, "col_factors": None}),
    "gradient of rows, ids": (_gradient, "pairwise", {"BOUNDED": True, "col_factors": None}),
    "gradient of columns, ids": (_gradient, "pairwise", {"BOUNDED": True, "row_factors": None}),
    "attend": (_attend, "attend", NO_IDS),
    "attend, ids": (_attend, "attend", {}),
    "softplus": (_softplus, "softplus", {"COL_BIAS": False, "ONLY_SAME": False}),
    "softplus, only same": (_softplus, "softplus", {"COL_BIAS": False, "ONLY_SAME": True}),
    "softplus, of columns": (_softplus, "softplus", {"COL_BIAS": True, "ONLY_SAME": False, "sums": None}),
    "softplus, total alone": (_softplus, "softplus", {"COL_BIAS": False, "ONLY_SAME": False, "parts": None}),
}
COMMON = ("columns, ids", "online, ids", "gradient, ids", "attend, ids", "softplus")  # compiled for every chip


def compile_kernel(kernel, arch, constants, options, dtype="float32", scale="*fp32"):
    types = TYPES | {"scale": scale, "x": POINTERS[dtype], "y": POINTERS[dtype]}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    return compile_offline(kernel, arch, types, constants, options)


def split(kwargs):
    """Launch arguments into kernel constants and compiler options."""
    options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages")}
    return kwargs, options


def cases():
    """(arch, dtype, precision, width, form): common forms over the widths; on one chip all widths, and all forms."""
    for arch in CHIPS:
        whole = arch == 90
        for form in FORMS if whole else COMMON:
            for width in (WIDTHS if whole else SOME_WIDTHS) if form in COMMON else (128, 512):
                yield arch, "bfloat16", "ieee", width, form
            for width in (64, 128, 512) if whole and form in COMMON else (128,):
                yield arch, "float32", "tf32x3", width, form
            if whole and form in COMMON:
                yield arch, "bfloat16", "ieee", 257, form  # rows that are not whole 16-byte words
                yield arch, "float32", "tf32x3", 257, form
        yield arch, "float32", "tf32", 64, "gradient, ids"
    yield 90, "float32", "bf16", 128, "gradient, ids"
    yield 90, "float16", "ieee", 128, "gradient, ids"
    yield 90, "bfloat16", "ieee", 96, "softplus"


@pytest.mark.parametrize(("arch", "dtype", "precision", "width", "form"), cases())
def test_tile_loops(arch, dtype, precision, width, form, record_property):
    kernel, loop, fixed = FORMS[form]
    for config in launch.configs(loop, CHIPS[arch][0], 4 if dtype == "float32" else 2, width):
        constants, options = split(config.kwargs())
        constants |= fixed | {"WIDTH": width, "PRECISION": precision}
        scale = "fp32" if width == 64 else "*fp32"  # scalar and pointer form
        result = compile_kernel(kernel, arch, constants, options, dtype, scale)
        record_property("registers, shared, tensor memory", check(*result, arch, products=True))


@pytest.mark.parametrize("arch", CHIPS)
@pytest.mark.parametrize("bounded", [False, True])
def test_vectors(arch, bounded):
    """Logarithms, factors and totals."""
    for kernel, config, fixed in (
        (pairwise_kernels.pairwise_lse_kernel, launch.VECTOR, {} if bounded else {"plain_sum": None}),
        (pairwise_kernels.pairwise_factors_kernel, launch.REDUCTION, {} if bounded else {"col_grad": None}),
        (pairwise_kernels.pairwise_total_kernel, launch.REDUCTION, {}),
        (pairwise_softplus.pairwise_softplus_finish_kernel, launch.REDUCTION, {}),
    ):
        constants, options = split(config.kwargs())
        check(*compile_kernel(kernel, arch, constants | fixed | {"BOUNDED": bounded}, options), arch, products=False)


@pytest.mark.parametrize("arch", CHIPS)
@pytest.mark.parametrize("width", [16, 128, 257, 1024])
def test_rows(arch, width):
    """Sums of the parts of gradients and of means."""
    for dtype in POINTERS:
        for kernel, fixed in (
            (pairwise_kernels.pairwise_collect_kernel, {}),
            (pairwise_kernels.pairwise_collect_kernel, {"x": None, "unit": None}),
            (pairwise_kernels.pairwise_mean_kernel, {}),
        ):
            constants, options = split(launch.rows(width).kwargs())
            result = compile_kernel(kernel, arch, constants | fixed | {"WIDTH": width}, options, dtype, "*bf16")
            check(*result, arch, products=False)
