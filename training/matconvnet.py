"""MatConvNet's VGG-19, a .mat file, as plain arrays; read in a process of its own.

scipy's reader is C that a damaged file can crash. So `read` starts this file as a program, which
prints the arrays in NumPy's format, and a crash is the program's alone.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np

CONVOLUTIONS = 14
"""conv1_1 to conv5_2."""


def read(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [H, W, in, out] and biases of the first 14 convolutions.

    Raises:
        ValueError: the file is none of MatConvNet's networks, or damaged.
    """
    command = [sys.executable, "-P", str(Path(__file__)), str(path)]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").split("\n")
        raise ValueError(([line for line in said if line] or [f"exit code {ran.returncode}"])[-1])
    arrays = np.load(io.BytesIO(ran.stdout), allow_pickle=False)
    return [(arrays[f"weight{i}"], arrays[f"bias{i}"]) for i in range(len(arrays.files) // 2)]


def _print(path: str) -> None:
    from scipy.io import loadmat

    arrays: dict[str, np.ndarray] = {}
    for layer in loadmat(path)["layers"][0]:
        fields = layer[0][0]
        if str(fields["type"][0]) == "conv" and len(arrays) < 2 * CONVOLUTIONS:
            weight, bias = fields["weights"][0]
            number = len(arrays) // 2
            arrays |= {f"weight{number}": weight, f"bias{number}": bias}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    sys.stdout.buffer.write(stream.getvalue())


if __name__ == "__main__":
    _print(sys.argv[1])
