"""Runs on real Ray Train workers."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler.cluster.progress import Progress
from scaler.cluster.ray_run import run_on_ray
from scaler.errors import ClusterError, RecipeError, TrainingError
from scaler.job import Job, load_job
from scaler.metrics.reader import read_events, read_records
from scaler.plan import make_plan
from scaler.report.run.read import read_report
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState

# Ray's own, of its own parts; ours are errors.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TROUBLED = Path(__file__).parent / "troubled"
DIGITS = Path(__file__).parent.parent.parent / "jobs/digits"


def start(tmp_path: Path, folder: Path, *overrides: str) -> tuple[Job, RunFolder]:
    job = load_job(folder / "job.yaml", overrides=[*overrides, f"storage={tmp_path}"])
    run = RunFolder.create(str(tmp_path), name=job.name, now=datetime.now())
    run.write("job.yaml", yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
    run.write_json("plan.json", make_plan(job).to_dict())
    run.set_state(RunState.RUNNING, started_at=time.time())
    return job, run


def run(tmp_path: Path, folder: Path, *overrides: str, on_progress: Any = lambda progress: None) -> RunFolder:
    job, run_folder = start(tmp_path, folder, *overrides)
    finished = run_on_ray(job, make_plan(job), run_folder, recipe_folder=str(folder), on_progress=on_progress)
    run_folder.set_state(RunState.SUCCEEDED if finished else RunState.STOPPED, ended_at=time.time())
    return run_folder


def weights(folder: RunFolder) -> dict[str, Any]:
    from scaler.training.checkpoint import load_checkpoint
    from scaler.training.checkpoint_files import find_checkpoint

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


@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_recipe_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    job, folder = start(tmp_path, TROUBLED, "recipe_args.trouble=raise")
    with pytest.raises(RecipeError) as caught:
        run_on_ray(job, make_plan(job), folder, recipe_folder=str(TROUBLED), on_progress=lambda progress: None)
    assert caught.value.problem == "rank 1 failed: KeyError: 'no such column'"
    assert 'raise KeyError("no such column")' in caught.value.remedy
    log = Path(caught.value.remedy.splitlines()[-1].removeprefix("Its log: "))
    assert log.name == "rank-1.log"
    assert "the recipe was built" in log.read_text()
    assert "KeyError: 'no such column'" in log.read_text()
    assert read_records(folder).num_rows > 0, "what was measured before is there"


def strike(tmp_path: Path, trouble: str, *overrides: str, **options: Any) -> RunFolder:
    """Run with a trouble that strikes rank 1 once."""
    what = [f"recipe_args.trouble={trouble}", "recipe_args.at_call=75", f"recipe_args.marker={tmp_path}/struck"]
    return run(tmp_path, TROUBLED, *what, *overrides, **options)


def of_kind(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder) if event["kind"] == kind]


def assert_same_training(folder: RunFolder, calm: RunFolder) -> None:
    """The same weights to the last bit, and each step in the records once."""
    theirs = weights(folder)
    assert all(tensor.equal(theirs[name]) for name, tensor in weights(calm).items())
    report = write_report(folder)
    assert report.totals.steps == write_report(calm).totals.steps
    assert report.totals.samples_seen == 3000
    assert report.lr_audit.max_abs_error == 0


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> RunFolder:
    return run(tmp_path_factory.mktemp("calm"), TROUBLED)


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path, calm: RunFolder) -> None:
    folder = strike(tmp_path, "kill")
    assert (tmp_path / "struck").exists()
    report = write_report(folder)
    assert [(row.attempt, row.ended_by) for row in report.attempts] == [(0, "lost"), (1, "finished")]
    assert report.attempts[0].end_samples == report.attempts[1].start_samples == 600
    assert report.totals.steps == 300, "every step of the final weights has its records, and none has them twice"
    assert_same_training(folder, calm)


def test_a_worker_that_hangs_is_named_and_replaced(tmp_path: Path, calm: RunFolder) -> None:
    folder = strike(tmp_path, "hang", "failures.hang_timeout_s=20")
    (hung,) = of_kind(folder, "worker_hung")
    assert (hung["attempt"], hung["rank"], hung["doing"]) == (0, 1, "computing")
    assert hung["where"].startswith("troubled_recipe.py:")
    assert hung["where"].endswith(" in strike")
    assert hung["seconds"] > 20
    assert "time.sleep" not in hung["where"]
    log = (Path(folder.uri) / "logs/rank-1.log").read_text()
    assert "all threads:" in log
    assert 'troubled_recipe.py", line' in log
    assert_same_training(folder, calm)


def test_a_worker_that_is_frozen_is_found_by_ray_train(tmp_path: Path, calm: RunFolder) -> None:
    folder = strike(tmp_path, "freeze", "failures.hang_timeout_s=20")
    hung = of_kind(folder, "worker_hung")
    assert [(event["attempt"], event["rank"], event["doing"]) for event in hung] == [(0, 1, "not answering Ray Train")]
    ended = of_kind(folder, "group_ended")
    assert [(event["ranks"], event["message"]) for event in ended] == [([1], "did not answer Ray Train")]
    assert_same_training(folder, calm)


def test_sigterm_to_a_worker_saves_and_costs_no_restart(tmp_path: Path, calm: RunFolder) -> None:
    folder = strike(tmp_path, "terminate", "recipe_args.sleep_s=0.02", "failures.max_restarts=0")
    asked = of_kind(folder, "leave_requested")
    assert [(event["attempt"], event["why"], event["detail"]) for event in asked] == [(0, "sigterm", "rank 1")]
    assert [event["cause"] for event in of_kind(folder, "group_ended")] == ["yielded"]
    newest = max(row["samples_seen"] for row in read_records(folder).to_pylist() if row["attempt"] == 0)
    starts = of_kind(folder, "attempt_started")
    assert [start["start_samples"] for start in starts] == [0, newest + 10], "no step is done again"
    assert_same_training(folder, calm)


@pytest.mark.usefixtures("cluster")
def test_what_does_not_fit_into_memory_is_halved_until_it_does(tmp_path: Path) -> None:
    fixed = ["scale.per_worker_batch_size=auto", "scale.global_batch_size=40", "scale.rule=none"]
    roomy = run(tmp_path, TROUBLED, *fixed)
    folder = strike(tmp_path, "out_of_memory", *fixed, "recipe_args.most_samples=6", "failures.max_restarts=0")
    sizes = [event["per_worker_batch_size"] for event in of_kind(folder, "out_of_memory")]
    assert sorted(set(sizes), reverse=True) == [20, 10]
    starts = of_kind(folder, "attempt_started")
    assert [start["per_worker_batch_size"] for start in starts] == [20, 10, 5]
    assert {(start["global_batch_size"], start["peak_lr"]) for start in starts} == {(40, starts[0]["peak_lr"])}
    assert write_report(folder).totals.samples_seen == 3000
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
    assert [event["attempt"] for event in of_kind(folder, "attempt_started")] == [0], "the workers went on"
    table = read_records(folder).to_pylist()
    steps = sorted((row["rank"], row["samples_seen"]) for row in table)
    assert steps == [(rank, at) for rank in (0, 1) for at in range(0, 3000, 10)], "every step once, of each worker"
    assert_same_training(folder, calm)


def collector_pid() -> int:
    """The newest process whose title is the collector's, as Ray names it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_text() if entry.name.isdigit() else ""
        except OSError:
            continue
        if title.startswith("ray::Collector"):
            found.append(int(entry.name))
    return max(found, key=lambda pid: (Path("/proc") / str(pid)).stat().st_mtime)


