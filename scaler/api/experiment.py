"""``scaler.run_experiment`` and ``scaler.read_experiment``: several runs and what they show."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scaler.cluster.address import Address, choose_address
from scaler.errors import JobFileError, RunError, ScalerError
from scaler.experiment.file import ExperimentFile, load_experiment
from scaler.experiment.folder import About, ExperimentFolder, list_experiments
from scaler.experiment.matrix import Matrix, base_job, make_matrix
from scaler.experiment.read import read_experiment as read_folder
from scaler.experiment.read import with_job_file
from scaler.experiment.recommended import FILE, recommended_job
from scaler.experiment.run import Watcher, find_work, run_cells
from scaler.experiment.search import run_trials, search_spec
from scaler.report.experiment.model import ExperimentReport

STORAGE = "runs"  # the default of a job


def plan_experiment(
    experiment: str | os.PathLike[str] | ExperimentFile,
    *,
    folder: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
) -> Matrix:
    """Return the cells of an experiment with their plans; nothing is run.

    Args:
        experiment: the path of an experiment file, or an experiment.
        folder: the job's path is relative to it; None: the file's folder, or the current one.
        overrides: ``key.key=value`` texts for the job of every cell.
        storage: the folder or URI that gets the runs, instead of the job's ``storage``.

    Raises:
        JobFileError: the file or its job cannot be read, or no cell has a plan.
    """
    if storage is not None:
        overrides = [*overrides, f"storage={os.fspath(storage)}"]
    if isinstance(experiment, ExperimentFile):
        return make_matrix(
            experiment, folder=Path(folder or "."), overrides=overrides, source=f"experiment {experiment.name}"
        )
    path = Path(experiment)
    return make_matrix(load_experiment(path), folder=Path(folder or path.parent), overrides=overrides, source=str(path))


def run_experiment(
    experiment: str | os.PathLike[str] | ExperimentFile | Matrix,
    *,
    folder: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
    address: str | None = None,
    retry: bool = False,
    verbose: bool = False,
    watcher: Watcher | None = None,
) -> ExperimentReport:
    """Run the cells of an experiment that have not run, one after another, or its search, and return its report.

    Each cell is an ordinary run in the job's storage. A cell whose job is that of a finished run is not run again, and
    an interrupted experiment continues where it stopped.

    Args:
        experiment: the path of an experiment file, an experiment, or what ``plan_experiment`` returned.
        folder: the job's path is relative to it; None: the file's folder, or the current one.
        overrides: ``key.key=value`` texts for the job of every cell.
        storage: the folder or URI that gets the runs, instead of the job's ``storage``.
        address: of a running Ray cluster, ``auto`` or ``host:port``; None or ``local``: a cluster on this machine.
        retry: resume cells that failed.
        verbose: show Ray's own log on stderr.
        watcher: hears what happens.

    Raises:
        JobFileError: the experiment cannot be used; nothing was started.
        ClusterError: there is no such cluster, or it was lost.
        RunError: the storage cannot be read or written.
        KeyboardInterrupt: Ctrl-C or SIGTERM. The cell that ran has a checkpoint.
    """
    matrix = (
        experiment
        if isinstance(experiment, Matrix)
        else plan_experiment(experiment, folder=folder, overrides=overrides, storage=storage)
    )
    chosen = experiment_address(address)
    is_search = matrix.experiment.search is not None
    watcher = watcher or Watcher()
    if is_search:
        search_spec(matrix)
    else:
        work = find_work(matrix, address=chosen.value, retry=retry)
    made = ExperimentFolder.make_named(matrix.experiment.name, storage=matrix.base.storage)
    about = About(
        storage=matrix.base.storage,
        job=matrix.job_path,
        overrides=list(matrix.overrides),
        environment=_environment(chosen.value),
    )
    try:
        if is_search:
            run_trials(
                matrix,
                made,
                about,
                address=chosen.value,
                retry=retry,
                verbose=verbose,
                on_trial=watcher.on_trial,
                on_notice=watcher.on_notice,
            )
        else:
            run_cells(matrix, work, made, about, address=chosen.value, verbose=verbose, watcher=watcher)
    except BaseException:
        with suppress(ScalerError):  # an error of the report must not hide why the experiment ended
            _write_result(made, matrix)
        raise
    return _write_result(made, matrix)


def experiment_address(address: str | None) -> Address:
    """Return where an experiment runs, from the address that the user gave.

    Raises:
        JobFileError: experiments do not run there.
    """
    chosen = choose_address(address)
    if chosen.value == "none" or (chosen.value is not None and chosen.is_http):
        raise JobFileError(
            f"an experiment does not run at {chosen.shown}.",
            "Leave --address out, or give the host:port of a running cluster, on a node of it.",
        )
    return chosen


def _write_result(folder: ExperimentFolder, matrix: Matrix) -> ExperimentReport:
    """Write the report of an experiment and its recommended job, and return the report."""
    report = read_folder(folder)
    text = recommended_job(matrix, report, folder=folder.uri)
    if text is not None:
        folder.write(FILE, text)
        report = with_job_file(folder, report)
    write_experiment(folder, report)
    return report


def read_experiment(name: str, *, storage: str | os.PathLike[str] = "runs") -> ExperimentReport:
    """Return the report of an experiment, also while it runs.

    Args:
        name: of the experiment, or the path of its file.
        storage: the folder or URI that holds its runs.

    Raises:
        RunError: there is no such experiment.
    """
    return read_folder(find_experiment(name, storage=os.fspath(storage)))


def find_experiment(name: str, *, storage: str) -> ExperimentFolder:
    """Return the folder of the experiment that a person names.

    Raises:
        RunError: there is no such experiment; names those that there are.
    """
    if name.endswith((".yaml", ".yml")):
        experiment = load_experiment(Path(name))
        located, _ = base_job(experiment, folder=Path(name).parent)
        name, storage = experiment.name, located.job.storage
    folder = ExperimentFolder.of(name, storage=storage)
    if not folder.is_experiment():
        raise RunError(f"there is no experiment {name} in {storage}.", _remedy(name, storage))
    return folder


def _remedy(name: str, storage: str) -> str:
    """Return what to type for an experiment that a storage does not have."""
    names = ", ".join(each.run_id for each in list_experiments(storage))
    if names:
        return f"There are: {names}."
    relative = "A relative storage is relative to the current folder, not to the job file"
    if storage != STORAGE and ExperimentFolder.of(name, storage=STORAGE).is_experiment():
        return f"{relative}. The current folder has it: --storage {STORAGE}"
    if "://" not in storage and not os.path.isabs(storage):
        return f"{relative}: this is {os.path.abspath(storage)}. scaler experiment run FILE makes an experiment."
    return "scaler experiment run FILE makes one."


def write_experiment(folder: ExperimentFolder, report: ExperimentReport) -> None:
    """Write the report of an experiment into its folder."""
    from scaler.report.experiment.html import render_experiment_html
    from scaler.report.experiment.text import experiment_markdown

    folder.write("experiment.html", render_experiment_html(report))
    folder.write_json("experiment.json", report.to_dict())
    folder.write("experiment.md", experiment_markdown(report))


def _environment(address: str | None) -> dict[str, object]:
    from scaler.cluster.machine import this_machine

    machine = this_machine()
    about: dict[str, object] = {
        "host": machine.host,
        "system": machine.system,
        "versions": machine.versions.to_dict(),
        "memory_gib": machine.memory_gib,
    }
    return {**about, "cpus": machine.cpus} if address is None else {**about, "address": address, "cpus": None}
