"""The CUDA augmentation with no GPU: compiled for the chip, and its stages run on the host against the reference."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

import pytest
import torch
from augmentation import EVERYTHING, STEPS, draw, excess, photographs, reference_views
from cuda_emulation import TYPES, Emulator, build
from nvrtc import ROOT, compile_cuda

import fastssl
from fastssl import RaggedImages, _backend, reference
from fastssl.functional import AugmentParams, Recipe, View

MOST_BYTES, REGISTERS = 232448, 65536  # shared memory of a block, and registers of a multiprocessor
AUGMENT = """
#include "augment_kernel.h"
namespace fastssl {
template __global__ void augment_kernel<false, false>(const __grid_constant__ AugmentCall);
template __global__ void augment_kernel<false, true>(const __grid_constant__ AugmentCall);
template __global__ void augment_kernel<true, false>(const __grid_constant__ AugmentCall);
template __global__ void augment_kernel<true, true>(const __grid_constant__ AugmentCall);
}
"""
SAMPLE_PARAMS = """
#include "sample_params.h"
__global__ void kernel(const __grid_constant__ fastssl::SampleParamsCall call) {
  fastssl::draw_params(call, (int64_t)blockIdx.x * blockDim.x + threadIdx.x);
}
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("cuda"))


def check(emulator, images, params, size, layouts, **options) -> list[torch.Tensor]:
    """Hold the only view, made in each of the layouts, to the bound; in float to a sixth of it, 3.3e-6."""
    uint8 = options.get("rounding") == "uint8"
    expected = reference_views(list(images), params, size, **options)
    views = [emulator.augment(images, params, size, **layout, **options)[0] for layout in layouts]
    for view, layout in zip(views, layouts, strict=True):
        assert excess(view, expected, uint8) <= (1 if uint8 else 1 / 6), (size, layout, options)
        assert not uint8 or (view * 255 - (view * 255).round()).abs().max() < 1e-4
    return views


def test_augment_compiles_without_spills(record_property):
    report, _ = compile_cuda(AUGMENT, "sm_90a")
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    record_property("registers", registers)
    assert len(registers) == 4
    assert report.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == 4, report
    threads = int(re.search(r"MOST_THREADS = (\d+)", (ROOT / "csrc/cuda/augment_kernel.h").read_text())[1])
    assert 2 * threads * max(registers) <= REGISTERS  # two blocks on a multiprocessor


def test_sample_params_compiles_to_unfused_double_precision():
    report, ptx = compile_cuda(SAMPLE_PARAMS, "sm_90a")
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report
    assert "fma.rn.f64" not in ptx
    assert {"mul.rn.f64", "add.rn.f64", "div.rn.f64", "sqrt.rn.f64"} <= set(re.findall(r"\w+\.rn\.f64", ptx))


@pytest.mark.parametrize("channels", [3, 1])
def test_shared_memory_fits_the_chip(emulator, channels):
    for side in (1, 7, 32, 64, 96, 128, 224, 256, 320, 336, 384, 512, 768, 1024, 1500):
        blocks, on_chip, size = emulator.layout(channels, (side, side))
        assert size <= MOST_BYTES
        assert on_chip or side > 336
        assert blocks in (1, 2, 4, 8)
    assert emulator.layout(3, (224, 224))[2] + 1024 <= 228 * 1024 // 2  # two blocks on a multiprocessor
    assert emulator.layout(3, (2000, 20))[1]
    assert emulator.layout(3, (20, 4000))[2] > MOST_BYTES  # refused by augment_plan


@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_every_step_alone(emulator, rounding):
    images = photographs(4, 61, 80)
    for fields, interpolation in itertools.product(STEPS.values(), ("bilinear", "bicubic")):
        params = AugmentParams.neutral(4, image_size=(61, 80))
        params.crop = torch.tensor([[[3, 5, 50, 70]], [[0, 0, 61, 80]], [[10, 20, 40, 40]], [[20, 30, 9, 8]]])
        for name, value in fields.items():
            setattr(params, name, value)
        options = {"rounding": rounding, "interpolation": interpolation}
        check(emulator, images, params, (40, 40), [{"blocks": blocks} for blocks in (0, 1, 2, 4)], **options)


