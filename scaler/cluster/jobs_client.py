"""Call Ray's own client of Ray Jobs, with time-outs and with scaler's errors.

The client gets the headers of RAY_JOB_HEADERS, and the cluster's token if the cluster asks for one.
"""

import json
import logging
import os
from collections.abc import AsyncIterator
from queue import Empty, Queue
from threading import Thread
from typing import Any

from scaler.cluster.auth_token import find_token, token_refused
from scaler.cluster.ray_session import set_environment
from scaler.errors import ClusterError, JobFileError, ScalerError
from scaler.masking import mask_text

ANSWER_S = 20.0  # a cluster answers within a second; its dashboard may be busy
HEADERS = "RAY_JOB_HEADERS"
# Loggers of Ray's client, which report each package and each connection.
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class ConnectionLostError(ClusterError):
    """The cluster does not answer."""


class JobsClient:
    """Ray Jobs of one cluster.

    Args:
        address: ``http(s)://host:port``.

    Attributes:
        shown: the address without its password.

    Raises:
        JobFileError: RAY_JOB_HEADERS is not a JSON object of texts.
        ClusterError: nothing answers there, or the cluster refuses this process.
    """

    def __init__(self, address: str) -> None:
        self.shown = mask_text(address)
        self._address = address
        headers = job_headers()
        try:
            self._client = self._within(lambda: self._connect(headers))
        except _RefusedError:
            token = find_token().value
            if not token or "RAY_AUTH_MODE" in os.environ:  # with that variable set, Ray has sent the token, or may not
                raise token_refused(self.shown) from None
            try:
                self._client = self._within(lambda: self._connect({**headers, "Authorization": f"Bearer {token}"}))
            except _RefusedError:
                raise token_refused(self.shown) from None

    def _connect(self, headers: dict[str, str]) -> Any:
        from ray.job_submission import JobSubmissionClient

        # Ray lets this variable override the address that it is given.
        with set_environment({"RAY_API_SERVER_ADDRESS": self._address}):
            client = JobSubmissionClient(self._address, headers=dict(headers))
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        return client

    def call(self, method: str, *arguments: Any, within_s: float | None = ANSWER_S, **options: Any) -> Any:
        """Return what a method of Ray's client returns.

        Args:
            method: its name.
            arguments: of the method.
            within_s: how long the cluster may take to answer; None: any time, as for an upload.
            options: of the method.

        Raises:
            ConnectionLostError: no answer.
            ClusterError: the cluster refuses the call.
        """
        return self._within(lambda: getattr(self._client, method)(*arguments, **options), within_s=within_s)

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Return the texts of a driver's log from its start, as they come."""
        texts: AsyncIterator[str] = self._client.tail_job_logs(submission_id)
        return texts

    def _within(self, function: Any, *, within_s: float | None = ANSWER_S) -> Any:
        """Call a function in a thread, because Ray's client has no time-outs."""
        outcome: Queue[tuple[bool, Any]] = Queue()

        def run() -> None:
            try:
                outcome.put((True, function()))
            except BaseException as error:
                outcome.put((False, error))

        Thread(target=run, name="scaler-ray-jobs", daemon=True).start()
        try:
            is_value, found = outcome.get(timeout=within_s)
        except Empty:
            raise ConnectionLostError(
                f"the Ray cluster at {self.shown} has not answered for {within_s:.0f} s.", _CHECK
            ) from None
        if is_value:
            return found
        raise self._error(found) from found

    def _error(self, error: BaseException) -> BaseException:
        """Return an error of scaler for one that Ray's client raised."""
        import requests
        from ray.exceptions import AuthenticationError

        if isinstance(error, ScalerError):
            return error
        text = mask_text(str(error)).strip()
        if isinstance(error, AuthenticationError):
            return _RefusedError(text)
        if isinstance(error.__context__, requests.exceptions.SSLError):  # Ray raises ConnectionError after it
            if "WRONG_VERSION_NUMBER" in str(error.__context__):
                return ClusterError(
                    f"the server at {self.shown} does not speak HTTPS.",
                    f"--address {self.shown.replace('https://', 'http://', 1)}",
                )
            return ClusterError(
                f"there is no trusted connection to {self.shown}: {_last(mask_text(str(error.__context__)))}.",
                "REQUESTS_CA_BUNDLE names a file with the certificates to trust.",
            )
        if isinstance(error, ConnectionError | requests.exceptions.RequestException):
            return ConnectionLostError(f"no Ray cluster answers at {self.shown}.", _CHECK)
        if "No available agent" in text:
            return ClusterError(
                f"Ray Jobs at {self.shown} has no agent on the head that could start a run.",
                "An agent starts within seconds of the cluster. If not, dashboard_agent.log on the head says why: "
                "often another Ray on that machine has its port 52365 (ray start --dashboard-agent-listen-port=...).",
            )
        if isinstance(error, RuntimeError | ValueError | KeyError | OSError):
            return ClusterError(f"Ray Jobs at {self.shown} refused the call: {_last(text)}.", _CHECK)
        return error


_CHECK = (
    "The address is that of the cluster's dashboard: ray start --head prints it, such as http://127.0.0.1:8265.\n"
    "On Kubernetes: kubectl port-forward service/NAME-head-svc 8265"
)


class _RefusedError(ClusterError):
    """The cluster wants a token, or another one."""


def job_headers() -> dict[str, str]:
    """Return the headers in RAY_JOB_HEADERS, as Ray's own command line reads them.

    Raises:
        JobFileError: it is not a JSON object of texts.
    """
    try:
        headers = json.loads(os.environ.get(HEADERS) or "{}")
    except ValueError:
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise JobFileError(
            f"{HEADERS} is not a JSON object of texts.", f"""Such as {HEADERS}='{{"Authorization": "Bearer ..."}}'"""
        )
    return headers


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason given"
