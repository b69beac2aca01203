import pytest
from torch.utils.data import DataLoader

from fpl_fast.trainer.data.one_line import in_one_line


class Bad:
    """A data set whose third item is bad."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise ValueError("c.png: the image must be readable, got nonsense")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_the_message_alone(workers):
    items = in_one_line(DataLoader(Bad(), batch_size=None, num_workers=workers))
    assert [int(next(items)) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=r"^c\.png: the image must be readable, got nonsense$"):
        next(items)


def test_other_errors_pass():
    def broken():
        yield 1
        raise KeyError("a")

    with pytest.raises(KeyError):
        list(in_one_line(broken()))
