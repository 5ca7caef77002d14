"""A script: open an engine file of the backend fused and run it on the stand-in for the driver.

Neither torch nor Triton can be imported in this process. Kernels do nothing but read their
parameters.

    python run_engine.py ENGINE PACKAGE
"""

from __future__ import annotations

import sys


class Blocked:
    """Finds no torch and no Triton."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} was asked for")


sys.meta_path.insert(0, Blocked())  # type: ignore[arg-type]

import numpy as np  # noqa: E402
import pytest  # noqa: E402

import cuda_stand_in  # noqa: E402
import program_stand_in  # noqa: E402
from crn_fast.engine import Engine  # noqa: E402


def main() -> None:
    path, package = sys.argv[1:]
    machine = cuda_stand_in.Machine((9, 0))
    machine.play = program_stand_in.player(machine, interpret=False)
    with pytest.MonkeyPatch.context() as patch:
        cuda_stand_in.install(patch, machine, package)
        engine = Engine.open(path)
        for _ in range(3):
            pictures = engine.render(np.zeros((3, *engine.spec.size), np.uint8))
        assert pictures.shape == (3, engine.spec.images, *engine.spec.size, 3)
    kernels, graphs = machine.log.count("kernel"), machine.log.count("graph")
    assert not {"torch", "triton"} & set(sys.modules)
    print(f"{kernels} kernels, {graphs} graphs, {engine.device}")


if __name__ == "__main__":
    main()
