import pytest
import torch
from cli_cases import error_of

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.out_of_memory import explain_out_of_memory

MEMORY = "memory is used up{}: lower --train.batch_labelled"


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (MemoryError(), ""),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has"),
            " (2.25 GiB more were wanted)",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), ""),
        (OSError(12, "Cannot allocate memory"), ""),
        (RuntimeError("could not create a primitive"), ""),
        (RuntimeError("can't start new thread"), ""),
    ],
)
def test_no_memory_is_one_line(monkeypatch, capsys, error, size):
    def fail(_):
        raise error

    monkeypatch.setattr("fpl_fast.trainer.commands.recipes.main", fail)
    assert MEMORY.format(size) in error_of(capsys, "recipes")


def test_torchs_own_word_for_no_memory_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.zeros(1 << 50, dtype=torch.uint8)
    assert MEMORY.format(f" ({1 << 50} bytes more were wanted)") in explain_out_of_memory(error.value)


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("fpl_fast.trainer.commands.recipes.main", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["recipes"])
