"""Show how far a search is: a line for each trial that has ended, and one for each that trains."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.text import Text

from scaler.cli.terminal import err
from scaler.cluster.search.spec import TrialNews
from scaler.experiment.matrix import Matrix
from scaler.experiment.run import Watcher
from scaler.report.experiment.labels import label
from scaler.report.text.format import number, plural, printable

if TYPE_CHECKING:
    from scaler.cluster.search.spec import SearchSpec

ENDED = {
    "stopped": "stopped after",
    "replaced": "replaced after",
    "finished": "finished after",
    "interrupted": "interrupted after",
}


class SearchProgress:
    """The display of a search; a context manager.

    Args:
        matrix: of the experiment.
        spec: of its search.
        quiet: show nothing.
    """

    def __init__(self, matrix: Matrix, spec: "SearchSpec", *, quiet: bool) -> None:
        self._matrix, self._spec, self._quiet = matrix, spec, quiet
        self._console = err()
        self._running: dict[int, TrialNews] = {}
        self._live: Live | None = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, transient=True, refresh_per_second=4)
        self.watcher = Watcher(on_notice=self._say, on_trial=self._take)

    def __enter__(self) -> Self:
        spec = self._spec
        self._say(
            f"Search {self._matrix.experiment.name}: {plural(spec.trials, 'trial')} of up to {spec.total_samples:,} "
            f"samples, searcher {spec.searcher}, scheduler {spec.scheduler}"
        )
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _take(self, news: TrialNews) -> None:
        if news.ended is None:
            self._running[news.number] = news
        else:
            self._running.pop(news.number, None)
            self._say(self._line(news))
        if self._live is not None:
            self._live.update(Text("\n".join(self._line(each) for each in self._running.values()), style="dim"))

    def _line(self, news: TrialNews) -> str:
        most = self._spec.trials
        name = f"{news.number + 1:{len(str(most))}}/{most}  {label(news.values)}"
        if news.ended == "failed":
            return f"{name}  failed: {news.problem.partition(chr(10))[0]}"
        how = ENDED[news.ended] if news.ended is not None else "at"
        value = f"  {self._spec.metric} {number(news.value)}" if news.value is not None else ""
        return f"{name}  {how} {news.samples_seen:,} samples{value}"

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(printable(line), soft_wrap=True, highlight=False)
