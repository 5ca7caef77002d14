"""The paint page in a browser: what is painted, kept, sent and shown, by mouse, finger and keys."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from crn_fast import layout
from crn_fast.palette import label_set
from serving import Running, until
from stub_engine import picture

HEIGHT, WIDTH = 64, 128
CAMVID = label_set("camvid")
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
"""From `npm install axe-core`, or where the variable says."""


class Page:
    """The page, opened and ready."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def ids(self) -> np.ndarray:
        """The layout as it is shown: every pixel is one class's exact colour."""
        url = self.page.evaluate("document.getElementById('layout').toDataURL()")
        shown = Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
        table = {color: i for i, color in enumerate(CAMVID.colors)}
        pixels = np.asarray(shown).reshape(-1, 3).tolist()
        return np.array([table[tuple(p)] for p in pixels], np.uint8).reshape(HEIGHT, WIDTH)

    def at(self, row: float, column: float) -> tuple[float, float]:
        """Where the middle of a pixel of the layout is on the screen."""
        box = self.page.locator("#layout").bounding_box()
        x = box["x"] + (column + 0.5) * box["width"] / WIDTH
        return x, box["y"] + (row + 0.5) * box["height"] / HEIGHT

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=3)
        self.page.mouse.up()

    def click(self, row: float, column: float) -> None:
        self.drag((row, column))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def status(self) -> str:
        return str(self.page.locator("#status").text_content())

    def blank(self, name: str = "sky") -> None:
        """The whole layout of one class."""
        self.press("r")
        self.page.get_by_role("radio", name=name).click()
        self.drag((0, 0), (HEIGHT - 1, WIDTH - 1))
        assert (self.ids() == CAMVID.names.index(name)).all()

    def saved(self, button: str) -> bytes:
        with self.page.expect_download() as waiting:
            self.page.locator(button).click()
        return Path(waiting.value.path()).read_bytes()


@contextmanager
def opened(browser: Any, server: Running, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    own = f"http://127.0.0.1:{server.port}/"
    page.goto(own)
    until(lambda: str(page.locator("#pace").text_content()).startswith("Rendered"))
    try:
        yield Page(page)
        # Pictures and saved files are blobs: nothing ever comes from elsewhere.
        assert not [url for url in asked if not url.startswith((own, f"blob:{own}"))]
        expected = ("422", "net::ERR_FAILED")  # of tests that provoke them
        assert not [text for text in wrong if not any(part in text for part in expected)], wrong
    finally:
        context.close()


@pytest.fixture(scope="module")
def paint(browser: Any, painting: Running) -> Iterator[Page]:
    with opened(browser, painting) as page:
        yield page


def test_strokes_have_hard_edges_and_can_be_undone(paint: Page) -> None:
    paint.blank()
    before = paint.ids()
    paint.press("b", "4")
    paint.drag((20, 20), (40, 90), (10, 100))
    after = paint.ids()
    assert set(np.unique(after)) == {0, 3}
    assert (after[20, 20], after[40, 90], after[10, 100], after[60, 5]) == (3, 3, 3, 0)
    paint.press("z")
    assert np.array_equal(paint.ids(), before)
    paint.press("y")
    assert np.array_equal(paint.ids(), after)
    paint.press("Control+z", "Control+Shift+z")
    assert np.array_equal(paint.ids(), after)


def test_shapes(paint: Page) -> None:
    paint.blank()
    paint.press("r", "9")
    paint.drag((10, 20), (30, 50), (20, 40))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:21, 20:41] = 8
    assert np.array_equal(paint.ids(), expected)
    paint.press("g", "2")
    paint.click(0, 0)
    assert np.array_equal(paint.ids(), np.where(expected == 8, 8, 1))
    paint.press("i")
    paint.click(15, 30)
    assert paint.page.get_by_role("radio", name="car").get_attribute("aria-checked") == "true"
    paint.press("p", "6")
    for corner in ((40, 60), (40, 100), (60, 100)):
        paint.click(*corner)
    paint.press("Enter")
    found = paint.ids()
    assert found[45, 98] == 5 and found[58, 62] == 1 and (found[40, 60:101] == 5).all()


