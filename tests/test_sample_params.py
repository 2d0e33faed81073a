"""The parameters of augmented views: the same bits everywhere, and the distributions of torchvision's samplers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision.transforms.v2 as tv
from conftest import runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fastssl
from fastssl import reference, transforms
from fastssl.functional import AugmentParams, Recipe, View, sample_params
from fastssl.functional._params import FIELDS
from fastssl.kernels.torch.philox import philox
from fastssl.reference._sample_params import philox as reference_philox

BACKENDS = runnable("sample_params", torch.int64)
MANY = View(
    32, jitter=(0.8, 0.7, 0.6, 0.3), jitter_p=0.8, jitter_each_p=(0.9, 0.8, 0.7, 0.6), gray_p=0.2, blur_p=0.5,
    solarize_p=0.3, vflip_p=0.4, rotate_p=0.6, threshold=0.7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [  # the known answers of Random123, the authors' own implementation
        (0, [0] * 4, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**64 - 1, [2**32 - 1] * 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            0x299F31D0A4093822,
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_words(key, counter, words):
    assert reference_philox(key, counter) == words
    seed = torch.tensor(key - 2**64 if key >= 2**63 else key)
    assert [int(w) for w in philox(seed, tuple(counter))] == words


@pytest.mark.parametrize("where", BACKENDS, ids=str)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    first_id=st.integers(0, 2**62),
    image_size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    scale=st.sampled_from([(0.08, 1.0), (0.4, 1.0), (0.05, 0.14), (1e-4, 1e-3), (1.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (0.1, 0.2), (1.0, 1.0), (5.0, 20.0)]),
)
def test_every_backend_draws_the_same_bits(where, seed, first_id, image_size, scale, ratio):
    device, backend = where
    recipe = Recipe((dataclasses.replace(MANY, scale=scale, ratio=ratio), View(16)))
    expected = reference.sample_params(recipe, 4, seed % 2**64, image_size, first_id)
    ids = first_id + torch.arange(4, device=device)
    with fastssl.use_backend(backend):
        params = sample_params(recipe, 4, seed, image_size=image_size, sample_ids=ids)
    assert params.device.type == device
    for name in FIELDS:
        assert torch.equal(getattr(params, name).cpu(), getattr(expected, name)), name


@pytest.mark.parametrize("where", BACKENDS, ids=str)
def test_a_batch_can_be_split_in_any_way(where):
    device, backend = where
    ids, sizes = torch.randint(0, 2**40, (1000,)), torch.randint(20, 400, (1000, 2))
    recipe = transforms.DINO(32, local_size=16, local_views=2).recipe
    with fastssl.use_backend(backend):
        whole = sample_params(recipe, 1000, 5, image_size=sizes, sample_ids=ids, device=device)
        for part in (slice(0, 7), slice(7, 500), slice(999, 1000)):
            n = len(ids[part])
            some = sample_params(recipe, n, 5, image_size=sizes[part], sample_ids=ids[part], device=device)
            assert some == whole[part]
        on_device = sample_params(
            recipe, 1000, torch.tensor(5, device=device), image_size=sizes, sample_ids=ids, device=device
        )
        assert on_device == whole


def torchvision_crops(n, size, scale, ratio):
    """Top, left, height, width of n draws."""
    torch.manual_seed(0)
    crop, image = tv.RandomResizedCrop(8, scale, ratio), torch.zeros(3, *size, dtype=torch.uint8)
    drawn = [crop.make_params([image]) for _ in range(n)]
    return torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn])


def same_distribution(ours, theirs) -> bool:
    return stats.ks_2samp(ours.double().numpy(), theirs.double().numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [((375, 500), (0.08, 1.0), (3 / 4, 4 / 3)), ((240, 640), (0.4, 1.0), (3 / 4, 4 / 3)),
     ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((300, 90), (0.5, 1.0), (0.5, 0.6))],
)  # fmt: skip
def test_crops_are_distributed_as_torchvisions(size, scale, ratio):
    theirs = torchvision_crops(4000, size, scale, ratio)
    recipe = Recipe((View(8, scale, ratio),))
    ours = sample_params(recipe, 4000, 1, image_size=size).crop[:, 0].long()
    assert ((ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()).item()
    for measure in (
        lambda c: c[:, 2] * c[:, 3],
        lambda c: c[:, 3] / c[:, 2],
        lambda c: c[:, 0],
        lambda c: c[:, 1],
        lambda c: c[:, 0] / (size[0] - c[:, 2] + 1),
    ):
        assert same_distribution(measure(ours), measure(theirs))
    # The fallback is a crop that no draw gives: central, and as large as the ratios allow.
    fallback = theirs.unique(dim=0, return_counts=True)
    most = fallback[0][fallback[1].argmax()]
    shares = [(crops == most).all(1).double().mean().item() for crops in (ours, theirs)]
    assert abs(shares[0] - shares[1]) < 0.035


def test_the_fallback_of_a_wide_image_is_as_common_as_published():
    crops = sample_params(Recipe((View(8, (0.4, 1.0)),)), 20000, 0, image_size=(240, 640)).crop[:, 0]
    central = torch.tensor([0, 160, 240, 320], dtype=torch.int32)
    assert abs((crops == central).all(1).double().mean().item() - 0.72) < 0.012


def test_jitter_is_distributed_as_torchvisions():
    torch.manual_seed(0)
    jitter = tv.ColorJitter(0.8, 0.7, 0.6, 0.3)
    drawn = [jitter.make_params([]) for _ in range(4000)]
    view = View(8, jitter=(0.8, 0.7, 0.6, 0.3), jitter_p=1.0)
    ours = sample_params(Recipe((view,)), 4000, 2, image_size=(20, 20))
    for name in ("brightness", "contrast", "saturation", "hue"):
        theirs = torch.tensor([p[f"{name}_factor"] for p in drawn])
        assert same_distribution(getattr(ours, name)[:, 0], theirs), name
    code = torch.tensor([64, 16, 4, 1])
    counts = [
        torch.bincount((order.long() * code).sum(1), minlength=256)
        for order in (ours.order[:, 0], torch.stack([p["fn_idx"] for p in drawn]))
    ]
    seen = counts[0] > 0
    assert seen.sum() == 24
    assert stats.chisquare(counts[0][seen].numpy()).pvalue > 1e-3
    assert stats.chi2_contingency(torch.stack(counts)[:, seen].numpy()).pvalue > 1e-3


def test_gates_have_their_probabilities_and_are_independent():
    n = 20000
    p = sample_params(Recipe((MANY, MANY)), n, 3, image_size=(50, 50))
    gates = {
        "hflip": (p.hflip, 0.5), "vflip": (p.vflip, 0.4), "turns": (p.turns > 0, 0.6), "gray": (p.gray, 0.2),
        "blur": (p.sigma > 0, 0.5), "solarize": (p.threshold < 9, 0.3), "brightness": (p.brightness != 1, 0.72),
        "contrast": (p.contrast != 1, 0.64), "saturation": (p.saturation != 1, 0.56), "hue": (p.hue != 0, 0.48),
    }  # fmt: skip
    columns = {}
    for name, (gate, chance) in gates.items():
        for v in range(2):
            columns[name, v] = gate[:, v].double()
            assert stats.binomtest(int(gate[:, v].sum()), n, chance).pvalue > 1e-4, name
    assert stats.chisquare(p.turns[p.turns > 0].long().bincount()[1:].numpy()).pvalue > 1e-3
    assert stats.kstest(((p.sigma[p.sigma > 0] - 0.1) / 1.9).double().numpy(), "uniform").pvalue > 1e-3
    jitter = {"brightness", "contrast", "saturation", "hue"}
    names = list(columns)
    correlation = torch.corrcoef(torch.stack([*columns.values()]))
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            if not (a[0] in jitter and b[0] in jitter and a[1] == b[1]):  # these share the gate of the jitter
                assert abs(correlation[i, j]) < 4.5 / n**0.5, (a, b)


def test_neighbouring_seeds_and_samples_share_nothing():
    recipe = Recipe((View(8),))
    first, second = (sample_params(recipe, 5000, seed, image_size=(400, 400)).crop[:, 0].double() for seed in (0, 1))
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs(torch.corrcoef(torch.stack([a[:, 1], b[:, 1]]))[0, 1]) < 0.06


def test_recipes_draw_what_was_published():
    n, size = 4000, (256, 256)
    p = transforms.BYOL(32).recipe
    drawn = sample_params(p, n, 0, image_size=size)
    assert (drawn.sigma[:, 0] > 0).all()
    assert abs((drawn.sigma[:, 1] > 0).double().mean() - 0.1) < 0.02
    assert (drawn.threshold[:, 0] == torch.inf).all()
    assert abs((drawn.threshold[:, 1] == 0.5).double().mean() - 0.2) < 0.03
    area = sample_params(transforms.DINO().recipe, n, 0, image_size=size).crop.double()[..., 2:].prod(-1) / 256**2
    assert area[:, :2].min() > 0.38
    assert area[:, 2:].max() < 0.42
    mae = sample_params(transforms.MAE().recipe, n, 0, image_size=size)
    assert (mae.brightness == 1).all()
    assert not mae.gray.any()
    assert (mae.sigma == 0).all()


def test_fields_are_edited_in_place():
    params = AugmentParams.neutral(3, 2, image_size=(5, 6))
    params.hue[1, 0] = 0.25
    params.order = torch.tensor([3, 2, 1, 0])
    params.hflip[:, 1] = True
    assert params.hue.tolist() == [[0, 0], [0.25, 0], [0, 0]]
    assert params.order[2, 1].tolist() == [3, 2, 1, 0]
    assert params.hflip.tolist() == [[False, True]] * 3
    assert params[1:, 0].hue.tolist() == [[0.25], [0]]
    assert params.crop[0, 0].tolist() == [0, 0, 5, 6]
    copy = params.clone()
    copy.gray[0, 0] = True
    assert not params.gray.any()
    assert copy != params
    with pytest.raises(AttributeError, match="no field 'sharpness'; its fields are crop, hflip"):
        params.sharpness = 1
    assert AugmentParams(torch.load(_saved(params), weights_only=True)) == params


def _saved(params):
    import io

    file = io.BytesIO()
    torch.save(params.packed, file)
    file.seek(0)
    return file


RECIPE = Recipe((View(8),))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: sample_params("simclr", 1, 0, image_size=(4, 4)), TypeError, "recipe: got str"),
        (lambda: sample_params(RECIPE, 0, 0, image_size=(4, 4)), ValueError, "n: got 0, want an int >= 1"),
        (lambda: sample_params(RECIPE, 1, 0.5, image_size=(4, 4)), ValueError, "seed: got 0.5, want a 64-bit integer"),
        (lambda: sample_params(RECIPE, 1, 2**64, image_size=(4, 4)), ValueError, "seed: got 18446744073709551616"),
        (lambda: sample_params(RECIPE, 1, torch.zeros(2).long(), image_size=(4, 4)), ValueError, "seed: got a"),
        (lambda: sample_params(RECIPE, 1, 0, image_size=(0, 4)), ValueError, "image_size: got 0, want an int >= 1"),
        (lambda: sample_params(RECIPE, 1, 0, image_size=4), ValueError, "image_size: got 4, want"),
        (lambda: sample_params(RECIPE, 2, 0, image_size=torch.ones(3, 2).long()), ValueError, "image_size: got"),
        (lambda: sample_params(RECIPE, 1, 0, image_size=torch.zeros(1, 2).long()), ValueError, "image_size: got 0"),
        (
            lambda: sample_params(RECIPE, 2, 0, image_size=(4, 4), sample_ids=torch.ones(3).long()),
            ValueError,
            r"sample_ids: got torch.int64 \(3,\), want int64 \[2\]",
        ),
        (lambda: View(0), ValueError, "size: got 0, want an int >= 1"),
        (lambda: View(8, scale=(0.5, 0.2)), ValueError, r"scale: got \(0.5, 0.2\), want two numbers 0 < first"),
        (lambda: View(8, scale=(0.5, 1.2)), ValueError, "scale: got"),
        (lambda: View(8, scale=(0, 1)), ValueError, "scale: got"),
        (lambda: View(8, ratio=(2, 1)), ValueError, "ratio: got"),
        (lambda: View(8, ratio=(0, 1)), ValueError, "ratio: got"),
        (lambda: View(8, sigma=(2, 1)), ValueError, "sigma: got"),
        (lambda: View(8, gray_p=1.5), ValueError, r"gray_p: got 1.5, want a probability in \[0, 1\]"),
        (lambda: View(8, jitter_each_p=(1, 1, 1, -0.1)), ValueError, "jitter_each_p: got -0.1"),
        (lambda: View(8, jitter=(0.1, 0.1, 0.1)), ValueError, "jitter: got .* want 4 numbers"),
        (lambda: View(8, jitter=(0, 0, 0, 0.6)), ValueError, "jitter: got .* hue"),
        (lambda: View((8, 9), rotate_p=0.1), ValueError, "rotate_p: got 0.1 for a view of 8 x 9"),
        (lambda: Recipe(()), ValueError, "views: got"),
        (lambda: Recipe((View(8),), "nearest"), ValueError, "interpolation: got 'nearest'"),
        (lambda: Recipe((View(8),), blur_kernel=4), ValueError, "blur_kernel: got 4, want an odd int"),
        (lambda: AugmentParams(torch.zeros(2, 2, 12)), TypeError, "packed: got torch.float32"),
        (lambda: AugmentParams(torch.zeros(2, 2, 11, dtype=torch.int32)), ValueError, "packed: got shape"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()
