"""P15: the API does what its OpenAPI schema says, to requests that keep to it and that do not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("schemathesis", reason="needs schemathesis")

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup

from hostile.campaign import Campaigns, Tally
from hostile.wire import RAW, png
from serving import Child, child
from stub_engine import SIZE

load_all_checks()
KEPT = {
    *("status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection"),
}
"""Rules of schemathesis. That of server errors is here, as 503 and 504 are none; that sound data be
accepted is left out, as no schema says which layouts fit a model."""
TOKEN = "a-token-of-the-tests"
FORGOTTEN = 0.05
"""Share of the requests that come without it."""
CHECKED = [check for check in CHECKS.get_all() if check.__name__ in KEPT]


@st.composite
def layouts(draw: Any) -> np.ndarray:
    """Of the size of the stub's pictures, so that some are rendered."""
    made = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return made.integers(0, 12, SIZE, dtype=np.uint8)


schemathesis.openapi.media_type("image/png", layouts().map(png))
schemathesis.openapi.media_type(RAW.decode(), layouts().map(np.ndarray.tobytes))


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    with child({"delay": 0.0}, token=TOKEN) as found:
        yield found


def inquire(server: Child, tally: Tally, count: int, start: int) -> None:
    """Ask `count` requests, drawn from the schema with and against its rules."""
    url = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    plain = [one for one in operations if not one.body]  # without parameters: one request each
    statuses, session, forgets = Counter[int](), requests.Session(), random.Random(start)
    tries = -(-(count - len(plain)) // (2 * (len(operations) - len(plain))))

    def judge(case: Any) -> None:
        given = {} if forgets.random() < FORGOTTEN else {"Authorization": f"Bearer {TOKEN}"}
        answer = case.call(base_url=url, session=session, headers=given)
        status = answer.status_code
        statuses[status] += 1
        wrong = None
        if status >= 500 and status not in (503, 504):
            wrong = f"{status}: {case.as_curl_command()}"
        else:
            try:
                case.validate_response(answer, checks=CHECKED)
            except FailureGroup as found:
                wrong = " ".join(str(found).split())[:1000]
        tally.case(wrong)

    for operation in operations:
        modes = [GenerationMode.POSITIVE] + ([GenerationMode.NEGATIVE] if operation.body else [])
        for mode in modes:
            ask = given(case=operation.as_strategy(generation_mode=mode))(judge)
            tried = settings(
                max_examples=tries,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(ask)
            seed(start)(tried)()
    tally.figures.update({str(status): f"{n:,}" for status, n in sorted(statuses.items())})


def test_the_schema_is_valid(server: Child) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs it")
    validator.validate(
        requests.get(f"http://127.0.0.1:{server.port}/openapi.json", timeout=20).json()
    )


def test_the_schema_holds(server: Child, campaigns: Campaigns) -> None:
    count = campaigns.count(commit=200, soak=10_000)
    with campaigns.tried("P15", "requests by the schema") as tally:
        inquire(server, tally, count, campaigns.seed)
        assert int(tally.figures["200"].replace(",", "")) > count / 10  # some are rendered


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("fragile", "a server that answers 500 where its schema says 422"),
        ("lenient", "a server that takes every number for a good one"),
    ],
)
def test_a_schema_that_lies_is_noticed(campaigns: Campaigns, defect: str, told: str) -> None:
    with child({"delay": 0.0}, defect) as server, campaigns.control("P15", told) as tally:
        inquire(server, tally, 60, campaigns.seed)
