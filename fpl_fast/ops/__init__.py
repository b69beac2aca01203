"""The losses as eager code calls them, and the torch.library operators of a compiler (ADR 11).

Both compute a loss and, in the same pass, its gradient (``sums``). The backward only scales that gradient, and
leaves it untouched where the factor is 1 (the decision is taken on the device). ``map`` operators give the loss of each
pixel. Operators are functional and opaque to the compiler; the fakes keep the strides of the student.

Tensors are positional arguments, as autograd wants them; everything else goes by keyword.
"""
