"""The display of a running job: a panel that stands still in a terminal, plain lines elsewhere."""

from collections import deque
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live as Screen

from scaler.cli.live_view import View, eta_s, numbers_line, straggler_words
from scaler.cluster.progress import Progress
from scaler.plan import Plan
from scaler.report.text.format import printable

LINE_EVERY_S = 5.0
PACE_S = 60.0  # what is left is taken to go as the last minute went, evaluations and checkpoints with it


class Live:
    """Shows progress.

    Args:
        plan: of the run; says how long it is.
        console: where to.
        quiet: show nothing.
    """

    def __init__(self, plan: Plan, *, console: Console, quiet: bool) -> None:
        self._plan, self._console, self._quiet = plan, console, quiet
        self._lined_at = float("-inf")
        self._shown = Progress()
        self._pace: deque[tuple[float, float]] = deque()  # when, and how far
        self._first_attempt: int | None = None
        self._view = View(total=plan.total_samples)
        self._screen: Screen | None = None
        if console.is_terminal and not quiet:
            self._screen = Screen(
                get_renderable=lambda: self._view, console=console, transient=True, refresh_per_second=4
            )

    def __enter__(self) -> Self:
        if self._screen is not None:
            self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.stop()

    @property
    def view(self) -> View:
        """What a terminal is shown now."""
        return self._view

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(printable(line), soft_wrap=True)

    def begin_at(self, samples_seen: int) -> None:
        """Start from where a run goes on, so that its speed is that of what it does now."""
        if not self._plan.is_measured:
            self._view = View(total=self._plan.total_samples, done=min(samples_seen, self._plan.total_samples))

    def show(self, progress: Progress) -> None:
        """Show where the run is."""
        if self._quiet or progress == self._shown:
            return
        began = self._shown.world_size is None and progress.world_size is not None
        if progress.attempt != self._shown.attempt:
            self._pace.clear()
        self._shown = progress
        if self._screen is not None:
            self._view = self._viewed(progress)
        elif progress.samples_seen and (
            began or monotonic() - self._lined_at >= LINE_EVERY_S or self._is_over(progress)
        ):
            self._lined_at = monotonic()
            share = min(1.0, progress.progress / self._plan.total_samples)
            parts = [f"{share:4.0%}", numbers_line(progress)]
            if progress.straggler is not None:
                parts.append(f"({straggler_words(progress.straggler)})")
            self._console.print("  ".join(parts), soft_wrap=True)

    def _viewed(self, progress: Progress) -> View:
        """The panel of a look; how far the run is stays where it was while a new attempt starts."""
        if self._first_attempt is None:
            self._first_attempt = progress.attempt
        total = self._plan.total_samples
        if not progress.samples_seen:
            done, left_s = self._view.done, None
        else:
            done = min(progress.progress, total)
            self._pace.append((monotonic(), done))
            while self._pace[-1][0] - self._pace[0][0] > PACE_S:
                self._pace.popleft()
            left_s = eta_s(self._pace, total=total)
        restarts = (progress.attempt or 0) - (self._first_attempt or 0)
        return View(total=total, done=done, left_s=left_s, restarts=restarts, progress=progress)

    def _is_over(self, progress: Progress) -> bool:
        return progress.progress >= self._plan.total_samples
