"""The page of the experiment, served to this machine alone, and the answers that come back.

The browser never learns which picture is whose: it knows trials by number and pictures by side.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qs, urlsplit

from crn_fast import image, localhost
from crn_fast.compare import answers
from crn_fast.compare.answers import Answer
from crn_fast.compare.trials import Trial, picture
from crn_fast.errors import BadInput, CrnError

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/compare.js": ("compare.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
MAX_BODY = 4096
MAX_NAME = 60
"""Letters of a rater's name."""


class Experiment:
    """The plans of all raters, and the file of their answers."""

    def __init__(self, plan: Callable[[str], list[Trial]], out: Path) -> None:
        """Go on where the file of answers ends.

        Args:
            plan: gives a rater's trials, the same at every call.
            out: what answers are added to; of this experiment, if it is there.

        Raises:
            BadInput: it holds no answers, or those of another experiment.
            ResourceError: it may not be read or mended.
        """
        self.plan, self.out = plan, out
        self._lock = threading.Lock()
        self._plans: dict[str, list[Trial]] = {}
        known = answers.recover(out) if out.exists() else []
        for answer in known:
            own = self.trials(answer.rater)
            if answer.trial >= len(own) or not answers.fits(answer, own[answer.trial]):
                raise BadInput(
                    f"{out}: holds answers to other pairs, by {answer.rater!r} to trial "
                    f"{answer.trial}: name another file with -o"
                )
        self._done = {(answer.rater, answer.trial) for answer in known}

    def trials(self, rater: str) -> list[Trial]:
        """All trials of a rater.

        Raises:
            BadInput: the name is empty, too long or not printable.
        """
        if not rater.strip() or len(rater) > MAX_NAME or not rater.isprintable():
            raise BadInput(f"the name {rater[:MAX_NAME]!r}; expected 1 to {MAX_NAME} letters")
        with self._lock:
            if rater not in self._plans:
                self._plans[rater] = self.plan(rater)
            return self._plans[rater]

    def left(self, rater: str) -> list[dict[str, Any]]:
        """The trials that a rater has not answered: number, and milliseconds or None."""
        return [
            {"trial": i, "milliseconds": trial.seconds and round(trial.seconds * 1000)}
            for i, trial in enumerate(self.trials(rater))
            if (rater, i) not in self._done
        ]

    def picture(self, rater: str, trial: int, side: str) -> bytes:
        """A picture of a trial, as PNG.

        Raises:
            BadInput: there is no such trial or side, or its file is not readable.
        """
        if side not in ("left", "right"):
            raise BadInput(f"side {side!r}; expected left or right")
        stream = BytesIO()
        image.write(stream, picture(self._trial(rater, trial), cast(Literal["left"], side)))
        return stream.getvalue()

    def answer(self, rater: str, trial: int, side: str, shown_ms: int, answered_ms: int) -> None:
        """Write down that a rater chose a side; a second answer to the same trial is not counted.

        Raises:
            BadInput: there is no such trial or side.
            ResourceError: the file cannot be written.
        """
        found = self._trial(rater, trial)
        if side not in ("left", "right"):
            raise BadInput(f"side {side!r}; expected left or right")
        with self._lock:
            if (rater, trial) in self._done:
                return
            answers.append(
                self.out,
                Answer(
                    time=datetime.now(UTC).isoformat(timespec="seconds"),
                    rater=rater,
                    trial=trial,
                    scene=found.scene.name,
                    left=found.left,
                    right=found.right,
                    seconds=answers.seconds_of(found),
                    shown_ms=shown_ms,
                    answered_ms=answered_ms,
                    chosen=found.left if side == "left" else found.right,
                ),
            )
            self._done.add((rater, trial))

    def _trial(self, rater: str, trial: int) -> Trial:
        trials: Sequence[Trial] = self.trials(rater)
        if not 0 <= trial < len(trials):
            raise BadInput(f"trial {trial}; {rater} has 0 to {len(trials) - 1}")
        return trials[trial]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, experiment: Experiment, port: int) -> None:
        """Listen on this machine's own address alone; port 0 takes a free one.

        Raises:
            OSError: the port is taken.
        """
        super().__init__((HOST, port), Handler)
        self.experiment = experiment

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing, where a browser went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 15
    wbufsize = -1  # headers and body in one packet
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _get(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        experiment = self.server.experiment
        if parts.path in FILES:
            name, kind = FILES[parts.path]
            self._reply(HTTPStatus.OK, kind, (PAGE / name).read_bytes())
        elif parts.path == "/trials":
            self._json(HTTPStatus.OK, experiment.left(query.get("rater", "")))
        elif parts.path == "/picture":
            rater, trial = query.get("rater", ""), _number(query.get("trial"))
            png = experiment.picture(rater, trial, query.get("side", ""))
            self._reply(HTTPStatus.OK, "image/png", png)
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def _post(self) -> None:
        kind = self.headers.get_content_type()
        lengths = self.headers.get_all("Content-Length", [])
        length = _number(lengths[0]) if len(lengths) == 1 else 0
        if (
            urlsplit(self.path).path != "/answer"
            or kind != "application/json"
            or not 0 < length <= MAX_BODY
        ):
            raise BadInput("expected a short JSON document to /answer")
        try:
            given = json.loads(self.rfile.read(length))
            times = [_number(given["shown_ms"]), _number(given["answered_ms"])]
            rater, side = str(given["rater"]), str(given["side"])
            self.server.experiment.answer(rater, _number(given["trial"]), side, *times)
        except (KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"the answer lacks {error}") from None
        self._json(HTTPStatus.OK, {})

    def _serve(self, handle: Callable[[], None]) -> None:
        """Handle a request of this machine's own page, or of a program; refuse any other."""
        # A body that is not read would be taken for the next request.
        self.close_connection |= any(
            name in self.headers for name in ("Content-Length", "Transfer-Encoding")
        )
        found = localhost.foreign(
            self.headers.get_all("Host", []),
            self.headers.get_all("Origin", []),
            self.headers.get_all("Sec-Fetch-Site", []),
            localhost.NAMES.__contains__,
            page=urlsplit(self.path).path in FILES,
        )
        try:
            if found is not None:
                self.close_connection = True
                self._json(HTTPStatus(found.status), {"error": "this server is for this machine"})
                return
            handle()
        except ValueError as error:  # BadInput, and what is no JSON or number
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except CrnError as error:
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser went away

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request that is known here, in the words of the other errors."""
        self.close_connection = True
        known = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else code
        self._json(HTTPStatus(known), {"error": "this cannot be asked of this server"})

    def _json(self, status: HTTPStatus, value: object) -> None:
        self._reply(status, "application/json", json.dumps(value).encode())

    def _reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            **localhost.HEADERS,
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the answers are the record."""


def _number(value: object) -> int:
    """A whole number of at most nine digits.

    Raises:
        BadInput: something else.
    """
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadInput(f"{text[:20]!r} where a number was expected")
    return int(text)
