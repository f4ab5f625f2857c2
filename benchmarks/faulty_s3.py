"""A server of the S3 protocol on the loopback, with the faults of a real storage."""

import threading
import urllib.request
from collections.abc import Callable, Iterable
from time import sleep
from typing import Any

Environ = dict[str, Any]


class FaultyS3:
    """moto's server, behind faults that a test switches on and off.

    Attributes:
        delay_s: each answer comes so much later.
        busy_pct: so many of 100 requests are answered with 503, evenly spread.
        expired: every request is answered with ``ExpiredToken``.
        requests: method and path of each request that arrived.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.port = 0
        self.delay_s, self.busy_pct, self.expired = 0.0, 0, False
        self.requests: list[tuple[str, str]] = []
        self.refused = 0  # requests that were answered with an error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process uses this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """Make a bucket; everything that the servers of this process held is gone."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", data=b"")).close()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")).close()
        self.requests, self.refused = [], 0

    def start(self) -> None:
        """Listen; after ``stop`` at the same port, with the same content."""
        from moto.moto_server.threaded_moto_server import MotoRequestHandler
        from werkzeug.serving import make_server

        class Handler(MotoRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Print no line for each request."""

        self._server = make_server("127.0.0.1", self.port, self._answer, True, request_handler=Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()
        assert self._thread is not None
        self._thread.join()

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/moto-api"):
            found: Iterable[bytes] = self._app(environ, start_response)
            return found
        with self._lock:
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            count = len(self.requests)
        sleep(self.delay_s)
        if self.expired:
            return self._error("400 Bad Request", "ExpiredToken", environ, start_response)
        if count * self.busy_pct // 100 != (count - 1) * self.busy_pct // 100:
            return self._error("503 Service Unavailable", "ServiceUnavailable", environ, start_response)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _error(self, status: str, code: str, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.refused += 1
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
