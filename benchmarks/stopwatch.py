"""A recipe that notes when each step begins and how much memory its worker uses, under any training loop.

``build`` wraps the loss of another recipe. A loop calls the loss once per step, so the time between two calls contains
everything that the loop does: data, backward, all-reduce, optimizer, records and their hand-over. Each worker writes
``<rank>.json`` to the notes' folder when its last step has begun, and then notes its largest resident set until it
ends, so that memory after the last step counts too.
"""

import json
import os
import resource
import sys
import threading
from dataclasses import replace
from pathlib import Path
from time import process_time, sleep, time
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from scaler.training.recipe import Recipe
from scaler.training.recipe.load import load_recipe

AFTER_LAST_STEP_S = 0.02


class Stopwatch:
    """A loss that notes its calls.

    Args:
        loss: the recipe's loss.
        steps: number of calls.
        notes: the folder to write to.
        built_at: time at which the recipe was requested, in epoch seconds.
    """

    def __init__(self, loss: Any, *, steps: int, notes: Path, built_at: float) -> None:
        self._loss, self._steps, self._notes, self._built_at = loss, steps, notes, built_at
        self._times: list[float] = []
        self._cpu_times_s: list[float] = []
        self._samples: list[int] = []

    def __call__(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the recipe's loss."""
        self._times.append(time())
        self._cpu_times_s.append(process_time())
        self._samples.append(len(batch[0]))
        if len(self._times) == self._steps:
            rank = dist.get_rank() if dist.is_initialized() else 0
            self._write(f"{rank}.json")
            threading.Thread(target=self._go_on_writing, args=(f"{rank}.json",), daemon=True).start()
        return self._loss(model, batch)

    def _go_on_writing(self, name: str) -> None:
        written_mib = 0.0
        while True:
            if peak_memory_mib() > written_mib:
                written_mib = peak_memory_mib()
                self._write(name)
            sleep(AFTER_LAST_STEP_S)

    def _write(self, name: str) -> None:
        values = {
            "pid": os.getpid(),
            "built_at": self._built_at,
            "times": self._times,
            "cpu_times_s": self._cpu_times_s,
            "samples": self._samples,
            "peak_memory_mib": peak_memory_mib(),
        }
        beside = self._notes / f"{name}.part"
        beside.write_text(json.dumps(values))
        beside.rename(self._notes / name)


def peak_memory_mib() -> float:
    """Return this process's largest resident set."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def build(folder: str, path: str, arguments: dict[str, Any], steps: int, notes: str) -> Recipe:
    """Return the recipe ``path`` of the job in ``folder``, with a stopwatch in its loss."""
    built_at = time()
    recipe = load_recipe(path, folder=Path(folder), arguments=arguments)
    stopwatch = Stopwatch(recipe.loss, steps=steps, notes=Path(notes), built_at=built_at)
    return replace(recipe, loss=stopwatch, loss_over="micro_batch")  # no probe: only the calls of steps are noted


def read_notes(notes: Path) -> dict[int, dict[str, Any]]:
    """Return what every rank noted."""
    return {int(file.stem): json.loads(file.read_text()) for file in sorted(notes.glob("*.json"))}


def samples_per_s(notes: dict[int, dict[str, Any]], *, warmup_steps: int) -> float:
    """Return samples of all workers per second, from the start of step ``warmup_steps`` to that of the last step."""
    times = notes[0]["times"]
    samples = sum(sum(note["samples"][warmup_steps:-1]) for note in notes.values())
    return samples / (times[-1] - times[warmup_steps])


def cpu_s_per_step(notes: dict[int, dict[str, Any]], *, warmup_steps: int) -> float:
    """Return the mean CPU seconds of a step, over the same steps and all workers; other processes change it less."""
    spans = [note["cpu_times_s"][-1] - note["cpu_times_s"][warmup_steps] for note in notes.values()]
    return sum(spans) / len(spans) / (len(notes[0]["times"]) - 1 - warmup_steps)