def test_undo_amid_a_polygon_drops_it(paint: Page) -> None:
    paint.blank()
    before = paint.ids()
    paint.press("r", "9")
    paint.drag((10, 20), (30, 50))
    after = paint.ids()
    paint.press("p", "6")
    for corner in ((5, 10), (5, 60), (40, 60)):
        paint.click(*corner)
    assert (paint.ids() == 5).any()
    paint.press("Control+z")
    assert np.array_equal(paint.ids(), before)
    paint.press("Control+y")
    assert np.array_equal(paint.ids(), after)
    paint.press("Enter")  # there is no polygon left to close
    assert np.array_equal(paint.ids(), after)


def test_objects_lie_over_the_background(paint: Page) -> None:
    paint.blank()
    paint.press("o", "r", "9")
    paint.drag((10, 10), (20, 30))
    paint.press("o", "4")
    paint.drag((0, 0), (HEIGHT - 1, WIDTH - 1))
    found = paint.ids()
    assert (found[10:21, 10:31] == 8).all() and (found == 3).sum() == found.size - 11 * 21
    paint.press("o", "e")
    paint.drag((15, 0), (15, 60))
    assert (paint.ids() == 3).all()
    paint.press("o")


def test_what_is_saved_is_what_was_painted(paint: Page, tmp_path: Path) -> None:
    paint.blank("road")
    paint.press("b", "6")
    paint.drag((30, 30), (50, 70))
    ids = paint.ids()
    (tmp_path / "a.png").write_bytes(paint.saved("#export"))
    assert np.array_equal(layout.read(tmp_path / "a.png", CAMVID).array, ids)
    shown = np.asarray(Image.open(BytesIO(paint.saved("#download"))))
    chosen = paint.page.evaluate(
        "[...document.getElementById('choices').children]"
        ".findIndex((button) => button.ariaPressed === 'true')"
    )
    assert np.array_equal(shown, picture(ids, chosen))
    paint.blank()
    paint.page.locator("#file").set_input_files(tmp_path / "a.png")
    until(lambda: "read as" in paint.status())
    assert np.array_equal(paint.ids(), ids)
    paint.press("z")
    assert (paint.ids() == 0).all()


def test_files_of_other_sets_are_read_by_the_server(paint: Page, tmp_path: Path) -> None:
    cityscapes = label_set("cityscapes")
    ids = np.full((32, 64), cityscapes.names.index("road"), np.uint8)
    ids[8:16] = cityscapes.names.index("car")
    files = next(v for v, c in cityscapes.ids.items() if cityscapes.names[c] == "road")
    cars = next(v for v, c in cityscapes.ids.items() if cityscapes.names[c] == "car")
    values = np.where(ids == cityscapes.names.index("car"), cars, files).astype(np.uint8)
    path = tmp_path / "town_gtFine_labelIds.png"
    Image.fromarray(values).save(path)
    paint.page.locator("#file").set_input_files(path)
    until(lambda: "labelIds.png: read as ids" in paint.status())
    expected = np.where(ids == cityscapes.names.index("car"), 8, 3).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(paint.ids(), expected)
    (tmp_path / "photo.png").write_bytes(b"not a picture")
    paint.page.locator("#file").set_input_files(tmp_path / "photo.png")
    until(lambda: "not a PNG" in paint.status())
    assert np.array_equal(paint.ids(), expected)


def test_the_picture_follows(paint: Page) -> None:
    paint.blank()
    count = "performance.getEntriesByName('stroke to picture').length"
    before = paint.page.evaluate(count)
    paint.press("b", "9")
    paint.drag((30, 30), (30, 90))
    until(lambda: paint.page.evaluate(count) > before)
    paint.page.wait_for_timeout(400)
    light = paint.page.evaluate(
        "[...document.getElementById('picture').getContext('2d').getImageData(60, 30, 1, 1).data]"
    )
    # JPEG, so not to the bit: the stub makes 20 times the id of the first channel.
    chosen = picture(paint.ids())[30, 60]
    assert abs(light[0] - chosen[0]) < 12


