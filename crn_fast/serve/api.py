"""What may be asked of the server: the routes, their parameters and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from crn_fast import __version__, image, layout
from crn_fast.errors import CrnError
from crn_fast.layout import Encoding, Fit, LabelMap, Unknown
from crn_fast.rendering.compose import MAX_SEAM, compose, parse_choice
from crn_fast.serve.batching import Queue
from crn_fast.serve.body import PNG, RAW, Reader, decode, media_type
from crn_fast.serve.metrics import Metrics
from crn_fast.serve.refusal import Refusal, of_error
from crn_fast.serve.settings import Settings
from crn_fast.serve.worker import Facts

T = TypeVar("T")
Format = Literal["png", "jpg", "raw"]
TYPES: dict[str, Format] = {PNG: "png", "image/jpeg": "jpg", RAW: "raw", "image/*": "png"}
"""What an Accept header may ask for."""
MEDIA = {"png": PNG, "jpg": "image/jpeg", "raw": RAW}


@dataclass
class Service:
    """What the routes work with."""

    settings: Settings
    facts: tuple[Facts, ...]
    """Of the model and, where there is one, its preview."""
    queue: Queue
    reader: Reader
    metrics: Metrics
    threads: ThreadPoolExecutor
    """Where layouts are decoded and pictures encoded."""

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)


@dataclass
class Layout:
    """The parameters that say how a layout is spelled."""

    labels: Annotated[
        str | None, Query(description="Built-in label set of the layout; the model's if left out.")
    ] = None
    encoding: Annotated[Encoding, Query(description="How the layout writes its labels.")] = "auto"
    unknown: Annotated[Unknown, Query(description="What unknown ids and colours become.")] = "error"
    fit: Annotated[Fit, Query(description="How another size is brought to the model's.")] = "error"
    name: Annotated[
        str,
        Query(max_length=200, description="What messages call the layout: its file's name."),
    ] = "body"
    height: Annotated[int | None, Query(ge=1, le=16384, description="Rows of raw ids.")] = None
    width: Annotated[int | None, Query(ge=1, le=16384, description="Columns of raw ids.")] = None


LayoutQuery = Annotated[Layout, Depends()]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A label PNG, or uint8 ids row by row (the model's channels).",
        "content": {
            PNG: {"schema": {"type": "string", "format": "binary"}},
            RAW: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_ERROR = {
    "type": "object",
    "properties": {key: {"type": "string"} for key in ("error", "message", "request_id")},
    "required": ["error", "message", "request_id"],
    "additionalProperties": False,
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in {
        401: "The token is missing or wrong.",
        403: "Asked by another site's page.",
        406: "No such format of pictures.",
        413: "Too many bytes or pixels.",
        415: "Neither a PNG nor raw ids.",
        421: "Asked by a name that is not the server's.",
        422: "The layout or a parameter cannot be used; the message says why.",
        429: "The queue is full; see Retry-After.",
        503: "Shutting down, or the engine failed; see Retry-After.",
        504: "Not rendered in time.",
    }.items()
}
_OPEN: dict[int | str, dict[str, Any]] = {status: _REFUSALS[status] for status in (403, 421)}
_GUARDED: dict[int | str, dict[str, Any]] = {**_OPEN, 401: _REFUSALS[401]}
_STATE = {
    "type": "object",
    "properties": {"status": {"enum": ["ready", "restarting", "draining"]}},
    "required": ["status"],
}
_PICTURE: dict[str, Any] = {
    "description": "The picture; several stand one below the other.",
    "content": {
        media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA.values()
    },
}

routes = APIRouter()


@routes.post(
    "/v1/render",
    response_class=Response,
    openapi_extra=_BODY,
    responses={**_REFUSALS, 200: _PICTURE},
    summary="Render a layout",
)
async def render(
    request: Request,
    how: LayoutQuery,
    k: Annotated[int | None, Query(ge=0, description="Which of the model's pictures.")] = None,
    images: Annotated[int | None, Query(ge=1, description="The first so many pictures.")] = None,
    choose: Annotated[
        str | None,
        Query(
            alias="compose",
            max_length=4000,
            description="Picture by class, as in car=2,road=0; the others are from picture 0.",
        ),
    ] = None,
    seam: Annotated[int, Query(ge=0, le=MAX_SEAM, description="Pixels over which they blend.")] = 0,
    format: Annotated[Format | None, Query(description="Before the header Accept.")] = None,
    quality: Annotated[int, Query(ge=1, le=100, description="Of JPEG.")] = 90,
    preview: Annotated[bool, Query(description="By the quick model, if there is one.")] = False,
) -> Response:
    """Turn a layout into a picture, or into several."""
    service: Service = request.app.state.service
    engine = 1 if preview and len(service.facts) > 1 else 0
    facts = service.facts[engine]
    wanted = format or _accepted(request)
    choice = _choice(facts, k, images, choose)
    try:
        async with asyncio.timeout(service.settings.timeout):
            with ExitStack() as held:
                async with service.reader.read(request) as data:
                    place = held.enter_context(service.queue.place())
                    labels = await service.in_thread(_decode, service, data, request, how, facts)
                del data  # it is no longer counted
                made = await _unless_gone(
                    request, service.queue.render(place, engine, labels.array)
                )
                chosen = await service.in_thread(_choose, made, labels, choice, seam)
                body = await service.in_thread(_encode, chosen, wanted, quality)
    except TimeoutError:
        raise Refusal(
            504, f"not rendered in {service.settings.timeout:g} s; try again later", "timeout"
        ) from None
    headers = {
        "X-Pictures": str(len(chosen)),
        "X-Size": f"{facts.size[0]}x{facts.size[1]}",
        "X-Encoding": labels.encoding.encode("ascii", "replace").decode(),
        "Cache-Control": "no-store",
    }
    return Response(body, media_type=MEDIA[wanted], headers=headers)


@routes.post(
    "/v1/layout",
    response_class=Response,
    openapi_extra=_BODY,
    responses={**_REFUSALS, 200: {"description": "uint8 ids.", "content": {RAW: {}}}},
    summary="Read a layout",
)
async def read_layout(request: Request, how: LayoutQuery) -> Response:
    """The layout as the model gets it: its channels as uint8, row by row, in the model's size."""
    service: Service = request.app.state.service
    async with service.reader.read(request) as data:
        with service.queue.place():
            found = await service.in_thread(_decode, service, data, request, how, service.facts[0])
    height, width = found.size
    headers = {
        "X-Size": f"{height}x{width}",
        "X-Encoding": found.encoding.encode("ascii", "replace").decode(),
        "Cache-Control": "no-store",
    }
    return Response(found.array.tobytes(), media_type=RAW, headers=headers)


