"""Loops of one's own whose processes form a mesh: they train as one process does, and each sample counts once."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from parallel_loops import (
    BATCH,
    JOB,
    SAMPLES,
    Parallel,
    Pipeline,
    TensorParallel,
    TensorParallelOnly,
    data,
    start,
    steps_of,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.data import DataLoader, DistributedSampler

import scaler
from scaler.errors import ScalerError
from scaler.metrics.events import Recorded, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder

# Torch's own: of a module whose last operation returns a view, and of what fully_shard does with an optimizer's step.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def train(
    storage: str,
    kind: Callable[..., Parallel],
    mesh: DeviceMesh | None = None,
    *,
    changes: dict[str, Any] | None = None,
    sampler_size: int | None = None,
) -> dict[str, Any]:
    """Train as a script does; return its run, and what it asked of it."""
    dataset = data()
    run = start(storage, mesh, **(changes or {}))
    parallel = kind(mesh)
    optimizer = torch.optim.SGD(parallel.model.parameters(), lr=0.02, momentum=0.9)
    rank = run.data_parallel_rank if sampler_size is None else dist.get_rank()
    sampler = DistributedSampler(dataset, sampler_size or run.data_parallel_size, rank, shuffle=False)
    loader = DataLoader(dataset, batch_size=run.batch_size, sampler=sampler)
    _, optimizer, loader = run.prepare(parallel.model, optimizer, loader)
    while not run.is_over:
        for x, y in loader:
            optimizer.zero_grad()
            loss = parallel.train(x, y)
            if loss is not None:
                scaler.record(loss=loss, double=2 * loss.detach())
            optimizer.step()
    saved = run.state_dict()
    run.finish()
    found = {"run": saved["run"], "data_parallel": (run.data_parallel_rank, run.data_parallel_size)}
    return {**found, "batch": (run.batch_size, run.accumulation)}


def in_two_or_three(rank: int, world_size: int, storage: str) -> dict[str, Any]:
    return train(storage, Parallel, init_device_mesh("cpu", (world_size,)))


def refusals(folder: str) -> dict[str, str]:
    """Return the errors of scripts with a mistake; each is raised in every process."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def other_samples() -> None:
        train(folder, TensorParallel, mesh, sampler_size=4)

    def other_counts() -> None:
        run, parallel = start(folder, mesh), TensorParallel(mesh)
        optimizer = torch.optim.SGD(parallel.model.parameters(), lr=0.02, momentum=0.9)
        run.prepare(parallel.model, optimizer)
        for _ in range(2):
            run.count(12 - mesh.get_local_rank("tp"))
            parallel.train(*data()[:12])
            optimizer.step()

    def not_averaged() -> None:
        train(folder, TensorParallelOnly, mesh)

    def without_a_mesh() -> None:
        start(folder, None).prepare(TensorParallel(mesh).model)

    def other_mesh() -> None:
        start(folder, mesh, scale={**JOB["scale"], "num_workers": 4, "mesh": {"tensor": 4}})

    errors = {}
    for mistake in (other_samples, other_counts, not_averaged, without_a_mesh, other_mesh):
        with pytest.raises(ScalerError) as found:
            mistake()
        errors[mistake.__name__] = str(found.value)
    return errors


