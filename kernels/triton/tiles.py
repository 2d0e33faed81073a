"""Device functions shared by the tiled contrastive kernels: loads, products, masks and stable scalar functions."""

# What the compiler of @triton.jit wants differs from plain Python: no starred tuples, types settled by if-else.
# ruff: noqa: RUF005, SIM108, SIM114

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
EPS = tl.constexpr(1e-12)  # of torch.nn.functional.normalize


@triton.jit
def scalar(value):
    """A number in float64, from a scalar or a pointer."""
    if value.dtype.is_ptr():
        return tl.load(value).to(tl.float64)
    else:
        return value.to(tl.float64)


@triton.jit
def temperature(tau):
    """Return tau in float64; NaN unless tau > 0: a bad tau cannot give a plausible loss."""
    value = scalar(tau)
    return tl.where(value > 0, value, float("nan"))


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load_chunk(x, row0, m, chunk, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """x[row0 : row0 + ROWS, chunk * BLOCK_D : (chunk + 1) * BLOCK_D], zero outside.  # [ROWS, BLOCK_D]"""
    r = tl.arange(0, ROWS)
    c = chunk * BLOCK_D + tl.arange(0, BLOCK_D)
    # One 64-bit product per tile; offsets inside a tile fit 32 bits.
    ptrs = x + tl.cast(row0, tl.int64) * WIDTH + (r[:, None] * WIDTH + c[None, :])
    if WIDTH % BLOCK_D == 0:
        mask = (row0 + r < m)[:, None]
    else:
        mask = (row0 + r < m)[:, None] & (c < WIDTH)[None, :]
    return tl.load(ptrs, mask=mask, other=0.0)


@triton.jit
def load_rows(x, row0, m, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """All chunks of a block of rows, as a tuple."""
    chunks = (load_chunk(x, row0, m, 0, ROWS, WIDTH, BLOCK_D),)
    for k in tl.static_range(1, (WIDTH + BLOCK_D - 1) // BLOCK_D):
        chunks = chunks + (load_chunk(x, row0, m, k, ROWS, WIDTH, BLOCK_D),)
    return chunks


@triton.jit
def zero_rows(ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Float32 zeros in the form of `load_rows`."""
    chunks = (tl.zeros((ROWS, BLOCK_D), tl.float32),)
    for _ in tl.static_range(1, (WIDTH + BLOCK_D - 1) // BLOCK_D):
        chunks = chunks + (tl.zeros((ROWS, BLOCK_D), tl.float32),)
    return chunks


@triton.jit
def store_chunk(out, x, row0, row_mask, chunk, WIDTH: tl.constexpr):
    """Write x [ROWS, BLOCK_D] where load_chunk would read it."""
    r = tl.arange(0, x.shape[0])
    c = chunk * x.shape[1] + tl.arange(0, x.shape[1])
    ptrs = out + tl.cast(row0, tl.int64) * WIDTH + (r[:, None] * WIDTH + c[None, :])
    tl.store(ptrs, x, mask=row_mask[:, None] & (c < WIDTH)[None, :])


@triton.jit
def scores(xi, yj, CHUNKS: tl.constexpr, PRECISION: tl.constexpr):
    """<x_i, y_j> for a tile, summed over the chunks of the width.  # [BLOCK_M, BLOCK_N]"""
    s = tl.zeros((xi[0].shape[0], yj[0].shape[0]), dtype=tl.float32)
    for k in tl.static_range(CHUNKS):
        s = dot(xi[k], tl.trans(yj[k]), s, PRECISION)
    return s


@triton.jit
def scores_streamed(
    x, y, row0, col0, m, n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same with both sides read chunk by chunk, for widths whose rows do not fit in shared memory."""
    s = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, (WIDTH + BLOCK_D - 1) // BLOCK_D):
        xi = load_chunk(x, row0, m, k, BLOCK_M, WIDTH, BLOCK_D)
        yj = load_chunk(y, col0, n, k, BLOCK_N, WIDTH, BLOCK_D)
        s = dot(xi, tl.trans(yj), s, PRECISION)
    return s


@triton.jit
def needs_mask(row0, col0, m, n, period, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Whether a tile holds padding or pairs that `period` excludes. Few do; the rest skip the mask."""
    outside = (row0 + BLOCK_M > m) | (col0 + BLOCK_N > n)
    if period is None:
        return outside
    else:
        low = row0 - col0 - BLOCK_N  # i - j takes every value strictly between low and high
        high = row0 - col0 + BLOCK_M
        special = ((low < 0) & (high > 0)) | ((low < period) & (period < high)) | ((low < -period) & (-period < high))
        return special | outside


@triton.jit
def mask_scores(x, row0, col0, m, n, row_id, col_ids, period):
    """-inf in padding and for excluded pairs: those of equal ids, or with |i - j| in {0, period}."""
    rows = row0 + tl.arange(0, x.shape[0])
    cols = col0 + tl.arange(0, x.shape[1])
    keep = (rows < m)[:, None] & (cols < n)[None, :]
    if period is not None:
        gap = rows[:, None] - cols[None, :]
        keep = keep & (gap != 0) & (gap != period) & (gap != -period)
    if row_id is not None:
        keep = keep & (row_id[:, None] != tl.load(col_ids + cols, mask=cols < n, other=0)[None, :])
    return tl.where(keep, x, float("-inf"))


@triton.jit
def hide(x, row0, col0, m, n, row_id, col_ids, period, MASK_ALL: tl.constexpr):
    """`mask_scores` where it is needed."""
    if MASK_ALL:
        x = mask_scores(x, row0, col0, m, n, row_id, col_ids, period)
    elif row_id is not None:
        x = mask_scores(x, row0, col0, m, n, row_id, col_ids, period)
    elif needs_mask(row0, col0, m, n, period, x.shape[0], x.shape[1]):
        x = mask_scores(x, row0, col0, m, n, row_id, col_ids, period)
    return x


@triton.jit
def accumulate(w, yj, acc, CHUNKS: tl.constexpr, PRECISION: tl.constexpr):
    """Return acc + w @ yj, chunk by chunk of the width."""
    out = (dot(w, yj[0], acc[0], PRECISION),)
    for k in tl.static_range(1, CHUNKS):
        out = out + (dot(w, yj[k], acc[k], PRECISION),)
    return out


@triton.jit
def normalize(x):
    """Return x / max(|x|, 1e-12) and the factor, for rows of any magnitude.  # [BLOCK_M, BLOCK_D], [BLOCK_M]"""
    # Only large rows can overflow: below 2^50 the squares fit, and what underflows is far below 1e-12.
    # A power of two costs no rounding. NaN and inf reach the output whatever tl.max makes of them.
    scale = tl.where(tl.max(tl.abs(x), axis=1) > 1.125899906842624e15, 8.271806125530277e-25, 1.0)  # 2^50, 2^-80
    x = x * scale[:, None]
    norm = tl.sqrt_rn(tl.sum(x * x, axis=1))
    inv = tl.where(norm <= EPS, 1.0 / EPS, tl.div_rn(tl.full(norm.shape, 1.0, tl.float32), norm))
    return x * inv[:, None], inv * scale


@triton.jit
def log1p(t):
    """log(1 + t) for t in [0, 1]: the rounding of 1 + t cancels in t / ((1 + t) - 1)."""
    w = 1.0 + t
    return tl.where(w == 1.0, t, tl.log(w) * (t / (w - 1.0)))


@triton.jit
def one_minus_exp_minus(x):
    """1 - exp(-x) for x >= 0: the rounding of e = exp(-x) cancels in (1 - e) / log(e)."""
    e = tl.exp(-x)
    return tl.where(x > 1.0, 1.0 - e, tl.where(e == 1.0, x, (e - 1.0) * x / tl.log(e)))
