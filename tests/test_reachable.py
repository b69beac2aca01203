"""A short look for the hub of the weights, which leaves no setting behind."""

import threading

import pytest
from huggingface_hub import constants

from fpl_fast.trainer.own_data import reachable
from fpl_fast.trainer.own_data.reachable import cached_unless_reachable


class Session:
    """The hub's HTTP library at a HEAD request."""

    def __init__(self, head):
        self.head = head
        self.status_code = 200


def refused(url, timeout):
    raise OSError("no route to host")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("reached", [False, True])
def test_the_hub_is_offline_where_it_does_not_answer(monkeypatch, before, reached):
    answered = Session(None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
    monkeypatch.setattr(
        "huggingface_hub.get_session", lambda: Session((lambda url, timeout: answered) if reached else refused)
    )
    with pytest.raises(KeyError), cached_unless_reachable():
        assert (before or not reached) == constants.HF_HUB_OFFLINE
        raise KeyError
    assert constants.HF_HUB_OFFLINE is before


def test_a_request_that_hangs_is_left(monkeypatch):
    """As the look-up of a name does where a resolver is silent."""
    end = threading.Event()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reachable, "_SECONDS", 0.05)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: Session(lambda url, timeout: end.wait()))
    try:
        with cached_unless_reachable():
            assert constants.HF_HUB_OFFLINE
    finally:
        end.set()
