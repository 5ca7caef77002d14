"""Names of files that lead outside, or that a terminal would obey, and folders that hold them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crn_fast import layout
from crn_fast.layout import from_array
from crn_fast.palette import label_set
from hostile.pngs import SIZE, ids

ESCAPES = "\x1b[2J\x1b[31m"

STEMS = (
    "..", "...", ".", " ", "-", "-o", "--overwrite", "~", "$(touch x)", "`touch x`", "a;b", "a|b",
    "a\nb", "a\r\nb", "a\tb", "\n", "a\nRendered: ok\ncrn-fast: done", ESCAPES, "\x1b]0;title\x07",
    "\x07", "\x7f", "\x9b2J", "\u202egnp", "\u2028", "\ufeff", "a\u0301", "\u00e1", "A", "a", "CON",
    "NUL", "com1", "a.tmp", ".a.tmp", ".hidden", "manifest", "manifest.jsonl", "a.png", "a.render",
    "a_0", "a_1", "a  b", "%s%n", "{0}", "%00", "..%2f..%2fa", "a\\..\\b", "C:\\a", "file:a",
    "http:a", "concat:a|b", "*", "?", "[a]", "[!a]", "a'b\"c", "x" * 60, "n" * 251, "\u00fc" * 125,
    "\udcff", "a\udc80b", "\udcc3(", "1", "0x10", "None",
)  # fmt: skip
"""Of layouts: Unix takes any byte but / and NUL. Lone surrogates are bytes that are no UTF-8."""

ENDINGS = (".png", ".png", ".png", ".PNG", ".Png")


@dataclass(frozen=True)
class Place:
    """A folder with everything in it that a run may see: `work` is where it runs."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Path -> inode and contents, of all that is no folder of pictures or below one."""
        found, waiting = {}, [""]
        while waiting:
            for entry in os.scandir(self.root / (at := waiting.pop())):
                name = os.path.join(at, entry.name)
                data = b""
                if entry.is_symlink():
                    data = os.fsencode(os.readlink(entry.path))
                elif entry.is_file():
                    data = Path(entry.path).read_bytes()
                elif entry.is_dir() and entry.name != "out":
                    waiting += [name] * (not name.endswith(".render"))
                if not entry.is_dir(follow_symlinks=False) or not name.endswith(
                    (".render", "/out")
                ):
                    found[name] = entry.inode(), data
        return found


def write_layout(path: Path) -> None:
    """A sound layout of camvid, of the toy network's size, if the name is one."""
    made = path.parent / "made.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    layout.write(from_array(ids(SIZE), label_set("camvid")), made)
    try:
        made.rename(path)
    except OSError:
        made.unlink()


def prepare(root: Path, rng: np.random.Generator) -> Place:
    """A place with some evil names, links and folders in `work/in`, and traps in `work/out`."""
    place = Place(root)
    place.outside.mkdir(parents=True)
    write_layout(place.outside / "secret.png")
    (place.outside / "manifest.jsonl").write_bytes(b'{"kept": true}\ntorn')
    (place.outside / "empty").mkdir()
    folder = place.work / "in"
    folder.mkdir(parents=True)
    for _ in range(rng.integers(1, 6)):
        write_layout(folder / _name(rng))
    for _ in range(rng.integers(0, 3)):
        write_layout(folder / _folder_name(rng) / _name(rng))
    for trap in rng.permutation(len(TRAPS))[: rng.integers(0, 6)]:
        _set(place, *TRAPS[trap])
    for path in list(folder.glob("*"))[: rng.integers(0, 3)]:
        name = ("out", "in.render")[
            rng.integers(2)
        ] + f"/{path.stem}{('.png', '_0.png')[rng.integers(2)]}"
        _set(place, name, ("outside/new.png", "outside/secret.png", "outside")[rng.integers(3)])
    return place


def _name(rng: np.random.Generator) -> str:
    return STEMS[rng.integers(len(STEMS))] + ENDINGS[rng.integers(len(ENDINGS))]


def _folder_name(rng: np.random.Generator) -> str:
    name = STEMS[rng.integers(len(STEMS))]
    return "in" if name in (".", "..") else name