def test_a_worker_that_hangs_too_often_ends_the_run_with_its_name(tmp_path: Path, cluster: None) -> None:
    job, folder = start(
        tmp_path,
        TROUBLED,
        "recipe_args.trouble=hang",
        "recipe_args.at_call=75",
        f"recipe_args.marker={tmp_path}/struck",
        "failures.max_restarts=0",
        "failures.hang_timeout_s=20",
    )
    with pytest.raises(TrainingError) as caught:
        run_on_ray(job, make_plan(job), folder, recipe_folder=str(TROUBLED), on_progress=lambda progress: None)
    problem = caught.value.problem
    assert re.match(r"rank 1 hung \(computing for 2\d s, troubled_recipe\.py:\d+ in strike\), ", problem)
    assert problem.endswith("), more often than failures.max_restarts = 0 allows.")
    assert caught.value.remedy.splitlines()[0] == "If that may take longer, raise failures.hang_timeout_s."


@pytest.mark.usefixtures("cluster")
def test_progress_is_seen_while_it_runs(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(tmp_path, TROUBLED, "recipe_args.sleep_s=0.02", "train.epochs=2", on_progress=seen.append)
    counts = [progress.samples_seen for progress in seen]
    assert counts == sorted(counts)
    assert len({count for count in counts if 0 < count < 2000}) >= 2
    assert seen[-1].samples_seen == 2000
    assert seen[-1].world_size == 2
    assert seen[-1].loss_mean is not None


@pytest.mark.usefixtures("cluster")
def test_events_tell_the_life_of_a_run(tmp_path: Path) -> None:
    folder = run(tmp_path, TROUBLED, "train.epochs=1")
    kinds = [event["kind"] for event in read_events(folder)]
    assert sorted(kinds[:3]) == ["attempt_started", "worker_started", "worker_started"]
    assert kinds.count("checkpointed") == 4  # at 300, 600, 900 and the end
    assert kinds.count("evaluated") == 1


@pytest.mark.usefixtures("cluster")
def test_a_job_that_the_cluster_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    job, folder = start(tmp_path, TROUBLED, "scale.num_workers=2", "resources.gpus_per_worker=4")
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"2 workers need 2 CPU, 8 GPU, and the cluster has .* 0 GPU\."):
        run_on_ray(job, make_plan(job), folder, recipe_folder=str(TROUBLED), on_progress=lambda progress: None)
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_stranger_without_the_token_cannot_connect(token: str | None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('connected', ray.nodes())"
    stranger = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert stranger.returncode != 0
    assert "connected" not in stranger.stdout
    assert "token" in stranger.stderr.lower() or "unauthenticated" in stranger.stderr.lower()


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_twice_at_one_step_is_the_end(tmp_path: Path) -> None:
    job, folder = start(
        tmp_path, TROUBLED, "scale.num_workers=2", "recipe_args.trouble=abort", "recipe_args.at_call=20"
    )
    with pytest.raises(TrainingError) as caught:
        run_on_ray(job, make_plan(job), folder, recipe_folder=str(TROUBLED), on_progress=lambda progress: None)
    assert re.fullmatch(
        r"rank 1 died \(its process was killed, or crashed\) in the step after sample [\d,]+, as in the attempt "
        r"before: another restart would die there, too\.",
        caught.value.problem,
    )
    ended = [event for event in read_events(folder) if event["kind"] == "group_ended"]
    assert [event.get("twice_at") is not None for event in ended] == [False, True]
