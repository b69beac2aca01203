"""Cross entropies of other libraries with one class a pixel: labels, or a teacher's most probable class."""

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fpl_fast.bench.cases import IGNORE_INDEX, Case, Inputs
from fpl_fast.bench.peers.peer import LossOfStudent, Peer, upsampled

__all__ = ["LABEL_PEERS", "apex_cross_entropy", "liger_cross_entropy"]

_CrossEntropy = Callable[[Tensor, Tensor], Tensor]


def liger_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Call Liger-Kernel's cross entropy, which takes rows of classes and overwrites them with the gradient.

    Rows are always a copy of NCHW logits. Of channels_last logits they are a view and have to be copied, because the
    logits are read again as the other network's teacher.
    """
    from liger_kernel.transformers.cross_entropy import LigerCrossEntropyLoss

    rows = _rows(logits)
    rows = rows.clone() if rows.data_ptr() == logits.data_ptr() else rows
    return LigerCrossEntropyLoss(ignore_index=IGNORE_INDEX)(rows, label.flatten())


def apex_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Call NVIDIA apex's cross entropy, which takes rows of classes and reads the label's class even where ignored."""
    from apex.contrib.xentropy import SoftmaxCrossEntropyLoss

    label = label.flatten()
    valid = label != IGNORE_INDEX
    losses = SoftmaxCrossEntropyLoss.apply(
        _rows(logits),
        label.where(valid, 0),
        0.0,  # smoothing
        -1,  # no class is padding
        logits.dtype == torch.float16,  # losses in float32
    )
    return (losses.float() * valid).sum() / valid.sum()


def _rows(logits: Tensor) -> Tensor:
    return logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])


def _torch_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return cross_entropy(logits, label, ignore_index=IGNORE_INDEX)


@functools.cache
def _compiled_cross_entropy() -> _CrossEntropy:
    return torch.compile(_torch_cross_entropy, dynamic=False)


def _labels_at_hand(function: Callable[[], _CrossEntropy]) -> Callable[[Case, Inputs], LossOfStudent]:
    def bind(case: Case, inputs: Inputs) -> LossOfStudent:
        label = upsampled(case, inputs.teacher).argmax(dim=1) if inputs.label is None else inputs.label
        return lambda student: function()(upsampled(case, student), label)

    return bind


def _argmax_cross_entropy(case: Case, inputs: Inputs) -> LossOfStudent:
    return lambda student: cross_entropy(upsampled(case, student), upsampled(case, inputs.teacher).argmax(dim=1))


def _library(package: str, about: str, function: _CrossEntropy) -> Peer:
    """Make a peer of a library that is measured on a GPU if it is installed."""

    def refusal(case: Case, device: torch.device) -> str | None:
        if device.type == "cpu":
            return "it runs on GPUs only"
        return None if importlib.util.find_spec(package) else f"{package} is not installed"

    return Peer(
        name=package.partition("_")[0],
        about=about,
        bind=_labels_at_hand(lambda: function),
        supports=lambda case: case.labels and case.size is None,
        refusal=refusal,
    )


LABEL_PEERS = (
    Peer(
        name="cross_entropy",
        about="torch cross entropy, labels at hand (K = 1)",
        bind=_labels_at_hand(lambda: _torch_cross_entropy),
        supports=lambda case: case.num_logits < 2**31,
        plain_labels=True,
    ),
    Peer(
        name="argmax_cross_entropy",
        about="torch argmax and cross entropy (K = 1)",
        bind=_argmax_cross_entropy,
        supports=lambda case: not case.labels and case.num_logits < 2**31,
        plain_labels=True,
    ),
    Peer(
        name="compiled_cross_entropy",
        about="torch.compile of torch cross entropy, labels at hand",
        bind=_labels_at_hand(_compiled_cross_entropy),
        supports=lambda case: case.labels,
        compiles_each_case=True,
    ),
    _library("liger_kernel", "Liger-Kernel cross entropy, labels at hand", liger_cross_entropy),
    _library("apex", "NVIDIA apex cross entropy, labels at hand", apex_cross_entropy),
)
