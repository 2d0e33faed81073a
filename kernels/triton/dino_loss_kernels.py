"""Triton kernels of DINO's loss: a slice of all views of an image, its slices together, and gradients of a slice.

What is carried from tile to tile of a slice are numbers for each lane and view: the reference, which is the highest
exponent so far, the sum of the powers of 2 relative to that and, for a teacher, the sum of its powers times the
students' exponents. When a reference moves by m, powers are multiplied by 2^m, and exponents m less.
"""

# The compiler of @triton.jit knows no starred tuples.
# ruff: noqa: RUF005

import triton
import triton.language as tl

from .online import LOWEST, NONE, advance, exponent_scale, level_of, load_tile, meet, tile_from, tiles_of
from .tiles import temperature

STUDENT, TEACHER = tl.constexpr(2), tl.constexpr(3)  # numbers of a slice: reference, sum; and sum of products


@triton.jit
def rows_of_stack(stack, stride, VIEWS: tl.constexpr):
    """A row of each view."""
    found = (stack,)
    for v in tl.static_range(1, VIEWS):
        found = found + (stack + v * tl.cast(stride, tl.int64),)
    return found


@triton.jit
def rows_of(stacks, strides, counts, image, VIEWS: tl.constexpr):
    """Pointers to the row of an image in each view of all stacks, to the last one where they have fewer."""
    found = ()
    for i in tl.static_range(len(VIEWS)):
        row = stacks[i] + tl.minimum(image, counts[i] - 1) * strides[2 * i + 1]
        found = found + rows_of_stack(row, strides[2 * i], VIEWS[i])
    return found


@triton.jit
def load_teachers(
    rows, center, at, width, inside, CENTERS: tl.constexpr, SOFT: tl.constexpr, MASKED: tl.constexpr
):
    """A tile of each row less its center; in what is masked -inf, or 0 where they are probabilities."""
    found = ()
    if CENTERS == 1:
        shift = load_tile(center + at, inside, 0.0, MASKED)
    for t in tl.static_range(len(rows)):
        x = load_tile(rows[t] + at, inside, 0.0 if SOFT else NONE, MASKED)
        if CENTERS == 0:
            found = found + (x,)
        elif CENTERS == 1:
            found = found + (x - shift,)
        else:
            found = found + (x - load_tile(center + t * width + at, inside, 0.0, MASKED),)
    return found


