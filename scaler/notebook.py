"""Runs in a notebook: ``scaler.read_run("last")`` returns a run's data as pandas frames, and shows a summary.

This is the only module that imports pandas, when the first frame is requested.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scaler.errors import RunError
from scaler.metrics.events import to_dict
from scaler.metrics.reader import read_events, read_records, with_records
from scaler.plan import Plan
from scaler.report.page.shell import render_part
from scaler.report.run.definitions import ATTEMPTS
from scaler.report.run.format import Fact, costs, results
from scaler.report.run.model import Report
from scaler.report.run.read import read_report
from scaler.report.run.step_arrays import make_step_arrays
from scaler.report.run.tokens import in_unit
from scaler.report.text.format import number, plural
from scaler.runs import RunFolder, find_run, list_runs
from scaler.runs.lease import present_state

if TYPE_CHECKING:
    import pandas as pd

SPARK_WIDTH, SPARK_HEIGHT = 320, 80  # CSS pixels of the small curve


class Run:
    """One run. Each part is read when it is first used, and kept.

    Args:
        folder: the run's folder.
        report: the run's report; None: it is made from what is in the folder now.

    Example:
        run = scaler.read_run("last")
        run                                     # in a notebook: state, verdicts, numbers, the loss
        run.steps.plot(y="loss_mean")
        run.records.groupby("rank").step_time_s.median()
    """

    def __init__(self, folder: RunFolder, *, report: Report | None = None) -> None:
        self.folder = folder
        self.report: Report = read_report(folder) if report is None else report

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.report.run_id

    @property
    def plan(self) -> Plan:
        """The plan at the start of the run."""
        return Plan.from_dict(self.report.plan)

    @cached_property
    def records(self) -> "pd.DataFrame":
        """A row for each worker and step, as measured; ``lost``: a later attempt did this work again.

        The columns and their units are those of ``scaler.metrics.record.Record``. Each record takes about 150 bytes of
        memory.
        """
        frame: pd.DataFrame = read_records(self.folder).to_pandas()
        return frame.sort_values(["attempt", "samples_seen", "rank"], ignore_index=True)

    @cached_property
    def steps(self) -> "pd.DataFrame":
        """A row for each step that is in the final weights, by ``samples_seen``; the report is computed from these.

        ``loss_mean`` is the mean over ranks, weighted by each loss's weight; NaN if the loss of any rank was NaN or
        infinite. ``loss_weight`` is the sum of the weights: use it as the weight in a mean over steps. ``loss_min`` and
        ``loss_max`` are over the ranks with a finite loss. ``step_time_s`` is the slowest rank's; ``step_time_mean_s``,
        ``compute_s``, ``data_wait_s`` and ``sync_wait_s`` are means over ranks. ``samples`` and ``samples_per_s``
        (``samples`` over ``step_time_mean_s``) are of all workers.
        """
        import numpy as np
        import pandas as pd

        arrays = with_records(self.folder, lambda metrics: make_step_arrays(metrics.records, metrics.events))
        kept, memory = arrays.kept, arrays.cells["peak_memory_gib"]
        return pd.DataFrame(
            {
                "attempt": kept["attempt"],
                "samples_seen": kept["samples_seen"],
                "step": kept["step"],
                "world_size": kept["workers"],
                "samples": kept["samples"],
                "loss_mean": kept["loss"],
                "loss_weight": kept["weight"],
                **{name: kept[name] for name in ("loss_min", "loss_max", "lr", "lr_planned", "step_time_s")},
                "step_time_mean_s": kept["own_s"],
                **{name: arrays.over_ranks(name) for name in ("compute_s", "data_wait_s", "sync_wait_s")},
                **{name: kept[name] for name in ("grad_norm", "noise_scale")},
                "peak_memory_gib": np.fmax.reduce(memory, axis=1, initial=np.nan),
                "steps": kept["steps"],
                "samples_per_s": kept["samples"] / kept["own_s"],
            }
        )

    @cached_property
    def events(self) -> "pd.DataFrame":
        """A row for each event, in the order in which they were written; ``time`` is in UTC.

        The columns are the fields of all kinds, see ``scaler.metrics.events``; a field that an event's kind
        does not have is NaN or None. Events of kinds that only a newer scaler knows are included.
        """
        import pandas as pd

        events = read_events(self.folder)
        frame = pd.DataFrame([to_dict(event) for event in events])
        if events:
            frame["time"] = pd.to_datetime([event.time for event in events], unit="s", utc=True)
        return frame

    @property
    def workers(self) -> "pd.DataFrame":
        """A row for each worker, as in the report."""
        import pandas as pd

        return pd.json_normalize([dict(row) for row in self.report.to_dict()["workers"]])

    @property
    def attempts(self) -> "pd.DataFrame":
        """A row for each attempt, as in the report."""
        import pandas as pd

        return pd.DataFrame(self.report.to_dict()["attempts"])

    @property
    def evals(self) -> "pd.DataFrame":
        """A row for each evaluation, by ``samples_seen``."""
        import pandas as pd

        series = self.report.series
        places = {"samples_seen": series.eval_samples_seen, "elapsed_s": series.eval_elapsed_s}
        return pd.DataFrame({**places, **{f"eval.{name}": values for name, values in series.evals.items()}})

    def __repr__(self) -> str:
        """Return the run's id, state and length on one line."""
        totals = self.report.totals
        trained = f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"
        return f"<Run {self.run_id}: {self.report.state}, {trained}>"

    def _repr_html_(self) -> str:
        """Return the summary that a notebook shows, as HTML without style sheet or script; text is escaped."""
        report = self.report
        return render_part(
            "run.html.j2",
            report=report,
            facts=_facts(report),
            curve=_curve(report),
            width=SPARK_WIDTH,
            height=SPARK_HEIGHT,
        )


