import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import decided, draw_logits
from tolerances import SINGLE

from fpl_fast.kernels.device.assignment import assign_positives
from fpl_fast.kernels.device.classes import class_index, load_classes, store_classes, widen
from fpl_fast.kernels.device.keys import make_key
from fpl_fast.kernels.device.student import label_logit
from fpl_fast.reference import assign_positives as reference_assignment


@triton.jit
def assignment_kernel(
    teacher_ptr,
    marks_ptr,
    per_pixel_ptr,
    threshold,
    max_positives,
    C: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    CAPPED: tl.constexpr,
    KEY: tl.constexpr,
):
    pixel = tl.arange(0, P)
    if G > 1:
        pixel = pixel[None, :]
    valid = pixel < P
    t = widen(load_classes(teacher_ptr, pixel, valid, P, C, G), C, G, False)
    keys = ()
    for g in tl.static_range(len(t)):
        keys = keys + (make_key(t[g], class_index(g, G), KEY),)
    keys, cut, top, num_positives, rejected, mass, total = assign_positives(
        keys, t, valid, threshold, max_positives, C, CAPPED, KEY
    )
    positives = ()
    for g in tl.static_range(len(t)):
        positives = positives + ((keys[g] >= cut).to(tl.int8),)
    store_classes(marks_ptr, pixel, valid, P, positives, C, G)
    # The teacher's own logit of its label is the largest: which class it is shows in the test of a student.
    tl.store(per_pixel_ptr + 3 * P + pixel, label_logit(keys, top, t))
    tl.store(per_pixel_ptr + pixel, num_positives)
    tl.store(per_pixel_ptr + P + pixel, rejected / total)
    tl.store(per_pixel_ptr + 2 * P + pixel, mass / total)


# fewer classes than ranks looked at, registers, tiles with padding (whose keys must differ)
KINDS = [
    (num_classes, group, dtype, key)
    for num_classes, group in ((2, 1), (3, 1), (4, 1), (6, 1), (19, 1), (33, 2))
    for dtype, key in (
        (torch.bfloat16, "tagged"),
        (torch.float16, "tagged"),
        (torch.bfloat16, "int32"),
        (torch.float32, "int64"),
        (torch.float32, "float32"),
    )
    if group == 1 or key in ("int32", "int64")
]


@pytest.mark.parametrize(("num_classes", "group", "dtype", "key"), KINDS)
@pytest.mark.parametrize("max_positives", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("ties", [False, True])
def test_assignment(kernel_device, num_classes, group, max_positives, ties, dtype, key):
    num_pixels = 64
    threshold = 0.8
    max_positives = min(max_positives, num_classes - 1)
    teacher = draw_logits(1, num_classes, 1, num_pixels, dtype=dtype, spread=1.5, ties=ties, device=kernel_device)
    marks = torch.empty(num_classes, num_pixels, dtype=torch.int8, device=kernel_device)
    per_pixel = torch.empty(4, num_pixels, device=kernel_device)
    assignment_kernel[(1,)](
        teacher,
        marks,
        per_pixel,
        threshold,
        max_positives,
        C=num_classes,
        G=group,
        P=num_pixels,
        CAPPED=max_positives if max_positives <= 3 else 0,
        KEY=key,
    )
    expected = reference_assignment(teacher.double(), threshold, max_positives)
    clear = decided(teacher, threshold)[0, 0]
    assert clear.any()
    assert marks.bool()[:, clear].equal(expected.positives[0, :, 0][:, clear])
    assert per_pixel[3].equal(teacher.amax(1)[0, 0].float())
    k = expected.num_positives[0, 0]
    assert per_pixel[0, clear].equal(k[clear].float())
    torch.testing.assert_close(per_pixel[1, clear].double(), expected.first_negative[0, 0, clear], **SINGLE)
    mean = per_pixel[2].double() / (k + 1)
    torch.testing.assert_close(mean[clear], expected.mean_probability[0, 0, clear], **SINGLE)
