"""Check of the settings that may change when a run continues."""

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import config_to_dict, flatten
from fpl_fast.trainer.models.normalization import with_normalization

__all__ = ["require_same_run"]

# Place and reading of the data, initial weights, hardware, implementation and logging: the numbers of a run change by
# rounding at most, or as docs/a100.md says of processes and micro-batches. The images are compared by their lists.
_MAY_CHANGE = {
    "recipe", "data.root", "data.packed", "data.check", "data.skip_damaged", "model.pretrained", "model.weights_file",
    "method.engine",
    "optim.implementation", "train.accelerator", "train.devices", "train.accumulate", "train.channels_last",
    "train.compile", "train.deterministic", "train.workers", "train.threads", "train.log_every", "train.loggers",
    "train.checkpoint_every", "eval.samples",
}  # fmt: skip
_OF_THE_NETWORK = ("data.", "model.", "method.", "eval.")


def require_same_run(recorded: RunConfig, given: RunConfig, *, source: str, only_network: bool = False) -> None:
    """Check that a run continues with the settings that it began with.

    Args:
        recorded: The configuration that the run has been trained with.
        given: The configuration that it is to continue with.
        source: Name of ``given`` in messages.
        only_network: Whether to compare only the settings of the trained network, and not the settings of training.

    Raises:
        ValueError: A setting differs that may not; all of them are listed.
    """
    theirs, ours = (flatten(config_to_dict(with_normalization(config))) for config in (recorded, given))
    different = [
        f"{key} {ours.get(key)!r} instead of {theirs.get(key)!r}"
        for key in sorted(theirs.keys() & ours.keys())  # with another method or kind of data, their names tell
        if theirs.get(key) != ours.get(key)
        and key not in _MAY_CHANGE
        and (key.startswith(_OF_THE_NETWORK) or not only_network)
    ]
    if different:
        raise ValueError(
            f"{source}: must hold the settings that the run was trained with, got {', '.join(different)}: "
            "put them back, or begin another run with another --out"
        )
