"""``scaler.start`` and ``scaler.record``: one's own training loop, with a plan, records and a report."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaler.api.own_run import OwnRun
from scaler.api.script_end import end_with_the_script
from scaler.errors import TrainingError
from scaler.job.located import JobLike, locate_job
from scaler.job.own_loop import require_own_loop_keys

if TYPE_CHECKING:
    from scaler.training.own_loop.loop import OwnLoop

_active: "OwnLoop | None" = None


def start(
    job: JobLike,
    *,
    num_samples: int | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
    mesh: Any = None,
    data_dims: Sequence[str | int] | None = None,
) -> "OwnLoop":
    """Begin a training with a loop of one's own, in each of its processes.

    Call it after ``torch.distributed.init_process_group``, or without a process group for one process: under
    ``python``, ``torchrun``, or in the ``train_loop_per_worker`` of Ray Train. It makes a plan for the processes that
    there are, whatever ``scale.num_workers`` says. The run's folder is made before the first batch; its report is
    written when the script ends, or when ``run.finish()`` is called.

    ``scaler submit`` calls the function that the job's ``recipe`` names. Where this function calls ``start``, it gets
    the run that was submitted: its job with every override, whatever ``job`` says here.

    Args:
        job: the path of a job file, of a folder with a ``job.yaml``, or a ``Job``; it needs no recipe.
        num_samples: samples in the training set over all processes, unless ``train.num_samples`` says it.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        storage: the folder or URI that gets the run, instead of the job's ``storage``.
        mesh: a torch ``DeviceMesh`` of all processes, for a model that is parallel in other ways than by data.
            Processes that differ only in dimensions such as ``tp``, ``cp`` or ``pp`` train on the same samples, which
            count once. None: each process has samples of its own.
        data_dims: names, or numbers, of the dimensions of ``mesh`` that multiply the batch; None: those named
            ``replicate``, ``shard``, ``dp``, ``dp_replicate``, ``dp_shard``, ``fsdp``, ``data`` or ``batch``.

    Raises:
        JobFileError: the job cannot be used, has a key that only scaler's own loop follows, or another mesh.
        TrainingError: the process group that the environment announces does not exist yet, or it is not known which
            dimensions of the mesh multiply the batch.

    Example:
        >>> import scaler, tempfile, torch
        >>> folder = tempfile.TemporaryDirectory()
        >>> data = torch.utils.data.TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> job = {"name": "line", "train": {"epochs": 2}, "scale": {"per_worker_batch_size": 16}}
        >>> job["reference"] = {"global_batch_size": 8, "lr": 0.1, "optimizer": {"name": "sgd"}}
        >>> run = scaler.start(scaler.Job.model_validate(job), num_samples=len(data), storage=folder.name)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=run.batch_size)
        >>> model, optimizer, loader = run.prepare(model, optimizer, loader)
        >>> for epoch in range(2):
        ...     for x, y in loader:
        ...         loss = torch.nn.functional.mse_loss(model(x), y)
        ...         scaler.record(loss=loss)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        >>> report = run.finish()
        >>> report.totals.samples_seen, report.totals.steps, optimizer.param_groups[0]["lr"]
        (128, 8, 0.2)
        >>> folder.cleanup()
    """
    global _active
    from scaler.training.own_loop.around import Started, what_is_around
    from scaler.training.own_loop.group import group_of_processes
    from scaler.training.own_loop.loop import OwnLoop
    from scaler.training.own_loop.mesh import read_mesh
    from scaler.training.own_loop.planned_mesh import plan_for_mesh

    around = what_is_around()
    if around is not None:
        _active = around.start(Started(num_samples=num_samples, mesh=mesh, data_dims=data_dims))
        return _active
    located = locate_job(job, overrides=overrides, storage=storage)
    require_own_loop_keys(located.job, source=located.source)
    group = group_of_processes()
    place = read_mesh(mesh, rank=group.rank, world_size=group.world_size, data_dims=data_dims)
    job, plan = plan_for_mesh(located.job, place, num_samples=num_samples)
    run = OwnRun(job, plan, group)
    loop = OwnLoop(job, plan, run, group, place)
    run.at_end(end_with_the_script(loop.finish))
    _active = loop
    return loop


def record(*, loss: Any, weight: Any = None, **values: Any) -> None:
    """Record the loss of the last batch that was fetched, and other values, in the run that ``start`` began last.

    Args:
        loss: a number or a tensor: the mean over the batch's samples of this process; with ``weight``, the mean over
            its weights.
        weight: a number or a tensor: of the loss in means over micro-batches, processes and steps, such as the number
            of tokens; None: the batch's samples.
        values: numbers or tensors: other means over the batch, by name, such as ``accuracy``.

    Raises:
        TrainingError: ``scaler.start`` was not called.
    """
    if _active is None:
        raise TrainingError("scaler.record without a run.", "Call run = scaler.start(job) first.")
    _active.record(loss=loss, weight=weight, **values)
