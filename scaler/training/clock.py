"""Time between points of a device's work, its memory and its utilization, on the CPU and on a GPU."""

import resource
import sys
from time import perf_counter
from typing import Protocol

import torch

Mark = float | torch.cuda.Event


class Clock(Protocol):
    """Marks points in a device's work without waiting for the device."""

    is_behind: bool
    """Whether the device may still be working up to the last mark, so that ``between`` may wait."""

    def mark(self) -> Mark:
        """Return a mark of this point in the device's work."""

    def between(self, start: Mark, end: Mark) -> float:
        """Return the seconds between two marks; waits until the device has reached the later one."""

    def peak_memory_gib(self) -> float:
        """Return the peak memory so far, in GiB (2**30 bytes)."""

    def utilization_pct(self) -> float | None:
        """Return the device's utilization in [0, 100]; None: it is not a GPU, or the driver does not report it."""


class CpuClock:
    """Wall-clock time, and the memory of the whole process."""

    is_behind = False
    mark = staticmethod(perf_counter)

    def between(self, start: Mark, end: Mark) -> float:
        """Return the difference in seconds."""
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start

    def peak_memory_gib(self) -> float:
        """Return the process's largest resident set, in GiB."""
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    def utilization_pct(self) -> None:
        """Return None: records hold the CPU time of the process instead."""


class CudaClock:
    """CUDA events on the current stream, and the memory that torch has allocated on the device."""

    is_behind = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._has_utilization = True

    def mark(self) -> torch.cuda.Event:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, start: Mark, end: Mark) -> float:
        """Wait for ``end``, then return the seconds between the two events."""
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000.0

    def peak_memory_gib(self) -> float:
        """Return torch's peak allocation on the device, in GiB."""
        return torch.cuda.max_memory_allocated(self._device) / 2**30

    def utilization_pct(self) -> float | None:
        """Return NVML's utilization; after one failure NVML is not asked again."""
        if self._has_utilization:
            try:
                return float(torch.cuda.utilization(self._device))
            except Exception:  # NVML's Python package is not installed, or the driver does not support it
                self._has_utilization = False
        return None


def clock_for(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
