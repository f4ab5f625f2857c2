"""Moments and the time between them, on the CPU and on a GPU that runs behind it."""

import resource
import sys
from time import perf_counter
from typing import Protocol

import torch

Mark = float | torch.cuda.Event


class Clock(Protocol):
    """Marks moments in the work that was given to a device, without waiting for it."""

    is_behind: bool
    """Whether the device may be working on what was marked, so that asking for the time between marks may wait."""

    def mark(self) -> Mark:
        """Return this moment in the device's work."""

    def between(self, start: Mark, end: Mark) -> float:
        """Return the seconds between two marks; waits until the device has reached the later one."""

    def peak_memory_gib(self) -> float:
        """Return the most memory held so far, in 2**30 bytes."""

    def utilization_pct(self) -> float | None:
        """Return how busy the device is, in [0, 100]; None: it is no GPU, or nobody says."""


class CpuClock:
    """Wall clock; memory of the whole process."""

    is_behind = False
    mark = staticmethod(perf_counter)

    def between(self, start: Mark, end: Mark) -> float:
        """Return the difference."""
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start

    def peak_memory_gib(self) -> float:
        """Return the process's largest resident set."""
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    def utilization_pct(self) -> None:
        """Return None: how busy the process is, its CPU time says."""


class CudaClock:
    """CUDA events on the current stream; memory that torch has allocated on the device."""

    is_behind = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_watched = True

    def mark(self) -> torch.cuda.Event:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, start: Mark, end: Mark) -> float:
        """Wait for ``end``, then return the seconds between."""
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000.0

    def peak_memory_gib(self) -> float:
        """Return torch's largest allocation on the device."""
        return torch.cuda.max_memory_allocated(self._device) / 2**30

    def utilization_pct(self) -> float | None:
        """Return what NVML says; after a failure it is not asked again."""
        if self._is_watched:
            try:
                return float(torch.cuda.utilization(self._device))
            except Exception:  # its Python package is not installed, or the driver does not say it of this device
                self._is_watched = False
        return None


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
