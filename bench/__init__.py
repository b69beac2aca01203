"""Benchmarks: peers, byte counts, the offline audit of the kernels."""
