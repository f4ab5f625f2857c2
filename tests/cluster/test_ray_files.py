"""The folders of embedded clusters: those of drivers that ended are removed, and no others."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scaler.cluster.ray_files import OWNER, private_folder, remove_folders_of_ended_drivers
from scaler.runs.processes import this_process


def dead_process() -> dict[str, Any]:
    """Return a process of this machine that has ended."""
    code = "import json; from scaler.runs.processes import this_process; print(json.dumps(this_process()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return tmp_path


def folder(place: Path, name: str, owner: str | None) -> Path:
    made = place / name
    (made / "ray" / "session").mkdir(parents=True)
    if owner is not None:
        (made / OWNER).write_text(owner)
    return made


def test_a_folder_says_whose_it_is_and_only_this_user_can_enter_it(place: Path) -> None:
    made = Path(private_folder())
    assert made.parent == place
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert json.loads((made / OWNER).read_text()) == this_process()
    assert Path(private_folder()) != made
    assert made.is_dir(), "its driver runs"


def test_folders_of_dead_drivers_are_removed_at_the_next_start(place: Path) -> None:
    gone = folder(place, "ray-aaaa", json.dumps(dead_process()))
    private_folder()
    assert not gone.exists()


def test_a_folder_that_may_belong_to_others_stays(place: Path) -> None:
    dead = dead_process()
    reborn = {**this_process(), "born": "another start 1"}  # the number is used again: that driver is gone
    (place / "elsewhere").mkdir()
    stays = [
        folder(place, "ray-none", None),
        folder(place, "other-aaaa", json.dumps(dead)),
        folder(place, "ray-mine", json.dumps(this_process())),
        folder(place, "ray-far", json.dumps({**dead, "host": "elsewhere"})),
        folder(place, "ray-container", json.dumps({**dead, "namespace": "pid:[1]"})),
        folder(place, "ray-broken", "{"),
        folder(place, "ray-list", "[]"),
        folder(place, "ray-all", json.dumps({**dead, "pid": -1})),
        folder(place, "ray-nested", "[" * 200_000),
        place / "elsewhere",
    ]
    (place / "ray-link").symlink_to(place / "elsewhere")
    folder(place, "ray-pipe", None)
    os.mkfifo(place / "ray-pipe" / OWNER)
    gone = folder(place, "ray-reborn", json.dumps(reborn))
    remove_folders_of_ended_drivers(str(place))
    assert [kept.name for kept in stays if not kept.exists()] == []
    assert (place / "ray-link").is_symlink()
    assert (place / "ray-pipe").exists()
    assert not gone.exists()
