"""The Triton kernels of teachers compiled for every architecture, with no GPU, under the rules of offline.py.

They are bound by memory: rows come in words of 16 bytes, two tiles ahead, and neither sums of a lane's numbers nor the
layouts of tiles go through shared memory.
"""

import itertools
import re

import pytest
from offline import CHIPS, check
from offline import compile_kernel as compile_offline

from fastssl.kernels.triton import dino_loss_kernels, launch, online, sinkhorn

TYPES = {
    kind: names.split()
    for kind, names in {
        "*fp32": "center student_temp teacher_temp temp parts grad row_weights levels",
        "*fp64": "student_lse teacher_norm losses sums values out row_lse column_lse",
    }.items()
}
TYPES = {name: kind for kind, names in TYPES.items() for name in names}
OPTIONS = ("num_warps", "maxnreg")
BYTES = {"*bf16": 2, "*fp16": 2, "*fp32": 4}
WHOLE = ("width", "stride", "student_layout", "teacher_layout", "grad_layout")  # of rows of whole 16s of numbers
SLICES, GRAD = dino_loss_kernels.dino_loss_slices_kernel, dino_loss_kernels.dino_loss_grad_kernel


def compile_kernel(kernel, arch, types, launched, width=65536):
    options = {name: launched[name] for name in OPTIONS if name in launched}
    constants = {name: value for name, value in launched.items() if name in kernel.arg_names}
    constants |= launched.get("ones", {})
    types = dict.fromkeys(kernel.arg_names, "i32") | TYPES | types
    return compile_offline(kernel, arch, types, constants, options, () if width % 16 else WHOLE)


def dino(kernel, arch, dtype, stacks, teachers, width=65536, types=None, teacher_dtype=None, ones=None, **changed):
    """Compile a pass over students in stacks of so many views and one stack of teachers."""
    s, t = sum(stacks), teachers
    tile = launch.views(s, t, BYTES[dtype], width, True)
    launched = {
        "STUDENTS": stacks, "TEACHERS": (t,), "S": s, "T": t, "CENTERS": 1, "OFFSET": 0 if s * t > 1 else t,
        "SOFT": False, "RAGGED": False, "MASKED": width % (tile["LANES"] * tile["PER"]) != 0, "row_weights": None,
    } | tile | changed | ({"width": 1, "ones": ones} if ones else {})  # fmt: skip
    if not launched["CENTERS"]:
        launched["center"] = None
    if launched["row_weights"]:
        del launched["row_weights"]
    all_types = {
        "students": (dtype,) * len(stacks), "grads": (dtype,) * len(stacks), "teachers": (teacher_dtype or dtype,),
        "student_layout": ("i64", "i32", "i32") * len(stacks), "grad_layout": ("i32",) * (3 * len(stacks)),
        "teacher_layout": ("i64", "i32", "i32"), "rows_of_teachers": ("i32",) * t,
    }  # fmt: skip
    return compile_kernel(kernel, arch, all_types | (types or {}), launched, width)


def cases():
    """(arch, dtype, students, teachers, what differs): DINO's and iBOT's on every chip, all other forms on one."""
    for arch, dtype in itertools.product((80, 90, 100), ("*bf16", "*fp32")):
        for stacks, teachers in (((2, 10), 2), ((2,), 2), ((1,), 1)):
            yield arch, dtype, stacks, teachers, {}
    for dtype in ("*bf16", "*fp32"):
        yield 90, dtype, (2, 10), 2, {"SOFT": True, "CENTERS": 0}
        for width in (65537, 65536 + 16, 4096 + 64):
            yield 90, dtype, (2, 10), 2, {"width": width}
        yield 90, dtype, (8,), 1, {"OFFSET": 1}
        yield 90, dtype, (10,), 2, {"RAGGED": True, "OFFSET": 2}
    yield 90, "*fp16", (4, 8), 2, {"CENTERS": 2, "row_weights": True}
    yield 90, "*bf16", (1, 1, 6), 2, {"teacher_dtype": "*fp32"}
    yield 90, "*fp32", (2, 2), 2, {"teacher_dtype": "*fp16"}
    yield 90, "*fp16", (2, 1), 2, {"SOFT": True, "RAGGED": True, "CENTERS": 0, "width": 4097}


