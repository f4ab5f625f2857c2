"""The wheel, installed where the checkout is not seen: its commands work, and a job that it makes runs."""

import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has scaler from the wheel, and its dependencies from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build, str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([*pip, "--python", str(python), *install], check=True)
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(ray.origin).parents[1]}\n")
    return python.parent


def run(installed: Path, *command: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{installed}:{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_runs_a_job_that_it_made(installed: Path, tmp_path: Path) -> None:
    found = run(installed, "python", "-c", "import scaler; print(scaler.__file__)", folder=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parent)
    assert run(installed, "scaler", "init", "demo", folder=tmp_path) == "demo/job.yaml\ndemo/recipe.py\n"
    report = run(installed, "scaler", "submit", "demo/job.yaml", folder=tmp_path)
    assert "succeeded" in report.splitlines()[0]
    assert list((tmp_path / "runs").glob("demo-*/report.html"))


def test_the_wheel_exports_files(installed: Path, tmp_path: Path) -> None:
    run(installed, "scaler", "init", "demo", folder=tmp_path)
    assert run(installed, "scaler", "export", "docker", "demo", folder=tmp_path).splitlines() == [
        "demo/deploy/Dockerfile",
        "demo/deploy/Dockerfile.dockerignore",
    ]
    names = {path.name for path in (tmp_path / "demo" / "deploy").iterdir()}
    assert names > {"constraints.txt", "Dockerfile"}
    assert any(name.endswith(".whl") for name in names)
