"""Peak rates of known cards, to compare achieved arithmetic with."""

__all__ = ["matrix_tflops"]

# Dense matrix rates of the data sheets, 1e12 operations a second: 16 bit, and TF32 or its counterpart for float32.
# The longest of these names that the device's name contains is used.
_TFLOPS = {
    "V100": (125.0, 15.7),
    "A100": (312.0, 156.0),
    "A40": (149.7, 74.8),
    "L40S": (362.0, 183.0),
    "H100": (989.4, 494.7),
    "H100 PCIe": (756.0, 378.0),
    "H100 NVL": (835.0, 417.5),
    "H200": (989.4, 494.7),
    "B200": (2250.0, 1125.0),
    "RTX 3090": (71.0, 35.6),
    "RTX 4090": (165.2, 82.6),
    "MI250X": (383.0, 95.7),
    "MI300X": (1307.4, 653.7),
}


def matrix_tflops(device: str, *, half: bool) -> float | None:
    """Look up the dense matrix rate of a card.

    Args:
        device: Name of the card, from ``torch.cuda.get_device_name``.
        half: Whether to return the rate in 16 bits; otherwise the rate of float32 convolutions.

    Returns:
        1e12 operations a second; None for an unknown card.

    Example:
        >>> matrix_tflops("NVIDIA H100 80GB HBM3", half=True)
        989.4
    """
    known = [name for name in _TFLOPS if name in device]
    return _TFLOPS[max(known, key=len)][0 if half else 1] if known else None