@pytest.mark.parametrize("kernel", [SLICES, GRAD], ids=["slices", "grad"])
@pytest.mark.parametrize(("arch", "dtype", "stacks", "teachers", "changed"), cases())
def test_dino_loss(kernel, arch, dtype, stacks, teachers, changed, record_property):
    report, compiled = dino(kernel, arch, dtype, stacks, teachers, **changed)
    record_property("registers, shared, tensor memory", check(report, compiled, arch, products=False))
    if changed.get("width", 65536) == 65536 and "teacher_dtype" not in changed:
        ptx, views = compiled.asm["ptx"], sum(stacks)
        assert "ttg.convert_layout" not in compiled.asm["ttgir"]
        assert len(re.findall(r"cp\.async\.cg\.shared\.global \[[^]]*\], \[[^]]*\], 0x10", ptx)) >= views + teachers
        assert kernel is SLICES or len(re.findall(r"st\.global\.v4\.b32", ptx)) >= views


@pytest.mark.parametrize("kernel", [SLICES, GRAD], ids=["slices", "grad"])
def test_arguments_that_are_1(kernel):
    """One image and one prototype: as such an argument is a constant, so is an item of a tuple."""
    ones = {"student_layout": 3, "teacher_layout": 3, "grad_layout": 3, "rows_of_teachers": 2}
    types = {name: ("constexpr",) * count for name, count in ones.items() if name in kernel.arg_names}
    values = {(kernel.arg_names.index(name), i): 1 for name in types for i in range(ones[name])}
    result = dino(kernel, 90, "*fp32", (2,), 2, 1, types, ones=values)
    check(*result, 90, products=False)


@pytest.mark.parametrize("arch", CHIPS)
def test_combination_of_slices(arch):
    for chunks, teachers, slices, soft in (((12,), 2, 32, False), ((1,), 1, 8, False), ((12, 2), 2, 128, True)):
        launched = {
            "CHUNKS": chunks, "FIRSTS": (0, 12)[: len(chunks)], "S": sum(chunks), "T": teachers, "SKIP": teachers > 1,
            "SOFT": soft, "row_weights": None,
        } | launch.combine(max(chunks), slices)  # fmt: skip
        types = {"rows_of_chunks": ("i32",) * len(chunks), "rows_of_teachers": ("i32",) * teachers}
        result = compile_kernel(dino_loss_kernels.dino_loss_combine_kernel, arch, types, launched)
        check(*result, arch, products=False)
    check(*compile_kernel(online.sum_kernel, arch, {}, launch.SUM), arch, products=False)


@pytest.mark.parametrize("arch", CHIPS)
@pytest.mark.parametrize(("dtype", "width"), [("*bf16", 65536), ("*fp32", 3000), ("*fp16", 3001), ("*fp32", 65537)])
def test_sinkhorn(arch, dtype, width, record_property):
    whole = width % 16 == 0
    tile = launch.rows_of_scores(BYTES[dtype], width, whole)
    launched = tile | {"MASKED": width % (tile["LANES"] * tile["PER"]) != 0}
    result = compile_kernel(sinkhorn.sinkhorn_rows_kernel, arch, {"logits": dtype}, launched, width)
    record_property("rows", check(*result, arch, products=False))
    tile = launch.columns_of_scores(BYTES[dtype], whole)
    for absent in ({}, {"center": None, "levels": None}):
        launched = tile | {"MASKED": width % tile["COLUMNS"] != 0} | absent
        result = compile_kernel(sinkhorn.sinkhorn_columns_kernel, arch, {"logits": dtype}, launched, width)
        record_property("columns", check(*result, arch, products=False))


@pytest.mark.parametrize("arch", CHIPS)
def test_combinations_of_sinkhorn(arch):
    for slices in (1, 64, 128):
        result = compile_kernel(sinkhorn.sinkhorn_rows_combine_kernel, arch, {}, launch.combine(8, slices))
        check(*result, arch, products=False)
    for absent in ({}, {"center": None}):
        launched = launch.columns_of_parts() | absent
        check(*compile_kernel(sinkhorn.sinkhorn_columns_combine_kernel, arch, {}, launched), arch, products=False)
