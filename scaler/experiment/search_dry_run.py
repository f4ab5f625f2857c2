"""What a search would try, and how long it takes at most and at least."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scaler.cluster.search.spec import Between
from scaler.experiment.matrix import Matrix
from scaler.experiment.search import search_spec
from scaler.job.changes import shown
from scaler.report.text.format import plural, printable


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchDryRun:
    """What a search would try.

    Args:
        name: of the experiment.
        space: by key of the job, the values as a text.
        searcher: that proposes settings.
        scheduler: that stops trials.
        trials: number of settings.
        total_samples: of a trial that trains to its end.
        places: samples after which the scheduler looks at a trial.
        most_samples: of all trials, if none is stopped.
        fewest_samples: of all trials, if every trial but one is stopped at the first place.
    """

    name: str
    space: dict[str, str]
    searcher: str
    scheduler: str
    trials: int
    total_samples: int
    places: Sequence[int]
    most_samples: int
    fewest_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def text(self) -> RenderableType:
        """Return it for a terminal."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("key", overflow="fold")
        table.add_column("values", overflow="fold")
        for key, values in self.space.items():
            table.add_row(printable(key), printable(values))
        looks = (
            f" It looks at a trial after {', '.join(f'{place:,}' for place in self.places)} samples."
            if self.places
            else ""
        )
        fewest = f" and at least {self.fewest_samples:,}" if self.fewest_samples < self.most_samples else ""
        trials = f"{plural(self.trials, 'trial')} of {self.total_samples:,} samples"
        whole = f"{trials}: at most {self.most_samples:,} samples{fewest}."
        how = f"Searcher {self.searcher}, scheduler {self.scheduler}.{looks}"
        return Group(table, Text(""), Text(how), Text(whole, style="bold"))


def search_dry_run(matrix: Matrix) -> SearchDryRun:
    """Return what a search would try.

    Raises:
        JobFileError: the experiment cannot be searched.
    """
    spec = search_spec(matrix)
    looks = list(spec.places(spec.total_samples))
    most = spec.trials * spec.total_samples
    is_stopping = spec.scheduler == "asha" and bool(looks)
    return SearchDryRun(
        name=matrix.experiment.name,
        space={
            key: f"{values.low:g} to {values.high:g}, {'log' if values.is_log else 'linear'}"
            if isinstance(values, Between)
            else ", ".join(map(shown, values))
            for key, values in spec.space.items()
        },
        searcher=spec.searcher,
        scheduler=spec.scheduler,
        trials=spec.trials,
        total_samples=spec.total_samples,
        places=looks,
        most_samples=most,
        fewest_samples=spec.total_samples + (spec.trials - 1) * looks[0] if is_stopping else most,
    )
