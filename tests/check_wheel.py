"""Checks the built distributions: what they must hold, what they must not, and that they import.

A script, not a test: it needs the files that `make package` builds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAPPED = {"crn_fast": "crn_fast", "kernels": "crn_fast/kernels", "training": "crn_fast/training"}
CXX = {".cpp", ".h"}
SDIST = {
    *(".clang-format", ".gitignore", ".pre-commit-config.yaml", "CMakeLists.txt"),
    *("CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO", "README.md", "SECURITY.md"),
    *("constraints.txt", "crn_fast", "docs", "examples", "kernels"),
    *("pyproject.toml", "tests", "training"),
}
"""All that may stand at the top of the sdist, so that no stray folder of data is published."""
COMPILED = re.compile(r"crn_fast/kernels/cpu/_native\.\S*(so|pyd)")
PURE = """
import crn_fast, crn_fast.kernels.cpu as cpu
assert ".whl" in crn_fast.__file__, crn_fast.__file__
assert "C++17 compiler" in cpu.available(), cpu.available()
"""


def sources() -> set[str]:
    """Every file of the mapped folders, by its path in the source tree."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in MAPPED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def installed(source: str) -> str:
    """A source file's path in the wheel."""
    folder, _, rest = source.partition("/")
    return f"{MAPPED[folder]}/{rest}"


def check_wheel(wheel: Path, *, pure: bool) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = {Path(n).name: archive.read(n).decode() for n in names if ".dist-info/" in n}
    files = {name for name in names if ".dist-info/" not in name}
    compiled = {name for name in files if COMPILED.fullmatch(name)}
    expect(len(compiled) == (0 if pure else 1), f"{wheel.name}: compiled modules: {compiled}")
    wanted = {installed(source) for source in sources() if Path(source).suffix not in CXX}
    expect(wanted <= files, f"{wheel.name} lacks {sorted(wanted - files)}")
    extra = files - wanted - compiled
    expect(not extra, f"{wheel.name} has {sorted(extra)}, which are not in the source tree")
    expect("crn_fast/py.typed" in files, f"{wheel.name} lacks py.typed")
    entry = metadata["entry_points.txt"]
    expect("crn-fast = crn_fast.cli:main" in entry.replace("=", " = ").replace("  ", " "), entry)
    expect("LICENSE" in metadata, f"{wheel.name} lacks the licence")


def check_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = sources() | {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"}
    expect(wanted <= names, f"{sdist.name} lacks {sorted(wanted - names)}")
    stray = {name.partition("/")[0] for name in names} - SDIST - {""}
    expect(not stray, f"{sdist.name} has {sorted(stray)}: not in SDIST of {Path(__file__).name}")


def check_pure_import(wheel: Path) -> None:
    """The wheel works without the compiled module, straight from the archive."""
    subprocess.run(
        [sys.executable, "-c", PURE],
        env={**os.environ, "PYTHONPATH": str(wheel.resolve())},
        cwd=wheel.parent,
        check=True,
    )


def expect(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(f"check_wheel: {message}")


def main(folder: Path) -> None:
    (sdist,) = folder.glob("*.tar.gz")
    wheels = set(folder.glob("*.whl"))
    pure = {wheel for wheel in wheels if wheel.name.endswith("-py3-none-any.whl")}
    expect(len(pure) == 1 and len(wheels) == 2, f"expected a pure and a native wheel: {wheels}")
    check_sdist(sdist)
    for wheel in wheels:
        check_wheel(wheel, pure=wheel in pure)
    check_pure_import(*pure)
    for path in (sdist, *sorted(wheels)):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, contents as expected")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