def in_four(rank: int, world_size: int, storage: str) -> dict[str, Any]:
    def named(*names: str) -> DeviceMesh:
        return init_device_mesh("cpu", (2, 2), mesh_dim_names=names)

    return {
        "hsdp": train(storage, Parallel, named("replicate", "shard")),
        "tensor": train(storage, TensorParallel, named("dp", "tp")),
        "pipeline": train(storage, Pipeline, named("pp", "dp")),
        "refusals": refusals(storage),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(str(tmp_path_factory.mktemp("alone")), Parallel)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_group(in_four, 4, str(tmp_path_factory.mktemp("four")))


def require_same(run: str, alone: str, *, norms: bool = True) -> Any:
    """Check that a run has the steps of another one, and return its report."""
    mine, other = steps_of(run), steps_of(alone)
    assert [step["samples"] for step in mine] == [24, 24, 24, 12] * 3
    assert [step["lr"] for step in mine] == [step["lr"] for step in other]
    assert [step["weight"] for step in mine] == [step["samples"] for step in mine]
    assert [step["loss"] for step in mine] == pytest.approx([step["loss"] for step in other], rel=1e-12)
    for step, same in zip(mine, other, strict=True) if norms else ():
        assert step["norms"] == pytest.approx([same["norms"][0]] * len(step["norms"]), rel=1e-12)
    report = scaler.read_run(run).report
    assert (report.state, report.totals.samples_seen, report.totals.steps) == ("succeeded", 3 * SAMPLES, 12)
    assert report.lr_audit.as_planned
    assert report.lr_audit.checked_steps == 12
    assert not report.verdicts
    assert sum(row.samples for row in report.workers) == 3 * SAMPLES
    recorded = of_type(read_events(RunFolder(run)), Recorded)
    weights = [event.weights["double"] for event in recorded]
    assert sum(weights) == pytest.approx(3 * SAMPLES)
    double = sum(w * event.values["double"] for w, event in zip(weights, recorded, strict=True)) / sum(weights)
    assert double == pytest.approx(2 * sum(step["samples"] * step["loss"] for step in other) / (3 * SAMPLES), rel=1e-12)
    return report


@pytest.mark.parametrize("world_size", [2, 3])
def test_fsdp_trains_as_one_process(tmp_path: Path, alone: dict[str, Any], world_size: int) -> None:
    found = run_group(in_two_or_three, world_size, str(tmp_path))
    assert [each["data_parallel"] for each in found] == [(rank, world_size) for rank in range(world_size)]
    assert {each["batch"] for each in found} == {(BATCH // world_size, 1)}
    require_same(found[0]["run"], alone["run"])


def test_hsdp_trains_as_one_process(alone: dict[str, Any], four: list[dict[str, Any]]) -> None:
    found = [each["hsdp"] for each in four]
    assert [each["data_parallel"] for each in found] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    require_same(found[0]["run"], alone["run"])


def test_tensor_parallel_processes_count_their_samples_once(alone: dict[str, Any], four: list[dict[str, Any]]) -> None:
    found = [each["tensor"] for each in four]
    assert [each["data_parallel"] for each in found] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert {each["batch"] for each in found} == {(12, 1)}
    report = require_same(found[0]["run"], alone["run"])
    assert [row.samples for row in report.workers] == [126, 0, 126, 0]
    (attempt,) = report.attempts
    assert (attempt.world_size, attempt.data_parallel_size) == (4, 2)
    assert attempt.mesh == {"replicate": 2, "shard": 1, "tensor": 2, "context": 1, "pipeline": 1, "expert": 1}


def test_the_last_stage_of_a_pipeline_counts_and_records(alone: dict[str, Any], four: list[dict[str, Any]]) -> None:
    found = [each["pipeline"] for each in four]
    assert [each["data_parallel"] for each in found] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    report = require_same(found[0]["run"], alone["run"], norms=False)
    assert [row.samples for row in report.workers] == [0, 0, 126, 126]
    assert [row.loss_mean is None for row in report.workers] == [True, True, False, False]
    for step, whole in zip(steps_of(found[0]["run"]), steps_of(alone["run"]), strict=True):  # each stage has its norm
        first, same_first, last, same_last = step["norms"]
        assert (first, last) == (same_first, same_last)
        assert (first**2 + last**2) ** 0.5 == pytest.approx(whole["norms"][0], rel=1e-12)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            "other_samples",
            "ranks 0, 1 are one data-parallel rank, and fetched different samples in a step.\n"
            "  Let the sampler follow the data-parallel rank: DistributedSampler(data, "
            "num_replicas=run.data_parallel_size, rank=run.data_parallel_rank).",
        ),
        (
            "other_counts",
            "ranks 0, 1 are one data-parallel rank, and counted 12, 11 samples in a step.\n"
            "  Let the sampler follow the data-parallel rank: DistributedSampler(data, "
            "num_replicas=run.data_parallel_size, rank=run.data_parallel_rank).",
        ),
        (
            "without_a_mesh",
            "the parameter 1.0.weight lies on the mesh dimension 'tp' of 2 processes, and scaler.start got no mesh: it "
            "would count the samples of each process.\n"
            "  Give it the mesh of all processes: scaler.start(job, mesh=mesh). Where each process has samples of its "
            "own, say so: data_dims=(...).",
        ),
        (
            "other_mesh",
            "the plan's scale.mesh is {tensor: 4}, and the mesh of scaler.start is {replicate: 2, tensor: 2}.\n"
            "  Write scale.mesh: {replicate: 2, tensor: 2} into the job, or change the script: scaler.start(job, "
            "mesh=mesh).",
        ),
    ],
)
def test_a_mistake_is_an_error_in_every_process(four: list[dict[str, Any]], mistake: str, message: str) -> None:
    assert {each["refusals"][mistake] for each in four} == {message}


def test_data_parallel_ranks_whose_gradients_nothing_averages_are_refused(four: list[dict[str, Any]]) -> None:
    found = {each["refusals"]["not_averaged"] for each in four}
    assert len(found) == 1
    assert re.match(r"the gradient norms of ranks 0, 2 differ by \d+%: nothing averages the gradients", found.pop())
