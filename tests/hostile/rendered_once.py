"""Prints the SHA-256 of one layout's picture, and ends: a process of its own for each render.

python rendered_once.py MODEL BACKEND THREADS LAYOUT.npy [DEFECT]

DEFECT is a class of `hostile.ways`, planted.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from crn_fast.engine import Engine


def main(model: str, backend: str, threads: str, layout: str, defect: str = "") -> None:
    with Engine.open(model, backend=backend, threads=int(threads)) as engine:
        if defect:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from hostile import ways

            ways.plant(engine, getattr(ways, defect))
        print(hashlib.sha256(engine.render(np.load(layout))[0].tobytes()).hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
