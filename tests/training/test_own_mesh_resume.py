"""A loop of one's own continues on another mesh, from the script's own sharded checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from groups import run_group
from parallel_loops import SAMPLES, Parallel, TensorParallel, data, start, steps_of
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.functional import mse_loss

import scaler

# Torch's own: of a module whose last operation returns a view, and of a checkpoint that one process loads.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

FIRST = 36  # samples of the first attempt, in the middle of the warmup of an epoch
PER_WORKER = 6


def train(
    storage: str,
    kind: Callable[..., Parallel],
    mesh: DeviceMesh | None = None,
    *,
    size: int = PER_WORKER,
    stop: int = 2 * SAMPLES,
    load: str | None = None,
    save: str | None = None,
) -> dict[str, Any]:
    """Train to ``stop`` samples as a script does, with checkpoints of ``torch.distributed.checkpoint``.

    The script's samples are a function of ``run.samples_seen``.
    """
    run = start(
        storage,
        mesh,
        reference={"global_batch_size": 8, "lr": 0.01, "optimizer": {"name": "adamw"}},
        scale={"per_worker_batch_size": size, "rule": "sqrt"},
        train={"epochs": 2, "stop_after": {"samples": stop}},
    )
    model = kind(mesh).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    run.prepare(model, optimizer)
    if load is not None:
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "run": ""}
        dcp.load(state, checkpoint_id=load)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
        run.load_state_dict(json.loads(state["run"]))
    x, y = data().tensors
    taken = []
    while not run.is_over:
        first, batch = run.samples_seen, run.batch_size * run.data_parallel_size
        indices = torch.arange(first, min(first + batch, 2 * SAMPLES))[run.data_parallel_rank :: run.data_parallel_size]
        taken += indices.tolist()
        run.count(len(indices))
        optimizer.zero_grad()
        loss = mse_loss(model(x[indices % SAMPLES]), y[indices % SAMPLES])
        scaler.record(loss=loss)
        loss.backward()
        optimizer.step()
    if save is not None:
        weights, moments = get_state_dict(model, optimizer)
        dcp.save(
            {"model": weights, "optimizer": moments, "run": json.dumps(run.state_dict())},
            checkpoint_id=save,
        )
    found = {"run": run.state_dict()["run"], "taken": taken}
    run.finish()
    return found


def in_four(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    tensor = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    copies = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    first = train(folder, TensorParallel, tensor, stop=FIRST, save=f"{folder}/saved")
    return {"first": first, "second": train(folder, Parallel, copies, load=f"{folder}/saved")}


def test_a_training_continues_on_another_mesh_in_the_middle_of_its_warmup(tmp_path: Path) -> None:
    """After 36 samples of 84 on 2 x 2 tensor parallel processes, on 4 of HSDP: the batch doubles."""
    found = run_group(in_four, 4, str(tmp_path))
    reference = train(str(tmp_path), Parallel, size=12, stop=FIRST, save=str(tmp_path / "alone"))
    train(str(tmp_path), Parallel, size=24, load=str(tmp_path / "alone"))
    run = found[0]["second"]["run"]
    assert run == found[0]["first"]["run"]
    assert sorted({index for rank in found for index in rank["first"]["taken"]}) == list(range(FIRST))
    assert sorted(index for rank in found for index in rank["second"]["taken"]) == list(range(FIRST, 2 * SAMPLES))
    mine, other = steps_of(run), steps_of(reference["run"])
    assert [step["samples"] for step in mine] == [12] * 3 + [24] * 5 + [12]
    assert [step["lr"] for step in mine] == [step["lr"] for step in other]
    assert [step["loss"] for step in mine] == pytest.approx([step["loss"] for step in other], rel=1e-10)
    report = scaler.read_run(run).report
    assert [(row.global_batch_size, row.start_samples) for row in report.attempts] == [(12, 0), (24, FIRST)]
    assert report.lr_audit.as_planned
    assert report.totals.samples_seen == 2 * SAMPLES
