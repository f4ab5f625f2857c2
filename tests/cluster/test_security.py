"""What another user of this machine or its network can see of an embedded cluster, and do with it."""

import os
import stat
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import grpc
import pytest
from process_tree import descendants

# Ray's own, of its own parts; ours are errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens where"),
    pytest.mark.usefixtures("cluster"),
]

# What a cluster of Ray answers over HTTP: jobs, the packages of a worker, its state, its logs and its numbers.
DOORS = (
    ("/api/job_agent/jobs/", b'{"entrypoint": "touch /tmp/scaler-was-here"}'),
    ("/api/jobs/", b'{"entrypoint": "touch /tmp/scaler-was-here"}'),
    ("/get_or_create_runtime_env", b"x"),
    ("/api/v0/tasks", None),
    ("/logs", None),
    ("/metrics", None),
)
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVPut",
    "/ray.rpc.JobInfoGcsService/AddJob",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.CoreWorkerService/KillActor",
    "/ray.rpc.ReporterService/GetTraceback",
)


def token() -> str:
    return os.environ["RAY_AUTH_TOKEN"]


def session() -> Path:
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path())


def ports() -> dict[int, str]:
    """Return the ports of the cluster's processes, each with the address to reach it."""
    import ray

    files = set()
    for pid in descendants(os.getpid()):
        try:
            files |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    found = {}
    for kind in ("tcp", "tcp6"):
        for row in (line.split() for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]):
            address, _, port = row[1].rpartition(":")
            if row[3] == "0A" and f"socket:[{row[9]}]" in files:
                local = address.endswith("0100007F")
                found[int(port, 16)] = "127.0.0.1" if local else ray.util.get_node_ip_address()
    return found


def test_the_token_is_in_no_file_of_the_session_and_on_no_command_line() -> None:
    import ray

    ray.get(ray.remote(lambda: None).remote())  # a worker was there
    folder = session()
    read = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in read)
    assert not [path for path in read if token().encode() in path.read_bytes()]
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    assert any(b"raylet" in line for line in lines)
    assert not [line for line in lines if token().encode() in line]


def test_nobody_else_can_enter_the_folder_of_rays_files() -> None:
    """Ray itself makes the session's folders writable for everybody, and its sockets and logs are in there."""
    closed = [folder for folder in session().parents if not stat.S_IMODE(folder.stat().st_mode) & 0o077]
    mine = [folder for folder in closed if folder.name.startswith("ray-")]
    assert len(mine) == 1
    assert mine[0].stat().st_uid == os.getuid()


def test_every_port_that_speaks_http_wants_the_token() -> None:
    answers = {}
    for port, address in ports().items():
        for path, body in DOORS:
            request = urllib.request.Request(f"http://{address}:{port}{path}", data=body)
            request.add_header("Content-Type", "application/json")
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    answers[port, path] = answer.status
            except urllib.error.HTTPError as error:
                error.close()
                answers[port, path] = error.code
            except (OSError, HTTPException):  # it speaks gRPC, and hangs up
                continue
    assert set(answers.values()) == {401}, answers
    assert not Path("/tmp/scaler-was-here").exists()


def test_every_port_that_speaks_grpc_wants_the_token() -> None:
    """Ray's own way to submit tasks and jobs, and to read and write the cluster's state."""
    import ray

    ray.get(ray.remote(lambda: None).remote())
    guesses = [None, (("authorization", f"Bearer {'0' * 64}"),)]
    answers: dict[str, set[str]] = {method: set() for method in METHODS}
    for port, address in ports().items():
        with grpc.insecure_channel(f"{address}:{port}") as channel:
            for method in METHODS:
                for guess in guesses:
                    answers[method].add(asked(channel, method, guess))
    # A port that has no such method says so; one that speaks HTTP alone is not there for gRPC.
    assert {method for method, codes in answers.items() if "UNAUTHENTICATED" in codes} == set(METHODS)
    assert set().union(*answers.values()) <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}
    # They were refused for want of the token, and of nothing else.
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        assert asked(channel, METHODS[0], (("authorization", f"Bearer {token()}"),)) == "OK"


def asked(channel: grpc.Channel, method: str, metadata: tuple[tuple[str, str], ...] | None) -> str:
    """Return the code of a server's answer to an empty request."""
    try:
        channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_no_server_for_rays_own_client_runs() -> None:
    """Its port would accept whole programs."""
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(os.getpid())]
    assert not [line for line in lines if b"ray.util.client.server" in line]
    assert 10001 not in ports()
