"""What newcomers do wrong with `crn-fast`, and what it must answer.

What can be pasted stands in a message between backticks: a whole command, or an option to add to
the one that was given. All of it is pasted here, and must work.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hostile.command_line import Main, Ran, copy_of, crn_fast, listing, outrage, run

HERE = "HERE"
"""The folder of the command, in messages."""
READABLE = 500
"""Characters of the longest message."""


@dataclass(frozen=True)
class Mistake:
    """A command, as typed after `crn-fast`, that cannot work, and its answer."""

    words: str
    code: int
    says: tuple[str, ...]
    """What the message names: the file and the value."""
    hints: tuple[str, ...] = ()
    """All that it offers to paste."""
    then: tuple[int, ...] = (0,)
    """The exit codes of what is pasted; 0, unless something else is wrong, too, or missing here."""
    stdin: bytes = b""


def read_mistakes() -> list[Mistake]:
    """The mistakes of mistakes.txt."""
    text = Path(__file__).with_suffix(".txt").read_text("utf-8")
    return [_parse(block.splitlines()) for block in text.split("\n\n") if block.startswith("$ ")]


def _parse(lines: list[str]) -> Mistake:
    code, _, says = lines[1].partition(":")
    hints, then = [], {0}
    for line in lines[2:]:
        codes, hint = re.fullmatch(r"> (?:\[([\d ]+)\] )?(.+)", line).groups()  # type: ignore[union-attr]
        hints.append(hint)
        then |= {int(each) for each in (codes or "").split()}
    parts = tuple(part for each in says.split("|") if (part := each.strip()))
    words = lines[0].removeprefix("$ crn-fast").strip()
    return Mistake(words, int(code), parts, tuple(hints), tuple(sorted(then)))


def find_hints(message: str) -> tuple[str, ...]:
    """What stands between backticks."""
    return tuple(re.findall(r"`([^`]+)`", message))


def judge(scene: Path, mistake: Mistake, main: Main = crn_fast) -> str | None:
    """Make a mistake in a copy of the scene, and follow the hints; what is wrong, or None."""
    words = shlex.split(mistake.words)
    folder = copy_of(scene)
    before = listing(folder)
    ran = _here(run(words, folder, mistake.stdin, main), folder)
    after = listing(folder)
    harmed = [name for name, was in before.items() if after.get(name) != was]
    found = [outrage(ran), *faults(ran, mistake), *(f"changed {name}" for name in harmed)]
    found += [_paste(hint, words, scene, mistake, main) for hint in find_hints(ran.message)]
    wrong = [text for text in found if text]
    return f"crn-fast {mistake.words}: {'; '.join(wrong)}" if wrong else None


def faults(ran: Ran, mistake: Mistake) -> list[str]:
    """What is wrong with an answer, before anything is pasted."""
    found = []
    if ran.code != mistake.code:
        found.append(f"exit {ran.code}, not {mistake.code}: {ran.message}")
    if len(ran.message) > READABLE:
        found.append(f"{len(ran.message)} characters: {ran.message}")
    found += [f"no {part!r} in: {ran.message}" for part in mistake.says if part not in ran.message]
    if (hints := find_hints(ran.message)) != mistake.hints:
        found.append(f"hints {hints}, not {mistake.hints}")
    return found


def _paste(hint: str, words: list[str], scene: Path, mistake: Mistake, main: Main) -> str | None:
    """What goes wrong when a hint is pasted, or None."""
    pasted = shlex.split(hint)
    folder = copy_of(scene)
    match pasted[0]:
        case "crn-fast":
            words = pasted[1:]
        case "pip":
            return _extra(pasted[-1])
        case "git":
            return None if pasted[1:] == ["lfs", "pull"] else f"`{hint}` is not of Git LFS"
        case "mkdir" | "mv":
            subprocess.run(pasted, cwd=folder, check=True)
            words = [pasted[-1] if word == pasted[-2] else word for word in words]
        case option if option.startswith("-"):
            words = [*words, *pasted]
        case _:
            return f"`{hint}` is nothing that can be pasted"
    words = [word.replace(HERE, str(folder)) for word in words]
    ran = run(words, folder, mistake.stdin, main)
    if outrage(ran) or ran.code not in mistake.then:
        return f"`{hint}`, pasted: exit {ran.code}: {ran.message}"
    return None


def _here(ran: Ran, folder: Path) -> Ran:
    """The same with a name for the folder, which is another each time."""
    return dataclasses.replace(ran, err=ran.err.replace(str(folder), HERE))


def _extra(package: str) -> str | None:
    """None if crn-fast has the extra that is to be installed."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    known = package in [f"crn-fast[{extra}]" for extra in extras]
    return None if known else f"{package}: no such extra"


def take_next_step(scene: Path, words: str, main: Main = crn_fast) -> str | None:
    """Do what is right, and then what crn-fast says comes next; what is wrong, or None."""
    folder = copy_of(scene)
    ran = run(shlex.split(words), folder, b"", main)
    if ran.code or not ran.message.startswith("next: crn-fast "):
        return f"crn-fast {words}: exit {ran.code}: {ran.message}"
    following = re.sub(r"\b[A-Z]+_?[A-Z]+\.png", "drive/000.png", ran.message)
    following = following.removeprefix("next: crn-fast ").replace("NAME", "camvid")
    following = following.replace(" DIR ", " drive ")
    ran = run(shlex.split(following), folder, b"", main)
    return f"crn-fast {following}: exit {ran.code}: {ran.message}" if ran.code else None


def judge_without(scene: Path, case: tuple[str, Mistake]) -> str | None:
    """`judge` where these packages, with spaces between, are not installed."""
    packages, mistake = case
    return judge(scene, mistake, partial(without, packages))


def without(packages: str, words: list[str]) -> None:
    """A process of its own, in which these packages cannot be imported."""
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder as finder\n"
        "missing, find = sys.argv[1].split(), finder.find_spec\n"
        "def find_spec(name, *where):\n"
        "    return None if name.partition('.')[0] in missing else find(name, *where)\n"
        "finder.find_spec = find_spec\n"
        "from crn_fast.cli import main\n"
        "main(sys.argv[2:])\n"
    )
    command = [sys.executable, "-c", code, packages, *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)
