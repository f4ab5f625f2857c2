"""Draw the progress of a run as a panel that fits into the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scaler.cluster.progress import CurrentStraggler, Progress, WorkerProgress
from scaler.core.unit import Unit
from scaler.report.text.format import number, plural, printable, seconds

# Columns of the workers' table: heading, and the smallest terminal width that shows it. All columns fit into 80.
COLUMNS = (
    ("rank", 0),
    ("speed", 0),
    ("step", 0),
    ("data", 44),
    ("compute", 54),
    ("sync", 64),
    ("loss", 70),
    ("memory", 78),
)
FEWEST_ROWS = 1
SHORTEST_BAR, LONGEST_BAR = 6, 30


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The panel of a run's progress; rich draws it a few times a second, for the terminal's size at that moment.

    Args:
        total: the plan's length, in samples of the reference's training.
        done: samples done so far, in the same unit.
        left_s: estimated time left, in seconds; None: not known.
        restarts: number of restarts since this process began to run the run.
        progress: the newest progress.
        unit: of the job, with the tokens that a sample has now.
        start: what the run does before its first step.
        other_lines: lines that are printed above and below the panel, and must fit into the terminal with it.
    """

    total: float
    done: float = 0.0
    left_s: float | None = None
    restarts: int = 0
    progress: Progress = field(default_factory=Progress)
    unit: Unit = Unit()  # noqa: RUF009 (frozen)
    start: str = "starting"
    other_lines: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the panel, at least one line lower than the terminal."""
        width, progress = options.max_width, self.progress
        parts: list[Text | Table] = [_head(self, width)]
        if progress.samples_seen:
            parts.append(_line(numbers_line(progress, self.unit)))
        if progress.straggler is not None:
            text = f"{straggler_text(progress.straggler)}."
            short = f"others wait for rank {progress.straggler.rank}"
            parts.append(_line(text if len(text) <= width else short, style="yellow"))
        rows = console.size.height - 1 - len(parts) - 1 - self.other_lines  # 1 for the heading of the table
        if progress.workers and rows >= FEWEST_ROWS and (progress.world_size or 0) > 1:
            parts += _workers(progress, self.unit, max_rows=rows, width=width)
        yield Group(*parts)


def start_text(progress: Progress, *, workers: int) -> str:
    """Return what a run does before its first step, once its driver is connected to Ray.

    Args:
        progress: of the run.
        workers: of the plan.

    Example:
        >>> start_text(Progress(), workers=2)
        'starting 2 workers, which import torch'
        >>> start_text(Progress(workers_started=2), workers=2)
        '2 of 2 workers have started: building the recipe and checking it'
    """
    if progress.attempt is not None:
        return "the checks are done: taking the first steps"
    if progress.workers_started:
        started = f"{progress.workers_started} of {plural(workers, 'worker')}"
        return f"{started} have started: building the recipe and checking it"
    return f"starting {plural(workers, 'worker')}, which import torch"


def numbers_line(progress: Progress, unit: Unit = Unit()) -> str:  # noqa: B008 (frozen)
    """Return one line with the loss, learning rate, speed and evaluations of some progress; ``unit`` of the job."""
    parts = [
        f"loss {number(progress.loss_mean)}",
        f"lr {number(progress.lr, 3)}",
        f"{_speed(progress.samples_per_s, unit)} {unit.many}/s",
        *(f"{printable(name)} {number(value)}" for name, value in progress.evals.items() if name != "loss"),
    ]
    return "  ".join(parts)


def _speed(samples_per_s: float | None, unit: Unit) -> str:
    """Return a speed in the unit of the job, without the unit's name."""
    return number(samples_per_s, 3) if samples_per_s is None or not unit.is_tokens else unit.number(samples_per_s)


