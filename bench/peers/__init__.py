"""The peers that are compared, each a function of the same logits."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import fpl_fast
from fpl_fast import reference
from fpl_fast.bench.cases import IGNORE_INDEX, THRESHOLD, Case, Inputs
from fpl_fast.bench.peers.labels import LABEL_PEERS
from fpl_fast.bench.peers.peer import LossOfStudent, Peer, upsampled
from fpl_fast.bench.peers.planes import PLANES
from fpl_fast.bench.peers.public_algorithm import public_algorithm
from fpl_fast.engines import choice
from fpl_fast.functional import Engine
from fpl_fast.kernels.arguments import LossOptions
from fpl_fast.label_losses import LabelEngine

__all__ = ["OWN", "PEERS"]

# Our engines, to compare with everything else, the fastest first.
OWN = ("triton", "compiled")


def _engine_peer(engine: Engine) -> Peer:
    def bind(case: Case, inputs: Inputs) -> LossOfStudent:
        label, size, cap = inputs.label, case.size, case.max_positives
        if label is not None:
            assert engine != "compiled"  # ``supports`` says so
            of_labels: LabelEngine = engine
            return lambda student: fpl_fast.cross_entropy(
                student, label, ignore_index=IGNORE_INDEX, size=size, engine=of_labels
            )

        def loss(student: Tensor) -> Tensor:
            if cap == 1:
                result = fpl_fast.pseudo_label_cross_entropy(student, inputs.teacher, size=size, engine=engine)
            else:
                result = fpl_fast.fuzzy_positive_loss(
                    student, inputs.teacher, threshold=THRESHOLD, max_positives=cap, size=size, engine=engine
                )
            assert isinstance(result, Tensor)  # no statistics were asked for
            return result

        return loss

    def refusal(case: Case, device: torch.device) -> str | None:
        pixel = torch.empty(1, case.num_classes, 1, 1, dtype=case.dtype, device=device)
        try:
            if case.labels:
                choice.resolve_labels(engine, pixel)
            else:
                choice.resolve(engine, pixel, pixel)
        except ValueError as error:
            return str(error)
        return None

    return Peer(
        name=engine,
        about=f'fpl_fast, engine="{engine}"',
        bind=bind,
        supports=lambda case: engine != "compiled" or not case.labels,
        refusal=refusal,
    )


def _reference_loss(student: Tensor, teacher: Tensor, max_positives: int, size: tuple[int, int] | None) -> Tensor:
    if size is not None:
        student, teacher = (
            interpolate(x.float(), size=size, mode="bilinear", align_corners=True) for x in (student, teacher)
        )
    options = LossOptions(THRESHOLD, max_positives, weighting="none", convex_scale=1.0, form="smooth")
    terms = reference.pixel_terms(student, teacher, options)
    return terms.loss.mean()


@functools.cache
def _compiled_reference(mode: str) -> Callable[..., Tensor]:
    # One compiled function a mode: cases of one shape share the compilation.
    return torch.compile(_reference_loss, dynamic=False, mode=mode)


def _reference_peer(name: str, about: str, mode: str | None = None, *, gpu_only: bool = False) -> Peer:
    def bind(case: Case, inputs: Inputs) -> LossOfStudent:
        function = _reference_loss if mode is None else _compiled_reference(mode)
        cap = case.num_classes - 1 if case.max_positives is None else case.max_positives
        return lambda student: function(student, inputs.teacher, cap, case.size)

    return Peer(
        name=name,
        about=about,
        bind=bind,
        supports=lambda case: not case.labels and case.max_positives != 1,  # K = 1 has peers of its own
        refusal=lambda case, device: "it is tuned on GPUs only" if gpu_only and device.type == "cpu" else None,
        compiles_each_case=mode is not None,
    )


PEERS: tuple[Peer, ...] = (
    Peer(
        name="public",
        about="the published algorithm: top-k, one-hot masks, float32",
        bind=lambda case, inputs: (
            lambda student: public_algorithm(upsampled(case, student), upsampled(case, inputs.teacher))
        ),
        supports=lambda case: not case.labels and case.max_positives == 3 and case.num_classes >= 4,
        ordered_ties=False,
    ),
    _reference_peer("reference", "the equations in eager PyTorch, differentiated by autograd"),
    _reference_peer("torch_compile", "torch.compile of the equations", "default"),
    _reference_peer(
        "torch_compile_autotuned", "the same with max-autotune", "max-autotune-no-cudagraphs", gpu_only=True
    ),
    PLANES,
    _engine_peer("eager"),
    _engine_peer("compiled"),
    _engine_peer("triton"),
    *LABEL_PEERS,
)
