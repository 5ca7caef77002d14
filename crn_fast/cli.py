"""`crn-fast`: finds the subcommand, and turns what goes wrong into one line and an exit code.

Every subcommand is a module of `commands` with a click command called `command`; it is imported
when it is called, and imports what is heavy inside itself, so that --help is immediate.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from crn_fast import __version__
from crn_fast.errors import CrnError

COMMANDS = {
    "demo": "Render the packaged example layout: the first thing to try.",
    "render": "Turn a layout into a picture.",
    "paint": "Paint a layout in the browser, and see it rendered.",
    "serve": "Serve a model over HTTP.",
    "cluster-render": "Turn many layouts into pictures on many machines.",
    "train": "Train a network on photos and layouts.",
    "build-engine": "Compile a checkpoint into an engine file.",
    "eval": "Judge a model on photos and their layouts.",
    "bench": "Time a model on this machine, beside other ways to run it.",
    "compare": "Have people judge which of two sets of pictures looks more real.",
    "info": "Describe a checkpoint, engine, layout or run folder, and check it.",
    "labels": "List, show, check and convert label sets and layouts.",
    "export": "Write a network as ONNX, or for Triton Inference Server.",
    "engine": "Take an engine file apart, or build it again.",
    "convert": "Convert a checkpoint to .safetensors.",
    "doctor": "Say what works on this machine.",
}
"""Subcommand -> its line in the help, in order."""

EPILOG = """\b
First steps:
  crn-fast demo
  crn-fast render --layout street.png -o street.jpg
  crn-fast train DATA --set loss.weights=vgg19-dcbb9e9d.pth --out run
  crn-fast build-engine run/ckpt.pt
\b
Exit codes:
  0 done   1 our bug   2 usage   3 bad input   4 mismatch   5 resources
  6 a batch finished in part   7 a check failed   8 backend not available
  75 interrupted, can be resumed   130 Ctrl-C
"""


class Commands(click.Group):
    """The subcommands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"crn_fast.commands.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="crn-fast")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, debug: bool) -> None:
    """Photographs from semantic layouts, by a Cascaded Refinement Network."""
    ctx.obj = {"quiet": quiet}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with a documented code.

    -q, --quiet and --debug may stand anywhere.
    """
    given = sys.argv[1:] if arguments is None else arguments
    anywhere = [a for a in given if a in ("-q", "--quiet", "--debug")]
    rest = [a for a in given if a not in anywhere]
    try:
        # Not `cli.main`, which has its own ideas of what a closed pipe or a bare error means.
        with cli.make_context("crn-fast", [*anywhere, *rest]) as context:
            cli.invoke(context)
        sys.stdout and sys.stdout.flush()
    except click.exceptions.Exit as finished:
        sys.exit(finished.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does: not worth a word, but Python
        # would try to flush the rest on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BaseException as error:
        if "--debug" in anywhere and not isinstance(error, click.ClickException):
            raise
        message, code = _explain(error)
        click.echo(f"crn-fast: {' '.join(message.split())}", err=True)
        sys.exit(code)
    sys.exit(0)


def _explain(error: BaseException) -> tuple[str, int]:
    """One line and the exit code for whatever went wrong."""
    match error:
        case CrnError():
            return str(error), error.exit_code
        case click.ClickException():
            where = getattr(error, "ctx", None)
            path = where.command_path if where else "crn-fast"
            return f"{error.format_message()} (see {path} --help)", error.exit_code
        case KeyboardInterrupt() | click.exceptions.Abort():
            return "interrupted", 130
        case MemoryError():
            return f"out of memory ({error or 'no size given'})", 5
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            return f"{named}{error.strerror or error}", 5
        case _:
            name = type(error).__name__
            return f"{name}: {error} (a bug of ours: add --debug and report it, please)", 1
