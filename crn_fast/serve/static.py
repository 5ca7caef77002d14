"""Static files: the paint page, and the page of the API. They need nothing from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"
_FRESH = {"Cache-Control": "no-cache"}
"""The browser keeps files, but asks each time whether they are still the same."""


class _Files(StaticFiles):
    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if Path(path).suffix not in (".js", ".css", ".png", ".svg"):
            return "", None
        return super().lookup_path(path)


def mount(app: FastAPI, *, with_paint: bool) -> None:
    """Add the pages to the routes."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(FOLDER / "api.html", headers=_FRESH)

    if with_paint:

        @app.get("/", include_in_schema=False)
        async def paint() -> FileResponse:
            return FileResponse(FOLDER / "index.html", headers=_FRESH)

    app.mount("/page", _Files(directory=FOLDER), name="page")
