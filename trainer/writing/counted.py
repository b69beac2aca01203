"""Numbers of things, as messages say them."""

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """Join a number and a noun whose plural ends in s.

    Example:
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
