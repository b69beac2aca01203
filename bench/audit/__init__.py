"""Offline audit of the kernels, from their compiled code."""
