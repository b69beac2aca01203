"""Memory that nothing has written, filled with what must not show in a result."""

import torch

# Functions that allocate without writing, by their owners.
ALLOCATE = ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"))


def poisoned(allocate):
    """An allocating function whose tensors hold NaN, integers an unlikely number."""

    def allocate_and_fill(*args, **kwargs):
        x = allocate(*args, **kwargs)
        if x.is_floating_point():
            x.detach().fill_(float("nan"))
        return x

    return allocate_and_fill