def test_a_variant_for_a_class(paint: Page) -> None:
    paint.blank()
    paint.press("r", "9")
    paint.drag((20, 20), (40, 60))
    paint.press("c")
    paint.click(30, 30)
    assert paint.page.locator("#variants-title").text_content() == "Variants of car"
    buttons = paint.page.locator("#choices button")
    for k in range(3):
        buttons.nth(k).click()
    base = paint.page.locator("#composed").text_content()
    found = re.search(r"Variant (\d), car from 3", str(base))
    if found is None:  # the whole is variant 3 already
        buttons.nth(0).click()
        found = re.search(
            r"Variant (\d), car from 1", str(paint.page.locator("#composed").text_content())
        )
        car = 0
    else:
        car = 2
    assert found
    whole, ids = int(found[1]) - 1, paint.ids()
    shown = np.asarray(Image.open(BytesIO(paint.saved("#download"))))
    assert np.array_equal(shown[25:35, 30:50], picture(ids, car)[25:35, 30:50])
    assert np.array_equal(shown[50:], picture(ids, whole)[50:])
    paint.page.locator("#uncompose").click()
    assert paint.page.locator("#composed").text_content() == ""
    paint.press("b")


def test_the_slider(paint: Page) -> None:
    paint.press("v")
    assert paint.page.locator("#divider").is_visible()
    paint.page.locator("#divider").fill("20")
    cut = "getComputedStyle(document.getElementById('picture-frame')).clipPath"
    assert "20%" in paint.page.evaluate(cut)
    paint.blank()  # painting works through the picture
    paint.press("v")
    assert not paint.page.locator("#divider").is_visible()


def test_without_a_mouse(browser: Any, painting: Running) -> None:
    with opened(browser, painting) as page:
        for _ in range(60):
            page.press("Tab")
            if page.page.evaluate("document.activeElement.id") == "layout":
                break
        else:
            pytest.fail("the layout cannot be reached by Tab")
        page.press("r", "1")  # from the middle: a rectangle
        start = page.ids()
        row, column = HEIGHT // 2, WIDTH // 2
        page.press(" ", "ArrowDown", "ArrowDown", "Shift+ArrowRight", " ")
        expected = start.copy()
        expected[row : row + 3, column : column + 17] = 0
        assert np.array_equal(page.ids(), expected)
        assert page.status() == f"Column {column + 16}, row {row + 2}: sky"
        page.press("z")
        assert np.array_equal(page.ids(), start)
        page.press("y", "p", "3", " ", "Shift+ArrowDown", " ", "Shift+ArrowLeft", " ", "Enter")
        assert page.ids()[row + 14, column + 10] == 2
        page.press("?")
        assert page.page.locator("#keys").is_visible()
        page.press("Escape")
        assert not page.page.locator("#keys").is_visible()
        with page.page.expect_download():
            page.press("s")


def test_with_a_finger(browser: Any, painting: Running) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, painting, **phone) as page:
        wide = page.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
        page.page.get_by_role("button", name="Rectangle (R)").tap()
        page.page.get_by_role("radio", name="pedestrian").tap()
        session = page.page.context.new_cdp_session(page.page)
        corners, before = [(10, 10), (15, 40), (30, 60)], page.ids()
        for kind, point in zip(("touchStart", "touchMove", "touchMove"), corners, strict=True):
            x, y = page.at(*point)
            touch = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
            session.send("Input.dispatchTouchEvent", touch)
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        before[10:31, 10:61] = CAMVID.names.index("pedestrian")
        assert np.array_equal(page.ids(), before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_accessibility(browser: Any, painting: Running, scheme: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip(f"needs axe-core: {AXE} is missing; npm install axe-core, or set AXE_CORE")
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with opened(browser, painting, **options) as page:
        page.page.evaluate(AXE.read_text("utf-8"))

        def serious() -> list[str]:
            found = page.page.evaluate("axe.run()")["violations"]
            return [
                f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}"
                for one in found
                if one["impact"] in ("serious", "critical")
            ]

        assert serious() == []
        page.press("?")
        assert serious() == []


def test_an_error_is_told(browser: Any, painting: Running) -> None:
    with opened(browser, painting) as page:
        page.page.route("**/v1/render*", lambda route: route.abort())
        page.press("b", "5")
        page.drag((30, 30), (30, 40))
        until(lambda: "does not answer" in page.status())
        page.page.unroute("**/v1/render*")
        until(lambda: page.status() == "")


@pytest.fixture(scope="module")
def script(browser: Any, painting: Running) -> Iterator[Callable[..., Any]]:
    """Run a function with the page's modules."""
    with opened(browser, painting) as page:

        def run(module: str, body: str, argument: Any = None) -> Any:
            code = f"async (given) => {{ const m = await import('/page/{module}'); {body} }}"
            return page.page.evaluate(code, argument)

        yield run


def test_discs_are_round(script: Callable[..., Any]) -> None:
    rows = script("raster.js", "return Array.from({length: 60}, (_, i) => m.disc(i + 1));")
    for size, spans in enumerate(rows, 1):
        found = np.zeros((size, size), bool)
        for dy, start, end in np.array(spans, int):
            found[dy + size // 2, start + size // 2 : end + size // 2] = True
        middle = np.arange(size) - (size - 1) / 2
        inside = middle[:, None] ** 2 + middle**2 <= (size / 2) ** 2 + 1e-6
        assert np.array_equal(found, inside), size


def test_polygons_against_even_odd(script: Callable[..., Any]) -> None:
    rng = np.random.default_rng(2)
    shapes = [rng.integers(-8, 48, (rng.integers(3, 9), 2)).tolist() for _ in range(40)]
    body = """return given.map((points) => {
        const ids = new Uint8Array(40 * 40);
        m.polygon(40, 40, points, (y, a, b) => ids.fill(1, y * 40 + a, y * 40 + b));
        return [...ids];
    });"""
    y, x = np.mgrid[:40, :40] + 0.0
    for points, found in zip(shapes, script("raster.js", body, shapes), strict=True):
        inside = np.zeros((40, 40), bool)
        near = np.full((40, 40), np.inf)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if y0 != y1:
                crossed = (y0 <= y) != (y1 <= y)
                inside ^= crossed & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
            length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1)
            t = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1)
            near = np.minimum(near, np.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0)))
        mask = np.array(found).reshape(40, 40) == 1
        clear = near > 1  # the outline is drawn, too
        assert np.array_equal(mask[clear], inside[clear])


