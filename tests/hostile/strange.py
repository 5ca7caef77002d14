"""A subject for the tests of the workers: it does with itself what the case says."""

from __future__ import annotations

import os
import time


def strange(case: str) -> str | None:
    if case == "crash":
        os.abort()
    if case == "exit":
        os._exit(7)
    if case == "hang":
        time.sleep(60)
    if case == "fill":
        return f"{len(bytearray(1 << 40))} bytes"
    if case == "raise":
        raise ValueError("no")
    return None if case == "right" else "wrong"