@triton.jit(do_not_specialize=["rows", "slices", "steps", "numbers", "of_students", "of_teachers"])
def dino_loss_slices_kernel(
    students,  # stacks [V, B_v, K]
    student_strides,  # of views and of rows, for each stack
    rows,  # B_v, the same of all
    teachers,  # stacks
    teacher_strides,
    rows_of_teachers,  # B_t of each view
    center,  # [CENTERS, K] float32, or None
    student_temp,  # [] or scalar
    teacher_temp,
    width,  # K
    slices,
    steps,  # tiles of a slice
    parts,  # out [images, numbers, slices] float32
    numbers,
    of_students,  # where those of these views are: STUDENT each
    of_teachers,  # TEACHER each
    STUDENTS: tl.constexpr,  # views of each stack, S in all
    TEACHERS: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CENTERS: tl.constexpr,
    OFFSET: tl.constexpr,  # view v here and v + OFFSET of the teachers are not a pair
    SOFT: tl.constexpr,
    MASKED: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program a slice of an image."""
    image = (tl.program_id(0) // slices).to(tl.int64)
    part = tl.program_id(0) % slices
    scale, _ = exponent_scale(student_temp)
    teacher_scale, _ = exponent_scale(teacher_temp)
    student_row = rows_of(students, student_strides, image, STUDENTS)
    teacher_row = rows_of(teachers, teacher_strides, image, TEACHERS)
    lowest = tl.full((LANES,), LOWEST, tl.float32)
    zeros = tl.zeros((LANES,), tl.float32)
    top, total = (lowest,) * S, (zeros,) * S
    if SOFT:
        # Of float32 the compiler refuses sums that it could rearrange.
        teacher_top, teacher_total = (zeros,) * T, (zeros.to(tl.float64),) * T
    else:
        teacher_top, teacher_total = (lowest,) * T, (zeros,) * T
    product = teacher_total
    for step in tl.range(0, tiles_of(part, steps, width, LANES * PER), num_stages=STAGES):
        at = tile_from((part * steps + step) * (LANES * PER), LANES, PER)
        inside = at < width
        y = load_teachers(teacher_row, center, at, width, inside, CENTERS, SOFT, MASKED)
        # Students that have the teacher of their own number are apart from those that all teachers share.
        shared, shared_moved = tl.zeros((LANES, PER), tl.float32), zeros
        apart, apart_moved = (), ()
        new_top, new_total = (), ()
        for v in tl.static_range(S):
            reference, moved, far = advance(load_tile(student_row[v] + at, inside, NONE, MASKED), top[v], scale)
            new_top = new_top + (reference,)
            new_total = new_total + (total[v] * tl.exp2(moved) + tl.sum(tl.exp2(far), 1),)
            if MASKED:
                far = tl.where(inside, far, 0.0)
            if v + OFFSET < T:
                apart, apart_moved = apart + (far,), apart_moved + (moved,)
            else:
                shared += far
                shared_moved += moved
        top, total = new_top, new_total
        new_top, new_total, new_product = (), (), ()
        for t in tl.static_range(T):
            far, moved = shared, shared_moved
            for v in tl.static_range(len(apart)):
                if v + OFFSET != t:
                    far, moved = far + apart[v], moved + apart_moved[v]
            before = product[t] + moved * teacher_total[t]
            if SOFT:
                new_top = new_top + (teacher_top[t],)
                new_total = new_total + (teacher_total[t] + tl.sum(y[t], 1).to(tl.float64),)
                new_product = new_product + (before + tl.sum(y[t] * far, 1).to(tl.float64),)
            else:
                reference, fallen, exponent = advance(y[t], teacher_top[t], teacher_scale)
                q, factor = tl.exp2(exponent), tl.exp2(fallen)
                new_top = new_top + (reference,)
                new_total = new_total + (teacher_total[t] * factor + tl.sum(q, 1),)
                new_product = new_product + (before * factor + tl.sum(q * far, 1),)
        teacher_top, teacher_total, product = new_top, new_total, new_product

    out = parts + image * numbers * slices + part
    student_out, teacher_out = out + of_students * slices, out + of_teachers * slices
    shared_moved = zeros
    apart_moved = ()
    for v in tl.static_range(S):
        highest, moved, factor = meet(top[v])
        tl.store(student_out + STUDENT * v * slices, highest)
        tl.store(student_out + (STUDENT * v + 1) * slices, tl.sum(total[v] * factor, 0))
        if v + OFFSET < T:
            apart_moved = apart_moved + (moved,)
        else:
            shared_moved += moved
    for t in tl.static_range(T):
        moved = shared_moved
        for v in tl.static_range(len(apart_moved)):
            if v + OFFSET != t:
                moved += apart_moved[v]
        highest, _, factor = meet(teacher_top[t])
        tl.store(teacher_out + TEACHER * t * slices, highest)
        tl.store(teacher_out + (TEACHER * t + 1) * slices, tl.sum(teacher_total[t] * factor, 0))
        found = tl.sum((product[t] + moved * teacher_total[t]) * factor, 0)
        tl.store(teacher_out + (TEACHER * t + 2) * slices, found)


@triton.jit
def load_numbers(parts, number, slices, inside, mask, other):
    """A number of every slice, float64."""
    return tl.load(parts + number * slices + inside, mask=mask, other=other).to(tl.float64)


@triton.jit(do_not_specialize=["student_rows", "teacher_rows", "pairs", "numbers", "slices"])
def dino_loss_combine_kernel(
    parts,  # [images, numbers, slices] float32
    student_temp,  # [] or scalar
    teacher_temp,
    row_weights,  # [images] float, or None
    student_lse,  # out [S, student_rows] float64
    teacher_norm,  # out [T, teacher_rows] float64
    losses,  # out [images] float64
    rows_of_chunks,  # B_v of the views of each chunk
    rows_of_teachers,  # B_t of each view
    student_rows,
    teacher_rows,
    pairs,
    numbers,
    slices,
    CHUNKS: tl.constexpr,  # views of each chunk
    FIRSTS: tl.constexpr,  # and the number of the first of them
    S: tl.constexpr,
    T: tl.constexpr,
    SKIP: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK_VIEWS: tl.constexpr,
    BLOCK_SLICES: tl.constexpr,
):
    """One program an image."""
    image = tl.program_id(0).to(tl.int64)
    parts += image * numbers * slices
    _, base = exponent_scale(student_temp)
    _, teacher_base = exponent_scale(teacher_temp)
    slice = tl.arange(0, BLOCK_SLICES)
    inside = slice < slices
    loss = tl.full((), 0.0, tl.float64)
    for c in tl.static_range(len(CHUNKS)):
        view = tl.arange(0, BLOCK_VIEWS)
        here = (view < CHUNKS[c]) & (image < rows_of_chunks[c])
        at = (FIRSTS[c] + view)[:, None] * STUDENT
        mask = here[:, None] & inside[None, :]
        top = load_numbers(parts, at, slices, slice[None, :], mask, LOWEST)
        total = load_numbers(parts, at + 1, slices, slice[None, :], mask, 0.0)
        highest = tl.max(top, 1)
        moved = top - highest[:, None]
        log_total = tl.log(tl.sum(total * tl.exp2(moved), 1))
        lse = tl.where(here, highest * base + log_total, 0.0)
        out = student_lse + (FIRSTS[c] + view).to(tl.int64) * student_rows + image
        tl.store(out, lse, mask=(view < CHUNKS[c]) & (image < student_rows))
        for t in tl.static_range(T):
            number = STUDENT * S + TEACHER * (T * c + t)
            known = inside & (image < rows_of_chunks[c]) if c else inside
            teacher_top = load_numbers(parts, number, slices, slice, known, LOWEST)
            teacher_total = load_numbers(parts, number + 1, slices, slice, known, 0.0)
            product = load_numbers(parts, number + 2, slices, slice, known, 0.0)
            teacher_highest = tl.max(teacher_top, 0)
            factor = tl.exp2(teacher_top - teacher_highest)
            norm = tl.sum(teacher_total * factor, 0)
            pair = here & (FIRSTS[c] + view != t) if SKIP else here
            products = product + tl.sum(tl.where(pair[:, None], moved, 0.0), 0) * teacher_total
            near = -base * tl.sum(products * factor, 0)
            rest = tl.sum(tl.where(pair, log_total, 0.0), 0)
            found = near + norm * rest if SOFT else near / norm + rest
            common = tl.minimum(rows_of_chunks[c], rows_of_teachers[t])
            if row_weights is None:
                found = found / tl.cast(common, tl.float64)
            loss += tl.where(image < common, found, 0.0)
            if c == 0:
                kept = norm if SOFT else teacher_highest * teacher_base + tl.log(norm)
                kept = tl.where(image < rows_of_teachers[t], kept, 0.0)
                tl.store(teacher_norm + t * tl.cast(teacher_rows, tl.int64) + image, kept, mask=image < teacher_rows)
    if row_weights is not None:
        loss *= tl.load(row_weights + image).to(tl.float64)
    tl.store(losses + image, loss / tl.cast(pairs, tl.float64))


@triton.jit(do_not_specialize=["rows", "slices", "steps", "program", "number", "student_rows", "teacher_rows", "pairs"])
def dino_loss_grad_kernel(
    grad,  # []
    students,  # as above
    student_strides,
    rows,
    teachers,
    teacher_strides,
    rows_of_teachers,
    center,
    student_temp,
    teacher_temp,
    width,
    slices,
    steps,
    row_weights,  # [images] float, or None
    student_lse,  # [S, student_rows] float64
    teacher_norm,  # [T, teacher_rows] float64
    grads,  # out: stacks like those of the students
    grad_strides,
    sums,  # out float64, from sums[program] on: terms of the gradient of student_temp
    program,
    number,  # of the first view
    student_rows,
    teacher_rows,
    pairs,
    STUDENTS: tl.constexpr,
    TEACHERS: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CENTERS: tl.constexpr,
    OFFSET: tl.constexpr,
    SOFT: tl.constexpr,
    MASKED: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program a slice of an image."""
    image = (tl.program_id(0) // slices).to(tl.int64)
    part = tl.program_id(0) % slices
    scale, base = exponent_scale(student_temp)
    teacher_scale, teacher_base = exponent_scale(teacher_temp)
    student_row = rows_of(students, student_strides, image, STUDENTS)
    teacher_row = rows_of(teachers, teacher_strides, image, TEACHERS)
    grad_row = rows_of(grads, grad_strides, image, STUDENTS)
    tau = temperature(student_temp)
    share = tl.load(grad).to(tl.float64) / (tau * pairs)
    if row_weights is not None:
        share *= tl.load(row_weights + image).to(tl.float64)

    mass, teacher_level, teacher_amount = (), (), ()  # w_tvb q = amount 2^(exponent - level)
    for t in tl.static_range(T):
        known = image < rows_of_teachers[t]
        weight = tl.where(known, share, 0.0)
        if row_weights is None:
            weight = weight / tl.minimum(rows, rows_of_teachers[t])
        norm = tl.load(teacher_norm + t * tl.cast(teacher_rows, tl.int64) + image, mask=known, other=0.0)
        if SOFT:
            mass, teacher_amount = mass + (weight * norm,), teacher_amount + (weight.to(tl.float32),)
        else:
            level, rest = level_of(norm, teacher_scale, teacher_base)
            mass, teacher_level = mass + (weight,), teacher_level + (level,)
            teacher_amount = teacher_amount + ((weight * rest).to(tl.float32),)
    level_of_view, amount = (), ()
    for v in tl.static_range(S):
        level, rest = level_of(
            tl.load(student_lse + (number + v) * tl.cast(student_rows, tl.int64) + image), scale, base
        )
        together = tl.full((), 0.0, tl.float64)
        for t in tl.static_range(T):
            if v + OFFSET != t:
                together += mass[t]
        level_of_view, amount = level_of_view + (level,), amount + ((together * rest).to(tl.float32),)

    total = tl.zeros((LANES, PER), tl.float32)
    for step in tl.range(0, tiles_of(part, steps, width, LANES * PER), num_stages=STAGES):
        at = tile_from((part * steps + step) * (LANES * PER), LANES, PER)
        inside = at < width
        y = load_teachers(teacher_row, center, at, width, inside, CENTERS, SOFT, MASKED)
        target = ()
        for t in tl.static_range(T):
            if SOFT:
                target = target + (y[t] * teacher_amount[t],)
            else:
                target = target + (tl.exp2(tl.fma(y[t], teacher_scale, -teacher_level[t])) * teacher_amount[t],)
        for v in tl.static_range(S):
            targets = tl.zeros((LANES, PER), tl.float32)
            for t in tl.static_range(T):
                if v + OFFSET != t:
                    targets += target[t]
            far = tl.fma(load_tile(student_row[v] + at, inside, 0.0, MASKED), scale, -level_of_view[v])
            slope = tl.fma(tl.exp2(far), amount[v], -targets)
            if MASKED:
                tl.store(grad_row[v] + at, slope.to(grad_row[v].dtype.element_ty), mask=inside)
                total += tl.where(inside, slope * far, 0.0)
            else:
                tl.store(grad_row[v] + at, slope.to(grad_row[v].dtype.element_ty))
                total = tl.fma(slope, far, total)
    tl.store(sums + program + tl.program_id(0), tl.sum(tl.sum(total, 1), 0).to(tl.float64) * -base)