@routes.get("/v1/labels", summary="The model's classes", responses=_GUARDED)
async def labels(request: Request) -> dict[str, Any]:
    """Name, colour and channel of each class. Raw ids are channels."""
    own = request.app.state.service.facts[0].labels
    ids: dict[int, list[int]] = {}
    for value, channel in own.ids.items():
        ids.setdefault(channel, []).append(value)
    return {
        "name": own.name,
        "void": own.void,
        "classes": [
            {"id": i, "name": name, "color": color, "file_ids": ids.get(i, [])}
            for i, (name, color) in enumerate(zip(own.names, own.colors, strict=True))
        ],
    }


@routes.get("/v1/model", summary="The model and the limits", responses=_GUARDED)
async def model(request: Request) -> dict[str, Any]:
    """What renders, and what may be sent."""
    service: Service = request.app.state.service
    facts, settings = service.facts, service.settings
    return {
        "crn_fast": __version__,
        **_describe(facts[0]),
        "preview": _describe(facts[1]) if len(facts) > 1 else None,
        "limits": {
            "queue": settings.max_queue,
            "timeout": settings.timeout,
            "pixels": settings.max_pixels,
            "bytes": settings.max_body,
        },
    }


@routes.get("/healthz", summary="Whether the server lives", responses=_OPEN)
async def healthz() -> dict[str, str]:
    """Answers while the process can answer."""
    return {"status": "alive"}


