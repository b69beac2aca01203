"""Length of the published runs: steps from epochs, partition and batch.

An epoch is one pass over the larger of the labelled and the unlabelled set. The counts below are the ones in the public
code; the lists round the other way, which changes an epoch by one image at most.
"""

__all__ = ["LABELLED_PARTS", "NUM_IMAGES", "num_labelled", "num_steps"]

NUM_IMAGES = {"voc": 10_582, "city": 2_975}
"""Training images of the public data sets."""
LABELLED_PARTS = ("1/32", "1/16", "1/8", "1/4", "1/2")
"""Parts of these images whose labels are used."""

# Epochs as CPS documents them. They keep the number of steps of full supervision; the parts that are not documented
# (City 1/32, VOC 1/32) follow from that. (FPL ships 140 for City 1/32 and 40 for VOC 1/8.)
_CPS_EPOCHS = {
    "voc": {"1/32": 31, "1/16": 32, "1/8": 34, "1/4": 40, "1/2": 60},
    "city": {"1/32": 124, "1/16": 128, "1/8": 137, "1/4": 160, "1/2": 240},
}
_CPS_BATCH = 8

# Epochs of the only configurations that AEL ships; for other parts its authors say to change the labelled images alone.
# U2PL has as many.
_AEL_EPOCHS = {"voc": 80, "city": 200}
_LOADERS = {
    ("ael", "voc"): (8, 2),  # processes, and unlabelled images that each of them loads for a step (AEL keeps one)
    ("ael", "city"): (8, 2),
    ("u2pl", "voc"): (4, 4),
    ("u2pl", "city"): (8, 2),
}

# Epochs of CAC, for every part, and their steps, which its code sets whatever the data.
_CAC_EPOCHS, _CAC_STEPS = 80, 1157

# As in the configurations of UniMatch, for every part; its FixMatch and CorrMatch share them.
_UNIMATCH_EPOCHS = {"voc": 80, "city": 240}
_UNIMATCH_PROCESSES, _UNIMATCH_BATCH = 4, 2

# As in the configurations of UniMatch V2, for every part; images that each of four processes loads for a step.
_UNIMATCH_V2_EPOCHS = {"voc": 60, "city": 180}
_UNIMATCH_V2_BATCH = {"voc": 4, "city": 2}


def num_labelled(data: str, partition: str) -> int:
    """Count the labelled images of a public data set, rounded up as in the public lists.

    Example:
        >>> num_labelled("voc", "1/16")
        662
    """
    return -(-NUM_IMAGES[data] // _denominator(partition))


def num_steps(data: str, setting: str, partition: str) -> int:
    """Compute the number of steps of a published run.

    Args:
        data: "voc" or "city".
        setting: "cps": floor(max(labelled, unlabelled) / 8) steps an epoch, with labelled images rounded down. "ael":
            floor(ceil(unlabelled / 8) / 2), a loader of two images on each of eight processes. "u2pl": the same, but
            four images on each of four processes on "voc". "unimatch", "corrmatch": floor(ceil(unlabelled / 4) / 2),
            on each of four; "unimatch_v2": the same, but four images on "voc". "cac": as many whatever the data.
        partition: "1/32" ... "1/2".

    Example:
        >>> num_steps("voc", "cps", "1/8"), num_steps("city", "ael", "1/2")
        (39338, 18600)
    """
    unlabelled = NUM_IMAGES[data] - num_labelled(data, partition)
    if (setting, data) in _LOADERS:
        processes, images = _LOADERS[setting, data]
        return _AEL_EPOCHS[data] * (-(-unlabelled // processes) // images)
    if setting == "cac":
        return _CAC_EPOCHS * _CAC_STEPS
    each = -(-unlabelled // _UNIMATCH_PROCESSES)
    if setting in ("unimatch", "corrmatch"):
        return _UNIMATCH_EPOCHS[data] * (each // _UNIMATCH_BATCH)
    if setting == "unimatch_v2":
        return _UNIMATCH_V2_EPOCHS[data] * (each // _UNIMATCH_V2_BATCH[data])
    labelled = NUM_IMAGES[data] // _denominator(partition)
    return _CPS_EPOCHS[data][partition] * (max(labelled, NUM_IMAGES[data] - labelled) // _CPS_BATCH)


def _denominator(partition: str) -> int:
    return int(partition.removeprefix("1/"))
