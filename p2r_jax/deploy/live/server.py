"""The live view's server: standard library only, in threads that the loop never waits for.

``/`` is the page, ``/header`` the run's header, ``/events`` a stream of server-sent events
(``steps``: a list of steps; ``stop``: somebody asked to stop; ``end``: the run is over),
and ``POST /stop`` asks to stop. The page only asks: it is no emergency stop.
"""

import sys
import threading
import time
from collections import deque
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

from p2r_jax.deploy.record.codec import to_json
from p2r_jax.deploy.records import RunHeader, StepRecord

LOCAL = ("127.0.0.1", "localhost")
PAUSE_S = 0.05  # between two messages to one page
HEARTBEAT_S = 1.0  # a page that hears nothing for longer says that it is not live
KEPT_STEPS, SHOWN_STEPS = 6000, 1000  # for a page that is opened late
SHOWN = (
    "step", "stamp_s", "object_pose", "pose_stamp_s", "ee_xy", "target_xy", "theta_used",
    "prior_mean", "prior_sigma", "estimate_mean", "estimate_sigma", "fused_mean", "fused_sigma",
    "safety", "sections_s",
)  # fmt: skip


class LiveView:
    """Serves the page until ``close``.

    Attributes:
      url: where the page is.
      stop_requested: somebody pressed the button.
    """

    def __init__(self, header: RunHeader, port: int = 0, host: str = LOCAL[0]):
        """Start serving.

        Args:
          header: of the run.
          port: 0 takes any that is free.
          host: address to listen on. Another than this machine's own lets whoever reaches
            it watch and press stop.

        Raises:
          OSError: if the port is taken.
        """
        self.stop_requested = False
        self._header = header
        self._steps: deque[StepRecord] = deque(maxlen=KEPT_STEPS)
        self._count = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            self._server = _Server((host, port), partial(_Handler, self))
        except OSError as error:
            raise OSError(f"the live view cannot listen on {host}:{port} ({error.strerror}); "
                          "choose another port, or 0 for any") from error  # fmt: skip
        self.url = f"http://{host}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="live view",
            daemon=True,
        )  # fmt: skip
        self._thread.start()

    def update(self, record: StepRecord) -> None:
        """Show one more step; takes microseconds, whoever watches."""
        with self._lock:
            self._steps.append(record)
            self._count += 1

    def close(self) -> None:
        """Tell the pages that the run is over, and stop serving; may be called twice."""
        if not self._closed.is_set():
            self._closed.set()
            self._server.shutdown()
            self._server.server_close()
        self._thread.join()

    def _since(self, seen: int) -> tuple[list[StepRecord], int]:
        """Steps after the first ``seen``, thinned out if many, and how many there were."""
        with self._lock:
            count = self._count
            fresh = min(count - seen, len(self._steps))
            stride = max(1, -(-fresh // SHOWN_STEPS))
            steps = [self._steps[-i] for i in range(1, fresh + 1, stride)]
        return steps[::-1], count


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """A page that breaks off says nothing in the loop's terminal; a bug does."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request about a live view."""

    protocol_version = "HTTP/1.1"

    def __init__(self, view: LiveView, *request):
        """Answer ``request``, as the server hands it over."""
        self._view = view
        super().__init__(*request)

    def do_GET(self):
        if not self._is_local():
            return
        if self.path == "/":
            page = resources.files(__package__).joinpath("page.html").read_bytes()
            self._answer(page, "text/html; charset=utf-8")
        elif self.path == "/header":
            self._answer(to_json(self._view._header).encode(), "application/json")
        elif self.path == "/events":
            self._stream()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self):
        if not self._is_local():
            return
        if self.path != "/stop":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._view.stop_requested = True
        self._answer(b"{}", "application/json")

    def _is_local(self) -> bool:
        """Refuse pages of other sites that got hold of this address under their name."""
        served = self._view._server.server_address[0]
        name = self.headers.get("Host", "").rsplit(":", 1)[0]
        if served in LOCAL and name not in LOCAL:
            self.send_error(HTTPStatus.FORBIDDEN, "this page is for this machine only")
            return False
        return True

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self._send_events()
        except OSError:  # the page was closed
            return

    def _send_events(self) -> None:
        seen, told, spoke = 0, False, 0.0
        while True:
            over = self._view._closed.is_set()  # before the last look, so that nothing is lost
            steps, seen = self._view._since(seen)
            if steps:
                self._send("steps", _as_list(steps))
            if self._view.stop_requested and not told:
                told = True
                self._send("stop", "{}")
            if over:
                self._send("end", "{}")
                return
            if time.monotonic() - spoke > HEARTBEAT_S:
                spoke = time.monotonic()
                self._send("alive", "{}")
            self._view._closed.wait(PAUSE_S)

    def _send(self, event: str, data: str) -> None:
        self.wfile.write(f"event: {event}\ndata: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        """Nothing: the terminal belongs to the loop."""


def _as_list(steps: list[StepRecord]) -> str:
    """JSON of what the page draws."""
    parts = []
    for step in steps:
        parts.append(to_json({name: getattr(step, name) for name in SHOWN}))
        time.sleep(0)  # the loop's thread goes first
    return "[" + ",".join(parts) + "]"
