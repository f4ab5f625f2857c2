"""Workers of an embedded cluster that are forks: they are as Ray would have started them, and Ray starts the others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scaler.cluster.capacity import require_memory, start_timeout_s
from scaler.errors import ClusterError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

NICENESS = 1  # of the workers
SCRIPT = """
import json, os, signal, sys
from pathlib import Path

from scaler.cluster.embedded import embedded_cluster


class Probe:
    def tell(self):
        import random
        import numpy, ray, torch

        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\\0")
        alike = {
            "is_group_leader": os.getpgid(0) == os.getpid(),
            "blocked": sorted(int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "on_child": str(signal.getsignal(signal.SIGCHLD)),
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
            "folder": os.getcwd(),
            "script": sys.argv[0],
            "path": sys.path,
            "flags": str(sys.flags),
            "hash": hash("scaler"),
            "main": sys.modules["__main__"].__name__,
            "threads": torch.get_num_threads(),
            "environment": {
                name: value
                for name, value in os.environ.items()
                if name not in ("MARK", "TORCHINDUCTOR_CACHE_DIR") and not name.endswith("_PID")
            },
        }
        return {
            "parent": os.getppid(),
            "parent_script": parent[1].decode() if len(parent) > 1 else "",
            "alike": alike,
            "session": Path("/proc/self/autogroup").read_text() if Path("/proc/self/autogroup").exists() else None,
            "random": [ray.NodeID.from_random().hex(), random.random(), float(numpy.random.rand())],
            "mark": os.environ.get("MARK"),
        }


if __name__ == "__main__":
    with embedded_cluster(verbose=False, crowded=True):
        import ray

        def tell(variables):
            options = {"num_cpus": 0.1, "runtime_env": {"env_vars": variables}}
            probe = ray.remote(Probe).options(**options).remote()
            probes.append(probe)
            return ray.get(probe.tell.remote())

        probes = []
        found = {"forks": [tell({"RAY_OF_TEST": "1"}) for _ in range(3)]}
        found["marked"] = tell({"RAY_OF_TEST": "1", "MARK": "x"})
        os.kill(found["forks"][0]["parent"], signal.SIGKILL)
        found["alone"] = tell({"RAY_OF_TEST": "1"})
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What actors of an embedded cluster tell of themselves."""
    script = tmp_path_factory.mktemp("forks") / "script.py"
    script.write_text(SCRIPT)
    # Ray imports the actor's class from the script's folder.
    environment = {**os.environ, "PYTHONPATH": str(script.parent), "RAY_worker_niceness": str(NICENESS)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_workers_are_forks_of_one_server(found: Any) -> None:
    parents = {(each["parent"], Path(each["parent_script"]).name) for each in found["forks"]}
    assert len(parents) == 1
    assert parents.pop()[1] == "server.py"


def test_a_worker_with_another_environment_is_no_fork_and_has_its_variables(found: Any) -> None:
    assert found["marked"]["mark"] == "x"
    assert not found["marked"]["parent_script"].endswith("server.py")


def test_without_the_server_ray_starts_workers_itself(found: Any) -> None:
    assert not found["alone"]["parent_script"].endswith("server.py")


def test_a_fork_is_as_ray_would_have_started_it(found: Any) -> None:
    assert found["forks"][1]["alike"] == found["alone"]["alike"]


def test_forks_leave_the_cpus_to_other_sessions_where_there_are_more_workers_than_cpus(found: Any) -> None:
    sessions = [each["session"] for each in found["forks"]]
    if not all(sessions):  # no file, or an empty one: the session has no autogroup
        pytest.skip("this kernel has no autogroups")
    assert {each["alike"]["niceness"] for each in found["forks"]} == {NICENESS}
    assert {session.split("nice ")[1].strip() for session in sessions} == {str(NICENESS)}
    # Ray starts this worker in the session of its own, which may have no autogroup: nothing has changed its niceness.
    assert found["alone"]["session"].strip().endswith("nice 0") or not found["alone"]["session"]


def test_forks_have_random_numbers_of_their_own(found: Any) -> None:
    for kind in range(3):
        assert len({each["random"][kind] for each in found["forks"]}) == 3


def test_workers_that_do_not_fit_into_the_memory_are_refused_with_the_number_that_fits() -> None:
    with pytest.raises(ClusterError) as caught:
        require_memory(workers=64, forks=False, free_gib=12.0)
    assert str(caught.value) == (
        "64 workers need 22.0 GiB of memory without their model and data, and this machine has 12.0 GiB free.\n"
        "  --workers 32 fits."
    )
    require_memory(workers=32, forks=False, free_gib=12.0)
    require_memory(workers=64, forks=True, free_gib=12.0)
    require_memory(workers=64, forks=False, free_gib=None)


def test_a_machine_without_memory_for_one_worker_is_named() -> None:
    with pytest.raises(ClusterError) as caught:
        require_memory(workers=1, forks=True, free_gib=0.5)
    assert str(caught.value) == (
        "1 worker needs 1.6 GiB of memory without their model and data, and this machine has 0.5 GiB free.\n"
        "  End other programs, or use a machine with more memory."
    )


def test_many_workers_have_more_time_to_start() -> None:
    assert start_timeout_s(64, elastic=False) > 2.5 * 64  # 5 CPU seconds each, on two CPUs
    assert start_timeout_s(1, elastic=True) == 16.0
