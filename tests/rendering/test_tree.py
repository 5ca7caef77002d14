"""Trees of layouts: found whole and in one order, and no name leads out of the pictures' folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath

import pytest

from crn_fast.errors import BadInput, ResourceError, UsageError
from crn_fast.rendering import tree


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("d/b/2.png", "d/b/10.PNG", "d/a.png", "d/notes.txt", "e/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    return tmp_path


def names(found: tree.Found) -> list[str]:
    return [name.as_posix() for _, name in found.files]


def test_folders_patterns_and_files(root: Path) -> None:
    assert names(tree.find(["d"])) == ["a.png", "b/10.PNG", "b/2.png"]
    assert tree.find(["d"]).name == root / "d.render"
    assert names(tree.find(["d/**/*.png"])) == ["a.png", "b/2.png"]
    assert names(tree.find([f"{root}/[de]/a.png"])) == ["d/a.png", "e/a.png"]
    assert names(tree.find(["d/a.png", "e/a.png"])) == ["d/a.png", "e/a.png"]
    assert names(tree.find(["d/b/2.png", str(root / "d/b/10.PNG")])) == ["10.PNG", "2.png"]
    assert tree.find(["d/b/*.png"]).name == root / "d/b.render"
    assert tree.Found(Path("/"), ()).name == Path("/layouts.render")


def test_order_is_by_name_or_by_number(root: Path) -> None:
    found = tree.find(["d"])
    assert [path.name for path in tree.in_number_order(found.files)] == ["a.png", "2.png", "10.PNG"]


@pytest.mark.parametrize(
    ("source", "error", "named"),
    [
        ("nothing", BadInput, "no such file"),
        ("*.jpg", BadInput, "matches no file"),
        ("*/../d/a.png", UsageError, "'..' after a wildcard"),
        ("empty", BadInput, "no .png"),
    ],
)
def test_mistakes_are_named(source: str, error: type[Exception], named: str, root: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(error, match=named):
        tree.find([source])


def test_a_file_with_wildcards_in_its_name_is_a_file(root: Path) -> None:
    Path("x[1].png").write_bytes(b"")
    assert not tree.is_many(["x[1].png"])
    assert tree.is_many(["x*.png"]) and tree.is_many(["d"]) and tree.is_many(["a", "b"])


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_links_make_no_loops(root: Path) -> None:
    os.symlink("..", "d/b/up")
    os.symlink(root / "e", "d/elsewhere")
    os.symlink(root / "e/a.png", "d/linked.png")
    assert names(tree.find(["d"])) == ["a.png", "b/10.PNG", "b/2.png", "linked.png"]
    assert len(tree.find(["d/**/*.png"]).files) == 3


def test_a_link_whose_target_may_not_be_looked_at_is_a_file_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()
    for name in ("latest", "latest.png"):
        (tmp_path / name).symlink_to("/private/file")
    stat = os.stat

    def refused(path: str, *arguments: object, **more: object) -> object:
        if "latest" in str(path):
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("os.stat", refused)
    found = tree.find([str(tmp_path)])
    assert [path.name for path, _ in found.files] == ["a.png", "latest.png"]


def test_a_link_to_a_folder_is_no_layout(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "folder.png").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path, _ in tree.find([str(tmp_path)]).files] == ["a.png"]


def test_the_pictures_folder_is_left_out(root: Path) -> None:
    assert names(tree.find(["d"], Path("d/b"))) == ["a.png"]
    assert names(tree.find(["d/**/*.png"], Path("d/b"))) == ["a.png"]


def test_deep_trees_are_found(root: Path) -> None:
    deep = Path("deep", *"d" * 300, "x.png")
    deep.parent.mkdir(parents=True)
    deep.touch()
    before, frame, used = sys.getrecursionlimit(), sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        used += 1
    sys.setrecursionlimit(used + 150)
    try:
        assert names(tree.find(["deep"])) == [deep.relative_to("deep").as_posix()]
        with pytest.raises(UsageError, match=r"deep/\*\*"):
            tree.find(["deep/**/*.png"])
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "name",
    ["..png", "...png", ".png", " .png", "a\nb.png", "-o.png", "~.png", "$(x).png", "\\.png"],
)
def test_evil_names_stay_inside(name: str, tmp_path: Path) -> None:
    layouts, out = tmp_path / "in" / "s", tmp_path / "out"
    layouts.mkdir(parents=True)
    (layouts / name).write_bytes(b"")
    ((_, relative),) = tree.find([str(tmp_path / "in")]).files
    for picture in tree.picture_names(relative, "png", 2):
        path = tree.place(out, picture)
        path.write_bytes(b"")
        assert path.resolve().parent == (out / "s").resolve()
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_links_among_the_pictures_lead_nowhere(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    os.symlink(outside, out / "s")
    os.symlink(outside / "x.png", out / "x.png")
    for name in ("s/a.png", "s/t/a.png", "x.png"):
        with pytest.raises(ResourceError, match="leads out of"):
            tree.place(out, PurePosixPath(name))
    assert not list(outside.iterdir())


def test_two_layouts_never_share_a_picture(tmp_path: Path) -> None:
    def check(*layouts: str, count: int = 1, out: Path = tmp_path / "out") -> None:
        pairs = [
            (tmp_path / name, tree.picture_names(PurePosixPath(name), "png", count))
            for name in layouts
        ]
        tree.check_distinct(pairs, out)

    check("a.png", "b.png")
    for layouts, count in ((("a.png", "a.PNG"), 1), (("a.png", "a_0.png", "a_0_0.x"), 1)):
        if layouts[0] == "a.png" and len(layouts) == 3:
            check(*layouts, count=count)
            continue
        with pytest.raises(UsageError, match=r"would both give a\.png"):
            check(*layouts, count=count)
    with pytest.raises(UsageError, match="the layout itself"):
        check("a.png", out=tmp_path)
