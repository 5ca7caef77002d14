"""Defects planted in a copy of a C++ op, built as `make sanitize` builds and run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "kernels" / "cpu"
OP = "head.cpp"
PLANTS = {
    "address,undefined": ("std::min(count, (chunk + 1) * kChunk)", "(chunk + 1) * kChunk"),
    "thread": ("std::size_t i = chunk * kChunk;", "std::size_t i = chunk * kChunk - (chunk > 0);"),
}
"""Sanitizer -> what stands in `to_uint8`, and what is put in its place: a chunk that reads and
writes beyond the array, or one that writes a value of its neighbour's."""
MAIN = """
#include <vector>
#include "head.h"
int main() {
  std::vector<float> rgb(3 * 65536 + 5, 1.5f);
  std::vector<unsigned char> out(rgb.size());
  for (int i = 0; i < 50; ++i) crn::to_uint8(rgb.data(), rgb.size(), 2, out.data());
}
"""


def reported(sanitizer: str, folder: Path, plant: bool) -> str | None:
    """What the sanitizer says of the op, with its defect planted or as it is; None for nothing."""
    text = (SOURCES / OP).read_text()
    right, wrong = PLANTS[sanitizer]
    assert text.count(right) == 1, f"{OP} is not what the plant was made for"
    (folder / OP).write_text(text.replace(right, wrong) if plant else text)
    (folder / "main.cpp").write_text(MAIN)
    program = folder / f"planted-{sanitizer}"
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    files = [str(folder / OP), str(folder / "main.cpp")]
    build = ["g++", "-std=c++17", "-O1", "-g", "-pthread", *flags, f"-I{SOURCES}", *files]
    subprocess.run([*build, "-o", str(program)], check=True, capture_output=True, text=True)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    if ran.returncode == 0:
        return None
    found = re.search(r"(?:ERROR|WARNING): (\w+: [-\w ]+)", ran.stderr)
    return found[1].strip() if found else f"exit code {ran.returncode}: {ran.stderr[:300]}"
