"""A run's curves in MLflow: one MLflow run for each run, which a resumed run continues.

The step of a metric is ``samples_seen``. MLflow cannot delete points: work that is done again, after a crash, is there
twice, and the tag ``scaler.attempt`` has the number of the attempt.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from scaler.job.tracking import Mlflow
from scaler.masking import mask_values
from scaler.metrics.curves import Point
from scaler.runs import RunFolder, RunState

RUN_TAG, ATTEMPT_TAG, CHANGED_TAG = "scaler.run_id", "scaler.attempt", "scaler.changed_params"
MOST_METRICS, MOST_PARAMS = 1000, 100  # in one request
LONGEST = 250  # characters in a name
STATUS = {RunState.SUCCEEDED: "FINISHED", RunState.FAILED: "FAILED", RunState.STOPPED: "KILLED"}


class MlflowSink:
    """Writes to one MLflow run; an earlier attempt, resume or collector may have created it.

    Args:
        mlflow: the job's section ``tracking.mlflow``.
        folder: the run's folder, with its plan.
    """

    def __init__(self, mlflow: Mlflow, folder: RunFolder) -> None:
        self._client = MlflowClient(tracking_uri=mlflow.uri)
        found = self._client.get_experiment_by_name(mlflow.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(mlflow.experiment)
        filter_string = f"tags.`{RUN_TAG}` = '{folder.run_id}'"
        runs = self._client.search_runs([experiment], filter_string=filter_string, max_results=1)
        if runs:
            run = runs[0]
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags = {RUN_TAG: folder.run_id, ATTEMPT_TAG: "0"}
            run = self._client.create_run(experiment, run_name=folder.run_id, tags=tags)
        self._run, self._attempt = run.info.run_id, int(run.data.tags.get(ATTEMPT_TAG, 0))
        self._log_plan(folder.read_json("plan.json"), run.data.params)

    def write(self, points: Sequence[Point]) -> None:
        """Log points."""
        newest = max((point.attempt for point in points), default=self._attempt)
        if newest > self._attempt:
            self._client.set_tag(self._run, ATTEMPT_TAG, str(newest))
            self._attempt = newest
        metrics = [
            Metric(metric_name(name), value, int(point.wall_time * 1000), point.samples_seen)
            for point in points
            for name, value in point.values.items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[first : first + MOST_METRICS])

    def close(self, state: RunState | None) -> None:
        """Set the MLflow run's final status."""
        if state is not None:
            self._client.set_terminated(self._run, status=STATUS[state])

    def _log_plan(self, plan: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log the plan's numbers. MLflow cannot change a parameter; a tag has the ones that a resume changed."""
        params = flat(mask_values(plan))
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for first in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._run, params=new[first : first + MOST_PARAMS])
        changed = [f"{key}: {known[key]} -> {value}" for key, value in params.items() if known.get(key, value) != value]
        if changed:
            self._client.log_batch(self._run, tags=[RunTag(CHANGED_TAG, "; ".join(changed)[:5000])])


def flat(plan: Mapping[str, Any], inside: str = "") -> dict[str, str]:
    """Return a plan's numbers and texts by dotted names; lists, such as its curve, are left out.

    Example:
        >>> flat({"peak_lr": 0.1, "optimizer": {"name": "sgd"}, "lr_curve": [[0, 0.1]], "layer_decay": None})
        {'peak_lr': '0.1', 'optimizer.name': 'sgd'}
    """
    found: dict[str, str] = {}
    for key, value in plan.items():
        name = f"{inside}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, int | float | str):
            found[metric_name(name)] = str(value)[:LONGEST]
    return found


def metric_name(name: str) -> str:
    """Return a name that MLflow accepts: a user's metric name can have any character, and MLflow uses it in paths.

    Example:
        >>> [metric_name(name) for name in ("train/lr", "eval/top<5>", "eval/../x", "eval/a//b")]
        ['train/lr', 'eval/top_5_', 'eval/.._x', 'eval/a__b']
    """
    taken = re.sub(r"[^A-Za-z0-9_./ -]", "_", name)[:LONGEST]
    group, slash, rest = taken.partition("/")
    if any(part in ("", ".", "..") for part in rest.split("/")):
        rest = rest.replace("/", "_")
    return f"{group}{slash}{rest}"
