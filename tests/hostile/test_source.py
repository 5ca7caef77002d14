"""No source of ours can run what a file holds: a static test over every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.campaign import Campaigns

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("crn_fast", "kernels", "training", "benchmarks")
RUNS_WHAT_IT_READS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.loads", "marshal.load"),
    *("marshal.loads", "shelve.open", "dill.load", "dill.loads", "joblib.load", "code.interact"),
    *("cloudpickle.load", "cloudpickle.loads", "ray.cloudpickle.loads", "pandas.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.package"),
    *("eval", "exec", "compile", "__import__", "runpy.run_path", "torch.hub.load"),
    *("logging.config.fileConfig", "logging.config.listen"),
}
SPAWNS_A_SHELL = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("asyncio.create_subprocess_shell", "commands.getoutput"),
}
FETCHES = {
    *("urllib.request.urlopen", "urllib.request.urlretrieve", "urllib.request.Request"),
    *("requests.get", "requests.post", "requests.request", "torch.hub.download_url_to_file"),
    *("torch.hub.load_state_dict_from_url", "huggingface_hub.hf_hub_download"),
}
RACES = {"tempfile.mktemp", "os.tempnam", "os.tmpnam"}
FORBIDDEN = RUNS_WHAT_IT_READS | SPAWNS_A_SHELL | FETCHES | RACES


def flaws(source: str) -> Iterator[str]:
    """What in a module could run, or fetch, what it should not; each with its line."""
    tree = ast.parse(source)
    names = dict(_names(tree))
    for node in ast.walk(tree):
        used = isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
        if used and (name := _dotted(node, names)) in FORBIDDEN:
            yield f"line {node.lineno}: {name}"
        if not isinstance(node, ast.Call):
            continue
        called, given = _dotted(node.func, names), {k.arg: k.value for k in node.keywords}
        if called == "torch.load" and not _is(given.get("weights_only"), True):
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if "shell" in given and not _is(given["shell"], False):
            yield f"line {node.lineno}: a shell"
        if called == "numpy.load" and not _is(
            given.get("allow_pickle", ast.Constant(False)), False
        ):
            yield f"line {node.lineno}: numpy.load with pickles"
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method in ("extractall", "extract") and "filter" not in given:
            yield f"line {node.lineno}: an archive's paths are taken as they are"


def _names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each name that an import or a function of the module's own binds, and what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name, f"here.{node.name}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield alias.asname or first, alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """'torch.load' of what stands for it here; '' of what is no name."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


PLANTED = [
    "import pickle\npickle.loads(b'')",
    "import pickle as p\np.load(f)",
    "from pickle import loads as read\nread(b'')",
    "from functools import partial\nimport pickle\nread = partial(pickle.loads)",
    "import torch\ntorch.load(path)",
    "import torch\ntorch.load(path, weights_only=False)",
    "import torch\ntorch.load(path, weights_only=safe)",
    "from torch import load\nload(path)",
    "eval('1')",
    "exec(text)",
    "compile(text, '', 'exec')",
    "__import__(name)",
    "import os\nos.system('ls')",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess as s\ns.Popen(words, shell=asked)",
    "import yaml\nyaml.load(text)",
    "import marshal\nmarshal.loads(b'')",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "import tempfile\ntempfile.mktemp()",
    "import tarfile\ntarfile.open(path).extractall()",
    "import zipfile\nzipfile.ZipFile(path).extractall(folder)",
    "import urllib.request\nurllib.request.urlopen(url)",
    "from urllib.request import urlretrieve\nurlretrieve(url)",
    "import torch\ntorch.hub.load('a/b', 'c')",
]
INNOCENT = [
    "import torch\ntorch.load(path, weights_only=True)",
    "import torch\ntorch.compile(network)",
    "import re\nre.compile('a')",
    "import numpy as np\nnp.load(path, mmap_mode='r')",
    "import json\njson.loads(text)",
    "model.eval()",
    "import tarfile\ntarfile.open(path).extractall(folder, filter='data')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
]


def test_no_source_runs_what_it_reads(campaigns: Campaigns) -> None:
    with campaigns.tried("P5", "source files, read for calls that run or fetch things") as tally:
        for folder in FOLDERS:
            for path in sorted((ROOT / folder).rglob("*.py")):
                found = [f"{path.relative_to(ROOT)}, {flaw}" for flaw in flaws(path.read_text())]
                tally.case("; ".join(found) or None)


def test_planted_sources_are_noticed(campaigns: Campaigns) -> None:
    with campaigns.control("P5", "sources with such a call") as tally:
        for source in PLANTED:
            tally.case("; ".join(flaws(source)) or None)
    assert tally.cases == len(tally.failures)


@pytest.mark.parametrize("source", INNOCENT)
def test_what_is_harmless_is_left_alone(source: str) -> None:
    assert not list(flaws(source))
