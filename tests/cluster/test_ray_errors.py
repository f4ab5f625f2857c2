"""Every exception of Ray becomes an error that says what happened, where, and what to type; none exits with 1."""

import asyncio
import inspect
from typing import Any

import pytest

from scaler.errors import ClusterError, RunError, ScalerError

# Ray's own, of its own parts; and it is imported with the token of the tests' cluster.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("cluster")]

BUILT_IN = (
    Exception,
    OSError,
    ConnectionError,
    ConnectionRefusedError,
    PermissionError,
    FileNotFoundError,
    TimeoutError,
    asyncio.TimeoutError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AssertionError,
    ImportError,
    NotImplementedError,
    EOFError,
    UnicodeDecodeError,
)


def subclasses(of: type[BaseException]) -> set[type[BaseException]]:
    found = set(of.__subclasses__())
    return found.union(*(subclasses(kind) for kind in found)) | {of}


def rays_own() -> list[type[BaseException]]:
    """Return the error classes of the installed Ray: of Ray Core, Ray Train and runtime environments."""
    import ray.exceptions
    import ray.train.v2._internal.exceptions as train_internal
    import ray.train.v2.api.exceptions as train

    found = subclasses(ray.exceptions.RayError)
    for module in (ray.exceptions, train, train_internal):
        found |= {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Exception)}
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


def made(kind: type[BaseException]) -> BaseException:
    """Return an exception of a class, whatever its constructor wants."""
    for arguments in ((), ("boom",), ("boom", "boom"), ("boom", {0: RuntimeError("boom")})):
        try:
            return kind(*arguments)
        except Exception:  # it wants something else
            continue
    return kind.__new__(kind)


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_every_exception_at_the_start_of_ray_becomes_an_error_of_scaler(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from scaler.cluster.embedded import embedded_cluster
    from scaler.cluster.running import running_cluster

    kinds = [*BUILT_IN, *rays_own()]
    assert len(kinds) > 50
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the tests' cluster stays
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    for kind in kinds:
        error = made(kind)

        def refuse(raised: BaseException = error, **_: object) -> None:
            raise raised

        monkeypatch.setattr(ray, "init", refuse)
        embedded = embedded_cluster(verbose=False)
        connection = embedded if address is None else running_cluster(address, verbose=False, runtime_env={})
        with pytest.raises(ClusterError) as caught, connection:
            pass
        where = "on this machine" if address is None else f"at {address}"
        assert where in caught.value.problem, kind
        assert caught.value.problem.endswith("."), kind
        assert caught.value.remedy, kind
        assert caught.value.exit_code == 3


def test_every_exception_of_ray_in_a_run_becomes_an_error_of_scaler() -> None:
    from ray.exceptions import RayError

    from scaler.cluster.ray_errors import ray_errors, run_error

    for kind in rays_own():
        error = made(kind)
        ours = run_error(error, run_id="digits-1")
        assert type(ours) is ClusterError, kind
        assert ours.problem.endswith("."), kind
        assert "scaler resume digits-1" in ours.remedy, kind
        if isinstance(error, RayError):
            with pytest.raises(ClusterError), ray_errors("digits-1"):
                raise error


def test_an_error_of_scaler_in_another_process_is_raised_as_it_was() -> None:
    """Errors of the collector and of the controller: Ray raises its own error, with them as the cause."""
    import ray

    from scaler.cluster.ray_errors import ray_errors

    def fail() -> None:
        raise RunError("run a: events.jsonl cannot be read.", "See to the storage.")

    with pytest.raises(RunError) as caught, ray_errors("digits-1"):
        ray.get(ray.remote(num_cpus=0)(fail).remote())
    assert str(caught.value) == "run a: events.jsonl cannot be read.\n  See to the storage."


def test_other_exceptions_pass() -> None:
    from scaler.cluster.ray_errors import ray_errors

    for error in (ZeroDivisionError(), KeyboardInterrupt(), RunError("a", "b")):
        with pytest.raises(type(error)) as caught, ray_errors("digits-1"):
            raise error
        assert caught.value is error


def start_text(error: BaseException, *, address: str | None = None, cause: BaseException | None = None) -> str:
    from scaler.cluster.ray_errors import start_error

    error.__cause__ = cause
    ours: ScalerError = start_error(error, address=address)
    return str(ours)


def test_a_cluster_that_does_not_accept_the_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import AuthenticationError

    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    text = (
        "the Ray cluster at auto does not accept the token of RAY_AUTH_TOKEN.\n"
        "  Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it.\n"
        "  On the head's machine, ray get-auth-token prints it."
    )
    assert start_text(AuthenticationError("no token was found"), address="auto") == text
    refused = RuntimeError("Failed to connect to GCS. Last connection error: ray.exceptions.AuthenticationError: ...")
    assert start_text(ConnectionError("Failed to connect to Ray cluster at"), address="auto", cause=refused) == text


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (
            OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/a"),
            "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/a.",
            "Set RAY_TMPDIR to a shorter path: Ray's sockets are below it, and the length of their paths is limited.",
        ),
        (
            Exception("The current node timed out during startup. This could happen because ..."),
            "it did not start in time: The current node timed out during startup. This could happen because.",
            "Try again when this machine is less busy, or run one worker without Ray: --address none --workers 1.",
        ),
        (
            RuntimeError("the raylet is gone"),
            "the raylet is gone.",
            "--verbose shows Ray's log. One worker runs without Ray: --address none --workers 1.",
        ),
    ],
)
def test_the_error_of_a_cluster_that_does_not_start_says_what_to_type(error: Any, problem: str, remedy: str) -> None:
    assert start_text(error) == f"no Ray cluster on this machine: {problem}\n  {remedy}"


def test_a_head_that_is_gone_is_noticed_and_one_that_answers_is_not() -> None:
    import socket
    from time import monotonic, sleep

    from scaler.cluster.head import HeadWatch

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with HeadWatch(address, patience_s=30.0) as watch:
            assert watch.silent_s is None
    with HeadWatch(address, patience_s=0.05) as watch:
        until = monotonic() + 60
        while watch.silent_s is None:
            assert monotonic() < until
            sleep(0.01)


def test_rays_refusal_of_another_version_is_one_sentence() -> None:
    from ray._private.utils import check_version_info

    from scaler.cluster.ray_errors import start_error
    from scaler.cluster.versions import installed_versions

    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.61.0", "python_version": "3.12.1"}, "10.0.0.1")
    mine = installed_versions()
    error = start_error(caught.value, address="head:6379")
    assert str(error) == (
        f"the Ray cluster at head:6379 has Ray 2.61.0 on Python 3.12.1, and this process has Ray {mine.ray} on Python "
        f"{mine.python}: Ray does not connect, because their messages and pickles differ.\n"
        "  Use Python 3.12 with ray==2.61.0 here, or have the cluster run the driver: --address http://HEAD:8265."
    )
