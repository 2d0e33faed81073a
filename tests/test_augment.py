"""Augmentation: the reference against torchvision, every backend against the reference and torchvision."""

from __future__ import annotations

import itertools

import pytest
import torch
from augmentation import STEPS, UNIT, draw, excess, photographs, reference_views, torchvision_view
from conftest import runnable
from hypothesis import given, settings
from hypothesis import strategies as st

import fastssl
from fastssl import RaggedImages, functional
from fastssl.functional import AugmentParams, augment

BACKENDS = runnable("augment", torch.uint8)
KERNEL = 23


def run(where, images, params, size, **options) -> torch.Tensor:
    """The only view on a backend, not normalised unless asked."""
    device, backend = where
    channels = images[0].shape[0] if isinstance(images, list) else images.shape[1]
    options = {**UNIT[channels], **options}
    images = [x.to(device) for x in images] if isinstance(images, list) else images.to(device)
    with fastssl.use_backend(backend):
        (view,) = augment(images, params.to(device), size, **options)
    return view


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_reference_is_torchvision(rounding, channels, interpolation):
    images, size, uint8 = photographs(40, 90, 120, channels), (48, 48), rounding == "uint8"
    params = draw(40, size, (90, 120))
    options = {"interpolation": interpolation, "blur_kernel": KERNEL, "rounding": rounding}
    views = reference_views(list(images), params, size, **options)
    for i, image in enumerate(images):
        theirs = torchvision_view(image, params, i, size, interpolation, KERNEL, uint8)
        assert excess(views[i], theirs, uint8) <= 1


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@pytest.mark.parametrize("rounding", ["none", "uint8"])
@pytest.mark.parametrize("step", STEPS)
def test_every_step_alone_is_torchvision(step, rounding, where):
    images, size, uint8 = photographs(4, 61, 80), (40, 40), rounding == "uint8"
    params = AugmentParams.neutral(4, image_size=(61, 80))
    params.crop = torch.tensor([[[3, 5, 50, 70]], [[0, 0, 61, 80]], [[10, 20, 40, 40]], [[20, 30, 9, 8]]])
    for name, value in STEPS[step].items():
        setattr(params, name, value)
    for interpolation in ("bilinear", "bicubic"):
        view = run(where, images, params, size, interpolation=interpolation, blur_kernel=KERNEL, rounding=rounding)
        for i, image in enumerate(images):
            theirs = torchvision_view(image, params, i, size, interpolation, KERNEL, uint8)
            assert excess(view[i], theirs, uint8) <= 1, (interpolation, i)


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_every_order_is_torchvision(rounding, where):
    orders = list(itertools.permutations(range(4)))
    images, size, uint8 = photographs(len(orders), 50, 60), (32, 32), rounding == "uint8"
    params = AugmentParams.neutral(len(orders), image_size=(50, 60))
    params.order = torch.tensor(orders)[:, None]
    generator = torch.Generator().manual_seed(1)
    for name in ("brightness", "contrast", "saturation"):
        setattr(params, name, 0.2 + 1.6 * torch.rand(len(orders), 1, generator=generator))
    params.hue = torch.rand(len(orders), 1, generator=generator) - 0.5
    view = run(where, images, params, size, rounding=rounding)
    for i, image in enumerate(images):
        theirs = torchvision_view(image, params, i, size, "bilinear", KERNEL, uint8)
        assert excess(view[i], theirs, uint8) <= 1, orders[i]


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@pytest.mark.parametrize("rounding", ["none", "uint8"])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    ("size", "image_size"),
    [((32, 32), (32, 32)), ((224, 224), (256, 256)), ((17, 33), (50, 20)), ((9, 7), (400, 300)), ((40, 64), (1, 1)),
     ((1, 1), (13, 8)), ((64, 16), (2, 90))],
)  # fmt: skip
def test_views_equal_the_reference(nan_filled, size, image_size, channels, rounding, where):
    n = 3 if size[0] > 100 else 12
    images = photographs(n, *image_size, channels)
    for interpolation, kernel in (("bilinear", None), ("bicubic", 5)):
        params = draw(n, size, image_size, seed=n)
        options = {"interpolation": interpolation, "blur_kernel": kernel, "rounding": rounding}
        view = run(where, images, params, size, **options)
        assert excess(view, reference_views(list(images), params, size, **options), rounding == "uint8") <= 1


