"""`crn-fast doctor`: what works on this machine, and what each missing piece costs."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import click

from crn_fast import __version__
from crn_fast.commands import emit, say
from crn_fast.errors import CheckFailed

PACKAGES = ("numpy", "pillow", "click", "rich", "torch", "triton", "scipy")

EPILOG = """\b
Examples:
  crn-fast doctor
  crn-fast doctor --json > report.json
"""


@click.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def command(as_json: bool) -> None:
    """Say what works on this machine; the text to put into a bug report."""
    from crn_fast.kernels.cpu.threads import usable_cpus

    facts = {
        "crn-fast": __version__,
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processors": f"{usable_cpus()} usable",
        **{name: _version(name) for name in PACKAGES},
        "GPU": _gpu(),
        "compiled kernels": _compiled(),
    }
    checks = {**_backends(), **_models()}
    if as_json:
        emit({**facts, **checks})
    else:
        for key, value in {**facts, **checks}.items():
            emit(f"{key:<24}{value}")
    if not any(value == "ready" for key, value in checks.items() if key.startswith("backend")):
        raise CheckFailed(
            "no backend can run here, so nothing can be rendered; see the lines above"
        )
    say("next: crn-fast demo")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "unknown: torch is not installed"
    if not torch.cuda.is_available():
        return "none that torch can use; rendering runs on the CPU"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _compiled() -> str:
    from crn_fast.kernels import cpu

    return cpu.available() or f"ready: {', '.join(cpu.instruction_sets())}"


def _backends() -> dict[str, Any]:
    from crn_fast import backends

    return {f"backend {name}": backends.get(name).available() or "ready" for name in backends.NAMES}


def _models() -> dict[str, Any]:
    from crn_fast import checkpoint, models
    from crn_fast.errors import BadInput

    found = {}
    for name in models.SIZES:
        try:
            checkpoint.load(models.path_of(name))
            found[f"model {name}"] = "whole"
        except BadInput as error:
            found[f"model {name}"] = str(error)
    return found
