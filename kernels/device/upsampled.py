"""The losses from low-resolution logits, interpolated in registers: no upsampled tensor is ever written.

Shapes: logits (N, C, h, w) by strides, per-pixel tensors (N, P) by strides, P = H * W. A program owns BLOCK
high-resolution columns of a strip of cell rows (see ``interpolation``) and marches down it. The gradient of a cell
row's pixels is summed over the rows of each column, once plain and once weighted by the row's fraction. From these two
sums follows the gradient of the rows above and below the cell. It goes to a buffer that is small, because it has
low-resolution rows, and that no two programs share.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import class_index, tile_mask, widen, zero_times_sum
from fpl_fast.kernels.device.interpolation import add, add_scaled, interpolate, load_row, zeros_like
from fpl_fast.kernels.device.labels import NUM_LABEL_SUMS, labelled_pixels, load_labels
from fpl_fast.kernels.device.pixels import NUM_SUMS, fuzzy_positive_pixels


# Numbers that vary from launch to launch are not worth a compilation each.
@triton.jit(do_not_specialize=["first_image", "first_program", "num_programs", "ignore_index", "max_positives"])
def upsampled_kernel(
    student_ptr,  # (N, C, h, w) float16, bfloat16 or float32
    teacher_ptr,  # (N, C, h, w) float16, bfloat16 or float32; None for a loss with labels
    partner_ptr,  # the teacher where mix_mask is true, with the strides of teacher_ptr, or None
    mix_mask_ptr,  # (N, P) bool, or None
    target_ptr,  # (N, P) uint8, int32 or int64, instead of a teacher
    class_weight_ptr,  # (C,) float32, for labels, or None for 1
    pixel_weight_ptr,  # (N, P) float32, or None for 1
    valid_mask_ptr,  # (N, P) bool, or None for all
    scale_ptr,  # () float32, factor of the gradient, or None for 1
    row_start_ptr,  # (row_cells + 1,) int32: first high-resolution row in or behind each cell row
    row_fraction_ptr,  # (H,) float32
    column_cell_ptr,  # (W,) int32
    column_fraction_ptr,  # (W,) float32
    buffer_ptr,  # out (images, strips, strip_cells + 1, C, W) contiguous float32, or None without gradient
    sums_ptr,  # out (terms, programs of all launches) float32, or None
    map_ptr,  # out (N, P) contiguous float32: the first term, or None
    first_image,  # of this launch
    first_program,  # of this launch, in sums_ptr
    num_programs,  # of all launches
    low_height,  # h
    low_width,  # w
    width,  # W
    num_pixels,  # P
    row_cells,  # max(h - 1, 1)
    strip_cells,  # cell rows of a strip
    student_stride_n,
    student_stride_c,
    student_stride_h,
    student_stride_w,
    teacher_stride_n,
    teacher_stride_c,
    teacher_stride_h,
    teacher_stride_w,
    mix_stride_n,
    mix_stride_p,
    target_stride_n,
    target_stride_p,
    weight_stride_n,
    weight_stride_p,
    valid_stride_n,
    valid_stride_p,
    ignore_index,  # of the labels
    threshold,  # T in (0, 1]
    max_positives,  # cap on K, 1 to C - 1
    convex_scale,
    confidence_threshold,
    confidence_power,
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # columns of a program
    CAPPED: tl.constexpr,  # max_positives if that is 1, 2 or 3, otherwise 0
    KEY: tl.constexpr,  # "float32", or "int64" in tiles
    WEIGHTING: tl.constexpr,  # "none", "linear", "convex" or "concave"
    FORM: tl.constexpr,  # "smooth" or "hinge"
    CONFIDENCE: tl.constexpr,  # whether confidence_threshold and confidence_power are looked at
    WITH_STATS: tl.constexpr,  # all terms, or the first only
    FAST: tl.constexpr,  # libdevice approximations
):
    """Fuzzy positive loss or cross entropy with labels of a strip of BLOCK columns of one image, and its gradient."""
    column_block = tl.program_id(0)
    strip = tl.program_id(1)
    image = first_image + tl.program_id(2).to(tl.int64)
    column = column_block * BLOCK + tl.arange(0, BLOCK)
    if G > 1:
        column = column[None, :]
    in_bounds = column < width
    cell = tl.load(column_cell_ptr + column, mask=in_bounds, other=0).to(tl.int64)
    column_fraction = tl.load(column_fraction_ptr + column, mask=in_bounds, other=0.0)
    next_cell = tl.minimum(cell + 1, low_width - 1)

    student_ptr += image * student_stride_n
    if teacher_ptr is not None:
        teacher_ptr += image * teacher_stride_n
    if target_ptr is not None:
        target_ptr += image * target_stride_n
    if mix_mask_ptr is not None:
        partner_ptr += image * teacher_stride_n
        mix_mask_ptr += image * mix_stride_n
    if valid_mask_ptr is not None:
        valid_mask_ptr += image * valid_stride_n
    if pixel_weight_ptr is not None:
        pixel_weight_ptr += image * weight_stride_n
    scale = None
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
    if buffer_ptr is not None:
        row_size = tl.full((), C, tl.int64) * width
        strip_number = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + strip
        buffer_ptr += strip_number * (strip_cells + 1) * row_size

    MASKED: tl.constexpr = valid_mask_ptr is not None or mix_mask_ptr is not None
    SIDES: tl.constexpr = 1 if mix_mask_ptr is None else 2
    zero = tl.where(in_bounds, 0.0, 0.0)
    totals = (zero,)
    MORE_SUMS: tl.constexpr = NUM_LABEL_SUMS - 1 if teacher_ptr is None else (NUM_SUMS - 1 if WITH_STATS else 0)
    for _ in tl.static_range(MORE_SUMS):
        totals = totals + (zero,)
    carried = ()  # gradient of the low-resolution row that the cell above and this one share
    for _ in tl.static_range((C + G - 1) // G):
        carried = carried + (zero + tl.zeros((G, 1), tl.float32) if G > 1 else zero,)

    first_cell = strip * strip_cells
    last_cell = tl.minimum(first_cell + strip_cells, row_cells)
    left, right = cell * student_stride_w, next_cell * student_stride_w
    if teacher_ptr is not None:
        teacher_left, teacher_right = cell * teacher_stride_w, next_cell * teacher_stride_w
    student_top = load_row(
        student_ptr + widened(first_cell) * student_stride_h,
        left,
        right,
        column_fraction,
        in_bounds,
        student_stride_c,
        C,
        G,
    )
    for row_cell in range(first_cell, last_cell):
        row = widened(row_cell)
        next_row = tl.minimum(row + 1, low_height - 1)
        begin = tl.load(row_start_ptr + row_cell)
        end = tl.load(row_start_ptr + row_cell + 1)
        student_bottom = load_row(
            student_ptr + next_row * student_stride_h, left, right, column_fraction, in_bounds, student_stride_c, C, G
        )
        plain = zeros_like(carried)
        sloped = zeros_like(carried)
        for side in range(SIDES):
            active = begin < end
            if MASKED:
                # Pixels of this side in the cell row: a block wholly on the other side does not load this teacher.
                count = tl.zeros_like(column)
                for y in range(begin, end):
                    on_side = pixels_on_side(
                        valid_mask_ptr, valid_stride_p, mix_mask_ptr, mix_stride_p, y, width, column, in_bounds, side
                    )
                    count += on_side.to(tl.int32)
                active = tl.max(count) > 0
            if active:
                if teacher_ptr is not None:
                    source = teacher_ptr
                    if mix_mask_ptr is not None:
                        source = tl.where(widened(side) == 0, teacher_ptr, partner_ptr)
                    teacher_top = load_row(
                        source + row * teacher_stride_h,
                        teacher_left,
                        teacher_right,
                        column_fraction,
                        in_bounds,
                        teacher_stride_c,
                        C,
                        G,
                    )
                    teacher_bottom = load_row(
                        source + next_row * teacher_stride_h,
                        teacher_left,
                        teacher_right,
                        column_fraction,
                        in_bounds,
                        teacher_stride_c,
                        C,
                        G,
                    )
                for y in range(begin, end):
                    valid = pixels_on_side(
                        valid_mask_ptr, valid_stride_p, mix_mask_ptr, mix_stride_p, y, width, column, in_bounds, side
                    )
                    pixel = widened(y) * width + column
                    fraction = tl.load(row_fraction_ptr + y)
                    student = interpolate(student_top, student_bottom, fraction)
                    poison = zero_times_sum(student)
                    z = widen(student, C, G)
                    pixel_weight = None
                    if pixel_weight_ptr is not None:
                        pixel_weight = tl.load(pixel_weight_ptr + pixel * weight_stride_p, mask=in_bounds, other=0.0)
                    if teacher_ptr is None:
                        label, valid = load_labels(target_ptr, pixel * target_stride_p, in_bounds, ignore_index)
                        terms, gradient = labelled_pixels(
                            z, label, poison, valid, pixel_weight, class_weight_ptr, scale, C, G, FAST
                        )
                    else:
                        teacher = interpolate(teacher_top, teacher_bottom, fraction)
                        terms, gradient = fuzzy_positive_pixels(
                            z,
                            widen(teacher, C, G),
                            poison + zero_times_sum(teacher),
                            valid,
                            pixel_weight,
                            scale,
                            threshold,
                            max_positives,
                            convex_scale,
                            confidence_threshold,
                            confidence_power,
                            C,
                            G,
                            CAPPED,
                            KEY,
                            WEIGHTING,
                            FORM,
                            CONFIDENCE,
                            WITH_STATS,
                            FAST,
                        )
                    totals = add(totals, terms)
                    if buffer_ptr is not None:
                        plain = add(plain, gradient)
                        sloped = add_scaled(sloped, gradient, fraction)
                    if map_ptr is not None:
                        tl.store(map_ptr + image * num_pixels + pixel, terms[0], mask=valid)
        if buffer_ptr is not None:
            above = add(carried, add_scaled(plain, sloped, -1.0))
            store_row(buffer_ptr, above, column, width, in_bounds, C, G)
            buffer_ptr += row_size
            carried = sloped
        student_top = student_bottom
    if buffer_ptr is not None:
        store_row(buffer_ptr, carried, column, width, in_bounds, C, G)
    if sums_ptr is not None:
        program = (tl.program_id(2) * tl.num_programs(1) + strip) * tl.num_programs(0) + column_block
        for i in tl.static_range(len(totals)):
            tl.store(sums_ptr + i * num_programs + first_program + program, tl.sum(totals[i]))


@triton.jit
def widened(index):
    """Convert a loop's index (in the interpreter a Python number) to int64: its product with a stride may pass 2^31."""
    return tl.full((), 0, tl.int64) + index


@triton.jit
def pixels_on_side(valid_mask_ptr, valid_stride_p, mix_mask_ptr, mix_stride_p, y, width, column, in_bounds, side):
    """Mask of the valid pixels of row ``y`` whose teacher is the image's own (side 0) or the partner (side 1)."""
    pixel = widened(y) * width + column
    chosen = in_bounds
    if valid_mask_ptr is not None:
        chosen = chosen & (tl.load(valid_mask_ptr + pixel * valid_stride_p, mask=in_bounds, other=0) != 0)
    if mix_mask_ptr is not None:
        mixed = tl.load(mix_mask_ptr + pixel * mix_stride_p, mask=in_bounds, other=0) != 0
        chosen = chosen & (mixed == (side == 1))
    return chosen


@triton.jit
def store_row(pointer, groups, column, width, in_bounds, C: tl.constexpr, G: tl.constexpr):
    """Write one row of the buffer, (C, W)."""
    for g in tl.static_range(len(groups)):
        if G == 1:
            tl.store(pointer + g * width + column, groups[g], mask=in_bounds)
        else:
            offset = class_index(g, G) * width + column
            tl.store(pointer + offset, groups[g], mask=tile_mask(in_bounds, g, C, G))
