"""Can one collector process the records of a thousand workers, and what happens when it cannot?

A few processes have the real mailboxes of all workers, and hand over one second of steps each second. In a training the
workers agree by an all-reduce on how many steps a record covers; here this script decides it. The collector is the real
Ray actor and writes a run's folder. The second case is more than it can process: records are thinned until it keeps up,
and no worker waits for it.

    python benchmarks/collector_scale.py [--seconds 60] [--only "10 steps"]
"""

import argparse
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from random import random
from statistics import median
from time import monotonic, sleep, time
from typing import Any

from table import table

from scaler.cluster.embedded import embedded_cluster
from scaler.metrics.events import AttemptStarted, Event
from scaler.metrics.record import Record
from scaler.runs import RunFolder

WORKERS, PROCESSES, SAMPLES = 1000, 4, 16
TICKS_PER_S, PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Case:
    """The number of workers and their steps per second."""

    name: str
    steps_per_s: int


CASES = (
    Case(name="1,000 workers x 10 steps/s", steps_per_s=10),
    Case(name="1,000 workers x 60 steps/s", steps_per_s=60),
)


class Workers:
    """An actor with the mailboxes of some workers."""

    def __init__(self, collector: Any, first: int, count: int) -> None:
        from scaler.cluster.mailbox import Mailbox, deliver_to

        self._mailboxes = [Mailbox(deliver_to(collector), rank=rank) for rank in range(first, first + count)]
        self._first, self._step = first, 0

    def hand_over(self, steps: int, per_record: int, events: list[Event]) -> tuple[int, int, float]:
        """Hand over one second of steps; return the largest request, the waiting records, and the longest call in s."""
        start, wanted, waiting, longest_s = self._step, per_record, 0, 0.0
        self._step += steps
        for place, mailbox in enumerate(self._mailboxes):
            rank = self._first + place
            records = [made(rank, step, per_record) for step in range(start, self._step, per_record)]
            began = monotonic()
            mailbox.put(records, events if rank == 0 else [], attempt=0, samples_seen=self._step * SAMPLES * WORKERS)
            wanted = max(wanted, mailbox.wanted_steps(per_record))
            longest_s = max(longest_s, monotonic() - began)
            waiting += mailbox._waiting_records
        return wanted, waiting, longest_s

    def arrived(self) -> bool:
        """Wait until all records are in the folder."""
        return all(mailbox.wait_written(within_s=300) for mailbox in self._mailboxes)


def made(rank: int, step: int, steps: int) -> Record:
    """Return a record whose digits do not repeat, like measured numbers."""
    seen = step * SAMPLES * WORKERS
    return Record(
        attempt=0,
        rank=rank,
        step=step,
        samples_seen=seen,
        progress=float(seen),
        lr=0.1,
        lr_planned=0.1,
        samples=SAMPLES * steps,
        loss=random(),
        step_time_s=random(),
        data_wait_s=random(),
        compute_s=random(),
        sync_wait_s=random(),
        grad_norm=random(),
        peak_memory_gib=1.0,
        grad_signal=None,
        grad_variance=None,
        noise_scale=None,
        cpu_s=random(),
        steps=steps,
    )


class Watched:
    """The collector's process, sampled once a second: CPU, memory, and the time to answer a call."""

    def __init__(self, collector: Any, pid: int) -> None:
        self._collector, self._pid = collector, pid
        self.latencies_s: list[float] = []
        self.memory_mib: list[float] = []
        self._cpu_s, self._began = self._cpu(), monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Return the share of a core that it used."""
        self._over.set()
        self._thread.join()
        return (self._cpu() - self._cpu_s) / (monotonic() - self._began)

    def _watch(self) -> None:
        import ray

        while not self._over.wait(1.0):
            began = monotonic()
            ray.get(self._collector.status.remote())
            self.latencies_s.append(monotonic() - began)
            pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
            self.memory_mib.append(pages * PAGE_BYTES / 2**20)

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="length of a case (default 60)")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    with tempfile.TemporaryDirectory(prefix="collector-") as place, embedded_cluster(verbose=False):
        chosen = [case for case in CASES if arguments.only in case.name]
        rows = [measured(case, arguments.seconds, Path(place) / str(case.steps_per_s)) for case in chosen]
    print(table(rows))


def measured(case: Case, seconds: int, place: Path) -> dict[str, str]:
    """Return the table's row of a case."""
    import ray

    from scaler.cluster.collector import Collector

    def pid(_: Any) -> int:
        return os.getpid()

    collector: Any = ray.remote(Collector).options(num_cpus=0).remote(RunFolder(str(place)))
    collector_pid = ray.get(collector.__ray_call__.remote(pid))
    share, actor = WORKERS // PROCESSES, ray.remote(Workers).options(num_cpus=0)
    workers: list[Any] = [actor.remote(collector, part * share, share) for part in range(PROCESSES)]
    start = AttemptStarted(
        time=time(),
        attempt=0,
        samples_seen=0,
        start_samples=0,
        world_size=WORKERS,
        global_batch_size=SAMPLES * WORKERS,
        per_worker_batch_size=SAMPLES,
        peak_lr=0.1,
        ramp=None,
        flops_per_sample=None,
    )
    ray.get([part.hand_over.remote(case.steps_per_s, 1, [start]) for part in workers])
    watched = Watched(collector, collector_pid)
    per_record, waiting, longest_s, began = 1, [], 0.0, monotonic()
    thinned: list[str] = []
    for second in range(1, seconds + 1):
        sleep(max(0.0, began + second - monotonic()))
        replies = ray.get([part.hand_over.remote(case.steps_per_s, per_record, []) for part in workers])
        wanted = min(max(wish for wish, _, _ in replies), case.steps_per_s)
        waiting.append(sum(count for _, count, _ in replies))
        longest_s = max(longest_s, *(longest for _, _, longest in replies))
        if wanted > per_record:
            per_record = wanted
            thinned.append(f"{per_record} after {second} s")
    took_s = monotonic() - began
    cpu = watched.end()
    ended = monotonic()
    assert all(ray.get([part.arrived.remote() for part in workers]))
    rest_s = monotonic() - ended
    ray.kill(collector)
    for part in workers:
        ray.kill(part)
    half = len(watched.memory_mib) // 2
    return {
        "case": case.name,
        "took, s": f"{took_s:.0f}",
        "records that wait, middle / end": f"{waiting[len(waiting) // 2]:,} / {waiting[-1]:,}",
        "rest arrived after, s": f"{rest_s:.1f}",
        "collector's CPU": f"{cpu:.0%}",
        "memory middle / end, MiB": f"{watched.memory_mib[half]:.0f} / {watched.memory_mib[-1]:.0f}",
        "answers median / worst, s": f"{median(watched.latencies_s):.2f} / {max(watched.latencies_s):.2f}",
        "longest hand-over, ms": f"{1e3 * longest_s:.1f}",
        "steps a record": ", ".join(thinned) or "1",
    }


if __name__ == "__main__":
    main()
