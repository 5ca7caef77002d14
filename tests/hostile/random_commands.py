"""Random command lines of `crn-fast`, made of what its commands say of themselves.

None is long: what would train, serve or measure is given a file that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import click
import numpy as np

from hostile.command_line import Main, copy_of, crn_fast, outrage, run

PATHS = (
    "street.png", "layout.png", "photo.jpg", "depth.png", "cut.png", "nothing.png", "half.png",
    "net.safetensors", "net.crn", "ckpt.pt", "sd.safetensors", "whole.pt", "page.crn", "lfs.png",
    "drive", "DATA", "empty", ".", "..", "", "-", "*.png", "drive/*", "[", "my scenes/straße 1.png",
    "new.png", "new.jpg", "new.crn", "new", "new/", "a/b/new.png", "vgg.pth", "my.toml",
    "syntax.toml", "/dev/null", "/dev/full", "n" * 300, "\udcff.png", "a\nb.png", "~", "~/x",
    "http://localhost/x.png", "C:\\x.png", "--", "-o", "net.safetensors/x", "\x1b[31m.png",
)  # fmt: skip
WORDS = (
    "camvid", "cityscapes", "street-256", "street256", "256p", "auto", "all", "none", "car=1",
    "psnr,ssim", "1/2", "0/0", "5%", "25", "30000/1001", "this", "sm_89", "256x512", "12x20",
    "training.batch=2", "=", "a=b=c", "vgg19:vgg.pth", "0" * 64, "f" * 64, "",
)  # fmt: skip
NUMBERS = ("0", "1", "2", "3", "-1", "0.5", "1e9", "nan", "inf", "99999999999999999999", "٣", "1_0")
HOSTS = ("127.0.0.1", "0.0.0.0", "::1", "")
LAST = {
    "bench": ["-m", "none.crn"],
    "cluster-render": ["-m", "none.crn"],
    "demo": ["-m", "street-256", "-o", "none/demo.png"],
    "paint": ["-m", "none.crn"],
    "serve": ["-m", "none.crn"],
}
"""What is added to a command so that it is quick."""
FIRST = {"compare": ["none"], "eval": ["none.crn"], "train": ["none"]}
"""What comes before all that is random, for the same reason."""


def judge(scene: Path, words: Sequence[str], main: Main = crn_fast) -> str | None:
    """Run a command line in a copy of the scene; what no command line may do, or None."""
    stdin = (scene / "layout.png").read_bytes() if len(words) % 2 else b""
    wrong = outrage(run(words, copy_of(scene), stdin, main))
    return f"{' '.join(map(repr, words))}: {wrong}" if wrong else None


def make(rng: np.random.Generator, count: int) -> Iterator[list[str]]:
    """Random command lines."""
    paths = sorted(commands())
    for _ in range(count):
        name = paths[rng.integers(len(paths))]
        words = [*FIRST.get(name[0], ()), *_words(rng, commands()[name])]
        if rng.random() < 0.1:
            words.insert(rng.integers(len(words) + 1), str(rng.choice(["--help", "-q", "-h"])))
        if rng.random() < 0.1:
            words.append(_mistyped(rng, str(rng.choice(["--layout", "--overwrite", "--batch=2"]))))
        typed = [_mistyped(rng, word) if rng.random() < 0.03 else word for word in name]
        # Where nothing follows an option, the words that make a command quick are not taken for it.
        yield [*typed, *words, *LAST.get(name[0], ())]


@cache
def commands() -> dict[tuple[str, ...], list[click.Parameter]]:
    """Every command and its parameters."""
    from crn_fast.cli import cli

    found: dict[tuple[str, ...], list[click.Parameter]] = {}

    def visit(command: click.Command, path: tuple[str, ...]) -> None:
        context = click.Context(command, info_name="crn-fast")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                visit(inner, (*path, name))
        else:
            found[path] = command.params

    visit(cli, ())
    return found


def _words(rng: np.random.Generator, parameters: Sequence[click.Parameter]) -> list[str]:
    """Some options with values, and the arguments, in any order."""
    groups = []
    for parameter in parameters:
        if isinstance(parameter, click.Argument):
            some = rng.choice([0, 1, 1, 1, 2])
            groups += [[_value(rng, parameter)] for _ in range(some)]
        elif rng.random() < (0.9 if parameter.required else 0.15):
            name = str(rng.choice([*parameter.opts, *parameter.secondary_opts]))
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            groups.append([name] if flag else [name, _value(rng, parameter)])
    order = rng.permutation(len(groups))
    return [word for index in order for word in groups[index]]


def _value(rng: np.random.Generator, parameter: click.Parameter) -> str:
    if parameter.name in ("host", "address"):
        return str(rng.choice(HOSTS))
    pools: list[Sequence[str]] = [PATHS, PATHS, WORDS, NUMBERS]
    if isinstance(parameter.type, click.Choice):
        pools = [[str(choice) for choice in parameter.type.choices]] * 3 + [WORDS]
    elif isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        pools = [NUMBERS] * 4 + [WORDS]
    pool = pools[rng.integers(len(pools))]
    return pool[rng.integers(len(pool))]


def _mistyped(rng: np.random.Generator, word: str) -> str:
    at = int(rng.integers(max(1, len(word) - 1)))
    return word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]
