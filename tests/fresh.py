"""Fresh random numbers that a printed seed brings back."""

import numpy as np
import torch


def rng():
    """A NumPy generator seeded from torch's, which ``conftest.py`` seeds anew for every test."""
    return np.random.default_rng(int(torch.randint(2**31, ())))
