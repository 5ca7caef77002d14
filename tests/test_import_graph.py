"""Who may import whom: the source tree against one table, and what importing the package loads.

Imports inside functions count; those under `if TYPE_CHECKING` do not, as they never run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# The parts of crn_fast, each with the parts that it may import, bottom first. A part is a module or
# a whole subpackage (inside which imports are free).
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "extras": set(),
    "memory": {"errors"},
    "kernels": set(),
    "localhost": set(),
    "spec": {"errors"},
    "baselines": {"errors", "extras", "kernels", "spec"},
    "failpoints": set(),
    "files": {"errors", "failpoints"},
    "png": {"errors", "files"},
    "container": {"errors", "files", "kernels", "memory"},
    "pickle_scan": set(),
    "torch_file": {"errors", "extras", "files", "kernels", "memory", "pickle_scan"},
    "trust": {"container", "errors", "files"},
    "palette": {"errors", "files", "spec"},
    "png_writer": set(),
    "image": {"errors", "files", "png_writer"},
    "encoding": {"errors", "palette", "png"},
    "layout": {"encoding", "errors", "files", "palette", "png", "spec"},
    "batch": {"errors", "layout", "palette"},
    "rendering": {"errors", "extras", "files", "layout", "memory", "palette", "png"},
    "crc32c": set(),
    "tf_bundle": {"crc32c", "errors"},
    "authors": {"errors", "spec", "tf_bundle"},
    "cascade": {"spec"},
    "weights": {"baselines", "cascade", "errors", "spec"},
    "checkpoint": {
        *("baselines", "container", "errors", "extras", "files", "palette", "spec", "torch_file"),
        "weights",
    },
    "module": {"cascade", "kernels", "spec", "weights"},
    "cuda": {"errors"},
    "fp8": {"errors", "spec"},
    "fused": {"cascade", "cuda", "errors", "extras", "fp8", "kernels", "memory", "spec"},
    "onnx_export": {"cascade", "errors", "extras", "spec", "weights"},
    "trt": {"cascade", "cuda", "errors", "extras", "files", "fp8", "kernels", "spec", "weights"},
    "backends": {
        *("baselines", "cascade", "container", "cuda", "errors"),
        *("extras", "fused", "kernels", "memory", "spec", "trt", "weights"),
    },
    "manifest": {"baselines", "container", "errors", "palette", "spec"},
    "engine": {
        *("backends", "baselines", "batch", "checkpoint", "container", "errors", "files"),
        *("layout", "manifest", "memory", "palette", "rendering", "spec", "trust"),
    },
    "measure": {
        *("engine", "errors", "files", "image", "kernels", "layout", "palette", "torch_file"),
    },
    "compare": {"errors", "files", "image", "localhost"},
    "models": {"errors", "files"},
    "cluster": {
        *("baselines", "checkpoint", "engine", "errors", "extras", "files", "image", "layout"),
        *("models", "palette", "png", "rendering", "spec", "trust"),
    },
    "serve": {
        *("engine", "errors", "image", "layout", "localhost", "palette", "png", "rendering"),
        "trust",
    },
    "bench": {
        *("backends", "cascade", "checkpoint", "engine", "errors", "extras", "files", "kernels"),
        *("layout", "measure", "models", "palette", "spec", "weights"),
    },
    "verify": {
        *("backends", "checkpoint", "engine", "errors", "layout", "models", "palette", "spec"),
    },
    "training": {
        *("baselines", "cascade", "checkpoint", "errors", "extras", "failpoints", "files"),
        *("image", "kernels", "layout", "module", "palette", "spec", "torch_file"),
    },
    "__init__": {"engine", "errors", "layout", "spec"},
}
ARROWS["commands"] = set(ARROWS)
ARROWS["cli"] = set(ARROWS)
ARROWS["__main__"] = {"cli"}

TORCH_AT_IMPORT = (
    *("backends.", "baselines.dilated", "baselines.unet", "fused.", "kernels.gpu."),
    *("bench.network", "kernels.reference", "module", "training."),
)
"""The modules (dotted prefixes) that may import torch when they are themselves imported."""

FOLDERS = {"crn_fast": "", "kernels": "kernels.", "training": "training."}
"""Source folder -> what it is called inside crn_fast."""


class Import(NamedTuple):
    target: str
    """Dotted name of what is imported; for `from a import b`, both `a` and `a.b`."""
    line: int
    lazy: bool
    """Inside a function, so not run when the module is imported."""


def imports_of(tree: ast.AST, package: str, lazy: bool = False) -> Iterator[Import]:
    """All imports that can run, with relative ones resolved against `package`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports_of(ast.Module([other], []), package, lazy)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            yield from (Import(f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports_of(node, package, lazy or function)


def modules() -> dict[str, Path]:
    """Every module, by its dotted name within crn_fast ('__init__' is the package itself)."""
    found = {}
    for folder, prefix in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[prefix + ".".join(parts)] = path
    return found


MODULES = modules()
PARTS = {name.partition(".")[0] for name in MODULES}


def part_of(target: str) -> str | None:
    """The part of crn_fast that an imported name belongs to; None for anything else."""
    top, _, rest = target.partition(".")
    if top != "crn_fast" or rest == "__version__":
        return None
    part = rest.partition(".")[0]
    return part if part in PARTS else "__init__"


def imports_in(name: str) -> list[Import]:
    package = ".".join(["crn_fast", *name.split(".")[:-1]])
    return list(imports_of(ast.parse(MODULES[name].read_text("utf-8")), package))


def test_the_table_has_no_cycle() -> None:
    TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize("part", sorted(PARTS))
def test_every_part_is_in_the_table(part: str) -> None:
    assert part in ARROWS, (
        f"crn_fast.{part} is new: add it to ARROWS in {Path(__file__).name}, with the parts that "
        "it may import, and keep the arrows pointing one way"
    )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_follow_the_table(name: str) -> None:
    part = name.partition(".")[0]
    allowed = ARROWS.get(part, set()) | {part}
    wrong = [
        f"{MODULES[name].relative_to(ROOT)}:{found.line} imports {found.target}"
        for found in imports_in(name)
        if (target := part_of(found.target)) and target not in allowed
    ]
    assert not wrong, f"{part} may import only {sorted(allowed)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("name", [n for n in sorted(MODULES) if not n.startswith(TORCH_AT_IMPORT)])
def test_torch_waits_for_its_first_use(name: str) -> None:
    eager = [
        f"{MODULES[name].relative_to(ROOT)}:{found.line}"
        for found in imports_in(name)
        if found.target.partition(".")[0] in {"torch", "torchvision"} and not found.lazy
    ]
    assert not eager, f"import torch inside the function that needs it: {'; '.join(eager)}"


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import crn_fast", {"torch", "PIL", "numpy"}),
        ("import crn_fast.cli", {"torch"}),
        ("import crn_fast.kernels.cpu", {"torch", "crn_fast.kernels.cpu._native"}),
    ],
)
def test_importing_leaves_out(statement: str, banned: set[str], tmp_path: Path) -> None:
    script = f"{statement}; import sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not banned & set(result.stdout.split())


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import crn_fast.engine
from crn_fast import layout, __version__
from . import image
from ..spec import CascadeSpec
if TYPE_CHECKING:
    import torch
else:
    import numpy
def late():
    import torch
class Body:
    import PIL
"""
    found = list(imports_of(ast.parse(source), "crn_fast.backends"))
    assert [(entry.target, entry.lazy) for entry in found] == [
        ("crn_fast.engine", False),
        ("crn_fast.layout", False),
        ("crn_fast.__version__", False),
        ("crn_fast.backends.image", False),
        ("crn_fast.spec.CascadeSpec", False),
        ("numpy", False),
        ("torch", True),
        ("PIL", False),
    ]
    parts = [part_of(entry.target) for entry in found]
    assert parts == ["engine", "layout", None, "backends", "spec", None, None, None]
