"""The Triton kernels of masked training compiled for every architecture, with no GPU: no spills, arithmetic as the
maths needs it, tokens copied in 16-byte words.
"""

import itertools
import math
import re

import pytest
from offline import CHIPS, check
from offline import compile_kernel as compile_offline

from fastssl.kernels.triton import (
    blockwise_masking,
    gather_tokens,
    launch,
    mask_patchify,
    masked_mse,
    multiblock_masking,
    patches,
    random_masking,
    restore_tokens,
    text_masking,
    tokens,
)

TYPES = {
    kind: names.split()
    for kind, names in {
        "*i64": "seed sample_ids keep shuffled restore target inputs labels ids",
        "*fp32": "weights totals partials parts token_parts pos_parts other_parts other_out loss factor",
        "i64": "scale_low scale_high aspect_low aspect_high temporal_low temporal_high log_low log_high choose replace "
        "random ignore_index",
        "fp32": "beta",
    }.items()
}
TYPES = {name: kind for kind, names in TYPES.items() for name in names}
OPTIONS = ("num_warps", "maxnreg", "enable_fp_fusion")
UNFUSED = {"enable_fp_fusion": False}
# Of contiguous memory the innermost strides are 1, which is a constant at run time, and the others often whole 16s.
ONES = (
    "stride_ids", "stride_column", "stride_pos_column", "stride_token", "stride_w", "stride_pred_e",
    "stride_chosen_row",
)  # fmt: skip
WHOLE = ("n", "row", "pos_row", "c", "t", "h", "pred_n", "pred_row")
WIDTHS = (16, 32, 64, 127, 192, 384, 768, 1024, 1280)
# channels, frames, rows and columns of a patch; the last are features and a pixel
PATCHES = (
    (1, 1, 4, 4), (3, 1, 4, 4), (16, 1, 4, 4), (3, 1, 14, 14), (1, 1, 16, 16), (3, 1, 16, 16), (16, 1, 16, 16),
    (3, 1, 32, 32), (16, 1, 32, 32), (3, 2, 16, 16), (768, 1, 1, 1), (1, 1, 1, 1),
)  # fmt: skip
PIXELS = ("*u8", "*bf16", "*fp32", "*fp16")


def compile_kernel(kernel, arch, types, launched, strided=False):
    """Compile with the constants and options of a launch, for memory that is contiguous or has any strides."""
    constants = ({} if strided else dict.fromkeys(ONES, 1)) | launched
    options = {name: constants.pop(name) for name in OPTIONS if name in constants}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32") | TYPES | types
    aligned = () if strided else [f"stride_{name}" for name in WHOLE if f"stride_{name}" in kernel.arg_names]
    return compile_offline(kernel, arch, types, constants, options, aligned)


def hold(arch, *args, **options):
    return check(*compile_kernel(args[0], arch, *args[1:], **options), arch, products=False)


@pytest.mark.parametrize("arch", CHIPS)
def test_random_masking(arch):
    for quads, noise in itertools.product((1, 49), (None, "*fp32", "*fp64")):
        launched = launch.rank_blocks(quads) | (
            {"noise": None} if noise is None else {"seed": None, "sample_ids": None}
        )
        hold(arch, random_masking.random_masking_kernel, {"mask": "*fp32", "noise": noise}, launched)
    for seed, absent in (("i64", ("sample_ids",)), ("i32", ("keep",)), ("*i64", ("sample_ids", "keep"))):
        launched = launch.rank_blocks(49) | dict.fromkeys(("noise", *absent))
        hold(arch, random_masking.random_masking_kernel, {"mask": "*fp32", "seed": seed}, launched)


@pytest.mark.parametrize("arch", CHIPS)
def test_text_masking(arch):
    for seed, special in (("*i64", "*u8"), ("i64", None)):
        launched = {"BLOCK": text_masking.BLOCK} | ({} if special else {"special": None, "sample_ids": None})
        types = {"tokens": "*i64", "special": special, "seed": seed}
        for ones in ({}, {"stride_token_t": 1, "stride_special_t": 1}):
            hold(arch, text_masking.text_masking_kernel, types, launched | ones)


