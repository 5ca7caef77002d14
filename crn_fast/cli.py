"""`crn-fast`: finds the subcommand, and turns what goes wrong into one line and an exit code.

Every subcommand is a module of `commands` with a click command called `command`; it is imported
when it is called, and imports what is heavy inside itself, so that --help is immediate.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise

import click

from crn_fast import __version__
from crn_fast.errors import CrnError, one_line

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
        if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its message is help
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        message, code = _explain(error, given)
        if not isinstance(error, CrnError):  # click and Python write in several lines
            message = " ".join(message.split())
        click.echo(one_line(f"crn-fast: {message.strip()}"), err=True)
        sys.exit(code)
    sys.exit(0)


def _explain(error: BaseException, given: Sequence[str]) -> tuple[str, int]:
    """One line, with what can be pasted between backticks, and the exit code."""
    match error:
        case CrnError():
            return f"{error}{_instead(error.meant, given)}", error.exit_code
        case click.UsageError():
            if instead := _instead(_meant(error, given), given):
                # Without click's own guesses, which come in the order of the alphabet.
                own = type(error) is click.UsageError or isinstance(error, click.NoSuchOption)
                message = error.message if own else error.format_message()
                return f"{message.rstrip('.')}{instead}", error.exit_code
            first = [word for word in given[:1] if word in COMMANDS]
            path = error.ctx.command_path if error.ctx else " ".join(["crn-fast", *first])
            return f"{error.format_message().rstrip('.')}; see `{path} --help`", error.exit_code
        case click.ClickException():
            return error.format_message(), error.exit_code
        case KeyboardInterrupt() | click.exceptions.Abort():
            return "interrupted", 130
        case MemoryError():
            from crn_fast.memory import shortage

            return str(shortage("this process", error)), 5
        case RuntimeError() if "can't start new thread" in str(error):
            from crn_fast.memory import no_thread

            return str(no_thread(error)), 5
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            return f"{named}{error.strerror or error}", 5
        case _:
            name = type(error).__name__
            return f"{name}: {error} (a bug of ours: add `--debug` and report it, please)", 1


def _meant(error: click.UsageError, given: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """The word that click does not know, and what is nearest to it among those that it does."""
    from crn_fast.files import nearest

    context, parameter = error.ctx, getattr(error, "param", None)
    if context is None:
        return None
    known: Sequence[str] = ()
    if isinstance(error, click.NoSuchOption):
        word = error.option_name
        options = context.command.get_params(context)
        known = [name for each in options for name in each.opts if name.startswith("-")]
    elif isinstance(error, click.MissingParameter):
        # The first thing that people try: `crn-fast render street.png`.
        bare = [b for a, b in pairwise(given) if "-" not in (a[:1], b[:1])]
        layouts = parameter is not None and "--layout" in parameter.opts
        return (bare[0], ("--layout", bare[0])) if layouts and len(bare) == 1 else None
    elif found := re.match("No such command '(.*?)'", error.message):
        word = found[1]
        if isinstance(context.command, click.Group):
            known = context.command.list_commands(context)
    elif isinstance(parameter, click.Parameter) and isinstance(parameter.type, click.Choice):
        known = [str(choice) for choice in parameter.type.choices]
        word = next((w for w in _values(given) if repr(w) in error.message and w not in known), "")
    else:
        return None
    near = nearest(word, known)
    return (word, near) if near else None


def _values(given: Sequence[str]) -> list[str]:
    """Every word of a command, and what follows an = in one."""
    return [*given, *(word.partition("=")[2] for word in given if "=" in word)]


def _instead(meant: tuple[str, tuple[str, ...]] | None, given: Sequence[str]) -> str:
    """The command that was given with what was meant, to paste.

    The first word that fits is replaced. The name of an output only where no other word fits, and
    never by that of a file that exists: pasted, the command would write over it.
    """
    if meant is None:
        return ""
    word, words = meant
    part = re.compile(rf"(?<![^=.,]){re.escape(word)}(?![^=.,])")
    outputs = [
        before in ("-o", "--out") or each.startswith("--out=")
        for before, each in pairwise(["", *given])
    ]
    places = sorted(range(len(given)), key=outputs.__getitem__)
    for i in places[: outputs.count(False)] if os.path.exists(words[0]) else places:
        replaced: tuple[str, ...] = (given[i],)
        if given[i] == word:
            replaced = words
        elif "=" in given[i] or "," in given[i]:  # as in --key=word, a.word=1 and word,other
            replaced = (part.sub(lambda _: words[0], given[i], count=1),)
        if replaced != (given[i],):
            command = shlex.join([*given[:i], *replaced, *given[i + 1 :]])
            return f"; use `crn-fast {command}`"
    return f"; did you mean {' '.join(words)}?"
