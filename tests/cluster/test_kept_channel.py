"""Calls between a process that trains and its host."""

import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from scaler.cluster.kept import channel
from scaler.cluster.kept.channel import Caller, answer
from scaler.errors import ClusterError


@pytest.fixture
def ends() -> Iterator[tuple["Connection[Any, Any]", "Connection[Any, Any]"]]:
    ours, theirs = socket.socketpair()
    pair = Connection(ours.detach()), Connection(theirs.detach())
    yield pair
    for end in pair:
        end.close()


def test_a_call_returns_what_the_function_returns_and_raises_what_it_raises(
    ends: tuple["Connection[Any, Any]", "Connection[Any, Any]"],
) -> None:
    def fail() -> None:
        raise ClusterError("no.", "Try again.")

    host = threading.Thread(
        target=answer,
        args=(ends[0], {"add": lambda one, *, other: one + other, "fail": fail}),
        kwargs={"silent_s": None},
    )
    host.start()
    call = Caller(ends[1])
    assert call("add", 1, other=2) == 3
    with pytest.raises(ClusterError, match=r"no\."):
        call("fail")
    ends[1].close()
    host.join(10)
    assert not host.is_alive(), "it ends with the process"


def test_a_process_that_asks_nothing_for_too_long_is_frozen_and_a_new_one_has_time_to_start(
    ends: tuple["Connection[Any, Any]", "Connection[Any, Any]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    host = threading.Thread(
        target=lambda: found.append(answer(ends[0], {"begin": lambda: 1}, silent_s=0.2)), daemon=True
    )
    host.start()
    host.join(0.6)
    assert host.is_alive(), "it has not begun, and imports torch"
    assert Caller(ends[1])("begin") == 1
    host.join(10)
    assert found == [False]

    monkeypatch.setattr(channel, "START_S", 0.0)
    assert not answer(ends[0], {}, silent_s=0.05)
