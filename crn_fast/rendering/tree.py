"""Folders of layouts, and the same tree for their pictures, from which no name leads outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crn_fast.errors import BadInput, ResourceError, UsageError
from crn_fast.files import kind_of, make_folder, nearly

WILDCARDS = "*?["


@dataclass(frozen=True)
class Found:
    """Layouts and the folder that they hang below."""

    root: Path
    files: tuple[tuple[Path, PurePosixPath], ...]
    """Path of each, and where it lies in the tree; sorted by the latter, the same everywhere."""

    @property
    def name(self) -> Path:
        """What their folder of pictures is called where no other is named."""
        root = Path(os.path.abspath(self.root))
        return root.parent / f"{root.name or 'layouts'}.render"


def is_many(sources: Sequence[str]) -> bool:
    """Whether what the user named is a folder, a pattern or several, rather than one file."""
    return len(sources) > 1 or kind_of(sources[0]) == "folder" or is_pattern(sources[0])


def is_pattern(source: str) -> bool:
    """Whether it has wildcards and is not itself the name of something."""
    return any(mark in source for mark in WILDCARDS) and kind_of(source) == "missing"


def find(sources: Sequence[str], without: Path | None = None) -> Found:
    """The PNG files of folders, the files that patterns match, and files by name.

    A file lies in the tree as it does below its folder or the part of its pattern that has no
    wildcard; files by name as below the folder that they have in common. Links to folders are not
    followed, so that no tree is endless.

    Args:
        sources: folders, patterns (`**` for any folders between), files.
        without: a folder that is left out, as that of the pictures may lie in the tree.

    Raises:
        BadInput: a folder or pattern without layouts, or a file that is missing.
        UsageError: a pattern with '..' after a wildcard, or one that is none.
        ResourceError: a folder may not be read.
    """
    avoided = os.path.realpath(without) if without is not None else None
    single = [
        source for source in sources if kind_of(source) != "folder" and not is_pattern(source)
    ]
    common = _common_folder(single)
    roots: list[Path] = []
    files: list[tuple[Path, PurePosixPath]] = []
    for source in sources:
        if source in single:
            if kind_of(source) == "missing":
                error = BadInput(f"{source}: no such file; expected a layout, folder or pattern")
                raise error.instead_of(source, *nearly(source))
            root = common
            below = [(Path(source), Path(os.path.abspath(source)).relative_to(common))]
        elif kind_of(source) == "folder":
            root = Path(source)
            below = [(path, path.relative_to(root)) for path in layouts_below(root, avoided)]
            if not below:
                raise BadInput(f"{source}: no .png in this folder or below; layouts are PNG files")
        else:
            root, below = _match(source, avoided)
        roots.append(root)
        files += [(path, PurePosixPath(relative.as_posix())) for path, relative in below]
    return Found(roots[0], tuple(sorted(files, key=lambda file: file[1].as_posix())))


def _common_folder(files: Sequence[str]) -> Path:
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}
    return Path(os.path.commonpath(folders)) if folders else Path()


def layouts_below(root: Path, avoided: str | None = None) -> Iterator[Path]:
    """The PNG files in a folder and those below it, without what is in the folder `avoided`.

    Not by `os.walk`, which calls itself for each level, and gives up in a tree of a thousand.

    Raises:
        ResourceError: a folder may not be read.
    """
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        except OSError as error:
            raise ResourceError(f"{folder}: the folder cannot be read ({error.strerror})") from None
        for entry in entries:
            if entry.name in folders:
                if os.path.realpath(entry.path) != avoided:
                    waiting.append(entry.path)
            elif not entry.name.lower().endswith(".png"):
                continue
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                yield Path(entry.path)


def _match(pattern: str, avoided: str | None) -> tuple[Path, list[tuple[Path, Path]]]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if any(mark in part for mark in WILDCARDS))
    root, wild = Path(*parts[:fixed]), parts[fixed:]
    if ".." in wild:
        raise UsageError(f"{pattern}: '..' after a wildcard; name the folder before it")
    try:
        found = [path for path in root.glob(str(Path(*wild))) if not path.is_dir()]
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise UsageError(f"{pattern}: {error}") from None
    if avoided is not None:
        found = [p for p in found if not Path(os.path.realpath(p.parent)).is_relative_to(avoided)]
    if not found:
        raise BadInput(f"{pattern}: matches no file; layouts are PNG files")
    return root, [(path, path.relative_to(root)) for path in found]


def picture_names(layout: PurePosixPath, ending: str, count: int) -> tuple[PurePosixPath, ...]:
    """Where the pictures of a layout lie in their tree."""
    marks = [""] if count == 1 else [f"_{k}" for k in range(count)]
    return tuple(layout.with_name(f"{layout.stem}{mark}.{ending}") for mark in marks)


def check_distinct(names: Iterable[tuple[Path, tuple[PurePosixPath, ...]]], folder: Path) -> None:
    """Check that no two layouts give one picture, and that no picture would replace a layout.

    Raises:
        UsageError: they would; both are named.
    """
    layouts: dict[str, Path] = {}
    owners: dict[str, Path] = {}
    for source, pictures in names:
        layouts[os.path.normcase(os.path.realpath(source))] = source
        for picture in pictures:
            key = os.path.normcase(picture)
            if key in owners:
                raise UsageError(
                    f"{source} and {owners[key]} would both give {picture}; render them one after "
                    "the other, with another -o"
                )
            owners[key] = source
    root = os.path.realpath(folder)
    for key in owners:
        if (path := os.path.normcase(os.path.realpath(os.path.join(root, key)))) in layouts:
            raise UsageError(f"{layouts[path]}: is the layout itself; name another folder with -o")


def place(folder: Path, name: PurePosixPath) -> Path:
    """The path of a picture below `folder`, with the folders on the way made.

    Raises:
        ResourceError: a link on the way leads out of the folder, or a folder cannot be made.
    """
    path = folder / name
    parent, root = Path(os.path.realpath(path.parent)), Path(os.path.realpath(folder))
    if not parent.is_relative_to(root) or os.path.islink(path):
        raise ResourceError(f"{path}: a link leads out of {folder}; remove it, or name another -o")
    make_folder(parent)
    return path


def in_number_order(files: Iterable[tuple[Path, PurePosixPath]]) -> list[Path]:
    """Paths with the numbers in their names in order: frame 2 comes before frame 10."""

    def key(file: tuple[Path, PurePosixPath]) -> list[tuple[int, int, str]]:
        pieces = re.split(r"([0-9]+)", file[1].as_posix())
        return [(1, int(p), p) if i % 2 else (0, 0, p) for i, p in enumerate(pieces)]

    return [path for path, _ in sorted(files, key=key)]
