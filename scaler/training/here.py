"""One worker in this process, without Ray: for a debugger, and for the smallest jobs."""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from time import time
from typing import Any

import torch

from scaler.errors import ScalerError
from scaler.job import Job
from scaler.metrics.record import Record
from scaler.metrics.writer import MetricsWriter
from scaler.plan import Plan
from scaler.runs import RunFolder
from scaler.training.group import cpu, first_gpu, use_threads
from scaler.training.loop import Training, seed_everything
from scaler.training.recipe import load_recipe, recipe_failure

OnHandOver = Callable[[Sequence[Record], Sequence[Mapping[str, Any]]], None]


class InProcess:
    """The surroundings of a single worker: its records go straight to the run's folder.

    Args:
        folder: the run's folder; this process is the one writer of its records and events.
        device: where the model lives.
        on_hand_over: also told of what is handed over.
    """

    rank = 0
    world_size = 1

    def __init__(
        self, folder: RunFolder, *, device: torch.device, on_hand_over: OnHandOver = lambda records, events: None
    ) -> None:
        self.folder = folder
        self.attempt = 0
        self.device = device
        self._writer = MetricsWriter(folder)
        self._on_hand_over = on_hand_over
        life = {"kind": "worker_started", "time": time(), "attempt": 0, "rank": 0}
        self._writer.add_event({**life, "node": socket.gethostname(), "pid": os.getpid()})

    def next_attempt(self) -> int:
        """Count one on."""
        return self.attempt + 1

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        """Write at once: there is nobody to hand over to."""
        self._writer.add(records)
        for event in events:
            self._writer.add_event(event)
        self._writer.flush()
        self._on_hand_over(records, events)

    def settle(self) -> None:
        """Nothing is under way: handing over has written it."""

    def stop_requested(self) -> bool:
        """Never: Ctrl-C interrupts this process itself."""
        return False

    def close(self) -> None:
        """End what was written."""
        self._writer.close()


def train_here(job: Job, plan: Plan, folder: RunFolder, *, recipe_folder: Path, on_hand_over: OnHandOver) -> bool:
    """Train a plan for one worker in this process.

    Returns:
        Whether training is over.

    Raises:
        ScalerError: what went wrong; an exception of the recipe is a ``RecipeError`` with its traceback.
    """
    use_threads(job.resources.cpus_per_worker)
    device = first_gpu() if job.resources.gpus_per_worker > 0 else cpu()
    try:
        with redirect_stdout(sys.stderr):  # stdout is the result's; what the recipe prints stands beside it
            seed_everything(job.train.seed)
            recipe = load_recipe(job.recipe, folder=recipe_folder, arguments=job.recipe_args)
            with closing(InProcess(folder, device=device, on_hand_over=on_hand_over)) as surroundings:
                return Training(recipe, job, plan, surroundings).run()
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit() in a recipe is a failure like any other
        raise recipe_failure(error, "rank 0") from error
