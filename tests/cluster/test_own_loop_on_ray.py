"""Scripts with a loop of their own, in the workers of a run and in Ray Train's own trainer."""

from pathlib import Path
from typing import Any

import pytest
from runs_on_ray import run

import scaler
from scaler.metrics.events import AttemptStarted, of_type
from scaler.metrics.reader import read_events
from scaler.report.run.write import write_report
from scaler.runs import RunFolder

OWN_LOOP = Path(__file__).parent / "own_loop"
OWN_MESH = Path(__file__).parents[2] / "jobs/own_mesh"

# Ray's own, of its own parts; ours are errors.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.usefixtures("cluster")
def test_a_script_that_crashes_continues_from_its_own_checkpoint(tmp_path: Path) -> None:
    folder = run(
        tmp_path,
        OWN_LOOP,
        f"recipe_args={{checkpoint: {tmp_path / 'own.pt'}, crash_epoch: 1}}",
        "failures.max_restarts=1",
    )
    report = write_report(folder)
    starts = of_type(read_events(folder), AttemptStarted)
    assert [(start.attempt, start.start_samples, start.data_order) for start in starts] == [
        (0, 0, "loop"),
        (1, 200, "loop"),
    ]
    assert (report.totals.samples_seen, len(report.attempts)) == (600, 2)
    assert report.lr_audit.as_planned
    assert report.lr_audit.checked_steps >= 60
    assert len(report.workers) == 2
    assert report.final.eval["loss"] is not None


@pytest.mark.usefixtures("cluster")
def test_workers_of_a_mesh_that_get_the_same_samples_count_once(tmp_path: Path) -> None:
    """Four workers: two shards of a model whose layers are divided in two. The script checkpoints each epoch."""
    folder = run(tmp_path, OWN_MESH, "train.epochs=1", f"recipe_args={{checkpoint: {tmp_path / 'own'}}}")
    report = write_report(folder)
    assert (report.totals.samples_seen, report.plan["global_batch_size"]) == (1438, 64)
    assert [row.samples for row in report.workers] == [719, 0, 719, 0]
    (attempt,) = report.attempts
    assert (attempt.world_size, attempt.data_parallel_size) == (4, 2)
    assert report.lr_audit.as_planned
    assert (tmp_path / "own/epoch-001/.metadata").is_file()


@pytest.mark.usefixtures("cluster")
def test_a_loop_in_ray_trains_own_trainer_is_a_run(tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # In here it is pickled by value, as that of a script is.
    def trained(config: dict[str, Any]) -> None:
        import torch
        from ray.train.torch import prepare_model

        run = scaler.start(config["job"], num_samples=64, storage=config["storage"])
        model = prepare_model(torch.nn.Linear(1, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = run.prepare(model, optimizer)
        while not run.is_over:
            run.count(run.batch_size)
            loss = model(torch.ones(run.batch_size, 1)).square().mean()
            scaler.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.finish()

    job = scaler.Job.model_validate(
        {
            "name": "in-ray-train",
            "reference": {"global_batch_size": 4, "lr": 0.1, "optimizer": {"name": "sgd"}},
            "scale": {"per_worker_batch_size": 4},
            "train": {"epochs": 2},
        }
    )
    trainer = TorchTrainer(
        trained,
        train_loop_config={"job": job, "storage": str(tmp_path / "runs")},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(tmp_path / "ray")),
    )
    trainer.fit()
    (folder,) = (tmp_path / "runs").glob("in-ray-train-*")
    report = write_report(RunFolder(str(folder)))
    assert (report.state, report.totals.samples_seen, len(report.workers)) == ("succeeded", 128, 2)
    assert (report.plan["world_size"], report.plan["peak_lr"]) == (2, pytest.approx(0.2))
    assert report.lr_audit.as_planned
