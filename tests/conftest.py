"""What several test modules share: the digits job, a synthetic run, golden texts."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job, load_job
from scaler.plan import make_plan

REPOSITORY = Path(__file__).parents[1]
DIGITS = REPOSITORY / "jobs" / "digits" / "job.yaml"

# The search for doctests would import the conftest of each folder under one name.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

# The same examples in every run: a failure is the change's own, not the day's.
hypothesis.settings.register_profile("scaler", deadline=None, derandomize=True)
hypothesis.settings.load_profile("scaler")

# One thread for torch in each process: with pytest -n, as many processes as there are cores compute at the same time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray gives its workers a low priority (niceness 15), and beside other tests they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

# A background job may start with SIGINT and SIGHUP ignored, and what the tests start would ignore them, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A process has one fork server, started by whichever test is first; with torch in it, a member of a group starts in
# milliseconds.
multiprocessing.set_forkserver_preload(
    ["torch", "torch._dynamo", "scaler.training.loop", "torchmetrics.classification", "torchmetrics.regression"]
)


# Files of tests that start Ray. Under pytest -n, all of one group run in one process, one after the other: those of
# "shared" use one embedded cluster, and those of "own" start clusters in processes of their own. So there are at most
# two clusters at a time.
CLUSTER_GROUPS = {
    "shared": (
        "test_gpus.py",
        "test_kept_group.py",
        "test_own_loop_on_ray.py",
        "test_ray_errors.py",
        "test_ray_internals.py",
        "test_ray_run.py",
        "test_remote_refusals.py",
        "test_resume_on_ray.py",
        "test_running.py",
        "test_security.py",
        "test_shipment.py",
    ),
    "own": (
        "test_api.py",
        "test_chaos.py",
        "test_elastic.py",
        "test_experiment.py",
        "test_find_lr_on_ray.py",
        "test_forks.py",
        "test_nodes_in_namespaces.py",
        "test_pages_on_ray.py",
        "test_preflight.py",
        "test_remote_submit.py",
        "test_s3_on_ray.py",
        "test_search.py",
        "test_submit.py",
        "test_trainers_on_ray_train.py",
        "test_wheel.py",
    ),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process of ``pytest -n`` one test at a time, and the tests of a cluster group together, first of all.

    The marker ``xdist_group`` has no effect here: pytest-xdist 3.8 writes it into an attribute that pytest 9.2 lacks.
    """
    if config.getvalue("dist") != "load":  # another one was asked for
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0].rsplit("/", 1)[-1]
            return next((name for name, files in CLUSTER_GROUPS.items() if file in files), nodeid)

    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write tests/golden anew instead of comparing.")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with ``tests/golden/<name>``."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert text == path.read_text()

    return compare


@pytest.fixture(scope="session")
def digits_path() -> Path:
    return DIGITS


@pytest.fixture(scope="session")
def digits() -> Callable[..., Job]:
    """Load jobs/digits/job.yaml with overrides."""

    def load(*overrides: str, workers: int | None = None) -> Job:
        return load_job(DIGITS, overrides=overrides, workers=workers)

    return load


@pytest.fixture
def synthetic_run(digits: Callable[..., Job]) -> SyntheticRun:
    """Return a run without any attempt yet."""
    job = digits(*SYNTHETIC_JOB)
    return SyntheticRun(job=job, plan=make_plan(job))


@pytest.fixture
def scaler_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Run a command line in the test's own folder, 80 columns wide; for the modules in tests/cli."""
    from in_process import command_line

    monkeypatch.setenv("COLUMNS", "80")
    with command_line(capsys, monkeypatch, tmp_path) as command:
        yield command