@routes.get(
    "/readyz",
    summary="Whether the server takes work",
    responses={
        **_OPEN,
        200: {"description": "It does.", "content": {"application/json": {"schema": _STATE}}},
        503: {"description": "Not now.", "content": {"application/json": {"schema": _STATE}}},
    },
)
async def readyz(request: Request) -> JSONResponse:
    """503 while it shuts down or its engine restarts."""
    queue = request.app.state.service.queue
    state = "draining" if queue.draining else "ready" if queue.ready else "restarting"
    return JSONResponse({"status": state}, 200 if state == "ready" else 503)


@routes.get(
    "/metrics",
    response_class=Response,
    summary="Metrics for Prometheus",
    responses={
        **_GUARDED,
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}},
    },
)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    return Response(
        request.app.state.service.metrics.text(), media_type="text/plain; version=0.0.4"
    )


def _describe(facts: Facts) -> dict[str, Any]:
    return {
        "model": facts.model.replace("\\", "/").rpartition("/")[2],
        "backend": facts.backend,
        "precision": facts.precision,
        "device": facts.device,
        "height": facts.size[0],
        "width": facts.size[1],
        "images": facts.images,
        "labels": facts.labels.name,
    }


def _accepted(request: Request) -> Format:
    """The format that the header Accept ranks first."""
    header = request.headers.get("accept", "*/*")
    ranked: list[tuple[float, Format]] = []
    for entry in header.split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            rank = float(weight)
        except ValueError:
            rank = 0.0
        if rank > 0 and (media in TYPES or media == "*/*"):
            ranked.append((rank, TYPES.get(media, "png")))
    if not ranked:
        raise Refusal(406, f"Accept {header[:80]!r}; pictures come as {', '.join(MEDIA.values())}")
    return max(ranked, key=lambda pair: pair[0])[1]


Choice = range | dict[int, int]
"""Which of the K pictures, or the picture of each channel of a composed one."""


def _choice(facts: Facts, k: int | None, images: int | None, composed: str | None) -> Choice:
    if sum(given is not None for given in (k, images, composed)) > 1:
        raise Refusal(422, "k, images and compose exclude each other; give one of them")
    if composed is not None:
        try:
            return parse_choice(composed, facts.labels, facts.images)
        except CrnError as error:
            raise of_error(error) from None
    chosen = range(images) if images else range(k or 0, (k or 0) + 1)
    if chosen[-1] >= facts.images:
        given = f"images={images}" if images else f"k={k}"
        raise Refusal(422, f"?{given}: the model makes {facts.images} of a layout, from k=0 on")
    return chosen


def _decode(service: Service, data: bytes, request: Request, how: Layout, facts: Facts) -> LabelMap:
    """The layout in its model's size; a preview gets the model's, made smaller by nearest."""
    whole = service.facts[0]
    shape = (how.height or whole.size[0], how.width or whole.size[1])
    service.reader.check_pixels(*shape)
    found = decode(
        data,
        media_type(request),
        whole.labels,
        whole.size,
        labels=how.labels,
        encoding=how.encoding,
        unknown=how.unknown,
        fit=how.fit,
        name=how.name if how.name.isprintable() else "body",
        shape=shape,
    )
    return found if facts is whole else layout.fit(found, facts.size, "nearest")


def _choose(made: np.ndarray, labels: LabelMap, choice: Choice, seam: int) -> np.ndarray:
    """The pictures that were asked for: uint8 [n, H, W, 3]."""
    if isinstance(choice, range):
        return made[choice.start : choice.stop]
    return compose(made, labels.array, choice, seam)[None]


def _encode(pictures: np.ndarray, format: Format, quality: int) -> bytes:
    if format == "raw":
        return pictures.tobytes()
    stream = BytesIO()
    image.write(stream, pictures.reshape(-1, *pictures.shape[2:]), format, quality)
    return stream.getvalue()


async def _unless_gone(request: Request, work: Any) -> np.ndarray:
    """The result of `work`, which is cancelled when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        made: np.ndarray = task.result()
        return made
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
