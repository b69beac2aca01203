"""Engines of the losses. :mod:`fpl_fast.engines.choice` picks one of those that can run.

| engine     | runs on                          | is                                              |
|------------|----------------------------------|-------------------------------------------------|
| "triton"   | CUDA and ROCm, fp16, bf16, fp32  | one hand-written kernel, forward and gradient   |
| "compiled" | CPU, fp16, bf16, fp32, C <= 32   | class planes fused by Inductor into one loop    |
| "eager"    | every device and floating dtype  | the reference equations in chunks               |

"triton" lies in :mod:`fpl_fast.kernels`. The fuzzy positive loss, the consistency loss and the choice among thresholds
by context have all three: "compiled" in ``planes``, ``distance_planes`` and ``context_planes``, "eager" in ``eager``,
``eager_consistency`` and ``eager_context``. Losses with labels and predictions have no "compiled", and their "eager" in
``eager_labels`` and ``eager_pseudo_labels``.
"""
