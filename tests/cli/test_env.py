"""``scaler env``: what this machine and a cluster offer, and what is wrong with them."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scaler.cli.env_text import NOT_REACHED, NOTHING_WRONG, env_markdown, env_text
from scaler.cluster.cluster_view import ClusterView, NodeView
from scaler.cluster.cluster_view_http import cluster_in, not_viewed
from scaler.cluster.findings import TESTED_TORCH, Finding, findings_of
from scaler.cluster.machine import Machine, this_machine, variables_that_matter
from scaler.cluster.versions import Versions

VERSIONS = Versions(python="3.11.7", ray="2.58.0", torch="2.13.0+cpu", scaler="0.1.0")
MACHINE = Machine(
    host="laptop",
    system="Linux 6.1 x86_64",
    versions=VERSIONS,
    torch_cuda=None,
    gpus=[],
    gpu_driver=None,
    cpus=8,
    cpus_of_machine=8,
    cpu_quota=None,
    memory_gib=15.6,
    shared_memory_gib=7.8,
    open_files=20000,
    most_open_files=20000,
    folder="/home/me/job",
    folder_free_gib=69.5,
    folder_is_writable=True,
    ray_folder="/tmp",
    ray_folder_free_gib=69.5,
    ray_folder_used=0.3,
    storage_packages={"s3fs": "2026.9.0"},
    variables={"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "***"},
)
NODE = NodeView(
    host="gpu-1",
    address="10.0.0.2",
    is_head=False,
    resources={"CPU": 8.0, "GPU": 1.0},
    free={"CPU": 4.0, "GPU": 0.0},
    memory_gib=61.2,
    accelerators=["H100"],
    versions=replace(VERSIONS, torch="2.13.0"),
    torch_cuda="12.8",
    why="",
)
HEAD = replace(NODE, host="head", address="10.0.0.1", is_head=True, resources={}, free={}, accelerators=[])
CLUSTER = ClusterView(
    address="10.0.0.1:6379", ray="2.58.0", has_autoscaler=False, asks_for_token=True, nodes=[HEAD, NODE]
)


def test_the_torch_is_the_one_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"torch{TESTED_TORCH}" in project["dependencies"]


def problems(machine: Machine = MACHINE, cluster: ClusterView | None = None) -> list[str]:
    return [each.problem for each in findings_of(machine, cluster)]


def lines_of(machine: Machine, cluster: ClusterView | None, *, width: int) -> str:
    console = Console(width=width, highlight=False, markup=False, record=True, file=StringIO())
    console.print(env_text(machine, cluster, findings_of(machine, cluster)))
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().rstrip().splitlines())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"versions": replace(VERSIONS, torch=None)}, "torch is not installed."),
        (
            {"versions": replace(VERSIONS, torch="2.4.1+cu121")},
            "torch 2.4.1+cu121 is not one of the versions that scaler is made for, >=2.6,<3.",
        ),
        ({"versions": replace(VERSIONS, ray=None)}, "Ray is not installed."),
        ({"versions": replace(VERSIONS, ray="2.61.0")}, "Ray 2.61.0 is not one of the tested versions, >=2.58,<2.61."),
        ({"gpus": ["H200"]}, "This machine has 1 GPU, and its torch 2.13.0+cpu is for CPUs only."),
        ({"cpu_quota": 1.5}, "The container may use 1.5 of the 8 CPUs that Ray counts."),
        ({"shared_memory_gib": 0.0625}, "/dev/shm has 64 MiB."),
        ({"open_files": 256}, "A process may open 256 files."),
        ({"folder_is_writable": False}, "The current folder /home/me/job cannot be written."),
        ({"folder_free_gib": 0.2}, "The disk of /home/me/job has 0.2 GiB free."),
        ({"ray_folder_used": 0.97}, "The disk of /tmp, where Ray writes, is 97% full."),
    ],
)
def test_what_is_wrong_with_a_machine(changes: dict[str, Any], problem: str) -> None:
    found = findings_of(replace(MACHINE, **changes), None)
    assert [each.problem for each in found] == [problem]
    assert found[0].consequence
    assert found[0].remedy


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([replace(NODE, versions=None, why="no answer")], "The node gpu-1 (10.0.0.2) did not answer: no answer."),
        ([replace(NODE, versions=replace(VERSIONS, torch=None))], "The node gpu-1 (10.0.0.2) has no torch."),
        ([replace(NODE, torch_cuda=None)], "The node gpu-1 has 1 GPU, and its torch 2.13.0 is for CPUs only."),
        (
            [NODE, replace(NODE, host="gpu-2", versions=replace(VERSIONS, torch="2.12.1"))],
            "The nodes have different versions of torch: torch 2.13.0 on gpu-1; torch 2.12.1 on gpu-2.",
        ),
        ([HEAD], "No node of the cluster has a CPU for workers."),
    ],
)
def test_what_is_wrong_with_a_cluster(nodes: list[NodeView], problem: str) -> None:
    assert problems(cluster=replace(CLUSTER, nodes=nodes)) == [problem]


def test_nothing_is_wrong() -> None:
    assert problems(cluster=CLUSTER) == []
    head_without_torch = replace(HEAD, versions=replace(VERSIONS, torch=None))
    assert problems(cluster=replace(CLUSTER, nodes=[head_without_torch, NODE])) == [], "no worker runs on the head"


@pytest.mark.parametrize("width", [80, 50])
def test_the_text_for_a_terminal(golden: Callable[[str, str], None], width: int) -> None:
    machine = replace(MACHINE, shared_memory_gib=0.0625)
    golden(f"env-{width}.txt", lines_of(machine, CLUSTER, width=width))


def test_the_block_for_a_bug_report(golden: Callable[[str, str], None]) -> None:
    assert env_markdown(MACHINE, None, []).endswith(NOTHING_WRONG)
    finding = Finding(problem="A | B is wrong.", consequence="It fails.", remedy="Do not.")
    golden("env.md", f"{env_markdown(MACHINE, CLUSTER, [finding])}\n")


def test_secrets_are_masked_in_every_output() -> None:
    headers = '{"Authorization": "Bearer abcdefgh"}'
    environment = {"RAY_JOB_HEADERS": headers, "AWS_SECRET_ACCESS_KEY": "hunter22", "AWS_ENDPOINT_URL": "http://a:b@c"}
    environment |= {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"env_vars": {"X": "hunter22"}}}', "HOME": "/home"}
    found = variables_that_matter(environment)
    assert found == {
        "AWS_ENDPOINT_URL": "http://a:***@c",
        "AWS_SECRET_ACCESS_KEY": "***",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": "***",
        "RAY_JOB_HEADERS": "***",
    }


def test_this_machine_is_described_without_torch_and_ray(tmp_path: Path) -> None:
    command = "import sys; from scaler.cli import run; code = run(['env', '--json']); "
    command += "print(code, sorted({'torch', 'ray'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    assert done.stderr == "0 []\n"
    values = json.loads(done.stdout)
    assert list(values) == ["schema_version", "machine", "cluster", "findings"]
    assert values["cluster"] is None
    assert values["machine"]["versions"]["ray"] == this_machine().versions.ray is not None
    assert values["machine"]["folder"] == str(tmp_path)


def test_a_cluster_that_cannot_be_reached_is_exit_code_3_and_the_machine_is_shown(scaler_command: Any) -> None:
    code, out, err = scaler_command("env", "--address", "127.0.0.1:1")
    assert code == 3
    assert "This machine: " in out
    assert NOTHING_WRONG not in out
    assert env_markdown(MACHINE, None, [], is_reached=False).endswith(NOT_REACHED)
    assert err.startswith("Error: no Ray cluster at 127.0.0.1:1: Connection refused.\n")


def test_another_kind_of_address_is_refused_with_what_to_type(scaler_command: Any) -> None:
    assert scaler_command("env", "--address", "ray://head:10001") == (
        2,
        "",
        "Error: --address ray://head:10001 is not the address of a Ray cluster: auto, host:port or http(s)://host:port.\n"
        "  ray start --head prints it. On a node of the cluster: --address auto.\n",
    )


def test_a_cluster_over_http_is_read_from_what_a_job_there_printed() -> None:
    printed = json.dumps({"schema_version": 1, "cluster": asdict(CLUSTER), "findings": []}, indent=1)
    assert cluster_in(f"INFO: {{\nRunning entrypoint for job a: scaler env --json\n{printed}\nbye\n") == CLUSTER
    assert cluster_in("ModuleNotFoundError: No module named 'pydantic'\n") is None
    assert cluster_in('{\n "cluster": null\n}\n') is None


def test_why_a_cluster_cannot_be_seen_over_http_is_what_the_job_there_printed() -> None:
    printed = "Running entrypoint for job a: P\nError: the Python at /p has no package rich.\n  Install it there.\n"
    assert str(not_viewed(printed, shown="http://h:1")) == (
        "the cluster at http://h:1 cannot run scaler env: the Python at /p has no package rich.\n"
        "  Install it there.\n"
        "  On a node of the cluster: scaler env --address auto"
    )
    assert not_viewed("a\nsh: 1: python: not found\n\n", shown="h").problem == (
        "the cluster at h cannot run scaler env: sh: 1: python: not found."
    )
    assert not_viewed("", shown="h").problem == "the cluster at h cannot run scaler env: it printed nothing."
