"""The C++ ops in a process whose threads, memory or life run out."""

from __future__ import annotations

import os
import subprocess
import sys

CASES = ("ends", "joins", "forks", "starves", "interrupted")
"""A daemon thread is inside an op when Python ends; what `atexit` knows since before the ops were
imported joins such a thread; a process forks after threads have rendered; there is no room for
threads' stacks; a signal's handler raises while an op runs."""

BEGIN = """
import atexit, os, resource, signal, sys, threading, time
stop, workers = threading.Event(), []
def bye():
    stop.set()
    for worker in workers: worker.join()
atexit.register(bye)
import numpy as np
from crn_fast.kernels import cpu
rgb = np.random.default_rng(0).uniform(-9, 270, (1, 1, 512, 1024, 3)).astype(np.float32)
expected = cpu.to_uint8(rgb, 1).tobytes()
"""
SCRIPTS = {
    "ends": """
def work():
    while True:
        cpu.to_uint8(rgb, 2)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
""",
    "joins": """
def work():
    while not stop.is_set():
        cpu.to_uint8(rgb, 2)
workers.append(threading.Thread(target=work, daemon=True))
workers[0].start()
time.sleep(0.05)
""",
    "forks": """
threads = [threading.Thread(target=cpu.to_uint8, args=(rgb, 3)) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
threading.Thread(target=lambda: [cpu.to_uint8(rgb, 2) for _ in range(50)], daemon=True).start()
child = os.fork()
found = cpu.to_uint8(rgb, 3).tobytes()
if child:
    assert os.waitpid(child, 0)[1] == 0
assert found == expected
""",
    "starves": """
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (12 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert cpu.to_uint8(rgb, 1024).tobytes() == expected
""",
    "interrupted": """
inside = []
def late(*_):
    if inside:  # it may be late, and come when nobody would catch it
        inside.clear()
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
caught = 0
while caught < 5:
    try:
        inside.append(1)
        cpu.to_uint8(rgb, 2)
        inside.clear()
    except KeyboardInterrupt:
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert cpu.to_uint8(rgb, 2).tobytes() == expected
""",
}
ABORTS = """
def fall():
    time.sleep(0.05)
    os.abort()
threading.Thread(target=fall, daemon=True).start()
time.sleep(2)
"""


def outlived(name: str, script: str = "") -> str | None:
    """What is wrong with how a process of that case ended, or None."""
    command = [sys.executable, "-c", BEGIN + (script or SCRIPTS[name])]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=os.sep)
    if ran.returncode == 0:
        return None
    return f"{name}: exit code {ran.returncode}: {ran.stderr[-300:]}"
