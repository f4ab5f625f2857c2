"""The cost of recording for the training process, in CPU microseconds per step.

A process takes a given number of steps per second. Each step multiplies matrices for its whole duration. The steps are
marked and recorded as in the training loop, and handed over about once a second through a real mailbox to a real
collector on an embedded Ray cluster. There are two numbers:

- training thread: the time for marking, keeping, making records and handing over; a step is that much longer.
- all threads: the CPU time of the whole process, minus that of the multiplications, minus that of the same process
  without records. It contains the mailbox's message of each second: at few steps per second this is most of the cost.

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
from scaler.metrics.events import COMPUTING, LOADING, WAITING
from scaler.runs import RunFolder
from scaler.training.activity import Activity
from scaler.training.clock import CpuClock
from scaler.training.gradients.step import StepMeasures
from scaler.training.hand_over import HandOverInterval
from scaler.training.recorder import Recorder, StepMeasurement
from scaler.training.worker_context import Leave

GOAL_US = 20.0
STEPS_PER_S = (10, 100, 1000)
TURNS = 3


class WorkerContext:
    """A worker context whose records go through a mailbox."""

    rank, world_size, attempt, device = 0, 1, 0, torch.device("cpu")

    def __init__(self, folder: RunFolder, mailbox: Any) -> None:
        self.folder, self._mailbox = folder, mailbox

    def hand_over(self, records: Any, events: Any, *, samples_seen: int) -> None:
        self._mailbox.put(records, events, attempt=0, samples_seen=samples_seen)

    def wanted_steps(self, steps: int) -> int:
        return int(self._mailbox.wanted_steps(steps))

    def next_attempt(self) -> int:
        return 1

    def secure(self, samples_seen: int, *, give_up: Any) -> None:
        """Save nothing."""

    def leave_requested(self) -> Leave:
        return Leave.STOP if self._mailbox.leave else Leave.NOT


class Steps:
    """Steps that multiply matrices for their whole duration."""

    def __init__(self, context: WorkerContext) -> None:
        self._context, self._clock, self._activity = context, CpuClock(), Activity()
        self._recorder = Recorder(context, self._clock)
        self._loss, self._norm = torch.tensor(0.5), torch.tensor(2.0)
        self._matrix = torch.rand(64, 64)
        self._taken = 0

    def cpu_s(self, steps_per_s: int, *, seconds: float, recorded: bool) -> tuple[float, float]:
        """Return the CPU seconds of the steps without the multiplications: of this thread, and of all threads."""
        interval, began, worked_s = HandOverInterval(), process_time(), 0.0
        mine, start = thread_time(), time()
        for index in range(int(steps_per_s * seconds)):
            if recorded:
                self._record(interval)
            worked_s -= thread_time()
            while time() < start + (index + 1) / steps_per_s:
                torch.mm(self._matrix, self._matrix)
            worked_s += thread_time()
        return thread_time() - mine - worked_s, process_time() - began - worked_s

    def _record(self, interval: HandOverInterval) -> None:
        mark, begin = self._clock.mark, self._activity.begin
        began = mark()
        begin(LOADING)
        asked = mark()
        begin(COMPUTING)
        got = mark()
        begin(WAITING)
        ready = mark()
        begin(COMPUTING)
        measures = StepMeasures(
            losses=((self._loss, 16),),
            is_sum=False,
            samples=16,
            data_waits=((asked, got),),
            ready=ready,
            synced=mark(),
        )
        self._recorder.add(
            StepMeasurement(
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
        if interval.is_due():
            self._recorder.hand_over(samples_seen=16 * self._taken)
            self._recorder.unchecked_records()
            self._context.leave_requested()
            self._context.wanted_steps(1)
            interval.set_next(interval.step_time_s(), cost_s=0.0)


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

        def cpu_s(steps_per_s: int, *, recorded: bool) -> tuple[float, float]:
            mailbox = Mailbox(deliver_to(collector), rank=0)
            if not recorded:
                mailbox.close()
            found = Steps(WorkerContext(folder, mailbox)).cpu_s(steps_per_s, seconds=seconds, recorded=recorded)
            mailbox.close()
            return found

        cpu_s(STEPS_PER_S[-1], recorded=True)  # the first call is slower
        rows = [measured(cpu_s, steps_per_s, seconds) for steps_per_s in STEPS_PER_S]
    print(table(rows))


def measured(cpu_s: Callable[..., tuple[float, float]], steps_per_s: int, seconds: float) -> dict[str, str]:
    """Return the row of a number of steps per second."""
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        without, recorded = cpu_s(steps_per_s, recorded=False), cpu_s(steps_per_s, recorded=True)
        for found, less, more in zip(costs, without, recorded, strict=True):
            found.append(1e6 * (more - less) / (steps_per_s * seconds))
    thread, everything = (f"{median(found):.1f} ({min(found):.1f}-{max(found):.1f})" for found in costs)
    return {
        "steps/s": f"{steps_per_s:,}",
        "training's thread, us a step": thread,
        "all threads, us a step": everything,
        "share of a core": f"{median(costs[1]) * steps_per_s / 1e6:.2%}",
        f"goal {GOAL_US:g} us": " / ".join("met" if median(found) <= GOAL_US else "missed" for found in costs),
    }


if __name__ == "__main__":
    main()
