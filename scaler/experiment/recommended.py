"""The recommendation of an experiment as a job file that is ready to run."""

import os
from pathlib import Path
from shlex import quote

from scaler.experiment.matrix import Matrix, as_texts
from scaler.job import Job
from scaler.job.load import apply_overrides
from scaler.job.reading import dump_yaml
from scaler.masking import mask_text, mask_values
from scaler.report.experiment.model import ExperimentReport, Recommendation
from scaler.report.text.format import one_line, printable
from scaler.runs.filesystems import inside, located

FILE = "recommended.yaml"


def recommended_job(matrix: Matrix, report: ExperimentReport, *, folder: str) -> str | None:
    """Return the text of a job file with the recommended settings; None: nothing is recommended.

    It has the keys of the experiment's job file, with ``set`` and the recommended values of the matrix. The recipe's
    path is right from the folder in which the file lies, and the storage is absolute. Secrets are masked, as in a run's
    copy of its job: they must be given again. Relative paths in ``recipe_args`` stay as they are.

    Args:
        matrix: of the experiment.
        report: its report.
        folder: the path or URI of the folder that gets the file.
    """
    chosen = report.recommendation
    if chosen is None:
        return None
    cell = next((each for each in matrix.cells if each.overrides == chosen.overrides and each.job is not None), None)
    if cell is None or cell.job is None:
        return None
    values = apply_overrides(matrix.base.model_dump(mode="json", exclude_unset=True), as_texts(chosen.overrides))
    values["recipe"] = _recipe(cell.job, matrix.recipe_folder, folder=folder)
    values["storage"] = mask_text(located(cell.job.storage))
    values |= {key: mask_values(values[key]) for key in ("recipe_args", "runtime_env") if key in values}
    about = [_title(report, chosen), chosen.reason]
    about += [f"Instead, {each.label}: {each.text}." for each in chosen.alternatives]
    about += [f"Made from {matrix.job_path}.", f"Run it: scaler submit {quote(mask_text(inside(folder, FILE)))}"]
    return "".join(map(_comment, about)) + dump_yaml(values)


def is_of(text: str, report: ExperimentReport) -> bool:
    """Return whether a file that was written earlier has the settings that are recommended now."""
    chosen = report.recommendation
    return chosen is not None and text.startswith(_comment(_title(report, chosen)))


def _title(report: ExperimentReport, chosen: Recommendation) -> str:
    return f"Recommended by the experiment {report.experiment_id}: {chosen.label}"


def _comment(text: str) -> str:
    return f"# {printable(one_line(text, 1000))}\n"


def _recipe(job: Job, recipe_folder: Path, *, folder: str) -> str:
    """Return the recipe as it is found from another folder; a module that Python finds anywhere keeps its name."""
    where, _, function = job.recipe_function.rpartition(":")
    file = recipe_folder / (where if where.endswith(".py") else f"{where.replace('.', '/')}.py")
    if not file.is_file():
        return job.recipe_function
    is_local = "://" not in folder
    return f"{os.path.relpath(file, folder) if is_local else file}:{function}"
