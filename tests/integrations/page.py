"""The scripts of docs/integrations.md."""

import re
from pathlib import Path

import pytest

import scaler

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def run_script(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script of the page in ``folder``, and check the report of its run."""
    found = re.findall(r"```(?:yaml|python)\n# (.+?)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    texts = dict(found)
    (folder / "job.yaml").write_text(texts["job.yaml"])
    monkeypatch.chdir(folder)
    exec(compile(texts[name], name, "exec"), {"__name__": "__main__"})
    report = scaler.read_run("last", storage=folder / "runs").report
    assert (report.state, report.totals.samples_seen, report.totals.steps) == ("succeeded", 288, 18)
    assert report.lr_audit.as_planned
    assert report.final.eval
