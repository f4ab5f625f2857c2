"""Show how far an experiment is: a line for each cell that has ended, and the progress of the one that runs."""

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from scaler.cli.live import Live
from scaler.cli.slow import Slow
from scaler.cli.terminal import err
from scaler.errors import ScalerError
from scaler.experiment.matrix import Cell, Matrix
from scaler.experiment.run import Watcher
from scaler.report.experiment.labels import label
from scaler.report.text.format import count, number, printable, seconds
from scaler.runs import RunFolder

if TYPE_CHECKING:
    from scaler.cluster.progress import Progress


class ExperimentProgress:
    """The display of an experiment; a context manager.

    Args:
        matrix: of the experiment.
        quiet: show nothing.
    """

    def __init__(self, matrix: Matrix, *, quiet: bool) -> None:
        self._matrix, self._quiet = matrix, quiet
        self._console = err()
        self._cell = ExitStack()
        self._wait = ExitStack()  # what is shown before a cell starts
        self._live: Live | None = None
        self._begun, self._place, self._number = False, 0, 0
        self.watcher = Watcher(
            on_wait=self._on_wait,
            on_start=self._on_start,
            on_progress=self._on_progress,
            on_end=self._on_end,
            on_notice=self._say,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait.close()
        self._cell.close()

    def _on_wait(self, text: str) -> None:
        self._wait.close()
        if not self._quiet:
            self._wait.enter_context(Slow(text, console=self._console))

    def _on_start(self, cell: Cell, place: int, number: int) -> None:
        self._wait.close()
        if not self._begun:
            rest = len(self._matrix.cells) - number
            kept = f"; {rest:,} of {len(self._matrix.cells):,} need no run" if rest else ""
            self._say(f"Experiment {self._matrix.experiment.name}: {number:,} cells to run, in random order{kept}")
        self._begun, self._place, self._number = True, place + 1, number
        assert cell.plan is not None
        quiet = self._quiet or not self._console.is_terminal  # elsewhere, the line of each cell is enough
        self._live = self._cell.enter_context(Live(cell.plan, console=self._console, quiet=quiet))

    def _on_progress(self, progress: "Progress") -> None:
        if self._live is not None:
            self._live.show(progress)

    def _on_end(self, cell: Cell, folder: RunFolder | None, error: ScalerError | None) -> None:
        self._cell.close()
        self._live = None
        width = len(str(self._number))
        name = f"{self._place:{width}}/{self._number}  {label(cell.overrides)}, seed {cell.seed}"
        if error is not None:
            self._say(f"{name}  failed: {error.problem}")
        elif folder is not None:
            self._say(f"{name}  {self._results(folder)}")

    def _results(self, folder: RunFolder) -> str:
        from scaler.report.experiment.cells import TRAIN_LOSS, final_values, throughput
        from scaler.report.run.read import read_report
        from scaler.report.run.tokens import in_unit

        report = in_unit(read_report(folder))
        compare = self._matrix.experiment.compare
        name = TRAIN_LOSS if compare is None else compare.metric
        value = final_values(report).get(name)
        speed = throughput(report)
        return f"{name} {number(value)}  {count(speed, report.unit)} {report.unit}/s  {seconds(report.totals.wall_s)}"

    def _say(self, line: str) -> None:
        if self._live is not None:
            self._live.say(line)
        elif not self._quiet:
            self._console.print(printable(line), soft_wrap=True)
