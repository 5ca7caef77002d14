"""`crn-fast serve`: an HTTP API around one model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import click

from crn_fast.commands import emit, engine_options, say
from crn_fast.errors import BadInput, Unavailable
from crn_fast.extras import way_to
from crn_fast.files import require_file

EPILOG = """\b
Examples:
  crn-fast serve
  crn-fast serve -m street-256-diverse --port 8256
  crn-fast serve -m net.crn --host 0.0.0.0 --token-file secret.txt --max-queue 200
  curl --data-binary @street.png -H 'Content-Type: image/png' localhost:8000/v1/render > out.png
"""

MAX_PIXELS = 1 << 25
"""As of `png`, which is not imported to print a help."""
_PACKAGES = ("fastapi", "httptools", "prometheus_client", "uvicorn")


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `serve` and `paint` share."""
    options: list[Callable[..., Any]] = [
        click.option(
            "--preview",
            metavar="MODEL|ENGINE",
            help="A quicker model of the same classes, for pictures while one paints.",
        ),
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=8000,
            show_default=True,
            help="0 for any that is free.",
        ),
        click.option(
            "--token-file",
            metavar="PATH",
            help="Its first line must come with each request, as Authorization: Bearer TOKEN.",
        ),
        click.option(
            "--allow-host",
            "names",
            metavar="NAME",
            multiple=True,
            help="Another name that this server is called by, as behind a proxy.",
        ),
        click.option(
            "--max-queue",
            type=click.IntRange(1, 10000),
            default=64,
            show_default=True,
            help="Requests that may wait; further ones are answered 429.",
        ),
        click.option(
            "--max-batch",
            type=click.IntRange(1, 256),
            help="Layouts rendered at once. Default: 1 on a CPU, 8 on a GPU.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(0.1, 3600),
            default=30.0,
            show_default=True,
            help="Seconds after which a request is answered 504.",
        ),
        click.option(
            "--max-pixels",
            type=click.IntRange(1, MAX_PIXELS),
            default=MAX_PIXELS,
            show_default=True,
            help="Of a layout that is sent.",
        ),
        engine_options,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog=EPILOG)
@click.option(
    "-m",
    "--model",
    metavar="MODEL|ENGINE",
    default="street-1024",
    show_default=True,
    help="Checkpoint, engine, or a packaged model's name.",
)
@serving_options
@click.option("--ui/--no-ui", default=True, help="Whether the paint page is served, too.")
def command(ui: bool, **options: Any) -> None:
    """Serve a model over HTTP.

    Stops on SIGTERM or Ctrl-C, when what is waiting has been rendered.
    """
    serve(ui=ui, **options)


def serve(
    *,
    model: str,
    preview: str | None,
    host: str,
    port: int,
    token_file: str | None,
    names: tuple[str, ...],
    ui: bool,
    started: Callable[[str, str | None], object] | None = None,
    max_queue: int,
    max_batch: int | None,
    timeout: float,
    max_pixels: int,
    **options: Any,
) -> None:
    """Serve until told to stop; `started` gets the URL and the token when there is an answer.

    Raises:
        Unavailable: the extra [serve] is not installed.
        CrnError: the model cannot be opened, or the address cannot be listened on.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise Unavailable(f"serving needs {', '.join(missing)}: {way_to('serve')}")
    from crn_fast import models, trust
    from crn_fast.serve.server import Server, listen, url_of
    from crn_fast.serve.settings import Settings
    from crn_fast.serve.worker import Opener

    settings = Settings(
        host=host,
        port=port,
        token=_token(token_file) if token_file else None,
        names=names,
        max_queue=max_queue,
        max_batch=max_batch,
        timeout=timeout,
        max_pixels=max_pixels,
        ui=ui,
    )
    paths = tuple(str(models.resolve(name)) for name in (model, preview) if name)
    bound = listen(settings)
    server = Server(settings, Opener(paths, options, trust.vouched()), bound)
    for role, facts in zip(("model", "preview"), server.facts, strict=False):
        say(f"{role} {facts.model}, backend {facts.backend}, {facts.precision} on {facts.device}")
    url = url_of(bound)
    emit(url)
    say(f"API at {url}docs; Ctrl-C ends it")
    if started:
        started(url, settings.token)
    server.run()


def _token(path: str) -> str:
    require_file(path, "a file whose first line is the token")
    with open(path, encoding="utf-8", errors="replace") as file:
        token = file.readline(1000).strip()
    if len(token) < 16 or not token.isascii():
        raise BadInput(
            f"{path}: its first line has {len(token)} characters; expected at least 16, ASCII: "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token