def straggler_text(straggler: CurrentStraggler) -> str:
    """Return a sentence about the worker that the others wait for.

    Example:
        >>> straggler_text(CurrentStraggler(rank=3, own_s=0.31, others_s=0.1, waits_for_data=False))
        'rank 3 makes the others wait: compute, 310 ms a step against 100 ms'
    """
    what = "data" if straggler.waits_for_data else "compute"
    return (
        f"rank {straggler.rank} makes the others wait: {what}, {seconds(straggler.own_s)} a step against "
        f"{seconds(straggler.others_s)}"
    )


def eta_s(reached: Sequence[tuple[float, float]], *, total: float) -> float | None:
    """Return the estimated time left in seconds; None if the run did not advance.

    Args:
        reached: pairs (time in seconds, progress of the run at that time), the oldest first.
        total: the length of the run, in the unit of the pairs.

    Example:
        >>> eta_s([(10.0, 100.0), (20.0, 150.0)], total=200), eta_s([(10.0, 100.0)], total=200)
        (10.0, None)
    """
    (first_at, first), (last_at, last) = reached[0], reached[-1]
    return (total - last) * (last_at - first_at) / (last - first) if last > first else None


def _head(view: View, width: int) -> Table:
    """Return the first line: what the run does, a bar, the share done, the time left, and restarts.

    In a narrow terminal the text becomes shorter, then the bar is left out, then numbers from the right.
    """
    progress = view.progress
    share, left = f"{view.done / view.total:.0%}", f"{seconds(view.left_s)} left"
    restarts = [plural(view.restarts, "restart")] if view.restarts else []
    if not progress.samples_seen:
        doing = [view.start, "starting"]
    else:
        doing = [f"training on {plural(progress.world_size or 0, 'worker')}", "training", ""]
    numbers = [share, left, *restarts]
    for text in doing:  # the longest that leaves space for a bar
        bar_width = width - len(" ".join([text, *numbers])) - 1
        if bar_width >= SHORTEST_BAR:
            break
    else:
        while len(numbers) > 1 and len(" ".join(numbers)) > width - 1:
            numbers.pop()
    row: list[Text | ProgressBar] = [_line(text)] if text else []
    if bar_width >= SHORTEST_BAR:
        row.append(ProgressBar(total=view.total, completed=view.done, width=min(LONGEST_BAR, bar_width)))
    row += map(_line, numbers)
    grid = Table.grid(padding=(0, 1, 0, 0))
    for _ in row:
        grid.add_column(no_wrap=True)
    grid.add_row(*row)
    return grid


def _workers(progress: Progress, unit: Unit, *, max_rows: int, width: int) -> list[Text | Table]:
    """Return a table with a row for each worker, by rank; if not all fit, the slowest ones and the number of others."""
    workers, world_size = progress.workers, progress.world_size or 0
    shown = workers[:max_rows] if world_size <= max_rows else workers[: max(max_rows - 1, 0)]
    names = [name for name, from_width in COLUMNS if width >= from_width]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", width=1)
    for name in names:
        table.add_column(f"{unit.many}/s" if name == "speed" else name, justify="right", no_wrap=True)
    worst = progress.straggler.rank if progress.straggler is not None else None
    for worker in sorted(shown, key=lambda worker: worker.rank):
        cells = _cells(worker, unit)
        is_worst = worker.rank == worst
        row = [">" if is_worst else "", *(cells[name] for name in names)]
        table.add_row(*row, style="bold yellow" if is_worst else "")
    rest = world_size - len(shown)
    return [table, *([_line(f"and {rest:,} more, faster ones", style="dim")] if rest else [])]


def _cells(worker: WorkerProgress, unit: Unit) -> dict[str, str]:
    return {
        "rank": str(worker.rank),
        "speed": _speed(worker.samples_per_s, unit),
        "step": seconds(worker.step_time_s),
        "data": seconds(worker.data_wait_s),
        "compute": seconds(worker.compute_s),
        "sync": seconds(worker.sync_wait_s),
        "loss": number(worker.loss),
        "memory": f"{worker.peak_memory_gib:.2f} GiB",
    }


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
