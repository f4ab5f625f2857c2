"""The display of a running job: one line that moves in a terminal, plain lines elsewhere."""

from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from scaler.cluster.progress import Progress
from scaler.plan import Plan
from scaler.report.words import number, printable

LINE_EVERY_S = 5.0


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
        self._bar: Bar | None = None
        if console.is_terminal and not quiet:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[now]}", markup=False),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=plan.total_samples, now="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(printable(line), soft_wrap=True)

    def begin_at(self, samples_seen: int) -> None:
        """Start from where a run goes on, so that its speed is that of what it does now."""
        if self._bar is not None and not self._plan.is_measured:
            self._bar.reset(self._task, completed=min(samples_seen, self._plan.total_samples))

    def show(self, progress: Progress) -> None:
        """Show where the run is."""
        if self._quiet or progress == self._shown:
            return
        began = self._shown.world_size is None and progress.world_size is not None
        self._shown = progress
        if self._bar is not None:
            self._bar.update(
                self._task,
                description="training" if progress.world_size else "starting",
                completed=min(progress.progress, self._plan.total_samples),
                now=self._now(progress),
            )
        elif progress.samples_seen and (
            began or monotonic() - self._lined_at >= LINE_EVERY_S or self._is_over(progress)
        ):
            self._lined_at = monotonic()
            share = min(1.0, progress.progress / self._plan.total_samples)
            self._console.print(f"{share:4.0%}  {self._now(progress)}", soft_wrap=True)

    def _is_over(self, progress: Progress) -> bool:
        return progress.progress >= self._plan.total_samples

    @staticmethod
    def _now(progress: Progress) -> str:
        if not progress.samples_seen:
            return ""
        parts = [
            f"loss {number(progress.loss_mean)}",
            f"lr {number(progress.lr, 3)}",
            f"{number(progress.samples_per_s, 3)} samples/s",
            *(f"{printable(name)} {number(value)}" for name, value in progress.evals.items() if name != "loss"),
        ]
        return "  ".join(parts)
