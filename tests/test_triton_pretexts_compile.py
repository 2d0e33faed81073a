"""The Triton kernels of the classic pretexts compiled for every architecture, with no GPU: no spills."""

import re

import pytest
from offline import CHIPS, check, compile_kernel

from fastssl.kernels.triton import extract_patches, launch, patches

OPTIONS = ("num_warps", "maxnreg", "enable_fp_fusion")
# Sides of a patch: of digits, of the pretexts, and of more pixels than a block.
SIDES = ((3, 5), (64, 64), (96, 96), (255, 254))


def hold(arch, kernel, types, launched, aligned=()):
    """Compile with the constants and options of a launch; ints are what no type is given for."""
    options = {name: launched[name] for name in OPTIONS if name in launched}
    constants = {name: value for name, value in launched.items() if name in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32") | types
    report, compiled = compile_kernel(kernel, arch, types, constants, options, aligned)
    return compiled, check(report, compiled, arch, products=False)


def extract_patches_cases(arch):
    """Name, types and constants of launches."""
    pixels, results = ("*u8", "*fp32", "*bf16", "*fp16"), ("*fp32", "*bf16", "*fp16")
    forms = ((False, False, 3), (True, False, 1), (False, True, 3), (True, True, 16))  # and channels
    for i, sides in enumerate(SIDES if arch == 90 else SIDES[1:2]):
        for j, (standardize, keep, channels) in enumerate(forms):
            numbers = "*fp32" if channels > patches.ARGUMENTS.value else ("fp32",) * channels
            types = {
                "images": pixels[(i + j) % 4], "patches": results[(i + j) % 3], "corners": "*i64", "keep": "i64",
                "seed": ("*i64", "i64", "i32")[j % 3], "sample_ids": "*i64", "scale": numbers, "shift": numbers,
            }  # fmt: skip
            launched = {
                "HEIGHT": sides[0], "WIDTH": sides[1], "CHANNELS": channels, "STANDARDIZE": standardize, "KEEP": keep,
                "PIECES": 1, "enable_fp_fusion": False,
            } | launch.plane_tile(sides[0] * sides[1])  # fmt: skip
            if not standardize and not keep:
                launched["PIECES"] = -(-sides[0] * sides[1] // launched["BLOCK"])
            if i % 2:
                launched |= {"sample_ids": None, "scale": None, "shift": None, "stride_w": 1}
            yield f"{sides} {standardize} {keep}", types, launched


@pytest.mark.parametrize("arch", CHIPS)
def test_extract_patches(arch, record_property):
    for name, types, launched in extract_patches_cases(arch):
        compiled, used = hold(arch, extract_patches.extract_patches_kernel, types, launched)
        record_property(name, used)
        # The noise is the same bits on every backend: no product is added to, and roots are the nearest.
        arithmetic = set(re.findall(r"\b(?:fma|sqrt|rsqrt)\.[a-z.]*f32", compiled.asm["ptx"]))
        assert arithmetic <= {"sqrt.rn.f32"}, arithmetic
