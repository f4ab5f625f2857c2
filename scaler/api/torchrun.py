"""Commands that torchrun starts in several processes: rank 0 runs the run, the others work for it."""

from scaler.cluster.address import TORCHRUN, Address
from scaler.errors import JobFileError
from scaler.notebook import Run
from scaler.runs.processes import torchrun_rank, torchrun_size


def workers_here(chosen: Address, workers: int | None) -> int | None:
    """Return the number of workers: that of torchrun's processes, where torchrun has started this one.

    Args:
        chosen: where the run runs.
        workers: that the user asks for; None: as the job says.

    Raises:
        JobFileError: the user asks for another number.
    """
    if chosen.value != TORCHRUN:
        return workers
    size = torchrun_size()
    if workers not in (None, size):
        raise JobFileError(
            f"--workers {workers}, and torchrun has started {size} process{'' if size == 1 else 'es'}.",
            f"Leave --workers out, or use torchrun --nproc-per-node {workers}.",
        )
    return size


def worked_for_rank_0(chosen: Address) -> Run | None:
    """Do a worker's part, where this process is not rank 0 of torchrun; None: it is, or torchrun has not started it.

    Raises:
        ScalerError: what went wrong; rank 0 has it too.
        KeyboardInterrupt: the run was stopped.
    """
    if chosen.value != TORCHRUN or not torchrun_rank():
        return None
    from scaler.training.in_process import work_for_rank_0

    folder, is_finished = work_for_rank_0()
    if not is_finished:
        raise KeyboardInterrupt
    return Run(folder)


def dismiss_others(chosen: Address) -> None:
    """Let the other processes of torchrun end: rank 0 has nothing to run."""
    if chosen.value == TORCHRUN:
        from scaler.training.in_process import send_no_task

        send_no_task()
