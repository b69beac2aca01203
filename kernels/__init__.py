"""Triton kernels and their launchers; nothing here knows autograd or training."""
