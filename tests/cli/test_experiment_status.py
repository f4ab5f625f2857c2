"""``scaler experiment status`` and ``list`` on storages that were made without a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_estimates import put_experiment, put_run

from scaler.job import load_job

Scaler = Callable[..., Any]


@pytest.fixture
def storage(tmp_path: Path, digits_path: Path, scaler_command: Scaler) -> str:
    """A storage with an experiment of one cell, whose file names another storage."""
    job = load_job(digits_path)
    folder = tmp_path / "moved"
    put_experiment(folder, "study", job, put_run(folder, job))
    cells = folder / "experiments/study/cells.json"
    cells.write_text(cells.read_text().replace(str(folder), "runs"))
    return "moved"


def test_a_storage_that_was_moved_is_read_where_it_is(storage: str, scaler_command: Scaler) -> None:
    line = "study  1 of 1 cells succeeded\n"
    assert scaler_command("experiment", "list", "--storage", storage) == (0, line, "")
    next_line = "Report: scaler experiment report study --storage moved\n"
    assert scaler_command("experiment", "status", "study", "--storage", storage) == (0, line + next_line, "")


def test_names_that_do_not_exist(storage: str, scaler_command: Scaler) -> None:
    assert scaler_command("experiment", "list") == (0, "", "There are no experiments in runs.\n")
    assert scaler_command("experiment", "status", "studdy", "--storage", storage) == (
        5,
        "",
        "Error: there is no experiment studdy in moved.\n  There are: study.\n",
    )
    assert scaler_command("experiment", "report", "study") == (
        5,
        "",
        "Error: there is no experiment study in runs.\n"
        "  A relative storage is relative to the current folder, not to the job file: this is "
        f"{Path('runs').absolute()}. scaler experiment run FILE makes an experiment.\n",
    )


def test_a_storage_in_the_folder_of_the_job_file_is_not_the_one_that_the_job_names(
    storage: str, scaler_command: Scaler
) -> None:
    Path(storage).rename("runs")
    assert scaler_command("experiment", "status", "study", "--storage", "jobs/digits/runs") == (
        5,
        "",
        "Error: there is no experiment study in jobs/digits/runs.\n"
        "  A relative storage is relative to the current folder, not to the job file. The current folder has it: "
        "--storage runs\n",
    )
