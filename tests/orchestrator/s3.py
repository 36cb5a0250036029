"""An S3 API whose conditional writes are atomic, as the real one's are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class AtomicS3:
    """moto's server; two of its threads may both find a condition fulfilled, so requests pass one at a time.

    `before` sees the WSGI environment of each request first: it may wait, or return the status and the body of an
    answer to give in place of the server's.
    """

    def __init__(
        self,
        port: int = 0,
        before: Callable[[Any], tuple[str, bytes] | None] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        app: Any = DomainDispatcherApplication(create_backend_app)
        guard = threading.Lock()

        def one_at_a_time(environ: Any, start_response: Any) -> Iterable[bytes]:
            if before is not None and (instead := before(environ)) is not None:
                status, body = instead
                start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
                return [body]
            with guard:
                answer: Iterable[bytes] = app(environ, start_response)
                return answer

        self._server = make_server(host, port, one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3", daemon=True)
        self._thread.start()
        self.endpoint = f"http://{host}:{self._server.server_port}"

    def stop(self) -> None:
        """End it; what it stored is gone."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
