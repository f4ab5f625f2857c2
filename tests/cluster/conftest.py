"""The embedded cluster that tests share, and the run that several of them read."""

from collections.abc import Iterator

import pytest
from runs_on_ray import TROUBLED, CalmRun, run

from scaler.cluster.progress import Progress
from scaler.metrics.events import AttemptStarted, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One embedded Ray for all tests that need one; they are few and real."""
    from scaler.cluster.embedded import embedded_cluster

    with embedded_cluster(verbose=False):
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
    """Three times the time that the calm run took to start: no false alarm on a machine that is more loaded later."""
    began = next(event.time for event in of_type(read_events(calm), AttemptStarted))
    return min(max(12.0, round(3 * (began - calm.read_json("status.json")["started_at"]))), 30.0)
