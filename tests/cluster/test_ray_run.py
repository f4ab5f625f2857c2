"""Runs on real Ray Train workers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from process_tree import descendants
from runs_on_ray import DIGITS, TROUBLED, CalmRun, run, start

from scaler.cluster.connection import Connection
from scaler.cluster.progress import Progress
from scaler.cluster.ray_run import run_on_ray
from scaler.errors import ClusterError, RecipeError, TrainingError
from scaler.job import Job
from scaler.metrics.reader import read_events, read_records
from scaler.plan import make_plan
from scaler.report.run.read import read_report
from scaler.report.run.write import write_report
from scaler.runs import RunFolder

# Ray's own, of its own parts; ours are errors.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def train(job: Job, folder: RunFolder) -> None:
    run_on_ray(job, make_plan(job), folder, Connection.of_embedded(job, TROUBLED), on_progress=lambda progress: None)


def weights(folder: RunFolder) -> dict[str, Any]:
    from scaler.training.checkpoints.files import find_checkpoint
    from scaler.training.checkpoints.state import load_checkpoint

    newest, _ = find_checkpoint(folder)
    assert newest is not None
    return load_checkpoint(folder, newest)["model"]


@pytest.mark.usefixtures("cluster")
def test_the_same_global_batch_gives_the_same_run_on_one_worker_and_on_two(tmp_path: Path) -> None:
    """1 x 128, 2 x 64 and 1 x 64 with two micro-steps, on the digits."""
    common = ["train.epochs=3"]
    one = run(tmp_path, DIGITS, *common, "scale.num_workers=1")
    two = run(tmp_path, DIGITS, *common, "scale.per_worker_batch_size=64")
    accumulated = run(
        tmp_path, DIGITS, *common, "scale.num_workers=1", "scale.per_worker_batch_size=64", "scale.grad_accum_steps=2"
    )
    expected = read_report(one)
    assert len(expected.workers) == 1
    assert expected.final.train_loss_mean is not None
    for other in (two, accumulated):
        report = read_report(other)
        assert report.final.train_loss_mean == pytest.approx(expected.final.train_loss_mean, abs=1e-4)
        assert report.final.eval["loss"] == pytest.approx(expected.final.eval["loss"], abs=1e-4)
        assert report.lr_audit.max_abs_error == 0
        assert report.totals.samples_seen == 3 * 1437
    workers = read_report(two).workers
    assert [worker.rank for worker in workers] == [0, 1]
    assert sum(worker.samples for worker in workers) == 3 * 1437
    assert len({worker.pid for worker in workers}) == 2
    assert not two.exists("ray_train"), "what Ray Train left is gone"


def of_kind(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder) if event.kind == kind]


def assert_same_training(folder: RunFolder, calm: RunFolder) -> None:
    """The same weights to the last bit, and each step in the records once."""
    theirs = weights(folder)
    assert all(tensor.equal(theirs[name]) for name, tensor in weights(calm).items())
    report = write_report(folder)
    assert report.totals.steps == write_report(calm).totals.steps
    assert report.totals.samples_seen == 3000
    assert report.lr_audit.max_abs_error == 0


@pytest.fixture(scope="session")
def disturbed(tmp_path_factory: pytest.TempPathFactory, calm: RunFolder, hang_timeout_s: float) -> RunFolder:
    """A run whose rank 1 is killed, hangs, is frozen and gets SIGTERM, in four attempts one after the other.

    Three of them cost a restart, and three restarts are allowed.
    """
    storage = tmp_path_factory.mktemp("disturbed")
    folder = run(
        storage,
        TROUBLED,
        "recipe_args.trouble='kill,hang,freeze,terminate'",
        "recipe_args.at_call=45",
        f"recipe_args.marker={storage}/happened",
        f"failures.hang_timeout_s={hang_timeout_s}",
        "failures.max_restarts=3",
    )
    assert (storage / "happened").read_text().split() == ["kill", "hang", "freeze", "terminate"]
    return folder


def test_troubled_workers_cost_nothing_but_time(disturbed: RunFolder, calm: RunFolder) -> None:
    report = write_report(disturbed)
    ends = [(row.attempt, row.ended_by) for row in report.attempts]
    assert ends == [(0, "lost"), (1, "hung"), (2, "hung"), (3, "terminated"), (4, "finished")]
    assert report.totals.steps == 300, "every step of the final weights has its records, and none has them twice"
    assert_same_training(disturbed, calm)


def test_a_killed_worker_is_replaced_from_the_last_checkpoint(disturbed: RunFolder) -> None:
    report = write_report(disturbed)
    assert [row.end_samples for row in report.attempts[:3]] == [300, 600, 900]
    assert [row.start_samples for row in report.attempts[1:4]] == [300, 600, 900]


def test_a_worker_that_hangs_is_named_and_replaced(disturbed: RunFolder, hang_timeout_s: float) -> None:
    (hung,) = [event for event in of_kind(disturbed, "worker_hung") if event.attempt == 1]
    assert (hung.rank, hung.doing) == (1, "computing")
    assert hung.where.startswith("troubled_recipe.py:")
    assert hung.where.endswith(" in happen")
    assert hung.seconds > hang_timeout_s
    assert "time.sleep" not in hung.where
    log = (Path(disturbed.uri) / "logs/rank-1.log").read_text()
    assert "all threads:" in log
    assert 'troubled_recipe.py", line' in log


def test_a_worker_that_is_frozen_is_found_by_ray_train(disturbed: RunFolder) -> None:
    hung = of_kind(disturbed, "worker_hung")
    found = [(event.attempt, event.rank, event.doing) for event in hung if event.attempt != 1]
    assert found == [(2, 1, "not answering Ray Train")]
    ended = of_kind(disturbed, "group_ended")
    assert (ended[2].ranks, ended[2].message) == ([1], "did not answer Ray Train")


def test_sigterm_to_a_worker_saves_and_costs_no_restart(disturbed: RunFolder) -> None:
    asked = of_kind(disturbed, "leave_requested")
    assert [(event.attempt, event.why, event.detail) for event in asked] == [(3, "sigterm", "rank 1")]
    assert [event.cause for event in of_kind(disturbed, "group_ended")] == ["lost", "lost", "lost", "yielded"]
    newest = max(row["samples_seen"] for row in read_records(disturbed).to_pylist() if row["attempt"] == 3)
    starts = of_kind(disturbed, "attempt_started")
    assert starts[4].start_samples == newest + 10, "no step is done again"


@pytest.mark.usefixtures("cluster")
def test_what_does_not_fit_into_memory_is_halved_until_it_does(tmp_path: Path) -> None:
    fixed = ["scale.per_worker_batch_size=auto", "scale.global_batch_size=40", "scale.rule=none"]
    short = ["recipe_args.trouble=out_of_memory", "recipe_args.most_samples=6", "failures.max_restarts=0"]
    folder = run(tmp_path / "short", TROUBLED, *fixed, *short)
    sizes = [event.per_worker_batch_size for event in of_kind(folder, "out_of_memory")]
    assert sorted(set(sizes), reverse=True) == [20, 10]
    starts = of_kind(folder, "attempt_started")
    assert [start.per_worker_batch_size for start in starts] == [20, 10, 5]
    assert {(start.global_batch_size, start.peak_lr) for start in starts} == {(40, starts[0].peak_lr)}
    assert write_report(folder).totals.samples_seen == 3000
    from scaler.training.in_process import train_in_process

    job, roomy = start(tmp_path / "roomy", TROUBLED, *fixed, "scale.num_workers=1")
    assert train_in_process(
        job, make_plan(job), roomy, recipe_folder=TROUBLED, on_hand_over=lambda records, events: None
    )
    theirs = weights(folder)
    assert all(tensor.allclose(theirs[name], atol=1e-5) for name, tensor in weights(roomy).items())


def test_a_killed_collector_loses_nothing(tmp_path: Path, calm: RunFolder) -> None:
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.samples_seen > 600 and not killed:
            killed.append(collector_pid())
            os.kill(killed[0], signal.SIGKILL)

    folder = run(tmp_path, TROUBLED, "recipe_args.sleep_s=0.02", on_progress=kill_once)
    assert killed
    assert [event.attempt for event in of_kind(folder, "attempt_started")] == [0], "the workers continued"
    table = read_records(folder).to_pylist()
    steps = sorted((row["rank"], row["samples_seen"]) for row in table)
    assert steps == [(rank, at) for rank in (0, 1) for at in range(0, 3000, 10)], "every step once, of each worker"
    assert_same_training(folder, calm)


def collector_pid() -> int:
    """The newest process of this cluster whose title is the collector's, as Ray names it."""
    found = {}
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if (Path("/proc") / str(pid) / "cmdline").read_text().startswith("ray::Collector"):
                found[pid] = (Path("/proc") / str(pid)).stat().st_mtime
    return max(found, key=lambda pid: found[pid])


