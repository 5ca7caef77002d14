"""Skips tests marked `gpu` where there is no CUDA device.

`pytest --hypothesis-profile thorough` tries thousands of generated cases where a plain run tries
a hundred; `pytest tests/hostile --soak` does the same for the campaigns.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("thorough", max_examples=2000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="try every case of tests/hostile")
    parser.addoption("--record", action="store_true", help="write docs/reliability.md")
    parser.addoption("--seed", type=int, help="of the campaigns of tests/hostile, to repeat a run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask torch for a device only if a collected test needs one: importing it takes seconds."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _why_no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's key and caches stay out of the tests, and the tests out of them."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(folder / name))


def _why_no_gpu() -> str | None:
    try:
        import torch
    except ImportError as error:
        return f"needs a GPU, and torch does not import ({error})"
    return None if torch.cuda.is_available() else "needs a GPU, and torch finds no CUDA device"
