"""``scaler report RUN --open`` of a run in remote storage: the page is a local copy."""

from pathlib import Path

import pytest
from in_process import command_line
from run_folders import write_run
from synthetic import SyntheticRun

RUN = "digits-20260101-120000-7f3a"


def test_a_remote_run_s_page_is_opened_from_a_local_copy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    synthetic_run: SyntheticRun,
) -> None:
    storage = f"memory://{tmp_path.name}"
    folder = write_run(storage, RUN, synthetic_run.attempt(0))
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda uri: opened.append(uri) or True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with command_line(capsys, monkeypatch, tmp_path) as command:
        code, out, err = command("report", f"{storage}/{RUN}", "--open")
    (page,) = tmp_path.glob("scaler-*/report.html")
    assert (code, out, err) == (0, "", f"Opened: {page}\n")
    assert opened == [page.as_uri()]
    assert f"<title>{RUN} – report</title>" in page.read_text(encoding="utf-8")
    assert not folder.exists("report.html"), "who reads a run writes nothing into it"