@pytest.mark.parametrize("where", BACKENDS, ids=str)
def test_images_in_any_layout_give_the_same_views(where):
    images, size = photographs(5, 30, 41), (24, 24)
    params = draw(5, size, (30, 41))
    expected = run(where, images, params, size)
    wide = torch.zeros(5, 3, 60, 82, dtype=torch.uint8)
    wide[:, :, ::2, ::2] = images
    layouts = {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
        "every other pixel": wide[:, :, ::2, ::2],
        "batch reversed": images.flip(0).flip(0),
        "expanded": images,
    }
    for name, same in layouts.items():
        assert torch.equal(run(where, same, params, size), expected), name
    device, backend = where
    with fastssl.use_backend(backend):
        by_channel_last = augment(images.permute(0, 2, 3, 1).to(device), params.to(device), size, **UNIT[3])[0]
        ragged = augment(list(images.to(device)), params.to(device), size, **UNIT[3])[0]
    assert torch.equal(by_channel_last, expected)
    assert torch.equal(ragged, expected)


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_ragged_batches(nan_filled, rounding, where):
    shapes, size = [(30, 40), (7, 9), (1, 1), (90, 12), (200, 150)], (20, 28)
    images = [photographs(1, h, w, seed=h)[0] for h, w in shapes]
    batch = RaggedImages.from_images(images)
    params = draw(len(shapes), size, batch.sizes)
    view = run(where, images, params, size, rounding=rounding)
    assert excess(view, reference_views(images, params, size, rounding=rounding), rounding == "uint8") <= 1
    assert all(torch.equal(a, b) for a, b in zip(images, batch, strict=True))


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@pytest.mark.parametrize("size", [(24, 24), (16, 40), (5, 3)])
def test_output_types_and_layouts(nan_filled, size, where):
    images = photographs(6, 40, 50)
    params = draw(6, size, (40, 50))
    options = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    plain = run(where, images, params, size, **options)
    unit = run(where, images, params, size)
    mean, std = (torch.tensor(options[k], device=plain.device)[:, None, None] for k in ("mean", "std"))
    torch.testing.assert_close(plain, (unit - mean) / std, atol=2e-6, rtol=1e-6)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            view = run(where, images, params, size, dtype=dtype, memory_format=layout, **options)
            assert view.dtype == dtype
            assert view.is_contiguous(memory_format=layout)
            # Rounded once, from float32: at most to the neighbour where the float32 values differ in the last place.
            torch.testing.assert_close(view.float(), plain, atol=1e-6, rtol=torch.finfo(dtype).eps * 0.501)


@pytest.mark.parametrize("where", BACKENDS, ids=str)
def test_all_views_of_a_recipe_come_from_one_call(where):
    device, backend = where
    images = photographs(4, 60, 70)
    recipe = fastssl.transforms.DINO(32, local_size=16, local_views=3).recipe
    with fastssl.use_backend(backend):
        params = functional.sample_params(recipe, 4, 7, image_size=(60, 70), device=device)
        views = augment(images.to(device), params, recipe.sizes, interpolation="bicubic")
        assert [v.shape[-1] for v in views] == [32, 32, 16, 16, 16]
        for v, view in enumerate(views):
            (alone,) = augment(images.to(device), params[:, v], recipe.sizes[v], interpolation="bicubic")
            assert torch.equal(view, alone)


