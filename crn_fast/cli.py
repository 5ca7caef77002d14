"""`crn-fast`: finds the subcommand, and turns what goes wrong into one line and an exit code.

Every subcommand is a module of `commands` with a click command called `command`; it is imported
when it is called, and imports what is heavy inside itself, so that --help is immediate.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from crn_fast import __version__
from crn_fast.errors import CrnError

COMMANDS = {
    "demo": "Render the packaged example layout: the first thing to try.",
    "render": "Turn a layout into a picture.",
    "train": "Train a network on photos and layouts.",
    "build-engine": "Compile a checkpoint into an engine file.",
    "info": "Describe a checkpoint, engine, layout or run folder, and check it.",
    "labels": "List, show, check and convert label sets and layouts.",
    "convert": "Convert a checkpoint to .safetensors.",
    "doctor": "Say what works on this machine.",
}
"""Subcommand -> its line in the help, in order."""

EPILOG = """\b
First steps:
  crn-fast demo
  crn-fast render --layout street.png -o street.jpg
  crn-fast train DATA -c street-256 --set loss.weights=vgg19.pth
  crn-fast build-engine run/ckpt.pt
\b
Exit codes:
  0 done   1 our bug   2 usage   3 bad input   4 mismatch   5 resources
  7 a check failed   8 backend not available   75 interrupted, can be resumed
  130 Ctrl-C
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
    """Run the command line and exit with a documented code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        code = cli.main(arguments, prog_name="crn-fast", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(_say("interrupted", 130))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", 130))
    except click.ClickException as error:
        if debug:
            raise
        error.show()
        sys.exit(error.exit_code)
    except CrnError as error:
        if debug:
            raise
        sys.exit(_say(str(error), error.exit_code))
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does: not worth a word.
        sys.stdout = None
        sys.exit(0)
    except MemoryError as error:
        if debug:
            raise
        sys.exit(_say(f"out of memory ({error or 'no size given'})", 5))
    except Exception as error:
        if debug:
            raise
        name = type(error).__name__
        message = f"{name}: {error} (a bug of ours: run again with --debug and report it, please)"
        sys.exit(_say(message, 1))
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())
    click.echo(f"crn-fast: {line}", err=True)
    return code
