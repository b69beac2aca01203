"""Peers of the consistency loss: the engines, and PyTorch's own operations on upsampled logits."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

import fpl_fast
from fpl_fast.bench.cases import Case, Inputs
from fpl_fast.bench.peers.peer import LossOfStudent, Peer, upsampled
from fpl_fast.functional import Engine
from fpl_fast.kernels.arguments import Distance

__all__ = ["PLAIN", "distance_peers"]

PLAIN = "pytorch"
_ENGINES: tuple[Engine, ...] = ("compiled", "eager")


def distance_peers(kind: Distance) -> tuple[Peer, ...]:
    """The peers for a kind of distance between the softmaxes of a case's student and teacher."""
    about = {"mse": "softmax and mse_loss", "kl": "log_softmax, softmax and kl_div"}
    return (
        *(_engine_peer(engine, kind) for engine in _ENGINES),
        Peer(name=PLAIN, about=f"interpolate, {about[kind]}, in eager PyTorch", bind=_plain(kind)),
    )


def _engine_peer(engine: Engine, kind: Distance) -> Peer:
    def bind(case: Case, inputs: Inputs) -> LossOfStudent:
        return lambda student: fpl_fast.consistency_loss(
            student, inputs.teacher, kind=kind, size=case.size, engine=engine
        )

    return Peer(name=engine, about=f'fpl_fast, engine="{engine}"', bind=bind)


def _plain(kind: Distance) -> Callable[[Case, Inputs], LossOfStudent]:
    def bind(case: Case, inputs: Inputs) -> LossOfStudent:
        def loss(student: Tensor) -> Tensor:
            z, t = upsampled(case, student), upsampled(case, inputs.teacher)
            if kind == "mse":
                return z.shape[1] * F.mse_loss(z.softmax(1), t.softmax(1))
            return F.kl_div(z.log_softmax(1), t.softmax(1), reduction="sum") / case.num_pixels

        return loss

    return bind