@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_every_order(emulator, rounding):
    orders = list(itertools.permutations(range(4)))
    params = AugmentParams.neutral(len(orders), image_size=(30, 40))
    params.order = torch.tensor(orders)[:, None]
    for name, high in (("brightness", 1.8), ("contrast", 1.8), ("saturation", 1.8), ("hue", 0.5)):
        setattr(params, name, torch.rand(len(orders), 1) * high)
    check(emulator, photographs(len(orders), 30, 40), params, (24, 24), [{"blocks": 2}], rounding=rounding)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_all_steps_at_odd_sizes(emulator, rounding, channels):
    cases = [((1, 1), (13, 8)), ((7, 5), (50, 60)), ((33, 17), (20, 90)), ((24, 24), (24, 24)), ((40, 64), (1, 1)),
             ((9, 7), (300, 400))]  # fmt: skip
    layouts = [
        {"blocks": blocks, **how}
        for blocks in (0, 1, 2, 4, 8)
        for how in ({}, {"backwards": True}, {"on_chip": False}, {"buffer": 1})
    ]
    for (size, image_size), kernel in itertools.product(cases, (None, 9)):
        images, params = photographs(8, *image_size, channels), draw(8, size, image_size, seed=kernel or 0)
        interpolation = "bicubic" if kernel else "bilinear"
        options = {"rounding": rounding, "blur_kernel": kernel, "interpolation": interpolation}
        views = check(emulator, images, params, size, layouts, **options)
        # Neither the order of the threads nor where the state is kept changes a bit.
        for view, *others in zip(*(views[i::4] for i in range(3)), strict=True):
            assert all(torch.equal(view, other) for other in others)


def test_a_large_view(emulator):
    images, size = photographs(2, 375, 500), (224, 224)
    params = draw(2, size, (375, 500), seed=3, rotate_p=0, jitter_p=1, blur_p=1, solarize_p=0)
    params.sigma = 2.0
    for rounding in ("none", "uint8"):
        check(emulator, images, params, size, [{}], rounding=rounding, interpolation="bicubic")


@pytest.mark.parametrize("sigma", [0.01, 1.9, 7.0, 30.0])
def test_blur_reaches_over_several_blocks(emulator, sigma):
    params = AugmentParams.neutral(1, image_size=(45, 39))
    params.sigma = sigma
    layouts = [{"blocks": blocks} for blocks in (1, 4, 8)]
    for size, rounding in itertools.product([(45, 39), (3, 50)], ("none", "uint8")):
        check(emulator, photographs(1, 45, 39), params, size, layouts, rounding=rounding)


