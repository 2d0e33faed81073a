"""The Triton augmentation compiled for every architecture, with no GPU: no spills, arithmetic as the maths needs it."""

import re
import struct

import pytest
from offline import CHIPS, check, compile_kernel

from fastssl.kernels.triton import augment, augment_kernels, sample_params

TYPES = {
    "pixels": "*u8", "extents": "*i64", "params": "*i32", "state": "*fp32", "sums": "*fp32", "seed": "*i64",
    "sample_ids": "*i64", "heights": "*i64", "widths": "*i64", "table": "*fp64",
} | {f"{name}{channel}": "fp32" for name in ("scale", "shift") for channel in range(3)}  # fmt: skip
INTEGERS = (
    "start", "n", "views", "first_view", "image_height", "image_width", "stride_b", "stride_c", "stride_y", "stride_x",
    "height", "width", "limit", "stride_ids", "stride_heights", "stride_widths",
)  # fmt: skip
KERNELS = [getattr(augment_kernels, f"augment_{name}_kernel") for name in ("resize", "contrast", "blur")]
UNFUSED = {"enable_fp_fusion": False}
# type of the views, channels_last, channels, bicubic, uint8 rounding, ragged
FORMS = [
    ("*bf16", True, 3, False, False, False),
    ("*fp32", False, 3, True, False, True),
    ("*fp16", False, 1, True, False, False),
    ("*bf16", True, 3, True, True, False),
    ("*fp32", False, 1, False, True, True),
]


def compile_augment(kernel, arch, form, aligned=(), **ones):
    dtype, channels_last, channels, bicubic, uint8, ragged = form
    constants = ones | {
        "CHANNELS_LAST": channels_last, "CHANNELS": channels, "BICUBIC": bicubic, "UINT8": uint8, "RAGGED": ragged,
        "PRECISION": "tf32x3", "BLOCK": augment.BLOCK,
    }  # fmt: skip
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = dict.fromkeys(INTEGERS, "i32") | TYPES | {"out": dtype}
    warps = augment.BLUR_WARPS if kernel is KERNELS[2] else augment.POINT_WARPS
    return compile_kernel(kernel, arch, types, constants, {"num_warps": warps} | UNFUSED, aligned)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("arch", CHIPS)
def test_augment(arch, kernel, form, record_property):
    report, compiled = compile_augment(kernel, arch, form)
    record_property("registers, shared, tensor memory", check(report, compiled, arch, products=kernel is KERNELS[2]))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_specializations(form):
    """Strides of 1 become constants at run time, and multiples of 16 are known: channels innermost, and planes."""
    check(*compile_augment(KERNELS[0], 90, form, stride_c=1), 90, products=False)
    check(*compile_augment(KERNELS[0], 90, form, ("stride_c",), stride_x=1), 90, products=False)


@pytest.mark.parametrize("seed", ["*i64", "i32", "i64"])
@pytest.mark.parametrize("arch", CHIPS)
def test_sample_params(arch, seed):
    """Every product and sum of float64 rounded on its own, quotients and roots correctly, constants exact."""
    types = dict.fromkeys(INTEGERS, "i32") | TYPES | {"out": "*i32", "seed": seed}
    constants = {"BLOCK": sample_params.BLOCK}
    report, compiled = compile_kernel(
        sample_params.sample_params_kernel, arch, types, constants, {"enable_fp_fusion": False}
    )
    check(report, compiled, arch, products=False)
    ptx = compiled.asm["ptx"]
    arithmetic = set(re.findall(r"\b(?:fma|mul|add|sub|div|sqrt|rcp|rsqrt)\.[a-z.]*f64", ptx))
    assert arithmetic == {"mul.rn.f64", "add.rn.f64", "sub.rn.f64", "div.rn.f64", "sqrt.rn.f64"}
    for number in (sample_params.LOG2E, sample_params.LN2_HIGH, sample_params.LN2_LOW, *sample_params.EXP):
        bits = {struct.pack(">d", sign * getattr(number, "value", number)).hex().upper() for sign in (1, -1)}
        assert any(f"0d{b}" in ptx for b in bits), number


def test_sample_params_of_one_size():
    """Strides of 1 become constants at run time."""
    types = dict.fromkeys(INTEGERS, "i32") | TYPES | {"out": "*i32"}
    constants = dict.fromkeys(("stride_ids", "stride_heights", "stride_widths"), 1) | {"BLOCK": sample_params.BLOCK}
    check(*compile_kernel(sample_params.sample_params_kernel, 90, types, constants, {}), 90, products=False)
