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
def rows_of(stacks, layout, first, images, VIEWS: tl.constexpr, IMAGES: tl.constexpr):
    """Pointers to the rows of IMAGES images, one image after the other, in each view of all stacks.

    Images beyond the end of a view are its last one.
    """
    found = ()
    for i in tl.static_range(IMAGES):
        for j in tl.static_range(len(VIEWS)):
            row = tl.minimum(tl.minimum(first + i, images - 1), layout[3 * j + 2] - 1)
            found = found + rows_of_stack(stacks[j] + row * layout[3 * j + 1], layout[3 * j], VIEWS[j])
    return found


@triton.jit
def load_centers(center, at, width, inside, CENTERS: tl.constexpr, MASKED: tl.constexpr):
    found = ()
    for t in tl.static_range(CENTERS):
        found = found + (load_tile(center + t * width + at, inside, 0.0, MASKED),)
    return found


@triton.jit
def load_teacher(row, shift, at, inside, number: tl.constexpr, SOFT: tl.constexpr, MASKED: tl.constexpr):
    """A tile of a row less its center; in what is masked -inf, or 0 where they are probabilities."""
    x = load_tile(row + at, inside, 0.0 if SOFT else NONE, MASKED)
    if len(shift) == 0:
        return x
    else:
        return x - shift[number if len(shift) > 1 else 0]


