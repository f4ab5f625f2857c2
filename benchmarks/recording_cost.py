"""What recording costs the training process, in CPU microseconds a step.

A process takes steps at a given rate, multiplies matrices for as long as each lasts, marks and records them as the
training loop does, and hands them over about once a second through a real mailbox to a real collector on an embedded
Ray cluster. Two figures:

- training's thread: what marking, keeping, making records and handing over take of it; a step lasts that much longer.
- all threads: the whole process's CPU time, less the multiplying's, less that of the same process without records. The
  mailbox's message of each second is in it, spread over the steps: at few steps a second it is most of the cost.

    python benchmarks/recording_cost.py [--seconds 10]
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time, thread_time, time
from typing import Any

import torch
from table import table

from scaler.cluster.embedded import embedded_cluster
from scaler.runs import RunFolder
from scaler.training.activity import COMPUTING, LOADING, WAITING, Watch
from scaler.training.clock import CpuClock
from scaler.training.gradients import StepMeasures
from scaler.training.hand_over import Pace
from scaler.training.recorder import Recorder, Step
from scaler.training.worker_context import Leave

GOAL_US = 20.0
RATES = (10, 100, 1000)  # steps a second
TURNS = 3


class WorkerContext:
    """One worker whose records go through a mailbox."""

    rank, world_size, attempt, device = 0, 1, 0, torch.device("cpu")

    def __init__(self, folder: RunFolder, mailbox: Any) -> None:
        self.folder, self._mailbox = folder, mailbox

    def hand_over(self, records: Any, events: Any, *, samples_seen: int) -> None:
        self._mailbox.put(records, events, attempt=0, samples_seen=samples_seen)

    def wanted_steps(self, steps: int) -> int:
        return int(self._mailbox.wanted_steps(steps))

    def next_attempt(self) -> int:
        return 1

    def secure(self, samples_seen: int) -> None:
        """Nothing is saved."""

    def leave_requested(self) -> Leave:
        return Leave.STOP if self._mailbox.leave else Leave.NOT


class Steps:
    """Steps that multiply matrices for as long as they last."""

    def __init__(self, context: WorkerContext) -> None:
        self._context, self._clock, self._watch = context, CpuClock(), Watch()
        self._recorder = Recorder(context, self._clock)
        self._loss, self._norm = torch.tensor(0.5), torch.tensor(2.0)
        self._matrix = torch.rand(64, 64)
        self._taken = 0

    def cpu_s(self, rate: int, *, seconds: float, recorded: bool) -> tuple[float, float]:
        """Return CPU seconds while steps are taken, without those of the multiplying: of this thread, of all."""
        pace, began, worked_s = Pace(), process_time(), 0.0
        mine, start = thread_time(), time()
        for index in range(int(rate * seconds)):
            if recorded:
                self._record(pace)
            worked_s -= thread_time()
            while time() < start + (index + 1) / rate:
                torch.mm(self._matrix, self._matrix)
            worked_s += thread_time()
        return thread_time() - mine - worked_s, process_time() - began - worked_s

    def _record(self, pace: Pace) -> None:
        mark, now = self._clock.mark, self._watch.now
        began = mark()
        now(LOADING)
        asked = mark()
        now(COMPUTING)
        got = mark()
        now(WAITING)
        ready = mark()
        now(COMPUTING)
        measures = StepMeasures(
            losses=((self._loss, 16),),
            is_sum=False,
            samples=16,
            data_waits=((asked, got),),
            ready=ready,
            synced=mark(),
        )
        self._recorder.add(
            Step(
                step=self._taken,
                samples_seen=16 * self._taken,
                progress=16.0 * self._taken,
                lr=0.1,
                lr_planned=0.1,
                began=began,
                measures=measures,
                grad_norm=self._norm,
                squares=None,
                noise_scale=None,
            )
        )
        self._taken += 1
        if pace.is_due():
            self._recorder.hand_over(samples_seen=16 * self._taken)
            self._recorder.unjudged()
            self._context.leave_requested()
            self._context.wanted_steps(1)
            pace.next_after(pace.step_time_s())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn (default 10)")
    seconds = parser.parse_args().seconds
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="recording-") as place, embedded_cluster(verbose=False):
        import ray

        from scaler.cluster.collector import Collector
        from scaler.cluster.mailbox import Mailbox, deliver_to

        folder = RunFolder(str(Path(place) / "run"))
        collector: Any = ray.remote(Collector).options(num_cpus=0).remote(folder)

        def cpu_s(rate: int, *, recorded: bool) -> tuple[float, float]:
            mailbox = Mailbox(deliver_to(collector), rank=0)
            if not recorded:
                mailbox.close()
            found = Steps(WorkerContext(folder, mailbox)).cpu_s(rate, seconds=seconds, recorded=recorded)
            mailbox.close()
            return found

        cpu_s(RATES[-1], recorded=True)  # what is slow the first time
        rows = [measured(cpu_s, rate, seconds) for rate in RATES]
    print(table(rows))


def measured(cpu_s: Callable[..., tuple[float, float]], rate: int, seconds: float) -> dict[str, str]:
    """Return the table's row of a rate."""
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        without, recorded = cpu_s(rate, recorded=False), cpu_s(rate, recorded=True)
        for found, less, more in zip(costs, without, recorded, strict=True):
            found.append(1e6 * (more - less) / (rate * seconds))
    thread, everything = (f"{median(found):.1f} ({min(found):.1f}-{max(found):.1f})" for found in costs)
    return {
        "steps/s": f"{rate:,}",
        "training's thread, us a step": thread,
        "all threads, us a step": everything,
        "share of a core": f"{median(costs[1]) * rate / 1e6:.2%}",
        f"goal {GOAL_US:g} us": " / ".join("met" if median(found) <= GOAL_US else "missed" for found in costs),
    }


if __name__ == "__main__":
    main()
