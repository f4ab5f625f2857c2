"""Runs in a notebook: ``scaler.read_run("last")`` has everything of a run as pandas frames, and shows itself.

Only here is pandas imported.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from scaler.errors import RunError
from scaler.metrics.events import to_dict
from scaler.metrics.reader import read_events, read_records, with_records
from scaler.plan import Plan
from scaler.report.page.shell import render_part
from scaler.report.run.cost_text import cost_text, scaling_text
from scaler.report.run.definitions import ATTEMPTS, COST, EFFICIENCY, SPEED, TRAIN_LOSS, WALL_S, evaluation
from scaler.report.run.model import Report
from scaler.report.run.step_arrays import make_step_arrays
from scaler.report.run.write import read_report
from scaler.report.text.format import number, plural, seconds
from scaler.runs import RunFolder, find_run, list_runs
from scaler.runs.lease import present_state

SPARK_WIDTH, SPARK_HEIGHT = 320, 80  # CSS pixels of the small curve


class Run:
    """One run, as it was when each part of it was first asked for.

    Args:
        folder: of the run.

    Example:
        run = scaler.read_run("last")
        run                                     # in a notebook: state, verdicts, numbers, the loss
        run.steps.plot(y="loss_mean")
        run.records.groupby("rank").step_time_s.median()
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.report: Report = read_report(folder)

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.report.run_id

    @property
    def plan(self) -> Plan:
        """What the job came to at the start of the run."""
        return Plan.from_dict(self.report.plan)

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row for each worker and step, as measured; ``lost``: a later attempt did that work again.

        The columns are those of ``scaler.metrics.record.Record``, with their units. A run of many millions of records
        wants as much memory as they take: about 150 bytes each.
        """
        frame: pd.DataFrame = read_records(self._folder).to_pandas()
        return frame.sort_values(["attempt", "samples_seen", "rank"], ignore_index=True)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row for each step that is in the final weights, by ``samples_seen``: what the report is made of.

        ``loss_mean`` is over ranks, by the loss's weight, NaN where any rank's loss was no number; ``loss_weight`` is
        what it is a mean over, by which means of several steps go; ``loss_min`` and ``loss_max`` are of any rank whose
        loss was one;
        ``step_time_s`` is the slowest rank's, ``step_time_mean_s``, ``compute_s``, ``data_wait_s`` and ``sync_wait_s``
        are means over ranks; ``samples`` and ``samples_per_s``, which is over ``step_time_mean_s``, are of all workers.
        """
        arrays = with_records(self._folder, lambda metrics: make_step_arrays(metrics.records, metrics.events))
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
    def events(self) -> pd.DataFrame:
        """A row for each event, in the order in which they were written; ``time`` is in UTC.

        The columns are the fields of all kinds, see ``scaler.metrics.events``; an event has NaN or None in those of
        other kinds. Events of a kind that only a newer scaler knows are there, too.
        """
        events = read_events(self._folder)
        frame = pd.DataFrame([to_dict(event) for event in events])
        if events:
            frame["time"] = pd.to_datetime([event.time for event in events], unit="s", utc=True)
        return frame

    @property
    def workers(self) -> pd.DataFrame:
        """A row for each worker, as the report has it."""
        return pd.json_normalize([dict(row) for row in self.report.to_dict()["workers"]])

    @property
    def attempts(self) -> pd.DataFrame:
        """A row for each attempt of the worker group, as the report has it."""
        return pd.DataFrame(self.report.to_dict()["attempts"])

    @property
    def evals(self) -> pd.DataFrame:
        """A row for each evaluation, by ``samples_seen``."""
        series = self.report.series
        places = {"samples_seen": series.eval_samples_seen, "elapsed_s": series.eval_elapsed_s}
        return pd.DataFrame({**places, **{f"eval.{name}": values for name, values in series.evals.items()}})

    def __repr__(self) -> str:
        """Return the run's name, state and length on one line."""
        totals = self.report.totals
        trained = f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"
        return f"<Run {self.run_id}: {self.report.state}, {trained}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a table that needs nothing else, with every text escaped."""
        report = self.report
        return render_part(
            "run.html.j2",
            report=report,
            facts=_facts(report),
            curve=_curve(report),
            width=SPARK_WIDTH,
            height=SPARK_HEIGHT,
        )


def read_run(run: str, *, storage: str = "runs") -> Run:
    """Return a run for a notebook or a script.

    Args:
        run: its folder or URI, its id below ``storage``, or ``last``.
        storage: the folder or URI that holds runs.

    Raises:
        RunError: there is no such run, or it cannot be read.
    """
    return Run(find_run(str(run), storage=str(storage)))


def read_runs(storage: str = "runs") -> pd.DataFrame:
    """Return a row for each run below a storage, the oldest first: ``run_id``, ``state``, and when it began and ended.

    Only each run's status is read, so that it is quick with many of them. The state is ``lost`` where the run's driver
    ended without an end, and ``unreadable`` where its status cannot be read.

    Raises:
        RunError: the storage cannot be read.
    """
    rows: list[Mapping[str, Any]] = []
    for folder in list_runs(str(storage)):
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


def _facts(report: Report) -> list[tuple[str, str]]:
    """The numbers of the small table, with their units."""
    totals, scaling = report.totals, report.scaling
    facts = [
        ("workers", number(report.plan["world_size"])),
        ("trained", f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"),
        (SPEED.name, f"{number(SPEED.read(report))} {SPEED.unit}"),
        (WALL_S.name, seconds(WALL_S.read(report))),
        (TRAIN_LOSS.name, f"{number(TRAIN_LOSS.read(report))} ({TRAIN_LOSS.of})"),
    ]
    facts += [(value.name, number(value.read(report))) for value in map(evaluation, report.final.eval)]
    if scaling is not None and (said := scaling_text(scaling)) is not None:
        facts.append((EFFICIENCY.name, said))
    if report.cost is not None:
        facts.append((COST.name, cost_text(report.cost)))
    if len(report.attempts) > 1:
        facts.append((ATTEMPTS.name, number(len(report.attempts))))
    return facts


def _curve(report: Report) -> str:
    """The training loss as an SVG path, from the least to the greatest value; empty with fewer than two points."""
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
