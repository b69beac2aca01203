import pytest
import torch
import triton
import triton.language as tl

from fpl_fast.kernels.device.keys import MAX_CLASSES, MAX_TAGGED, key_logit, lowest_key, make_key

KEY_TYPES = {"tagged": torch.float32, "int32": torch.int32, "int64": torch.int64}


@triton.jit
def keys_kernel(logits_ptr, classes_ptr, keys_ptr, back_ptr, lowest_ptr, SIZE: tl.constexpr, KEY: tl.constexpr):
    i = tl.arange(0, SIZE)
    key = make_key(tl.load(logits_ptr + i), tl.load(classes_ptr + i), KEY)
    tl.store(keys_ptr + i, key)
    tl.store(back_ptr + i, key_logit(key, KEY))
    tl.store(lowest_ptr + i, lowest_key(key))


def run(logits, classes, key):
    keys = torch.empty(logits.numel(), dtype=KEY_TYPES[key], device=logits.device)
    lowest = torch.empty_like(keys)
    back = torch.empty(logits.numel(), device=logits.device)
    keys_kernel[(1,)](logits, classes, keys, back, lowest, SIZE=logits.numel(), KEY=key)
    return keys, back, lowest


KINDS = [
    (torch.float16, "tagged"),
    (torch.bfloat16, "tagged"),
    (torch.float16, "int32"),
    (torch.bfloat16, "int32"),
    (torch.float32, "int64"),
]


@pytest.mark.parametrize(("dtype", "key"), KINDS)
def test_keys_order_by_logit_then_by_lower_class(kernel_device, dtype, key):
    info = torch.finfo(dtype)
    least = info.tiny * info.eps  # the smallest subnormal
    ends = torch.tensor(
        [info.max, info.tiny, info.tiny - least, least, 2 * least, 1.0, 1.0 + info.eps, 2 - info.eps, 0]
    )
    ends = torch.cat([ends, -ends]).to(dtype)
    random = torch.cat([torch.randn(64) * 10, torch.randint(-2, 3, (64,))]).to(dtype)
    logits = torch.cat([ends.repeat(8)[:128], random]).to(kernel_device)
    num_classes = MAX_TAGGED.value if key == "tagged" else MAX_CLASSES.value
    classes = torch.randint(0, num_classes, (256,), dtype=torch.int32, device=kernel_device)
    keys, back, lowest = run(logits.float(), classes, key)  # the interpreter widens no subnormal bfloat16
    assert back.equal(logits.float())
    assert (lowest < keys).all()
    x = logits.double()
    above = (x[:, None] > x) | ((x[:, None] == x) & (classes[:, None] < classes))
    assert (keys[:, None] > keys).equal(above)
