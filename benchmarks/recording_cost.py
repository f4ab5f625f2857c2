"""What recording costs the training process: CPU microseconds a step, everything counted.

A process takes steps at a given rate, multiplies matrices for as long as each lasts, marks and records them as the
training loop does, and hands them over about once a second through a real mailbox to a real collector on an embedded
Ray cluster. The CPU time of all its threads, less that of the multiplying, and less the rest of the same process
without records, over the steps, is the cost; both take turns. The message of each second is spread over its steps: at
few steps a second it is most of the cost.

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

from scaler.cluster.embedded import ray_cluster
from scaler.runs import RunFolder
from scaler.training.clock import CpuClock
from scaler.training.gradients import StepMeasures
from scaler.training.pace import Pace
from scaler.training.recorder import Recorder, Step
from scaler.training.surroundings import Leave
from scaler.training.watch import COMPUTING, LOADING, WAITING, Watch

GOAL_US = 20.0
RATES = (10, 100, 1000)  # steps a second
TURNS = 3


class Surroundings:
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

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings, self._clock, self._watch = surroundings, CpuClock(), Watch()
        self._recorder = Recorder(surroundings, self._clock)
        self._loss, self._norm = torch.tensor(0.5), torch.tensor(2.0)
        self._matrix = torch.rand(64, 64)
        self._taken = 0

    def cpu_s(self, rate: int, *, seconds: float, recorded: bool) -> float:
        """Return this process's CPU seconds while it takes steps, without those of the multiplying."""
        pace, began, worked_s = Pace(), process_time(), 0.0
        start = time()
        for index in range(int(rate * seconds)):
            if recorded:
                self._record(pace)
            worked_s -= thread_time()
            while time() < start + (index + 1) / rate:
                torch.mm(self._matrix, self._matrix)
            worked_s += thread_time()
        return process_time() - began - worked_s

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
            self._surroundings.leave_requested()
            self._surroundings.wanted_steps(1)
            pace.next_after(pace.step_time_s())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn (default 10)")
    seconds = parser.parse_args().seconds
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="recording-") as place, ray_cluster(None, verbose=False):
        import ray

        from scaler.cluster.collector import Collector
        from scaler.cluster.mailbox import Mailbox

        folder = RunFolder(str(Path(place) / "run"))
        collector: Any = ray.remote(Collector).options(num_cpus=0).remote(folder)

        def cpu_s(rate: int, *, recorded: bool) -> float:
            mailbox = Mailbox(collector, rank=0)
            if not recorded:
                mailbox.close()
            found = Steps(Surroundings(folder, mailbox)).cpu_s(rate, seconds=seconds, recorded=recorded)
            mailbox.close()
            return found

        cpu_s(RATES[-1], recorded=True)  # what is slow the first time
        rows = [measured(cpu_s, rate, seconds) for rate in RATES]
    print(table(rows))


def measured(cpu_s: Callable[..., float], rate: int, seconds: float) -> dict[str, str]:
    """Return the table's row of a rate."""
    costs = []
    for _ in range(TURNS):
        without, recorded = cpu_s(rate, recorded=False), cpu_s(rate, recorded=True)
        costs.append(1e6 * (recorded - without) / (rate * seconds))
    return {
        "steps/s": f"{rate:,}",
        "us a step (min-max)": f"{median(costs):.1f} ({min(costs):.1f}-{max(costs):.1f})",
        "share of a core": f"{median(costs) * rate / 1e6:.2%}",
        "goal": f"<= {GOAL_US:g} us {'met' if median(costs) <= GOAL_US else 'MISSED'}",
    }


if __name__ == "__main__":
    main()