TRAPS = (
    ("in/linked.png", "outside/secret.png"),
    ("in/folder", "outside"),
    ("in/up", ".."),
    ("in/loop.png", "loop.png"),
    ("in/device.png", "/dev/zero"),
    ("out/in", "outside"),
    ("out/folder", "outside"),
    ("out/a.png", "outside/secret.png"),
    ("out/a_0.png", "outside/new.png"),
    ("out/linked.png", "outside/new.png"),
    ("out/manifest.jsonl", "outside/manifest.jsonl"),
    ("out/manifest.1-of-2.jsonl", "outside/manifest.jsonl"),
    ("out/manifest.pipe.jsonl", "PIPE"),
    ("out/manifest.folder.jsonl", "FOLDER"),
    ("out/manifest.evil.jsonl", "EVIL"),
    ("out/.crn_fast-staging", "outside/empty"),
)
"""Path below `work`, and where a link of that name leads."""

EVIL = (
    b'{"outputs": [{"path": "../../outside/secret.png", "sha256": ""}], "status": "done"}\n'
    b'{"outputs": [{"path": "/etc/passwd", "sha256": ""}], "status": "done"}\n'
    b'{"outputs": [{"path": ["a.png"], "sha256": ""}], "status": "done", "input": "", '
    b'"input_sha256": null, "model": "", "model_sha256": "", "backend": "", "precision": "", '
    b'"settings": ""}\n' + b"[" * 100_000 + b"\n\xff\xfe\n{}\nnull\n" + b'{"outputs": 3}\n'
)
"""Lines of a manifest that lead elsewhere, or nowhere."""


def _set(place: Place, name: str, leads: str) -> None:
    path = place.work / name
    if os.path.lexists(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if leads == "PIPE":
        os.mkfifo(path)
    elif leads == "FOLDER":
        path.mkdir()
    elif leads == "EVIL":
        path.write_bytes(EVIL)
    else:
        target = place.root / leads if leads.startswith("outside") else leads
        with suppress(OSError):  # too long a name
            os.symlink(target, path)


OTHERS = (
    ["labels", "check", "--labels", "camvid", "--", "in"],
    ["labels", "check", "--labels", "camvid", "--json", "--", "in"],
    ["labels", "map", "--from", "camvid", "--overwrite", "--", "in", "out"],
    ["labels", "map", "--from", "camvid", "--overwrite", "--json", "--", "in", "out"],
)
"""Other commands that walk through a folder, or write into one."""


def words(place: Place, rng: np.random.Generator) -> list[str]:
    """What a user may have typed, without the model."""
    work = place.work
    found = sorted(
        os.path.relpath(path, work) for path in (*work.glob("in/*"), *work.glob("in/*/*"))
    )
    files = [name for name in found if os.path.isfile(work / name)]
    one = files[rng.integers(len(files))] if files else "in/none.png"
    sources: list[list[str]] = [
        ["in"], ["in"], ["in"], ["in/**/*.png"], ["in/*"], [one], [one], [*files[:3], one],
        ["./in/../in"], [str(work / "in")], ["in", "in"],
    ]  # fmt: skip
    source = sources[rng.integers(len(sources))]
    if rng.integers(5) == 0:
        return OTHERS[rng.integers(len(OTHERS))]
    given = ["render", f"--layout={source[0]}"]
    outs = ([], ["-o", "out"], ["-o", "out"], ["-o", "in/out"], ["-o", "./out/"])
    given += outs[rng.integers(len(outs))] if len(source) > 1 or source[0] != one else []
    given += ([], ["--overwrite"], ["--overwrite"], ["--skip-existing"])[rng.integers(4)]
    for option in ("--keep-going", "--json", "-q"):
        if rng.integers(3) == 0:
            given.append(option)
    if rng.integers(4) == 0:
        given += ["--shard", "1/2"]
    if rng.integers(2):
        given += ["--images", "1"]
    return [*given, "--", *source[1:]]


def evil_ids() -> Iterator[str]:
    """Of samples in Parquet files and tars, where names of pictures come from a stranger."""
    yield from STEMS
    yield from (
        "/etc/x",
        "//x",
        "../x",
        "a/../../x",
        "a/..",
        "./../x",
        "",
        "a/",
        "a//b",
        "/",
        "a/.",
    )
    yield from (".crn_fast-staging/x", "./.crn_fast-staging/x", "a\0b", "\0", "in/" * 500 + "x")
    yield from ("linked/x", "x/" + "n" * 300, "manifest.jsonl/x")
