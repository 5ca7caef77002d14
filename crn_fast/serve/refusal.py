"""The answers that are no pictures: a status, a word for programs and a line for people."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

from starlette.responses import Response

from crn_fast.errors import CrnError, ResourceError

_PARAMETERS = "compose|encoding|fit|labels|seam|unknown"


class Refusal(Exception):
    """Ends a request with an error.

    Args:
        status: HTTP status, 400 or more.
        message: what came, what was expected and what to do.
        code: for programs; by default the status' name.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}
        self.code = code or HTTPStatus(status).phrase.lower().replace(" ", "_").replace("'", "")


def busy(status: int, message: str, code: str, seconds: float) -> Refusal:
    """A refusal that is worth another try after so many seconds."""
    return Refusal(status, message, code, {"Retry-After": str(max(1, round(seconds)))})


def of_error(error: CrnError) -> Refusal:
    """What the command line would have said, in the words of the API."""
    # The hints name options of the command line; the API has most of them as parameters.
    message = re.sub(rf"--({_PARAMETERS}) (?=\w)", r"?\1=", str(error))
    message = re.sub(rf"--({_PARAMETERS})\b", r"?\1", message)
    if isinstance(error, ResourceError):
        return busy(503, message, "out_of_memory", 5)
    return Refusal(422, message, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower())


def respond(refusal: Refusal, request_id: str) -> Response:
    """The refusal as one line of JSON."""
    document = {
        "error": refusal.code,
        "message": " ".join(refusal.message.split()),
        "request_id": request_id,
    }
    return Response(
        json.dumps(document) + "\n", refusal.status, refusal.headers, "application/json"
    )
