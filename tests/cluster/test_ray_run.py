"""Runs on real Ray Train workers."""

import os
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
from scaler.errors import ClusterError, RecipeError
from scaler.job import Job, load_job
from scaler.metrics.reader import read_events, read_records
from scaler.plan import make_plan
from scaler.report.write import read_report
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
    from scaler.training.checkpoint import latest_checkpoint, load_checkpoint

    newest = latest_checkpoint(folder)
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


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    calm = run(tmp_path, TROUBLED)
    struck = run(
        tmp_path,
        TROUBLED,
        "recipe_args.trouble=kill",
        "recipe_args.at_call=75",
        f"recipe_args.marker={tmp_path}/struck",
    )
    assert (tmp_path / "struck").exists()
    report = read_report(struck)
    assert [(row.attempt, row.ended_by) for row in report.attempts] == [(0, "lost"), (1, "finished")]
    assert report.attempts[0].end_samples == report.attempts[1].start_samples == 600
    assert report.totals.samples_seen == 3000
    assert report.totals.steps == 300, "every step of the final weights has its records, and none has them twice"
    assert report.lr_audit.max_abs_error == 0
    theirs = weights(struck)
    assert all(tensor.equal(theirs[name]) for name, tensor in weights(calm).items())


@pytest.mark.usefixtures("cluster")
def test_progress_is_seen_while_it_runs(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(tmp_path, TROUBLED, "recipe_args.trouble=slow", "train.epochs=2", on_progress=seen.append)
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
