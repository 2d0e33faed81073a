"""Augmentation in Triton: three launches for each size of view, one program a tile of 32 x 32 pixels of a view.

A view passes through up to three kernels, and the last that it needs solarizes, normalises and stores it:

1. `augment_resize_kernel`, all views: crop, resize, mirror, rotate, the jitter steps before the contrast; the sum of
   the grey values of a tile, for the contrast's mean. Views with neither contrast nor blur are finished here.
2. `augment_contrast_kernel`, views with contrast: adds up the sums, in one order; contrast, the other steps, grey.
3. `augment_blur_kernel`, views with blur: two products with banded matrices on the tensor cores, for any radius.

Between them a view is a float32 workspace [C, h, w], which the second kernel changes in place. Which kernels a view
needs is read on the device, by every program for its own view, so the host neither waits nor decides. With two kernels
the blur would have to recompute the second one's colour steps on the halo of its tile, 4 times the pixels at radius 10,
and holds all three channels at once: that compiled to 255 registers and spills.

Counted for 224 x 224 x 3 from 256 x 256, bfloat16 out (not measured): a tensor of the workspace is 0.60 MB, the output
0.30, the crop 0.09 on average. A view that takes all three kernels reads and writes 0.09 + 0.60 | 0.60 + 0.60 |
0.60 + 0.30 = 2.8 MB, one that takes the first alone 0.39; SimCLR (contrast .8, blur .5) 2.0 MB on average, or 0.41 us
at 4.8 TB/s, less what stays in the L2 cache. The resize loads 4 to 9 taps a pixel enlarging, bilinear; a blur of radius
10 is 192 multiply-adds a value, each three of tf32 for float32's accuracy: 0.17 GFLOP of tensor cores.

Workspaces are of at most 256 MiB: larger batches take several rounds of launches, of the same number at any values.
Results are bit-identical from run to run and do not depend on the batch.
"""

from __future__ import annotations

import torch
import triton

from .augment_kernels import augment_blur_kernel, augment_contrast_kernel, augment_resize_kernel

BLOCK = 32  # a program makes BLOCK x BLOCK pixels
POINT_WARPS = 8  # of the first two kernels
BLUR_WARPS = 4  # more have no share in products of this size
STATE_BYTES = 256 * 2**20


def augment_fwd(
    pixels: torch.Tensor, extents: torch.Tensor | None, params: torch.Tensor, heights: list[int], widths: list[int],
    counts: list[int], bicubic: bool, blur_kernel: int, mean: list[float], std: list[float], dtype: torch.dtype,
    channels_last: bool, uint8: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Views [count, n, C, h, w] of each group; the arguments are those of the op, params int32 [n, V, 12]."""
    n, views, _ = params.shape
    channels = len(mean)
    unit = 255.0 if uint8 else 1.0
    # (x / unit - mean) / std as one product and one sum; a grey image's numbers thrice, which fills the arguments.
    scales = [1 / (unit * s) for s in std] * (3 // channels)
    shifts = [-m / s for m, s in zip(mean, std, strict=True)] * (3 // channels)
    if extents is None:
        image_size, strides = pixels.shape[2:], pixels.stride()
    else:
        image_size, strides = (0, 0), (0, 1, 0, channels)  # read from the extents
    common = {
        "UINT8": uint8, "CHANNELS": channels, "CHANNELS_LAST": channels_last, "BLOCK": BLOCK,
        "enable_fp_fusion": False,
    }  # fmt: skip
    precision = "tf32x3" if pixels.device.type == "cuda" else "ieee"  # the interpreter knows only this
    groups, first_view = [], 0
    with torch.cuda.device_of(pixels):
        for h, w, count in zip(heights, widths, counts, strict=True):
            shape = (count, n, h, w, channels) if channels_last else (count, n, channels, h, w)
            out = torch.empty(shape, dtype=dtype, device=pixels.device)
            tiles = triton.cdiv(h, BLOCK) * triton.cdiv(w, BLOCK)
            chunk = min(count * n, max(1, STATE_BYTES // (4 * channels * h * w)))
            state = torch.empty((chunk, channels, h, w), dtype=torch.float32, device=pixels.device)
            sums = torch.empty((chunk, tiles), dtype=torch.float32, device=pixels.device)
            for start in range(0, count * n, chunk):
                grid = (min(chunk, count * n - start) * tiles,)
                augment_resize_kernel[grid](
                    pixels, pixels if extents is None else extents, params, state, sums, out, start, n, views,
                    first_view, *image_size, *strides, h, w, *scales, *shifts,
                    RAGGED=extents is not None, BICUBIC=bicubic, num_warps=POINT_WARPS, **common,
                )  # fmt: skip
                augment_contrast_kernel[grid](
                    params, state, sums, out, start, n, views, first_view, h, w, *scales, *shifts,
                    num_warps=POINT_WARPS, **common,
                )  # fmt: skip
                augment_blur_kernel[grid](
                    params, state, out, start, n, views, first_view, h, w,
                    blur_kernel // 2 if blur_kernel else max(h, w), *scales, *shifts,
                    PRECISION=precision, num_warps=BLUR_WARPS, **common,
                )  # fmt: skip
            groups.append(out.permute(0, 1, 4, 2, 3) if channels_last else out)
            first_view += count
    return groups