RunLike = str | os.PathLike[str] | Run


def read_run(run: RunLike, *, storage: str | os.PathLike[str] = "runs") -> Run:
    """Return a run, for a notebook or a script. Its report is made from what is in its folder now.

    Args:
        run: its id below ``storage``, its folder or URI, ``last``, or a ``Run``, which is read again.
        storage: the folder or URI that holds runs.

    Raises:
        RunError: the run does not exist or cannot be read.
    """
    return Run(run_folder(run, storage=storage))


def run_folder(run: RunLike, *, storage: str | os.PathLike[str]) -> RunFolder:
    """Return the folder of a run. Arguments and errors are those of ``read_run``."""
    return run.folder if isinstance(run, Run) else find_run(os.fspath(run), storage=os.fspath(storage))


def read_runs(storage: str | os.PathLike[str] = "runs") -> "pd.DataFrame":
    """Return a row for each run below a storage, the oldest first: ``run_id``, ``state``, and when it began and ended.

    Only the status of each run is read, so this is fast for many runs. The state is ``lost`` if the run's driver ended
    without a final state, and ``unreadable`` if the status cannot be read. Times are in UTC.

    Args:
        storage: the folder or URI that holds runs.

    Raises:
        RunError: the storage cannot be read.
    """
    import pandas as pd

    rows: list[Mapping[str, Any]] = []
    for folder in list_runs(os.fspath(storage)):
        try:
            status, state = folder.read_json("status.json"), present_state(folder)[0].value
        except RunError:
            status, state = {}, "unreadable"
        rows.append(
            {
                "run_id": folder.run_id,
                "state": state,
                "started_at": status.get("started_at"),
                "ended_at": status.get("ended_at"),
                "uri": folder.place,
            }
        )
    frame = pd.DataFrame(rows, columns=["run_id", "state", "started_at", "ended_at", "uri"])
    for name in ("started_at", "ended_at"):
        frame[name] = pd.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
    return frame


def _facts(report: Report) -> list[Fact]:
    """Return the rows of the small table."""
    shown = in_unit(report)
    facts = [("workers", number(report.plan["world_size"])), *results(shown), *costs(shown)]
    if len(report.attempts) > 1:
        facts.append((ATTEMPTS.name, number(len(report.attempts))))
    return facts


def _curve(report: Report) -> str:
    """Return the training loss as an SVG path; an empty text if there are fewer than two points."""
    series = report.series
    points = [(x, y) for x, y in zip(series.samples_seen, series.loss_mean, strict=True) if y is not None]
    if len(points) < 2:
        return ""
    last_x = max(x for x, _ in points) or 1
    least, greatest = min(y for _, y in points), max(y for _, y in points)
    height = (greatest - least) or 1.0
    places = (
        f"{x / last_x * SPARK_WIDTH:.1f},{(greatest - y) / height * (SPARK_HEIGHT - 4) + 2:.1f}" for x, y in points
    )
    return "M" + " L".join(places)
