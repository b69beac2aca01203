"""Looking for weights without a long wait where there is no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import huggingface_hub
from huggingface_hub import constants

__all__ = ["cached_unless_reachable"]

_SECONDS = 4


@contextmanager
def cached_unless_reachable() -> Iterator[None]:
    """Set the Hugging Face Hub to offline where it does not answer within seconds; at the end, as it was.

    Its own downloads try six times and wait up to a minute each time, as is right for a network that fails for a
    moment. Offline, it takes what is in its cache.
    """
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers() -> bool:
    """Whether the hub answers at all; a thread asks, as no time-out of a request holds for the look-up of a name."""
    answers: list[int] = []

    def ask() -> None:
        try:
            answers.append(huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS).status_code)
        except Exception:  # the libraries of HTTP, TLS and sockets all raise errors of their own
            return

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return bool(answers)
