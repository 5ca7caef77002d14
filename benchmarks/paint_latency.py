"""From a stroke on the paint page to its picture, in a real Chromium without a window.

    python benchmarks/paint_latency.py -m street-256

A stroke is some moves of the mouse. Its time runs from the last move that changed the layout to the
frame that shows the picture of that very layout. Prints one line of JSON. Needs playwright and a
chromium; server, browser and this script share the CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import click
import numpy as np

BROWSER = [
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--remote-debugging-port=0"),
]
LAST = """() => {
    const all = performance.getEntriesByName("stroke to picture");
    return all.length ? [all.at(-1).detail, all.at(-1).duration] : [-1, 0];
}"""


@click.command(help=__doc__)
@click.option("-m", "--model", default="street-256", show_default=True)
@click.option("--preview", help="A quicker model for the first picture.")
@click.option("--strokes", default=100, show_default=True)
@click.option("--screenshot", help="A PNG of the page at the end.")
def main(model: str, preview: str | None, strokes: int, screenshot: str | None) -> None:
    from playwright.sync_api import sync_playwright

    this = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
    options = ["--preview", preview] if preview else []
    command = [*this, "-m", "crn_fast", "paint", "--no-open", "-m", model, "--port", "0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    folder = tempfile.TemporaryDirectory()
    window = subprocess.Popen(
        [*BROWSER, f"--user-data-dir={folder.name}"], stderr=subprocess.PIPE, text=True
    )
    assert server.stdout
    url = server.stdout.readline().strip()
    found: list[float] = []
    try:
        with sync_playwright() as tools:
            browser = tools.chromium.connect_over_cdp(devtools(window))
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(url)
            page.wait_for_timeout(4000)
            box = page.locator("#layout").bounding_box()
            assert box
            rng = np.random.default_rng(7)
            page.keyboard.press("b")
            for _ in range(strokes):
                page.keyboard.press(str(rng.integers(1, 9)))
                x, y = rng.uniform(0.1, 0.8, 2)
                before = page.evaluate(LAST)[0]
                page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                page.mouse.down()
                for step in range(8):
                    x += 0.02
                    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                    page.wait_for_timeout(float(8 + step))
                page.mouse.up()
                page.wait_for_timeout(160)
                version, duration = page.evaluate(LAST)
                while version == before:
                    page.wait_for_timeout(50)
                    version, duration = page.evaluate(LAST)
                page.wait_for_timeout(350)  # the hand goes elsewhere
                version, duration = page.evaluate(LAST)
                found.append(duration)
            if screenshot:
                page.screenshot(path=screenshot)
            browser.close()
    finally:
        for process in (window, server):
            process.terminate()
            process.wait()
        folder.cleanup()
    p = np.percentile(found, [50, 95, 99, 100]).round(1).tolist()
    names = ("p50", "p95", "p99", "max")
    row = {"model": model, "preview": preview, "strokes": strokes}
    print(json.dumps({**row, **{f"{n} ms": v for n, v in zip(names, p, strict=True)}}))


def devtools(window: subprocess.Popen[str]) -> str:
    """Where a browser that was started with --remote-debugging-port can be steered."""
    assert window.stderr
    for line in window.stderr:
        if "ws://" in line:
            return line[line.index("ws://") :].strip()
    raise click.ClickException("chromium did not start")


if __name__ == "__main__":
    main()
