"""Device functions: triton only, one idea a file. Kernels take tensors and their strides as ``operands``.

A block of P pixels holds its logits as a Python tuple of class groups, unrolled at compile time:

* up to 32 classes, a group is one class and has the shape (P,): a thread owns pixels and keeps every class of them in
  registers;
* beyond, a group is a tile of G classes and has the shape (G, P), the last one padded with -inf.

Per-pixel quantities have the shape (P,) or (1, P), so that the same source broadcasts in both cases, and ``fold_*``
reduces the class axis of a tile where there is one.
"""
