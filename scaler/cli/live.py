"""Show the progress of a run: a panel that is redrawn in place in a terminal, plain lines elsewhere.

``Live`` shows a run that this process runs, ``FolderLive`` one that another process runs.
"""

from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live as Screen

from scaler.cli.live_view import View, eta_s, numbers_line, start_text, straggler_text
from scaler.cluster.progress import Progress
from scaler.core.unit import Unit, unit_with
from scaler.plan import Plan
from scaler.report.text.format import printable
from scaler.runs import RunFolder

LINE_EVERY_S = 5.0
SLOW_START_S = 5.0  # a start that takes longer says what it does
SPEED_WINDOW_S = 60.0  # the time left is estimated from the last minute, evaluations and checkpoints included


class Live:
    """The display of one run's progress; a context manager.

    Args:
        plan: the run's plan, which gives the length of the run.
        console: shows the progress.
        quiet: show nothing.
        start: what the run does before Ray is connected; None: what it does before its first step is not shown.
    """

    def __init__(self, plan: Plan, *, console: Console, quiet: bool, start: str | None = None) -> None:
        self._plan, self._console, self._quiet = plan, console, quiet
        self._begun_at, self._start = monotonic(), start
        self._lined_at = float("-inf")
        self._shown = Progress()
        self._reached: deque[tuple[float, float]] = deque()  # (seconds, samples) of recent progress
        self._first_attempt: int | None = None
        self._view = View(total=plan.end_progress, start=start or "starting")
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
        """The panel that a terminal shows now."""
        return self._view

    def say(self, line: str) -> None:
        """Print a line, which the progress display does not overwrite."""
        if not self._quiet:
            self._console.print(printable(line), soft_wrap=True)

    def begin_at(self, samples_seen: int) -> None:
        """Start the progress at the samples from which a run resumes."""
        if not self._plan.is_measured:
            done = self._plan.progress_at(min(samples_seen, self._plan.end_samples))
            self._view = replace(self._view, done=done)

    def show(self, progress: Progress) -> None:
        """Show the progress of the run."""
        if self._quiet:
            return
        self._show_start(progress)
        if progress == self._shown:
            return
        is_first = self._shown.world_size is None and progress.world_size is not None
        if progress.attempt != self._shown.attempt:
            self._reached.clear()
        self._shown = progress
        if self._screen is not None:
            self._view = self._viewed(progress)
        elif progress.samples_seen and (
            is_first or monotonic() - self._lined_at >= LINE_EVERY_S or self._is_over(progress)
        ):
            self._lined_at = monotonic()
            share = min(1.0, progress.progress / self._plan.end_progress)
            parts = [f"{share:4.0%}", numbers_line(progress, self._unit(progress))]
            if progress.straggler is not None:
                parts.append(f"({straggler_text(progress.straggler)})")
            self._console.print("  ".join(parts), soft_wrap=True)

    def _show_start(self, progress: Progress) -> None:
        """Show what the run does before its first step: in the panel, or as lines if the start takes long."""
        if self._start is None or self._reached or progress.samples_seen:
            self._start = None
            return
        start = start_text(progress, workers=self._plan.world_size)
        if self._screen is not None:
            self._view = replace(self._view, start=start)
        elif start != self._start and monotonic() - self._begun_at >= SLOW_START_S:
            self._start = start
            self._console.print(f"{monotonic() - self._begun_at:.0f} s: {start}", soft_wrap=True)

    def _viewed(self, progress: Progress) -> View:
        """Return the panel for some progress; while a new attempt starts, the bar stays where the last one ended."""
        if self._first_attempt is None:
            self._first_attempt = progress.attempt
        total = self._plan.end_progress
        if not progress.samples_seen:
            done, left_s = self._view.done, None
        else:
            done = min(progress.progress, total)
            self._reached.append((monotonic(), done))
            while self._reached[-1][0] - self._reached[0][0] > SPEED_WINDOW_S:
                self._reached.popleft()
            left_s = eta_s(self._reached, total=total)
        restarts = (progress.attempt or 0) - (self._first_attempt or 0)
        unit = self._unit(progress)
        return replace(
            self._view, total=total, done=done, left_s=left_s, restarts=restarts, progress=progress, unit=unit
        )

    def _unit(self, progress: Progress) -> Unit:
        """Return the unit of the job, with the tokens that a sample has now."""
        return unit_with(self._plan.phase_at(progress.samples_seen).tokens_per_sample)

    def _is_over(self, progress: Progress) -> bool:
        return progress.progress >= self._plan.end_progress


class FolderLive:
    """The display of a run's progress from its folder, begun when the folder has some; a context manager.

    Args:
        console: shows the progress.
        quiet: show no progress.
    """

    def __init__(self, *, console: Console, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._on_exit = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_exit.close()
        self._live = None

    @property
    def is_shown(self) -> bool:
        """Whether the progress is shown, which begins with the first progress."""
        return self._live is not None

    def say(self, line: str) -> None:
        """Print a line, which the progress display does not overwrite; also with ``quiet``."""
        self._console.print(printable(line), soft_wrap=True)

    def show(self, folder: RunFolder, progress: Progress | None) -> None:
        """Show the progress of the run in a folder; None: there is none yet.

        Raises:
            RunError: the run's plan cannot be read.
        """
        if progress is None:
            return
        if self._live is None:
            plan = Plan.from_dict(folder.read_json("plan.json"))
            self._live = self._on_exit.enter_context(Live(plan, console=self._console, quiet=self._quiet))
        self._live.show(progress)
