"""Time of the loss of one direction from the logits of a network, a quarter or less of the size of the image."""


def test_upsampling(time_cell, case, op, provider) -> None:
    time_cell(case, op, provider)
