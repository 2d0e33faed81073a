"""Colours as Lab and as bins: published values, and every backend, layout and type against the definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from conftest import DEVICES, runnable
from devices import no_synchronisation
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import hold_to_the_rule
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssl
from fastssl import reference
from fastssl.functional import LabBins, ab_bins, lab_bins

OP = "lab_bins"
PIXELS = (torch.uint8, torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("planes", "interleaved", "strided")
TINY = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(dtype, *where) for dtype in PIXELS for where in runnable(OP, dtype)]
)
# What scikit-image's rgb2lab gives, from its formula in float64.
COLORS = {
    (255, 255, 255): (100.0, -0.00245, 0.00465), (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24059, 80.09231, 67.20275), (0, 255, 0): (87.73510, -86.18303, 83.17970),
    (0, 0, 255): (32.29567, 79.18559, -107.85730), (128, 128, 128): (53.58502, -0.00147, 0.00279),
    (1, 1, 1): (0.27417, -0.00002, 0.00003),
}  # fmt: skip


def images_of(
    dtype: torch.dtype = torch.uint8, device: str = "cpu", n: int = 2, height: int = 9, width: int = 23,
    layout: str = "planes",
) -> Tensor:  # fmt: skip
    """Random images, the first of which is grey, the first pixel black and the second white."""
    x = torch.randint(0, 256, (n, 3, height, width), device=device)
    x[0, 1:] = x[0, :1]
    x[-1, :, 0, :1], x[-1, :, -1, -1:] = 0, 255
    x = x.to(torch.uint8) if dtype == torch.uint8 else (x.double() / 255).to(dtype)
    if layout == "interleaved":
        return x.contiguous(memory_format=torch.channels_last)
    return x if layout == "planes" else torch.stack([x, x], -1)[..., 0]


def to_unit(images: Tensor) -> Tensor:
    return images.double() / 255 if images.dtype == torch.uint8 else images.double()


def check(
    images: Tensor, bins: Tensor | None = None, neighbors: int = 10, sigma: float = 5.0, stride: int = 1,
    where: object = None, normalized: bool = False,
) -> LabBins:  # fmt: skip
    """Hold colours and weights to the rule, and the bins to their order but for what rounding decides."""
    mean, std = (torch.tensor(x, dtype=torch.float64, device=images.device)[:, None, None] for x in (MEAN, STD))
    given = ((images.double() - mean) / std).to(images.dtype) if normalized else images
    found = lab_bins(given, bins, neighbors, sigma, stride, **({"mean": MEAN, "std": STD} if normalized else {}))
    points = ab_bins(images.device) if bins is None else bins
    unit = given.double() * std + mean if normalized else to_unit(given)
    exact = reference.lab_bins(unit, points.double(), neighbors, sigma, stride)
    eager = reference.lab_bins(unit.float(), points.float(), neighbors, sigma, stride)
    # Numbers up to 116, 500 and 200 are subtracted, and twice where a pixel is brought back to [0, 1].
    size = torch.tensor([116.0, 500.0, 200.0], device=images.device)[:, None, None]
    size = size * (1 + unit.abs().amax(1, keepdim=True)) * (2 if normalized else 1)
    hold_to_the_rule(found.lab, eager[0], exact[0], size.expand(images.shape), (where, "lab"))
    shape = (len(images), neighbors, *(-(-side // stride) for side in images.shape[2:]))
    assert (found.index.shape, found.index.dtype) == (shape, torch.int32)
    assert (found.weight.shape, found.weight.dtype) == (shape, torch.float32)
    assert found.lab.dtype == torch.float32
    assert 0 <= found.index.min() <= found.index.max() < len(points)

    # The chosen bins are as far away as the nearest ones are, of the colours as they were rounded.
    places = found.lab[:, 1:, ::stride, ::stride].double()
    square = (places[:, None] - points.double()[:, :, None, None]).square().sum(2)
    chosen = square.gather(1, found.index.long())
    nearest = square.sort(1).values[:, :neighbors]
    assert ((chosen - nearest).abs() <= 3e-6 * nearest + 1e-9).all(), where
    assert (found.index.sort(1).values.diff(dim=1) != 0).all(), where  # none twice
    # Weights of these distances, whose squares have 20 bits. What is below the normal numbers may be 0.
    rough = (places.float()[:, None] - points.float()[:, :, None, None]).square().sum(2).gather(1, found.index.long())
    weights, eager_weights = (torch.softmax(-x / (2 * sigma**2), 1) for x in (chosen, rough))
    terms = weights * (1 + 8 * chosen / (2 * sigma**2)) + TINY
    hold_to_the_rule(found.weight, eager_weights, weights, terms, (where, "weights"))
    assert (found.weight.sum(1) - 1).abs().max() <= 4e-7 * math.sqrt(neighbors)
    return found


def lab_by_loops(rgb: tuple[float, ...]) -> tuple[float, float, float]:
    """The formula of scikit-image's rgb2lab, written out."""
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb]
    matrix = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
    xyz = [sum(m * x for m, x in zip(row, linear, strict=True)) for row in matrix]
    f = []
    for value, white in zip(xyz, (0.95047, 1.0, 1.08883), strict=True):
        t = value / white
        f.append(t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def test_reference_equals_loops() -> None:
    images = images_of(torch.float64, height=5, width=4)
    bins = ab_bins().double()
    lab, index, weight = reference.lab_bins(images, bins, 4, 3.0, 2)
    for n, y, x in itertools.product(range(2), range(5), range(4)):
        exact = lab_by_loops(tuple(images[n, :, y, x].tolist()))
        assert lab[n, :, y, x].tolist() == pytest.approx(exact, abs=1e-11)
        if y % 2 or x % 2:
            continue
        squares = [(exact[1] - a) ** 2 + (exact[2] - b) ** 2 for a, b in bins.tolist()]
        order = sorted(range(len(bins)), key=lambda q: round(squares[q], 9))[:4]
        assert index[n, :, y // 2, x // 2].tolist() == order
        powers = [math.exp(-squares[q] / 18) for q in order]
        assert weight[n, :, y // 2, x // 2].tolist() == pytest.approx([p / sum(powers) for p in powers], rel=1e-9)


@on_backends
def test_known_colors(device: str, backend: str) -> None:
    images = torch.tensor(list(COLORS), dtype=torch.uint8, device=device)[:, :, None, None]
    with fastssl.use_backend(backend):
        for x in (images, images.float() / 255):
            lab = lab_bins(x).lab[:, :, 0, 0]
            torch.testing.assert_close(lab, torch.tensor(list(COLORS.values()), device=device), rtol=0, atol=1e-4)
    for rgb, lab in COLORS.items():
        assert lab_by_loops(tuple(x / 255 for x in rgb)) == pytest.approx(lab, abs=1e-5)


def test_the_313_bins() -> None:
    """A grid of spacing 10 without holes in its rows or columns, ordered, around all colours that there are."""
    bins = ab_bins()
    assert (bins.shape, bins.dtype) == ((313, 2), torch.float32)
    points = [(int(a), int(b)) for a, b in bins.tolist()]
    assert points == sorted(set(points))
    assert all(a % 10 == b % 10 == 0 for a, b in points)
    assert [sum(x[i] for x in points) for i in (0, 1)] == [4910, 2090]
    assert (points[0], points[4], points[5], points[-10], points[-1]) == (
        (-90, 50), (-90, 90), (-80, 20), (100, -90), (100, 0),
    )  # fmt: skip
    for axis in (0, 1):
        for line in {x[axis] for x in points}:
            along = sorted(x[1 - axis] for x in points if x[axis] == line)
            assert along == list(range(along[0], along[-1] + 1, 10))
    side = torch.linspace(0, 1, 33)
    colors = torch.cartesian_prod(side, side, side).T.reshape(1, 3, 33**2, 33)
    nearest = reference.rgb_to_lab(colors)[:, 1:].div(10).round().mul(10)
    there = {(int(a), int(b)) for a, b in nearest.flatten(2)[0].T.tolist()}
    assert there <= set(points)


@on_types
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_types(device: str, backend: str, dtype: torch.dtype, layout: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for stride in (1, 2, 4):
            images = images_of(dtype, device, layout=layout)
            check(images, stride=stride, where=(layout, dtype, stride))
            if dtype != torch.uint8:
                check(images, stride=stride, normalized=True, where=(layout, dtype, stride, "normalised"))


@on_backends
def test_any_size_and_stride(device: str, backend: str, nan_filled: None) -> None:
    sizes = ((1, 1, 1), (3, 1, 2), (1, 7, 3), (2, 3, 129), (1, 64, 16), (5, 2, 17), (1, 31, 1))
    with fastssl.use_backend(backend):
        for i, (n, height, width) in enumerate(sizes):
            for stride in (1, 3, 1000) if i % 2 else (1, 2):
                images = images_of((torch.uint8, torch.float32)[i % 2], device, n, height, width)
                check(images, stride=stride, where=(n, height, width, stride))


@on_backends
def test_bins_of_any_kind(device: str, backend: str) -> None:
    """Few and many, close and far, more neighbours than a cell has places, and as many as there are bins."""
    kinds = {
        "one": (torch.zeros(1, 2), 1), "few": (60 * torch.randn(7, 2), 7), "dense": (30 * torch.randn(500, 2), 10),
        "many": (60 * torch.randn(900, 2), 4), "grid": (ab_bins(), 16), "all of them": (ab_bins(), 313),
        "near each other": (0.01 * torch.randn(40, 2), 3), "far away": (1000 + 50 * torch.randn(30, 2), 5),
        "the same": (torch.ones(20, 2), 8), "more than a cell has": (ab_bins(), 33),
    }  # fmt: skip
    images = images_of(device=device, n=2, height=3, width=19)
    with fastssl.use_backend(backend):
        for kind, (bins, neighbors) in kinds.items():
            for sigma in (0.5, 5.0, 100.0):
                check(images, bins.to(device), neighbors, sigma, where=(kind, sigma))
        strided = torch.stack([ab_bins(device), ab_bins(device)], -1)[..., 0]
        for bins in (strided, strided.T.contiguous().T, strided.double()):
            assert all(torch.equal(a, b) for a, b in zip(lab_bins(images, bins), lab_bins(images), strict=True))


@on_backends
def test_bins_that_change_are_seen(device: str, backend: str) -> None:
    """What is made for some bins is not kept for others in the same place."""
    images = images_of(device=device)
    bins = ab_bins(device)
    with fastssl.use_backend(backend):
        for _ in range(7):
            check(images, bins, 5, where="changed")
            bins += torch.randn_like(bins)
        check(images, bins, 6, where="another number")


@on_backends
def test_of_equal_distances_the_lower_index_comes_first(device: str, backend: str) -> None:
    black = torch.zeros(1, 3, 1, 40, dtype=torch.uint8, device=device)
    ring = 8 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], device=device)
    with fastssl.use_backend(backend):
        _, index, weight = lab_bins(black)
        (zero,) = (ab_bins(device) == 0).all(1).nonzero()[0]
        assert index[0, 0].eq(zero).all()
        assert index[0, 1:5].diff(dim=0).min() > 0  # at a distance of 10
        assert index[0, 5:9].diff(dim=0).min() > 0  # and of 14
        assert weight[0, 1:5].eq(weight[0, 1]).all()
        _, index, weight = lab_bins(black, ring.repeat(6, 1), 24)
        assert torch.equal(index[0, :, 0, 0], torch.arange(24, dtype=torch.int32, device=device))
        torch.testing.assert_close(weight, torch.full_like(weight, 1 / 24))
        _, index, _ = lab_bins(black, ring.repeat(6, 1), 3)
        assert torch.equal(index[0, :, 0, 7], torch.arange(3, dtype=torch.int32, device=device))


@on_backends
def test_weights_are_finite_however_far_the_bins_are(device: str, backend: str) -> None:
    images = images_of(torch.float32, device)
    with fastssl.use_backend(backend):
        for bins in (ab_bins(device) + 1e6, ab_bins(device) * 1e4):
            for sigma in (1e-30, 1e-3, 1.0):
                _, index, weight = lab_bins(images, bins, sigma=sigma)
                assert weight.isfinite().all()
                torch.testing.assert_close(weight.sum(1), torch.ones_like(weight[:, 0]))
                assert 0 <= index.min() <= index.max() < 313
        for beyond in (-2.0, 3.0, 50.0):  # follow the curves on
            check(images * beyond, where=beyond)


@on_backends
def test_nan_and_inf_stay_where_they_are(device: str, backend: str) -> None:
    images = images_of(torch.float32, device, 1, 4, 37)
    with fastssl.use_backend(backend):
        clean = lab_bins(images)
        for bad, channel in itertools.product((math.nan, math.inf, -math.inf), range(3)):
            spoilt = images.clone()
            spoilt[0, channel, 1, 19] = bad
            lab, index, weight = lab_bins(spoilt)
            assert not lab[0, :, 1, 19].isfinite().any()
            assert weight[0, :, 1, 19].isnan().all()
            assert 0 <= index.min() <= index.max() < 313
            there = torch.zeros(4, 37, dtype=torch.bool, device=device)
            there[1, 19] = True
            for found, expected in zip((lab, weight), (clean.lab, clean.weight), strict=True):
                torch.testing.assert_close(found[..., ~there], expected[..., ~there], rtol=0, atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 40), stride=st.integers(1, 5),
    neighbors=st.integers(1, 20), sigma=st.floats(0.3, 50), kind=st.sampled_from(PIXELS[2:4] + PIXELS[:1]),
    layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize(("device", "backend"), runnable(OP))
def test_any_problem(
    device: str, backend: str, n: int, height: int, width: int, stride: int, neighbors: int, sigma: float,
    kind: torch.dtype, layout: str, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    images = images_of(kind, device, n, height, width, layout)
    with fastssl.use_backend(backend):
        check(images, None, neighbors, sigma, stride, (n, height, width, stride, neighbors, sigma, kind, layout, seed))


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    images = images_of(device=device, n=3, height=40, width=50)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend(backend):
                runs.append(lab_bins(images, stride=2))
    finally:
        torch.set_num_threads(threads)
    same = runs[1:2] if backend == "torch" else runs[1:]  # PyTorch's powers differ at the end of a thread's part
    assert all(torch.equal(a, b) for run in same for a, b in zip(run, runs[0], strict=True))


@on_backends
def test_large_results(device: str, backend: str) -> None:
    """Of a size that the kernels write past the caches."""
    images = images_of(device=device, n=8, height=128, width=130)
    with fastssl.use_backend(backend):
        whole = lab_bins(images)
        for i in (0, 7):
            part = lab_bins(images[i : i + 1])
            assert all(torch.equal(a[i : i + 1], b) for a, b in zip(whole, part, strict=True))


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    arguments = images_of(dtype, device), ab_bins(device), 10, 5.0
    for stride in (1, 3):
        scale = [1 / 255] * 3 if dtype == torch.uint8 else [0.2] * 3
        torch.library.opcheck(torch.ops.fastssl.lab_bins.default, (*arguments, stride, scale, [0.0] * 3, backend))
    torch.library.opcheck(torch.ops.fastssl.lab_bins.default, (arguments[0], None, 3, 5.0, 1, scale, scale, backend))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(lambda x: tuple(lab_bins(x, stride=4)), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 5, 7):
        images = images_of(device=device, n=n)
        assert all(torch.equal(a, b) for a, b in zip(compiled(images), lab_bins(images, stride=4), strict=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@on_backends
def test_the_host_is_not_stalled(device: str, backend: str) -> None:
    images, bins = images_of(device=device), ab_bins(device)
    with fastssl.use_backend(backend):
        lab_bins(images)  # loads what is loaded once
        with no_synchronisation(device):
            for stride in (1, 4):
                lab_bins(images, bins, stride=stride)


def test_fake_tensors_for_cuda_need_no_cuda() -> None:
    with FakeTensorMode():
        images = torch.empty((2, 3, 9, 11), dtype=torch.uint8, device="cuda")
        bins = torch.empty((313, 2), device="cuda")
        lab, index, weight = torch.ops.fastssl.lab_bins(images, bins, 10, 5.0, 4, [1.0] * 3, [0.0] * 3, "auto")
    assert (lab.shape, lab.dtype, lab.device.type) == (images.shape, torch.float32, "cuda")
    assert (index.shape, index.dtype) == ((2, 10, 3, 3), torch.int32)
    assert (weight.shape, weight.dtype) == ((2, 10, 3, 3), torch.float32)


def test_the_result_is_a_named_tuple_without_a_gradient() -> None:
    found = lab_bins(images_of())
    assert isinstance(found, LabBins)
    assert found._fields == ("lab", "index", "weight")
    assert not any(x.requires_grad for x in found)
    leaf = images_of(torch.float32).requires_grad_()
    with torch.no_grad():
        assert not lab_bins(leaf).lab.requires_grad


GOOD = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("change", "kind", "name", "got", "want"),
    [
        ({"images": [[1]]}, TypeError, "images", "list", r"tensor \[N, 3, H, W\]"),
        ({"images": GOOD.long()}, TypeError, "images", "int64", "uint8, float64"),
        ({"images": GOOD[0]}, ValueError, "images", r"\(3, 4, 5\)", r"\[N, 3, H, W\]"),
        ({"images": GOOD[:, :1]}, ValueError, "images", r"\(2, 1, 4, 5\)", r"\[N, 3, H, W\]"),
        ({"images": GOOD[:0]}, ValueError, "images", r"\(0, 3, 4, 5\)", "none empty"),
        ({"images": GOOD.clone().requires_grad_()}, ValueError, "images", "requires grad", r"images.detach\(\)"),
        ({"bins": [[0, 0]]}, TypeError, "bins", "list", "torch.Tensor"),
        ({"bins": torch.zeros(3, 2).long()}, TypeError, "bins", "int64", "float"),
        ({"bins": torch.zeros(3, 3)}, ValueError, "bins", r"\(3, 3\)", r"\[Q, 2\]"),
        ({"bins": torch.zeros(0, 2)}, ValueError, "bins", r"\(0, 2\)", r"\[Q, 2\]"),
        ({"bins": torch.zeros(9, 2, device="meta")}, ValueError, "bins", "meta", "cpu"),
        ({"neighbors": 0}, ValueError, "neighbors", "0", r"int in \[1, 313\]"),
        ({"neighbors": 314}, ValueError, "neighbors", "314", r"int in \[1, 313\]"),
        ({"neighbors": 2.0}, ValueError, "neighbors", "2.0", r"int in \[1, 313\]"),
        ({"bins": torch.zeros(3, 2)}, ValueError, "neighbors", "10", r"int in \[1, 3\]"),
        ({"sigma": 0.0}, ValueError, "sigma", "0.0", "finite number > 0"),
        ({"sigma": math.nan}, ValueError, "sigma", "nan", "finite number > 0"),
        ({"sigma": "wide"}, ValueError, "sigma", "'wide'", "finite number > 0"),
        ({"stride": 0}, ValueError, "stride", "0", "int >= 1"),
        ({"stride": 1.5}, ValueError, "stride", "1.5", "int >= 1"),
        ({"mean": (0.5,)}, ValueError, "mean", "1 numbers", "3, one a channel"),
        ({"std": (0.5, 0.5, 0.0)}, ValueError, "std", "0.0", "numbers > 0"),
        ({"images": GOOD.byte(), "mean": MEAN}, ValueError, "mean", "uint8 images", "None"),
        ({"images": GOOD.byte(), "std": STD}, ValueError, "std", "uint8 images", "None"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], kind: type[Exception], name: str, got: str, want: str) -> None:
    with pytest.raises(kind, match=rf"^{name}: got .*{got}.*, want .*{want}"):
        lab_bins(**{"images": GOOD, **change})