def test_a_worker_that_hangs_too_often_ends_the_run_with_its_name(tmp_path: Path, hang_timeout_s: float) -> None:
    job, folder = start(
        tmp_path,
        TROUBLED,
        "recipe_args.trouble=hang",
        "recipe_args.at_call=45",
        f"recipe_args.marker={tmp_path}/happened",
        "failures.max_restarts=0",
        f"failures.hang_timeout_s={hang_timeout_s}",
    )
    with pytest.raises(TrainingError) as caught:
        run_on_ray(
            job, make_plan(job), folder, Connection.of_embedded(job, TROUBLED), on_progress=lambda progress: None
        )
    problem = caught.value.problem
    found = re.match(r"rank 1 hung \(computing for (\d+) s, troubled_recipe\.py:\d+ in happen\), ", problem)
    assert found is not None, problem
    assert hang_timeout_s - 1 < int(found[1]) < hang_timeout_s + 10
    assert problem.endswith("), more often than failures.max_restarts = 0 allows.")
    assert caught.value.remedy.splitlines()[0] == "If that may take longer, raise failures.hang_timeout_s."


def test_progress_is_seen_while_it_runs(calm_run: CalmRun) -> None:
    seen = calm_run.progress
    counts = [progress.samples_seen for progress in seen]
    assert counts == sorted(counts)
    assert len({count for count in counts if 0 < count < 3000}) >= 2
    assert seen[-1].samples_seen == 3000
    assert seen[-1].world_size == 2
    assert seen[-1].loss_mean is not None