def multiblock_and_blockwise():
    for shared in (True, False):
        launched = {"SHARED_SIZE": shared, "BLOCK": multiblock_masking.BLOCK} | UNFUSED
        yield multiblock_masking.multiblock_masking_kernel, launched
    for block in (32, 64, 128, 512, 4096):  # words of 14 x 14, 64 x 64, 128 x 128 and 4096 x 1 patches, and others
        launched = {"BLOCK": block, "num_warps": min(8, max(1, block // 256))} | UNFUSED
        yield blockwise_masking.blockwise_masking_kernel, launched


@pytest.mark.parametrize("arch", CHIPS)
def test_arithmetic_in_float64(arch):
    """Every product and sum rounded on its own, quotients and roots correctly."""
    for i, (kernel, launched) in enumerate(multiblock_and_blockwise()):
        seed, absent = ("i64", {"sample_ids": None}) if i % 2 else ("*i64", {})
        result = compile_kernel(kernel, arch, {"mask": "*u8", "seed": seed}, launched | absent)
        check(*result, arch, products=False)
        ptx = result[1].asm["ptx"]
        arithmetic = set(re.findall(r"\b(?:fma|mul|add|sub|div|sqrt|rcp|rsqrt)\.[a-z.]*f64", ptx))
        expected = {"mul.rn.f64", "add.rn.f64", "sub.rn.f64", "div.rn.f64", "sqrt.rn.f64"}
        assert arithmetic <= expected, arithmetic - expected
        assert {"mul.rn.f64", "add.rn.f64", "div.rn.f64", "sqrt.rn.f64"} <= arithmetic


def token_kernels(dtype, width):
    """The kernels of token rows, what they are launched with, and their types."""
    names = ("x", "out", "visible", "mask_token", "pos", "grad")
    types, launched = dict.fromkeys(names, dtype), {"WIDTH": width} | launch.tile(width)
    yield gather_tokens.gather_tokens_kernel, types, launched
    yield tokens.collect_kernel, types, launched | launch.collect_tile(width)
    yield tokens.collect_sum_kernel, types, launched | launch.SUMS
    yield restore_tokens.restore_tokens_kernel, types, launched
    yield restore_tokens.restore_tokens_sum_kernel, types, launched | launch.SUMS | {"WITH_POS": True}
    yield restore_tokens.restore_tokens_sum_kernel, types, launched | launch.SUMS | {"WITH_POS": False}


@pytest.mark.parametrize("dtype", ["*bf16", "*fp32"])
@pytest.mark.parametrize("arch", CHIPS)
def test_tokens(arch, dtype, record_property):
    for width in WIDTHS if arch == 90 else (32, 127, 768):
        for kernel, *rest in token_kernels(dtype, width):
            record_property(f"{kernel.__name__} {width}", hold(arch, kernel, *rest))


@pytest.mark.parametrize("arch", CHIPS)
def test_other_tokens(arch):
    """Any strides, float16, positions of another type or none, and sums of parts."""
    for (dtype, width), strided in itertools.product((("*fp16", 127), ("*bf16", 768)), (True, False)):
        for kernel, *rest in token_kernels(dtype, width):
            if strided or arch == 90:
                hold(arch, kernel, *rest, strided=strided)
        types, launched = dict.fromkeys(("visible", "mask_token"), dtype), {"WIDTH": width} | launch.tile(width)
        for pos, out in ((None, dtype), ("*fp32", "*fp32")):
            absent = {"pos": None} if pos is None else {}
            given = types | {"pos": pos, "out": out}
            hold(arch, restore_tokens.restore_tokens_kernel, given, launched | absent, strided=strided)
    hold(arch, tokens.sum_parts_kernel, {"out": "*fp32"}, launch.PARTS)


@pytest.mark.parametrize("dtype", ["*bf16", "*fp32"])
@pytest.mark.parametrize("arch", CHIPS)
def test_rows_are_copied_in_words_of_16_bytes(arch, dtype):
    for kernel, types, launched in token_kernels(dtype, 768):
        if kernel in (gather_tokens.gather_tokens_kernel, tokens.collect_kernel, restore_tokens.restore_tokens_kernel):
            ptx = compile_kernel(kernel, arch, types, launched)[1].asm["ptx"]
            for copy in ("ld", "st"):
                wide = rf"{copy}\.global[\w.:]*\.v4\.[bf]32"
                assert re.search(wide, ptx), (kernel.__name__, copy)
                assert not re.search(rf"{copy}\.global[\w.:]*\.b16", ptx), (kernel.__name__, copy)


def normalization(patch, pixels):
    """Types and constants of scale and shift: floats as they are, an argument a channel, or in memory."""
    if pixels == "*fp32" or patch[0] > 16:
        return {}, {"scale": None, "shift": None}
    kind = "*fp32" if patch[0] > patches.ARGUMENTS.value else ("fp32",) * patch[0]
    return {"scale": kind, "shift": kind}, {}


def patch_cases(arch):
    """Patch, channels_last, type of the images, type of what goes with them."""
    for i, (patch, last) in enumerate(itertools.product(PATCHES, (True, False))):
        if arch == 90 or patch in ((1, 1, 4, 4), (3, 1, 14, 14), (3, 1, 16, 16)):
            yield patch, last, PIXELS[i % 4 if i % 3 else 0], ("*bf16", "*fp32", "*fp16")[i // 2 % 3]


@pytest.mark.parametrize("arch", CHIPS)
def test_mask_patchify(arch, record_property):
    for i, (patch, last, pixels, dtype) in enumerate(patch_cases(arch)):
        width = (768, 0, 127)[i % 3]
        types, launched = normalization(patch, pixels)
        types |= {"images": pixels, "out": dtype, "pos": "*fp32", "positions": "*fp32"}
        launched |= {"PATCH": patch, "WIDTH": width, "CHANNELS_LAST": last}
        launched |= launch.patch_tile(math.prod(patch), width) | ({} if width else {"pos": None})
        for strided in (False, True):
            used = hold(arch, mask_patchify.mask_patchify_kernel, types, launched, strided=strided)
            record_property(f"{patch} {last} {pixels} {dtype} {width}", used)


@pytest.mark.parametrize("arch", CHIPS)
def test_masked_mse(arch, record_property):
    forms = [("ids", 0, True, True), ("weights", 2, True, True), ("weights", 1, False, False), ("ids", 2, False, True)]
    for i, (patch, last, pixels, dtype) in enumerate(patch_cases(arch)):
        for j, (absent, loss, norm_pix, with_grad) in enumerate(forms):
            if arch == 90 and (i + j) % 4 > 1:
                continue
            types, launched = normalization(patch, pixels)
            types |= {"images": pixels, "pred": dtype, "grad": "*fp32" if dtype == "*fp16" else dtype}
            launched |= {
                "PATCH": patch, "CHANNELS_LAST": last, "LOSS": loss, "NORM_PIX": norm_pix and math.prod(patch) > 1,
                "WITH_GRAD": with_grad, "GROUPS": masked_mse.GROUPS, absent: None,
            }  # fmt: skip
            launched |= launch.loss_tile(math.prod(patch))
            used = hold(arch, masked_mse.masked_mse_kernel, types, launched, strided=(i // 2 + j) % 2 == 1)
            record_property(f"{patch} {last} {pixels} {dtype} {loss}", used)


@pytest.mark.parametrize("arch", CHIPS)
def test_sums_of_the_loss(arch):
    for absent, ones in itertools.product(("ids", "weights"), ({}, {"stride_row": 1})):
        launched = {absent: None, "BLOCK": masked_mse.BLOCK, "num_warps": masked_mse.WEIGHT_WARPS} | ones
        hold(arch, masked_mse.masked_mse_weights_kernel, {}, launched, strided=not ones)
    launched = {"GROUPS": masked_mse.GROUPS, "BLOCK": masked_mse.REDUCTION, "num_warps": 16}
    hold(arch, masked_mse.masked_mse_finish_kernel, {}, launched)
    for dtype, factor in (("*fp32", "*fp32"), ("*bf16", "*fp32"), ("*fp16", "*fp64")):
        launched = {"BLOCK": masked_mse.BLOCK_SCALE, "num_warps": 8}
        hold(arch, masked_mse.masked_mse_scale_kernel, {"x": dtype, "factor": factor}, launched)
