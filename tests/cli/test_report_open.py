"""``scaler report RUN --open``: in the browser that BROWSER names, and the message where there is none."""

from pathlib import Path

import pytest
from in_process import Scaler
from run_folders import write_run
from synthetic import SyntheticRun

from scaler.runs import RunFolder

RUN = "digits-20260101-120000-7f3a"


@pytest.fixture
def folder(tmp_path: Path, synthetic_run: SyntheticRun) -> RunFolder:
    """A run that nobody reported on yet."""
    write_run(str(tmp_path / "runs"), RUN, synthetic_run.attempt(0))
    return RunFolder(str(tmp_path / "runs" / RUN))


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A browser that writes down what it is asked to open."""
    asked, program = tmp_path / "asked", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {asked}\n')
    program.chmod(0o755)
    monkeypatch.setattr("webbrowser._tryorder", None)
    monkeypatch.setattr("webbrowser._browsers", {})
    monkeypatch.setenv("BROWSER", str(program))
    return asked


def test_the_page_is_opened(scaler_command: Scaler, tmp_path: Path, folder: RunFolder, browser: Path) -> None:
    page = tmp_path / "a page.html"
    code, out, err = scaler_command("report", folder.uri, "--open", "--html", page)
    assert (code, out, err) == (0, "", f"Opened: {page}\n")
    assert browser.read_text() == f"{page.as_uri()}\n"


def test_a_page_without_a_file_name_is_a_temporary_copy(
    scaler_command: Scaler, tmp_path: Path, folder: RunFolder, browser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = scaler_command("report", folder.uri, "--open")
    (page,) = tmp_path.glob("scaler-*/report.html")
    assert (code, out, err) == (0, "", f"Opened: {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not folder.exists("report.html"), "who reads a run writes nothing into it"


def test_without_a_browser_the_path_of_the_page_is_printed(
    scaler_command: Scaler, tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser._tryorder", [])
    page = tmp_path / "page.html"
    code, out, err = scaler_command("report", folder.uri, "--open", "--html", page)
    assert (code, out, err) == (0, "", f"No browser was found. The page is: {page}\n")
    assert page.exists()


def test_a_page_that_cannot_be_written_is_a_usage_error(
    scaler_command: Scaler, tmp_path: Path, folder: RunFolder
) -> None:
    for page, why in ((tmp_path / "nowhere" / "x.html", "No such file or directory"), (tmp_path, "Is a directory")):
        code, out, err = scaler_command("report", folder.uri, "--html", page)
        assert (code, out) == (2, "")
        assert err == f"Error: {page}: cannot be written: {why}.\n  Give a file in a folder that exists.\n"
