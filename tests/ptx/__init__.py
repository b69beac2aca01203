"""The compiled kernels on a CPU: an emulator of PTX under the project's own launchers, with the checks of a sanitizer.

``tests/emulate.py`` is the command. :mod:`ptx.device` is a driver of Triton: a launch specialises its arguments and is
compiled as on a GPU of that architecture, up to the PTX that would be assembled. :mod:`ptx.machine` executes that text
with NumPy, one lane a thread; results are compared with float64 in the tolerances of ``tests/tolerances.py``.

What is checked at every access to global memory: that it lies in an element of an argument, not merely in its memory,
aligned to its width; that no input is written, no value overwritten by another one, nothing read that another thread
of the launch writes; that outputs which a launch fills are filled. In shared memory: bounds, alignment, races between
warps with no barrier in between, reads within a warp of what another of its threads has just written. Memory and
registers that nothing has written hold NaN. A barrier that a part of a block misses, or a warp's instruction without
all of its threads, is a fault.

Every case runs three times. The warps of a block run one by one, in an order that is drawn anew after each barrier;
then all in step, with every approximate instruction off by a random error within its documented bound; then two at a
time, which has to give the bits of the first run.

What it does not show: what ptxas makes of the PTX, the order of accesses between barriers beyond that of warps, time.
"""