def test_the_bucket_against_a_search(script: Callable[..., Any]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(8):
        ids = (rng.random((30, 40)) < 0.42).astype(np.uint8)
        start = [int(rng.integers(40)), int(rng.integers(30))]
        body = """const ids = Uint8Array.from(given.ids), out = new Uint8Array(1200);
            m.flood(ids, 40, 30, given.start, (y, a, b) => {
                for (let x = a; x < b; x++) out[y * 40 + x]++;
            });
            return [...out];"""
        argument = {"ids": ids.ravel().tolist(), "start": start}
        found = np.array(script("raster.js", body, argument)).reshape(30, 40)
        expected, todo = np.zeros((30, 40), int), [(start[1], start[0])]
        while todo:
            row, column = todo.pop()
            if not (0 <= row < 30 and 0 <= column < 40) or expected[row, column]:
                continue
            if ids[row, column] == ids[start[1], start[0]]:
                expected[row, column] = 1
                todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        assert np.array_equal(found, expected)  # and each pixel once


def test_any_history_can_be_undone_within_its_memory(script: Callable[..., Any]) -> None:
    body = """
        const { line, flood } = await import('/page/raster.js');
        let seed = 7;
        const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
        const drawing = new m.Drawing(60, 40, 0), before = drawing.ids.join();
        for (let i = 0; i < 60; i++) {
            const stroke = drawing.begin(random(2), random(4) ? random(11) : 255);
            const point = () => [random(80) - 10, random(60) - 10];
            if (stroke.layer === 0 && stroke.id === 255) stroke.id = 11;
            if (random(5)) line(60, 40, point(), point(), 1 + random(9), stroke.span);
            else flood(drawing.ids.slice(), 60, 40, [random(60), random(40)], stroke.span);
            if (random(6)) stroke.commit();
            else stroke.cancel();
        }
        const last = drawing.ids.join();
        while (drawing.undo());
        const first = drawing.ids.join() === before;
        while (drawing.redo());
        const again = drawing.ids.join() === last;
        drawing.history.limit = 50000;
        for (let i = 0; i < 50; i++) {
            const stroke = drawing.begin(0, i % 11);
            line(60, 40, [0, i % 40], [59, 39 - (i % 40)], 5, stroke.span);
            stroke.commit();
        }
        return [first, again, drawing.history.bytes];"""
    first, again, size = script("drawing.js", body)
    assert first and again and 25_000 < size <= 50_000


def test_runs_are_exact(script: Callable[..., Any]) -> None:
    body = "return given.map((ids) => [...m.unpack(m.pack(Uint8Array.from(ids)))]);"
    rng = np.random.default_rng(5)
    cases = [
        [],
        [7],
        [3] * 300,
        rng.integers(0, 2, 500).tolist(),
        rng.integers(0, 256, 99).tolist(),
    ]
    assert script("drawing.js", body, cases) == cases
