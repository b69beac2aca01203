"""Advice on errors that mean that memory ran out."""

import errno
import re

__all__ = ["explain_out_of_memory"]

_WORDS = (
    "out of memory",  # CUDA, HIP
    "can't allocate memory",  # torch's allocator on a CPU
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "std::bad_alloc",
    "could not create a primitive",  # oneDNN
    "could not execute a primitive",
    "can't start new thread",  # whose stack finds no room
)


def explain_out_of_memory(error: BaseException) -> str | None:
    """Give advice, in one line, on an out-of-memory error; None for any other error."""
    text = str(error)
    if not (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(word in text for word in _WORDS))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    ):
        return None
    wanted = re.search(r"allocate ([\d.]+ ?(?:bytes|[KMG]iB))", text)
    size = f" ({wanted.group(1)} more were wanted)" if wanted else ""
    return (
        f"memory is used up{size}: lower --train.batch_labelled and --train.batch_unlabelled or --augment.crop, raise "
        "--train.accumulate, take --train.precision bf16-mixed, evaluate windows (--eval.protocol cps), or lower "
        "--train.workers"
    )