@triton.jit(do_not_specialize=["images", "slices", "steps", "numbers", "of_students", "of_teachers"])
def dino_loss_slices_kernel(
    students,  # stacks [V, B_v, K]
    student_layout,  # of each stack the strides of views and rows, and B_v
    teachers,  # stacks
    teacher_layout,
    center,  # [CENTERS, K] float32, or None
    student_temp,  # [] or scalar
    teacher_temp,
    images,
    width,  # K
    slices,
    steps,  # tiles of a slice
    parts,  # out [.., numbers, slices] float32, an item an image
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
    IMAGES: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program a slice of IMAGES images."""
    first = (tl.program_id(0) // slices).to(tl.int64) * IMAGES
    part = tl.program_id(0) % slices
    scale, _ = exponent_scale(student_temp)
    teacher_scale, _ = exponent_scale(teacher_temp)
    student_row = rows_of(students, student_layout, first, images, STUDENTS, IMAGES)
    teacher_row = rows_of(teachers, teacher_layout, first, images, TEACHERS, IMAGES)
    lowest = tl.full((LANES,), LOWEST, tl.float32)
    zeros = tl.zeros((LANES,), tl.float32)
    top, total = (lowest,) * (IMAGES * S), (zeros,) * (IMAGES * S)
    if SOFT:
        # Of float32 the compiler refuses sums that it could rearrange.
        teacher_top, teacher_total = (zeros,) * (IMAGES * T), (zeros.to(tl.float64),) * (IMAGES * T)
    else:
        teacher_top, teacher_total = (lowest,) * (IMAGES * T), (zeros,) * (IMAGES * T)
    product = teacher_total
    for step in tl.range(0, tiles_of(part, steps, width, LANES * PER), num_stages=STAGES):
        at = tile_from((part * steps + step) * (LANES * PER), LANES, PER)
        inside = at < width
        shift = load_centers(center, at, width, inside, CENTERS, MASKED)
        new_top, new_total = (), ()
        new_teacher_top, new_teacher_total, new_product = (), (), ()
        for i in tl.static_range(IMAGES):
            # Students that have the teacher of their own number are apart from those that all teachers share.
            shared, shared_moved = tl.zeros((LANES, PER), tl.float32), zeros
            apart, apart_moved = (), ()
            for v in tl.static_range(S):
                x = load_tile(student_row[i * S + v] + at, inside, NONE, MASKED)
                reference, moved, far = advance(x, top[i * S + v], scale)
                new_top = new_top + (reference,)
                new_total = new_total + (total[i * S + v] * tl.exp2(moved) + tl.sum(tl.exp2(far), 1),)
                if MASKED:
                    far = tl.where(inside, far, 0.0)
                if v + OFFSET < T:
                    apart, apart_moved = apart + (far,), apart_moved + (moved,)
                else:
                    shared += far
                    shared_moved += moved
            for t in tl.static_range(T):
                y = load_teacher(teacher_row[i * T + t], shift, at, inside, t, SOFT, MASKED)
                far, moved = shared, shared_moved
                for v in tl.static_range(len(apart)):
                    if v + OFFSET != t:
                        far, moved = far + apart[v], moved + apart_moved[v]
                teacher_sum = teacher_total[i * T + t]
                before = product[i * T + t] + moved * teacher_sum
                if SOFT:
                    new_teacher_top = new_teacher_top + (teacher_top[i * T + t],)
                    new_teacher_total = new_teacher_total + (teacher_sum + tl.sum(y, 1).to(tl.float64),)
                    new_product = new_product + (before + tl.sum(y * far, 1).to(tl.float64),)
                else:
                    reference, fallen, exponent = advance(y, teacher_top[i * T + t], teacher_scale)
                    q, factor = tl.exp2(exponent), tl.exp2(fallen)
                    new_teacher_top = new_teacher_top + (reference,)
                    new_teacher_total = new_teacher_total + (teacher_sum * factor + tl.sum(q, 1),)
                    new_product = new_product + (before * factor + tl.sum(q * far, 1),)
        top, total = new_top, new_total
        teacher_top, teacher_total, product = new_teacher_top, new_teacher_total, new_product

    for i in tl.static_range(IMAGES):
        out = parts + (first + i) * numbers * slices + part
        there = first + i < images
        all_moved = zeros
        own_moved = ()
        for v in tl.static_range(S):
            highest, moved, factor = meet(top[i * S + v])
            at_view = out + (of_students + STUDENT * v) * slices
            tl.store(at_view, highest, mask=there)
            tl.store(at_view + slices, tl.sum(total[i * S + v] * factor, 0), mask=there)
            if v + OFFSET < T:
                own_moved = own_moved + (moved,)
            else:
                all_moved += moved
        for t in tl.static_range(T):
            moved = all_moved
            for v in tl.static_range(len(own_moved)):
                if v + OFFSET != t:
                    moved += own_moved[v]
            highest, _, factor = meet(teacher_top[i * T + t])
            teacher_sum = teacher_total[i * T + t]
            at_view = out + (of_teachers + TEACHER * t) * slices
            tl.store(at_view, highest, mask=there)
            tl.store(at_view + slices, tl.sum(teacher_sum * factor, 0), mask=there)
            found = tl.sum((product[i * T + t] + moved * teacher_sum) * factor, 0)
            tl.store(at_view + 2 * slices, found, mask=there)


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


@triton.jit(
    do_not_specialize=["images", "slices", "steps", "program", "number", "student_rows", "teacher_rows", "pairs"]
)
def dino_loss_grad_kernel(
    grad,  # []
    students,  # as above
    student_layout,
    teachers,
    teacher_layout,
    center,
    student_temp,
    teacher_temp,
    images,  # of all these students
    width,
    slices,
    steps,
    row_weights,  # [images] float, or None
    student_lse,  # [S, student_rows] float64
    teacher_norm,  # [T, teacher_rows] float64
    grads,  # out: stacks like those of the students
    grad_layout,
    rows_of_teachers,  # B_t of each view
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
    RAGGED: tl.constexpr,  # not all teachers have all these images
    MASKED: tl.constexpr,
    IMAGES: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program a slice of IMAGES images."""
    first = (tl.program_id(0) // slices).to(tl.int64) * IMAGES
    part = tl.program_id(0) % slices
    scale, base = exponent_scale(student_temp)
    teacher_scale, teacher_base = exponent_scale(teacher_temp)
    student_row = rows_of(students, student_layout, first, images, STUDENTS, IMAGES)
    teacher_row = rows_of(teachers, teacher_layout, first, images, TEACHERS, IMAGES)
    grad_row = rows_of(grads, grad_layout, first, images, STUDENTS, IMAGES)
    upstream = tl.load(grad).to(tl.float64) / (temperature(student_temp) * pairs)

    # w_tvb q_tb = teacher_amount 2^(exponent - teacher_level), and likewise of the students' probabilities.
    teacher_level, teacher_amount, level, amount = (), (), (), ()
    for i in tl.static_range(IMAGES):
        image = tl.minimum(first + i, images - 1)
        share = tl.where(first + i < images, upstream, 0.0)  # the last image again counts once
        if row_weights is not None:
            share *= tl.load(row_weights + image).to(tl.float64)
        mass = ()
        for t in tl.static_range(T):
            known = image < rows_of_teachers[t]
            weight = tl.where(known, share, 0.0)
            if row_weights is None:
                weight = weight / tl.minimum(images, rows_of_teachers[t])
            norm = tl.load(teacher_norm + t * tl.cast(teacher_rows, tl.int64) + image, mask=known, other=0.0)
            if SOFT:
                mass, teacher_amount = mass + (weight * norm,), teacher_amount + (weight.to(tl.float32),)
            else:
                found, rest = level_of(norm, teacher_scale, teacher_base)
                mass, teacher_level = mass + (weight,), teacher_level + (found,)
                teacher_amount = teacher_amount + ((weight * rest).to(tl.float32),)
        for v in tl.static_range(S):
            lse = tl.load(student_lse + (number + v) * tl.cast(student_rows, tl.int64) + image)
            found, rest = level_of(lse, scale, base)
            together = tl.full((), 0.0, tl.float64)
            for t in tl.static_range(T):
                if v + OFFSET != t:
                    together += mass[t]
            level, amount = level + (found,), amount + ((together * rest).to(tl.float32),)

    total = tl.zeros((LANES, PER), tl.float32)
    for step in tl.range(0, tiles_of(part, steps, width, LANES * PER), num_stages=STAGES):
        at = tile_from((part * steps + step) * (LANES * PER), LANES, PER)
        inside = at < width
        shift = load_centers(center, at, width, inside, CENTERS, MASKED)
        for i in tl.static_range(IMAGES):
            target = ()
            for t in tl.static_range(T):
                y = load_teacher(teacher_row[i * T + t], shift, at, inside, t, SOFT, MASKED)
                q = y if SOFT else tl.exp2(tl.fma(y, teacher_scale, -teacher_level[i * T + t]))
                if RAGGED:
                    q = tl.where(tl.minimum(first + i, images - 1) < rows_of_teachers[t], q, 0.0)
                target = target + (q * teacher_amount[i * T + t],)
            for v in tl.static_range(S):
                targets = tl.zeros((LANES, PER), tl.float32)
                for t in tl.static_range(T):
                    if v + OFFSET != t:
                        targets += target[t]
                x = load_tile(student_row[i * S + v] + at, inside, 0.0, MASKED)
                far = tl.fma(x, scale, -level[i * S + v])
                slope = tl.fma(tl.exp2(far), amount[i * S + v], -targets)
                out = grad_row[i * S + v]
                there = first + i < images
                if MASKED:
                    tl.store(out + at, slope.to(out.dtype.element_ty), mask=inside & there)
                    far = tl.where(inside, far, 0.0)
                    slope = tl.where(inside, slope, 0.0)
                elif IMAGES > 1:
                    tl.store(out + at, slope.to(out.dtype.element_ty), mask=there)
                else:
                    tl.store(out + at, slope.to(out.dtype.element_ty))
                total = tl.fma(slope, far, total)
    tl.store(sums + program + tl.program_id(0), tl.sum(tl.sum(total, 1), 0).to(tl.float64) * -base)
