import torch
import triton
import triton.language as tl

from fpl_fast.kernels.device.keys import MAX_CLASSES, key_logit, lowest_key, make_key


@triton.jit
def keys_kernel(logits_ptr, classes_ptr, keys_ptr, back_ptr, lowest_ptr, SIZE: tl.constexpr, KEY: tl.constexpr):
    i = tl.arange(0, SIZE)
    key = make_key(tl.load(logits_ptr + i).to(tl.float32), tl.load(classes_ptr + i), KEY)
    tl.store(keys_ptr + i, key)
    tl.store(back_ptr + i, key_logit(key))
    tl.store(lowest_ptr + i, lowest_key(key))


def run(logits, classes, device):
    wide = logits.dtype == torch.float32
    keys = torch.empty(logits.numel(), dtype=torch.int64 if wide else torch.int32, device=device)
    lowest = torch.empty_like(keys)
    back = torch.empty(logits.numel(), device=device)
    keys_kernel[(1,)](logits, classes, keys, back, lowest, SIZE=logits.numel(), KEY="int64" if wide else "int32")
    return keys, back, lowest


def test_keys_order_by_logit_then_by_lower_class(kernel_device):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        info = torch.finfo(dtype)
        special = torch.tensor([0.0, -0.0, info.max, info.min, info.tiny, -info.tiny, 1.0, 1.0 + info.eps])
        logits = torch.cat([special, torch.randn(64) * 10, torch.randint(-2, 3, (56,))]).to(dtype).to(kernel_device)
        classes = torch.randint(0, MAX_CLASSES.value, (128,), dtype=torch.int32, device=kernel_device)
        keys, back, lowest = run(logits, classes, kernel_device)
        assert back.equal(logits.float())
        assert (lowest < keys).all()
        x = logits.double()
        above = (x[:, None] > x) | ((x[:, None] == x) & (classes[:, None] < classes))
        assert (keys[:, None] > keys).equal(above)