@pytest.mark.parametrize("where", BACKENDS, ids=str)
def test_views_do_not_depend_on_the_batch(where):
    device, backend = where
    images, ids = photographs(12, 40, 40).to(device), torch.arange(100, 112, device=device)
    transform = fastssl.transforms.SimCLR(24)
    with fastssl.use_backend(backend):
        whole = transform(images, seed=5, sample_ids=ids)
        for part in (slice(0, 5), slice(5, 12), slice(3, 4)):
            views = transform(images[part], seed=5, sample_ids=ids[part])
            assert all(torch.equal(a, b[part]) for a, b in zip(views, whole, strict=True))


def test_any_number_of_threads():
    images, transform, threads = photographs(9, 50, 40), fastssl.transforms.SimCLR(32), torch.get_num_threads()
    try:
        views = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend("cpp"):
                views.append(torch.cat(transform(images, seed=1)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    image_size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**62),
    bicubic=st.booleans(),
    uint8=st.booleans(),
    kernel=st.sampled_from([None, 1, 9, 23]),
    last=st.booleans(),
)
def test_fuzzed_sizes(where, size, image_size, channels, seed, bicubic, uint8, kernel, last):
    images = photographs(3, *image_size, channels, seed=seed % 1000)
    params = draw(3, size, image_size, seed)
    options = {
        "interpolation": "bicubic" if bicubic else "bilinear", "blur_kernel": kernel,
        "rounding": "uint8" if uint8 else "none",
    }  # fmt: skip
    expected = reference_views(list(images), params, size, **options)
    layout = torch.channels_last if last else torch.contiguous_format
    view = run(where, images, params, size, memory_format=layout, **options)
    assert excess(view, expected, uint8) <= 1


@pytest.mark.parametrize("where", BACKENDS, ids=str)
def test_a_user_edits_and_replays_parameters(where):
    device, backend = where
    images, transform = photographs(3, 30, 30).to(device), fastssl.transforms.BYOL(24)
    with fastssl.use_backend(backend):
        params = transform.sample(images, seed=3)
        first, again = transform(images, params), transform(images, params.clone())
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first, transform(images, seed=3), strict=True))
        params.hflip[:, 0] = ~params.hflip[:, 0]
        mirrored = transform(images, params)
    torch.testing.assert_close(mirrored[0], first[0].flip(-1), atol=2e-6, rtol=1e-5)
    assert torch.equal(mirrored[1], first[1])


@pytest.mark.parametrize("where", BACKENDS, ids=str)
def test_operator_contract(where):
    device, backend = where
    images = photographs(2, 12, 10).to(device)
    params = draw(2, (8, 8), (12, 10)).packed.to(device)
    arguments = (
        images, None, params, [8], [8], [1], True, 0, [0.5] * 3, [0.25] * 3, torch.float32, True, False, backend,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.fastssl.augment.default, arguments)
    recipe = fastssl.transforms.SimCLR(8).recipe
    ids = torch.arange(2, device=device)
    drawn = (torch.tensor(3), ids, ids + 12, ids + 10, recipe.table(), backend)
    torch.library.opcheck(torch.ops.fastssl.sample_params.default, drawn)


def test_compiles_whole_with_a_dynamic_batch():
    transform = fastssl.transforms.SimCLR(8)

    def views(images, params):
        return [view * 2 for view in transform(images, params)]

    compiled = torch.compile(views, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 5):
        images = photographs(n, 12, 10)
        params = transform.sample(images, seed=1)
        for a, b in zip(compiled(images, params), views(images, params), strict=True):
            assert torch.equal(a, b)


def test_views_have_no_gradient():
    params = AugmentParams.neutral(1, image_size=(4, 4))
    (view,) = augment(photographs(1, 4, 4), params, 4)
    assert not view.requires_grad
    with pytest.raises(TypeError, match=r"images: got dtype torch\.float32, want uint8"):
        augment(torch.rand(1, 3, 4, 4, requires_grad=True), params, 4)


def test_amp_leaves_the_views_alone():
    images, transform = photographs(2, 12, 12), fastssl.transforms.SimCLR(8)
    plain = transform(images, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(transform(images, seed=0), plain, strict=True))
