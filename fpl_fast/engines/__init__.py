"""Engines of the losses. :mod:`fpl_fast.engines.choice` picks one of those that can run.

| engine     | runs on                          | is                                              |
|------------|----------------------------------|-------------------------------------------------|
| "triton"   | CUDA and ROCm, fp16, bf16, fp32  | one hand-written kernel, forward and gradient   |
| "compiled" | CPU, fp16, bf16, fp32, C <= 32   | class planes fused by Inductor into one loop    |
| "eager"    | every device and floating dtype  | the reference equations in chunks               |

"triton" lies in :mod:`fpl_fast.kernels`, "compiled" in ``planes``, "eager" in ``eager`` and, for losses with labels, in
``eager_labels``, for the consistency loss ``eager_consistency`` and for predictions ``eager_pseudo_labels``. The choice
among thresholds by context has all three: ``context_planes`` is "compiled" and ``eager_context`` "eager".
"""
