"""Contact sheets: where everything is on the page, and that it is what the recipe makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastssl import transforms
from fastssl._contact_sheet import COLUMNS, contact_sheet, read_images
from fastssl.functional import Recipe, View

MARGIN, GAP, HEADER = 6, 14, 26


def picture(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def region(sheet, left, top, width, height):
    return torch.from_numpy(np.array(sheet)[top : top + height, left : left + width]).permute(2, 0, 1)


def levels(view, mean, std):
    return (
        ((view * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]) * 255)
        .round()
        .clamp(0, 255)
        .byte()
    )


def test_a_page_of_large_and_small_views():
    images = [picture(150, 300), picture(40, 20, seed=1)]
    transform = transforms.DINO(size=128, local_size=56, local_views=3)
    sheet = contact_sheet(images, transform, seed=3)
    # The wider original is fitted to 192 x 96; 56 + 6 + 56 fits below 128, so three small views take two columns.
    first = MARGIN + 192 + GAP
    assert sheet.size == (first + 2 * (128 + MARGIN) + 2 * (56 + MARGIN), HEADER + 2 * 128 + GAP + MARGIN)
    views = transform(images, seed=3)
    mean, std = transforms.statistics(3)
    small = first + 2 * (128 + MARGIN)
    places = [
        (first, 0, 128), (first + 134, 0, 128),
        (small, 5, 56), (small + 62, 5, 56), (small, 67, 56),
    ]  # fmt: skip
    for i in range(2):
        for view, (left, top, side) in zip(views, places, strict=True):
            shown = region(sheet, left, HEADER + i * (128 + GAP) + top, side, side)
            assert torch.equal(shown, levels(view[i], mean, std))
    fitted = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((192, 96))
    assert torch.equal(region(sheet, MARGIN, HEADER + 16, 192, 96), region(fitted, 0, 0, 192, 96))


def test_few_views_are_drawn_several_times_and_small_ones_enlarged():
    transform = transforms.SimCLRSmall(32)
    image = picture(64, 64)
    sheet = contact_sheet([image], transform)
    draws = COLUMNS // 2
    assert sheet.size == (MARGIN + 128 + draws * (GAP + 256 + MARGIN) + MARGIN, HEADER + 128 + MARGIN)
    views = transform([image] * draws, seed=0)
    seen = set()
    for draw in range(draws):
        for v in range(2):
            left = MARGIN + 128 + GAP + draw * (GAP + 256 + MARGIN) + v * (128 + MARGIN)
            shown = region(sheet, left, HEADER, 128, 128)
            want = levels(views[v][draw], *transforms.statistics(3))
            assert torch.equal(shown, want.repeat_interleave(4, 1).repeat_interleave(4, 2))
            seen.add(bytes(want.numpy()))
    assert len(seen) == COLUMNS


def test_views_that_are_not_square_and_other_statistics():
    recipe = Recipe((View((64, 128)),) * 9, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    transform = transforms.Transform(recipe)
    image = picture(64, 64)
    sheet = contact_sheet([image], transform)  # nine views: a single draw, enlarged twofold
    assert sheet.size == (MARGIN + 128 + GAP + 9 * (256 + MARGIN), HEADER + 128 + MARGIN)
    want = levels(transform([image], seed=0)[8][0], recipe.mean, recipe.std)
    shown = region(sheet, MARGIN + 128 + GAP + 8 * 262, HEADER, 256, 128)
    assert torch.equal(shown, want.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_the_seed_decides():
    sheets = [contact_sheet([picture(30, 30)], transforms.MAE(128), seed).tobytes() for seed in (0, 0, 1)]
    assert sheets[0] == sheets[1] != sheets[2]


def test_files_and_folders_are_read(tmp_path):
    (tmp_path / "b").mkdir()
    pictures = {f"b/{i}.png": picture(4, 5 + i, seed=i) for i in range(6)} | {"a.png": picture(3, 3)}
    for name, image in pictures.items():
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    got = read_images([str(tmp_path / "a.png"), str(tmp_path / "b")])
    want = [pictures[name] for name in ("a.png", "b/0.png", "b/1.png", "b/2.png", "b/3.png")]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_what_is_not_an_image(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(FileNotFoundError, match="image: no file or folder 'nowhere'"):
        read_images(["nowhere"])
    with pytest.raises(ValueError, match=r"image: no image files under .*empty"):
        read_images([str(tmp_path / "empty")])
    with pytest.raises(ValueError, match=r"image: got .*broken\.png', which cannot be read as an image"):
        read_images([str(tmp_path / "broken.png")])
