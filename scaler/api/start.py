"""``scaler.start`` and ``scaler.record``: one's own training loop, with a plan, records and a report."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaler.api.own_run import OwnRun
from scaler.api.script_end import end_with_the_script
from scaler.errors import TrainingError
from scaler.job.located import JobLike, locate_job
from scaler.job.own_loop import require_own_loop_keys
from scaler.plan import make_plan

if TYPE_CHECKING:
    from scaler.training.own_loop.loop import OwnLoop

_active: "OwnLoop | None" = None


def start(
    job: JobLike,
    *,
    num_samples: int | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
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

    Raises:
        JobFileError: the job cannot be used, or has a key that only scaler's own loop follows.
        TrainingError: the process group that the environment announces does not exist yet.

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
    from scaler.training.own_loop.around import what_is_around
    from scaler.training.own_loop.group import group_of_processes
    from scaler.training.own_loop.loop import OwnLoop

    around = what_is_around()
    if around is not None:
        _active = around.start(num_samples)
        return _active
    located = locate_job(job, overrides=overrides, storage=storage)
    require_own_loop_keys(located.job, source=located.source)
    group = group_of_processes()
    plan = make_plan(located.job, group.world_size, num_samples=num_samples)
    run = OwnRun(located.job, plan, group)
    loop = OwnLoop(located.job, plan, run, group)
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