def test_events_name_what_happened_in_a_run(calm: RunFolder) -> None:
    kinds = [event.kind for event in read_events(calm)]
    assert sorted(kinds[:3]) == ["attempt_started", "worker_started", "worker_started"]
    assert kinds.count("checkpointed") == 10  # at 300, 600 ... and the end
    assert kinds.count("evaluated") == 3


@pytest.mark.usefixtures("cluster")
def test_a_job_that_the_cluster_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    job, folder = start(tmp_path, TROUBLED, "scale.num_workers=2", "resources.gpus_per_worker=1")
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"2 workers need 2 CPU, 2 GPU, and the cluster has .* 0 GPU\."):
        run_on_ray(
            job, make_plan(job), folder, Connection.of_embedded(job, TROUBLED), on_progress=lambda progress: None
        )
    assert time.monotonic() - began < 30


STRANGERS_TOKENS = (None, "0" * 64)


@pytest.fixture(scope="module")
def strangers(cluster: None) -> Iterator[dict[str | None, "subprocess.Popen[str]"]]:
    """Processes of other people that try to connect, all at the same time."""
    import ray

    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('connected', ray.nodes())"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    plain["RAY_NUM_REDIS_GET_RETRIES"] = "2"  # one a second; Ray's default is 20
    found = {}
    for token in STRANGERS_TOKENS:
        known = {} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        found[token] = subprocess.Popen(
            [sys.executable, "-c", code],
            env=plain | known,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    yield found
    for process in found.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("token", STRANGERS_TOKENS)
def test_a_stranger_without_the_token_cannot_connect(
    token: str | None, strangers: dict[str | None, "subprocess.Popen[str]"]
) -> None:
    out, err = strangers[token].communicate(timeout=120)
    assert strangers[token].returncode != 0
    assert "connected" not in out
    assert "token" in err.lower() or "unauthenticated" in err.lower()


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_twice_at_one_step_is_the_end(tmp_path: Path) -> None:
    job, folder = start(
        tmp_path, TROUBLED, "scale.num_workers=2", "recipe_args.trouble=abort", "recipe_args.at_call=20"
    )
    with pytest.raises(TrainingError) as caught:
        run_on_ray(
            job, make_plan(job), folder, Connection.of_embedded(job, TROUBLED), on_progress=lambda progress: None
        )
    assert re.fullmatch(
        r"rank 1 died \(its process was killed, or crashed\) in the step after sample [\d,]+, as in the attempt "
        r"before: after another restart the same would happen\.",
        caught.value.problem,
    )
    ended = [event for event in read_events(folder) if event.kind == "group_ended"]
    assert [event.twice_at is not None for event in ended] == [False, True]


@pytest.mark.usefixtures("cluster")
def test_a_decision_on_a_lost_group_waits_until_the_collector_has_its_end() -> None:
    """The driver asks the collector why the run ended as soon as Ray Train has decided."""
    import ray
    from ray.train import FailureConfig
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    from scaler.cluster.failure_policy import FailurePolicy

    class SlowCollector:
        """Takes a while for an event, and answers other calls meanwhile."""

        def __init__(self) -> None:
            self.ranks: list[int] | None = None

        def note(self, event: Any, *, witnesses: list[int]) -> None:
            time.sleep(0.5)
            self.ranks = event.ranks

        def samples_at_loss(self, died: list[int]) -> tuple[bool, int | None]:
            return False, 64

        def noted(self) -> list[int] | None:
            return self.ranks

    collector = ray.remote(SlowCollector).options(num_cpus=0, max_concurrency=2).remote()
    assert ray.get(collector.noted.remote()) is None  # it has started: the policy waits 2 s for an answer
    config = FailureConfig(max_failures=3)
    policy = FailurePolicy(config, collector=collector, patience_s=1.0, hang_timeout_s=None)
    died = WorkerHealthCheckFailedError("gone", failure=ray.exceptions.RayActorError())
    decisions = []
    for _ in range(2):
        decisions.append(policy.make_decision(WorkerGroupError("lost", {1: died})).name)
        assert ray.get(collector.noted.remote()) == [1]
    assert decisions == ["RETRY", "RAISE"]


# The last one: Ray Train restarts the group until no restart is left, after the driver has raised the error.
@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_recipe_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    job, folder = start(tmp_path, TROUBLED, "recipe_args.trouble=raise")
    with pytest.raises(RecipeError) as caught:
        run_on_ray(
            job, make_plan(job), folder, Connection.of_embedded(job, TROUBLED), on_progress=lambda progress: None
        )
    assert caught.value.problem == "rank 1 failed: KeyError: 'no such column'"
    assert 'raise KeyError("no such column")' in caught.value.remedy
    log = Path(caught.value.remedy.splitlines()[-1].removeprefix("Its log: "))
    assert log.name == "rank-1.log"
    assert "the recipe was built" in log.read_text()
    assert "KeyError: 'no such column'" in log.read_text()
    assert read_records(folder).num_rows > 0, "what was measured before is there"
