"""The scripts of the pages about other trainers."""

import re
from pathlib import Path

import pytest

import scaler

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def run_script(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script of a trainer's page in ``folder``, and check the report of its run."""
    page = GUIDES / f"{name.rpartition(' ')[2].lower()}.md"
    found = re.findall(r"```(?:yaml|python)\n# (.+?)\n(.*?)```", page.read_text(), re.DOTALL)
    texts = dict(found)
    (folder / "job.yaml").write_text(texts["job.yaml"])
    monkeypatch.chdir(folder)
    exec(compile(texts[name], name, "exec"), {"__name__": "__main__"})
    report = scaler.read_run("last", storage=folder / "runs").report
    assert (report.state, report.totals.samples_seen, report.totals.steps) == ("succeeded", 288, 18)
    assert report.lr_audit.as_planned
    assert report.final.eval
