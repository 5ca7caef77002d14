"""A server that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from serving import Running


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """With a stub for an engine, and the settings that it has of itself."""
    from serving import running

    with running() as found:
        yield found
