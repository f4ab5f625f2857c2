"""Brings every process's records to rank 0, also after the script has destroyed torch's process group."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from time import monotonic, sleep

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scaler.metrics.events import Event, parse_event, to_dict
from scaler.metrics.record import Record
from scaler.training.own_loop.group import LoopGroup
from scaler.training.process_group import free_port_on, own_address

POLL_S = 0.05
LONGEST_WAIT_S = 60.0  # at the end, for the other processes' last records
LOST_WAIT_S = 5.0  # for the error of a process that is gone; torchrun kills the others 30 s later


class Mailbox:
    """A store of rank 0 with the records that the other processes have handed over.

    Args:
        group: of at least two processes; each makes this object at the same time.
    """

    def __init__(self, group: LoopGroup) -> None:
        self._rank, self._world_size = group.rank, group.world_size
        self._sent = 0
        self._taken = [0] * group.world_size
        opened: int | None = None
        place: tuple[str, int] | None = None
        if group.rank == 0:
            host = own_address(group.meeting_host)
            port, opened = free_port_on(host)
            place = (host, port)
        found = group.from_rank_0(place)
        assert found is not None
        self._store = TCPStore(
            *found,
            group.world_size,
            group.rank == 0,
            wait_for_workers=False,
            master_listen_fd=opened,
            timeout=timedelta(seconds=LONGEST_WAIT_S),
        )

    def send(self, records: Sequence[Record], events: Sequence[Event]) -> None:
        """Send records and events to rank 0."""
        self._store.set(_key(self._rank, self._sent), json.dumps([records, [to_dict(event) for event in events]]))
        self._sent += 1

    def end(self, failure: str | None) -> None:
        """Say that this process sends nothing more, and what ended it; None: it came to its end."""
        self._store.set(_end_key(self._rank), failure or "")

    def take(self) -> Iterator[tuple[Sequence[Record], Sequence[Event]]]:
        """Yield what has arrived at rank 0 since the last call."""
        for rank in range(1, self._world_size):
            while self._store.check([_key(rank, self._taken[rank])]):
                key = _key(rank, self._taken[rank])
                rows, events = json.loads(self._store.get(key))
                self._store.delete_key(key)
                self._taken[rank] += 1
                yield [Record(*row) for row in rows], [parse_event(event) for event in events]

    def wait_for_ends(self, *, at_most_s: float = LONGEST_WAIT_S) -> tuple[dict[int, str], list[int]]:
        """Wait at rank 0 until every other process has ended, but for ``at_most_s`` seconds.

        Returns:
            What ended each process that failed, by rank; and the ranks that have not ended.
        """
        until = monotonic() + at_most_s
        missing = list(range(1, self._world_size))
        failures = {}
        while True:
            for rank in [rank for rank in missing if self._store.check([_end_key(rank)])]:
                missing.remove(rank)
                if failure := self._store.get(_end_key(rank)).decode():
                    failures[rank] = failure
            if not missing or failures or monotonic() > until:
                return failures, missing
            sleep(POLL_S)


def _key(rank: int, number: int) -> str:
    return f"records-{rank}-{number}"


def _end_key(rank: int) -> str:
    return f"end-{rank}"