@pytest.mark.parametrize("rounding", ["none", "uint8"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_strong_reductions(emulator, interpolation, rounding):
    """More taps than the tables hold, and rows that are longer than the buffer."""
    for size, image_size in (((5, 4), (700, 300)), ((64, 6), (40, 3000))):
        params = AugmentParams.neutral(1, image_size=image_size)
        params.hflip = True
        options = {"interpolation": interpolation, "rounding": rounding}
        for channels in (3, 1):
            check(emulator, photographs(1, *image_size, channels), params, size, [{"blocks": 2}], **options)


@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_images_in_any_layout(emulator, rounding):
    images, size = photographs(3, 30, 41), (24, 24)
    params = draw(3, size, (30, 41))
    (expected,) = check(emulator, images, params, size, [{}], rounding=rounding)
    odd, even = torch.zeros(3, 31, 43, 3, dtype=torch.uint8), torch.zeros(3, 3, 32, 44, dtype=torch.uint8)
    odd[:, 1:, 2:], even[:, :, 2:, 3:] = images.permute(0, 2, 3, 1), images
    same = {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "ragged": RaggedImages.from_images(images),
        "odd rows": odd[:, 1:, 2:].permute(0, 3, 1, 2),
        "even rows": even[:, :, 2:, 3:],
    }
    for name, batch in same.items():
        assert torch.equal(emulator.augment(batch, params, size, rounding=rounding)[0], expected), name


@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_ragged_batches(emulator, rounding):
    shapes, size = [(30, 40), (7, 9), (1, 1), (90, 12), (200, 150)], (20, 28)
    images = [photographs(1, h, w, seed=h)[0] for h, w in shapes]
    params = draw(len(shapes), size, RaggedImages.from_images(images).sizes)
    check(emulator, images, params, size, [{"blocks": 0}, {"blocks": 4}], rounding=rounding)


@pytest.mark.parametrize("size", [(24, 24), (16, 40), (5, 3)])
def test_output_types_and_layouts(emulator, size):
    images, params = photographs(6, 40, 50), draw(6, size, (40, 50))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    unit = emulator.augment(images, params, size)[0]
    expected = (unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for dtype, layout in itertools.product(TYPES, (torch.contiguous_format, torch.channels_last)):
        (view,) = emulator.augment(images, params, size, mean=mean, std=std, dtype=dtype, memory_format=layout)
        assert view.is_contiguous(memory_format=layout)
        # Rounded once, from float32.
        torch.testing.assert_close(view.float(), expected, atol=2e-6, rtol=torch.finfo(dtype).eps * 0.501)


def test_all_views_of_a_recipe_come_from_one_launch(emulator):
    recipe = fastssl.transforms.DINO(32, local_size=16, local_views=3).recipe
    images, params = photographs(4, 60, 70), fastssl.functional.sample_params(recipe, 4, 7, image_size=(60, 70))
    views = emulator.augment(images, params, list(recipe.sizes), interpolation="bicubic")
    for v, view in enumerate(views):
        (alone,) = emulator.augment(images, params[:, v], recipe.sizes[v], interpolation="bicubic")
        torch.testing.assert_close(view, alone, atol=1e-6, rtol=0)  # blocks add up a mean in another order


def test_sample_params_are_the_reference_to_the_bit(emulator):
    views = tuple(View(32, **{**EVERYTHING, "rotate_p": 0.2, "scale": (0.05 + 0.01 * v, 1.0)}) for v in range(18))
    ids, sizes = torch.arange(2**40, 2**40 + 6), torch.tensor([[240, 640]]).expand(6, 2).contiguous()
    for seed in (0, -3, 2**63 - 1):
        drawn = emulator.sample_params(Recipe(views), seed, ids, sizes)
        assert drawn == reference.sample_params(Recipe(views), 6, seed, (240, 640), first_id=2**40)


def test_no_access_out_of_bounds(tmp_path):
    sanitizers = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    program = build("cuda_fuzz.cpp", tmp_path / "fuzz", "-O1", "-g", *sanitizers)
    done = subprocess.run([str(program), "1500"], capture_output=True, text=True, timeout=600)
    assert done.stdout == "1500 rounds without a fault\n", done.stderr[-5000:]


def test_backend_says_why_it_is_off(monkeypatch):
    reason = _backend.unavailable("cuda")
    known = "was not built|does not load|no CUDA device is available"
    assert torch.cuda.is_available() or re.search(known, reason)
    monkeypatch.setitem(sys.modules, "fastssl._CUDA", None)
    reason = _backend.unavailable.__wrapped__("cuda")
    assert reason == "the CUDA extension was not built; pip install --no-build-isolation . builds it"


@pytest.mark.parametrize(
    ("wish", "message"),
    [("maybe", "FASTSSL_CUDA: got 'maybe', want auto, 0 or 1"), ("1", "FASTSSL_CUDA=1, but torch is not installed")],
)
def test_a_build_that_was_asked_for_is_not_left_out(wish, message):
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['setup.py', '--version']; exec(open('setup.py').read())"
    )
    env = {"FASTSSL_CUDA": wish, "FASTSSL_CPP": "0", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env)
    assert message in done.stderr
    assert done.returncode != 0
