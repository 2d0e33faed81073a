"""The Triton kernels of the classic pretexts compiled for every architecture, with no GPU: no spills."""

import itertools
import re

import pytest
import torch
from offline import CHIPS, check, compile_kernel

from fastssl.kernels.triton import extract_patches, lab_bins, launch, patches, sparse_cross_entropy

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


BINS = {"bins": "*fp32", "cells": "*i32", "lab": "*fp32", "index": "*i32", "weight": "*fp32", "falloff": "fp32"}
ON_A_GPU = torch.device("cuda")


@pytest.mark.parametrize("arch", CHIPS)
def test_cells(arch, record_property):
    for count, neighbors in ((313, 10), (100, 5), (1000, 16), (4096, 10), (3, 1)) if arch == 90 else ((313, 10),):
        launched = {"NEIGHBORS": neighbors, "stride_axis": 1} | launch.bins_tile(count, ON_A_GPU)
        record_property(f"{count} {neighbors}", hold(arch, lab_bins.cells_kernel, BINS, launched)[1])


@pytest.mark.parametrize("arch", CHIPS)
def test_lab_bins(arch, record_property):
    """Lab and bins at once, either of them; from cells and from all bins; any pixels."""
    forms = ((True, True, True), (True, False, True), (False, True, True), (True, True, False))
    neighbors = {True: (10, 1), False: (40, 10)}
    for i, (with_lab, with_bins, celled) in enumerate(forms if arch in (80, 90) else forms[:1]):
        for j, k in enumerate(neighbors[celled]):
            pixels = ("*u8", "*fp32", "*bf16", "*fp16")[(i + j) % 4]
            launched = {
                "NEIGHBORS": k, "CELLED": celled, "WITH_LAB": with_lab, "WITH_BINS": with_bins, "stride_axis": 1,
            } | launch.points_tile(k if with_bins else 1)  # fmt: skip
            if j:
                launched |= {"scale": None, "shift": None, "stride_w": 1}
            types = BINS | {"images": pixels, "scale": ("fp32",) * 3, "shift": ("fp32",) * 3}
            used = hold(arch, lab_bins.lab_bins_kernel, types, launched)[1]
            record_property(f"{pixels} {with_lab} {with_bins} {celled} {k}", used)


def cross_entropies(arch):
    """Kernel, types and constants of launches: the bins of colours, few clusters, thousands of classes."""
    types = {"losses": "*fp32", "lses": "*fp64", "grad_weight": "*fp32", "upstream": "*fp32", "weight": "*fp32",
             "share": "fp32"}  # fmt: skip
    sizes = (313, 16, 100, 1000, 5000) if arch == 90 else (313,)
    for i, classes in enumerate(sizes):
        for j, (kind, along_rows, on) in enumerate(
            itertools.product(("*fp32", "*bf16", "*fp16"), (False, True), (False, True))
        ):
            if kind == "*fp16" and (arch != 90 or i):  # which moves as bfloat16 does
                continue
            launched = {"CLASSES": classes, "ALONG_ROWS": along_rows}
            launched |= launch.classes_tile(classes, along_rows)
            launched |= dict.fromkeys(("stride_class",) if along_rows else ("stride_place",), 1)
            if not along_rows:
                launched |= {"stride_index_place": 1, "stride_weight_place": 1}
            elif classes == 16:  # logits [N, Q]
                launched |= {"places": 1, "stride_index": 1, "stride_weight": 1}
            kinds = types | {"logits": kind, "grad": kind, "index": ("*i32", "*i64")[(i + j) % 2]}
            yield sparse_cross_entropy.sparse_cross_entropy_kernel, kinds, launched | {"WITH_GRAD": on}
            grads = {"OF_LOGITS": True, "OF_WEIGHT": on}
            yield sparse_cross_entropy.sparse_cross_entropy_grad_kernel, kinds, launched | grads
        grads = {"OF_LOGITS": False, "OF_WEIGHT": True}
        yield sparse_cross_entropy.sparse_cross_entropy_grad_kernel, kinds, launched | grads


@pytest.mark.parametrize("arch", CHIPS)
def test_sparse_cross_entropy(arch, record_property):
    for kernel, types, launched in cross_entropies(arch):
        named = " ".join(str(launched.get(name)) for name in ("CLASSES", "ALONG_ROWS", "WITH_GRAD", "OF_WEIGHT"))
        aligned = ("places", "stride_class") if not launched["ALONG_ROWS"] else ()
        record_property(f"{types['logits']} {named}", hold(arch, kernel, types, launched, aligned)[1])
