"""Tests that start Ray: how they are shared among processes, and the runs that several of them read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from runs_on_ray import TROUBLED, CalmRun, run

from scaler.cluster.progress import Progress
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder

HERE = Path(__file__).parent
OWN_CLUSTERS = ("test_submit.py", "test_chaos.py", "test_elastic.py", "test_find_lr_on_ray.py", "test_resume_on_ray.py")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests that start Ray, so that ``pytest -n`` has at most two clusters at a time.

    Tests that share the embedded cluster of a session run in one process; those whose subprocesses start a cluster of
    their own run in another, one after the other.
    """
    for item in items:
        if HERE not in item.path.parents:
            continue
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.path.name in OWN_CLUSTERS:
            item.add_marker(pytest.mark.xdist_group("own_clusters"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One embedded Ray for all tests that need one; they are few and real."""
    from scaler.cluster.embedded import ray_cluster

    with ray_cluster(None, verbose=False):
        yield


@pytest.fixture(scope="session")
def calm_run(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> CalmRun:
    seen: list[Progress] = []
    folder = run(tmp_path_factory.mktemp("calm"), TROUBLED, "recipe_args.sleep_s=0.015", on_progress=seen.append)
    return CalmRun(folder, seen)


@pytest.fixture(scope="session")
def calm(calm_run: CalmRun) -> RunFolder:
    """The run that disturbed ones are compared with: 2 workers, 300 steps of 10 samples."""
    return calm_run.folder


@pytest.fixture(scope="session")
def hang_timeout_s(calm: RunFolder) -> float:
    """Twice the time that the calm run took to start: short on an idle machine, and no false alarm on a loaded one."""
    began = next(event["time"] for event in read_events(calm) if event["kind"] == "attempt_started")
    return min(max(5.0, round(2 * (began - calm.read_json("status.json")["started_at"]))), 30.0)
