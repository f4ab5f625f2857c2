"""The Python that runs a driver which Ray Jobs starts: the one of the Ray that starts it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from scaler.cluster.driver_python import driver_command

# As the Ray worker that starts a job's command: a process that has loaded Ray, and starts a shell.
WORKER = "import ray._raylet, subprocess, sys; sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)"


def python_of(path: str) -> tuple[str, str]:
    """Return the ``sys.prefix`` of the driver under a PATH, and where it finds Ray."""
    show = "import sys, ray; print(sys.prefix, ray.__file__, sep='\\n')"
    command = driver_command().replace("-m scaler", f'-c "{show}"')
    done = subprocess.run(
        [sys.executable, "-c", WORKER, command],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    prefix, ray_file = done.stdout.split()
    return prefix, ray_file


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="a Ray worker's files are seen in /proc")
def test_the_driver_runs_on_the_python_of_ray_whatever_the_path_has(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(Path(sys.executable).resolve())  # without the packages
    found = find_spec("ray")  # Ray is not imported: tests of the same process may start one with a token
    assert found is not None
    file = str(found.origin)
    of_ray = str(Path(file).parents[4])
    assert python_of(f"{tmp_path}:/usr/bin:/bin") == (of_ray, file)
    assert python_of("/usr/bin:/bin") == (of_ray, file), "there may be no python at all"
    assert python_of(f"{Path(sys.executable).parent}:/usr/bin:/bin") == (sys.prefix, file)
