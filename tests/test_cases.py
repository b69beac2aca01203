import torch

from fpl_fast.bench.cases import IGNORE_INDEX, Case, make_inputs
from fpl_fast.bench.correctness import truth

CPU = torch.device("cpu")


def test_inputs_follow_the_case() -> None:
    case = Case(shape=(3, 5, 9, 7), dtype=torch.bfloat16, layout="nhwc")
    inputs = make_inputs(case, CPU)
    for logits in (inputs.student, inputs.teacher):
        assert logits.shape == case.shape and logits.dtype == case.dtype
        assert logits.is_contiguous(memory_format=torch.channels_last)
    assert inputs.student.requires_grad and inputs.student.is_leaf and not inputs.teacher.requires_grad
    assert inputs.label is None
    # Two images differ, further ones repeat them.
    assert torch.equal(inputs.teacher[2], inputs.teacher[0]) and not torch.equal(inputs.teacher[1], inputs.teacher[0])


def test_a_rerun_sees_the_same_logits() -> None:
    case, other = Case(shape=(1, 5, 9, 7)), Case(shape=(1, 5, 9, 8))
    first = make_inputs(case, CPU).student
    make_inputs(other, CPU)
    assert make_inputs(case, CPU).student is not first and torch.equal(make_inputs(case, CPU).student, first)


def test_teachers_differ_in_k() -> None:
    means = {
        teacher: truth(Case(shape=(1, 19, 32, 32), max_positives=None, teacher=teacher), CPU).mean_positives
        for teacher in ("uncertain", "confident")
    }
    assert means["uncertain"] > 1.5 > 1.2 > means["confident"]


def test_labels_are_the_teachers_classes() -> None:
    case = Case(shape=(2, 5, 32, 8), labels=True)
    inputs = make_inputs(case, CPU)
    valid = inputs.label != IGNORE_INDEX
    assert inputs.label.dtype == torch.int64 and inputs.label.shape == (2, 32, 8)
    assert valid[:, :30].all() and not valid[:, 30:].any()
    assert torch.equal(inputs.label[valid], inputs.teacher.argmax(1)[valid])


def test_upsampled_labels_have_the_size_of_the_loss() -> None:
    case = Case(shape=(1, 5, 8, 8), size=(31, 29), labels=True)
    inputs = make_inputs(case, CPU)
    assert inputs.student.shape == (1, 5, 8, 8) and inputs.label.shape == (1, 31, 29)
    assert case.num_pixels == 31 * 29 and case.num_logits == 320


def test_names_say_what_differs() -> None:
    assert str(Case()) == "2x19x512x512-float32-nchw-k3-uncertain"
    assert str(Case(max_positives=None, layout="nhwc")) == "2x19x512x512-float32-nhwc-uncapped-uncertain"
    assert str(Case(shape=(2, 19, 128, 128), size=(512, 512))) == "2x19x128x128-to-512x512-float32-nchw-k3-uncertain"
    assert str(Case(labels=True)) == "2x19x512x512-float32-nchw-labels"
