"""The subcommands of `crn-fast`, one a module, and how they speak.

Results go to stdout; progress and everything else for people goes to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from crn_fast.errors import UsageError, one_line
from crn_fast.files import check_folder, kind_of


class Size(click.ParamType[tuple[int, int]]):
    """HxW in pixels, as in 1024x2048."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        height, cross, width = str(value).lower().partition("x")
        if not cross or not all(n.isdecimal() and len(n) < 7 for n in (height, width)):
            self.fail(f"{value!r}: expected height x width in pixels, as in 1024x2048")
        return int(height), int(width)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide how a layout is read, shared by every command that reads one."""
    unknown = click.option(
        "--unknown",
        type=click.Choice(["error", "void", "nearest"]),
        default="error",
        show_default=True,
        help="What unknown ids and colours become.",
    )
    encoding = click.option(
        "--encoding",
        type=click.Choice(["auto", "ids", "train-ids", "color"]),
        default="auto",
        show_default=True,
        help="How layouts write their labels.",
    )
    return encoding(unknown(command))


class Device(click.ParamType[int]):
    """The number of a GPU."""

    name = "N"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        number = str(value).removeprefix("cuda").removeprefix(":") or "0"
        if str(value) == number and number.isdecimal() and len(number) < 5:
            return int(number)
        use = f"; use `--device {number}`" if number.isdecimal() else ""
        self.fail(f"{value!r}: expected the number of a GPU, as in 0{use}")


fit_option = click.option(
    "--fit",
    type=click.Choice(["error", "pad", "crop", "nearest"]),
    default="error",
    show_default=True,
    help="How a layout of another size is brought to the network's.",
)
images_option = click.option(
    "--images", type=click.IntRange(min=1), metavar="K", help="Only the first K pictures."
)
batch_option = click.option(
    "--batch",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Layouts to render at a time.",
)


def folder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What becomes of a folder of pictures that is partly there, or where a layout is bad."""
    skip = click.option(
        "--skip-existing", is_flag=True, help="Leave out what the folder's manifest says is done."
    )
    overwrite = click.option("--overwrite", is_flag=True, help="Replace pictures that exist.")
    keep = click.option(
        "--keep-going", is_flag=True, help="Go on after a bad layout; exit 6 at the end."
    )
    return skip(overwrite(keep(command)))


def backend_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide what a network is compiled for."""
    precision = click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16", "fp8"]),
        default="auto",
        show_default=True,
        help="Number format of the convolutions; auto: fp16 on a GPU, fp32 on a CPU.",
    )
    backend = click.option(
        "--backend",
        type=click.Choice(["auto", "native", "eager", "trt", "fused"]),
        default="auto",
        show_default=True,
        help="What runs the network.",
    )
    return backend(precision(command))


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide what runs a network, shared by every command that renders."""
    threads = click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.")
    device = click.option("--device", type=Device(), metavar="N", help="Number of the GPU.")
    return backend_options(device(threads(trust_option(command))))


def trust_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--trust-engine`, which holds for the process and is no parameter of the command."""
    return click.option(
        "--trust-engine",
        metavar="SHA256",
        multiple=True,
        expose_value=False,
        callback=_vouch,
        help="Run an engine that was built elsewhere, by its SHA-256 as `crn-fast info` prints it.",
    )(command)


def _vouch(context: click.Context, parameter: click.Parameter, digests: tuple[str, ...]) -> None:
    for digest in digests:
        from crn_fast import trust

        trust.vouch(digest)


def say(message: str) -> None:
    """A line for people, on stderr; nothing with --quiet."""
    context = click.get_current_context(silent=True)
    if not (context and context.find_root().obj and context.find_root().obj.get("quiet")):
        click.echo(one_line(message), err=True)


def emit(value: str | Path | dict[str, Any]) -> None:
    """A result, on stdout: a path, some text, or one JSON document a line.

    A path goes to a pipe as it is, byte by byte; on a terminal it is made `one_line`.
    """
    text = json.dumps(value, default=str) if isinstance(value, dict) else str(value)
    if sys.stdout is not None and sys.stdout.isatty():
        # Text of ours may be a table; a name has no right to lines and columns.
        kept = "" if isinstance(value, Path) else "\n\t"
        text = "".join(c if c in kept else one_line(c) for c in text)
    elif os.name == "posix" and hasattr(sys.stdout, "buffer"):
        click.echo(os.fsencode(text))  # click and the encoding of the stream would change names
        return
    click.echo(text)


def check_writable(path: Path, force: bool, option: str = "--force") -> None:
    """Check, before the work, that a file may be written where the user wants it.

    Raises:
        UsageError: it exists, and overwriting was not asked for.
        ResourceError: its folder is missing or may not be written.
    """
    if kind_of(path) != "missing" and not force:
        raise UsageError(f"{path}: exists already; add `{option}`, or name another file")
    check_folder(path)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, so that nothing half written is left."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def interactive() -> bool:
    """Whether progress may be drawn: stderr is a terminal."""
    return sys.stderr.isatty()
