"""What the API takes and gives: formats, parameters, limits, errors, ids."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crn_fast.palette import label_set
from crn_fast.rendering.compose import compose
from crn_fast.serve.settings import Settings
from serving import RAW, Answer, Running, layouts, running
from stub_engine import IMAGES, SIZE, picture

IDS = layouts()[0]


def png(ids: np.ndarray, mode: str = "L") -> bytes:
    stream = BytesIO()
    Image.fromarray(ids).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def post(server: Running, body: bytes, query: str = "", **headers: str) -> Answer:
    given = {"Content-Type": "image/png", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return server.ask("POST", f"/v1/render{query}", body, given)


def error_of(answer: Answer) -> dict[str, Any]:
    """The one line of JSON that every error is."""
    assert answer.body.endswith(b"\n") and answer.body.count(b"\n") == 1
    document = json.loads(answer.body)
    assert document.keys() == {"error", "message", "request_id"}
    assert document["request_id"] == answer.headers["x-request-id"]
    return document


def test_a_png_becomes_a_picture_in_each_format(server: Running) -> None:
    expected = picture(IDS)
    answer = post(server, png(IDS))
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert np.array_equal(np.asarray(Image.open(BytesIO(answer.body))), expected)
    assert post(server, png(IDS), Accept="application/octet-stream").body == expected.tobytes()
    assert post(server, png(IDS), "?format=raw", Accept="image/jpeg").body == expected.tobytes()
    for accept in ("image/jpeg", "text/html;q=0.9, image/jpeg;q=0.8, image/png;q=0.1"):
        jpeg = post(server, png(IDS), Accept=accept)
        assert Image.open(BytesIO(jpeg.body)).format == "JPEG"
    assert post(server, png(IDS), Accept="text/html").status == 406


def test_raw_ids_are_channels(server: Running) -> None:
    assert server.render(IDS).body == picture(IDS).tobytes()
    assert server.render(IDS, f"?height={SIZE[0]}&width={SIZE[1]}").status == 200
    short = server.render(IDS[1:])
    assert short.status == 422
    assert "360 bytes; expected 384 for 16x24" in error_of(short)["message"]
    large = np.repeat(np.repeat(IDS, 2, 0), 2, 1)
    answer = server.render(large, "?height=32&width=48&fit=nearest")
    assert answer.body == picture(IDS).tobytes()


def test_pictures_are_chosen(server: Running) -> None:
    made = np.stack([picture(IDS, k) for k in range(IMAGES)])
    assert server.render(IDS, "?k=2").body == made[2].tobytes()
    answer = server.render(IDS, "?images=3")
    assert answer.body == made.tobytes()
    assert answer.headers["x-pictures"] == "3"
    tall = post(server, png(IDS), "?images=3")
    assert Image.open(BytesIO(tall.body)).size == (SIZE[1], 3 * SIZE[0])
    car = label_set("camvid").names.index("car")
    expected = compose(made, IDS, {car: 2, 0: 1}, 2)
    assert server.render(IDS, "?compose=car=2,sky=1&seam=2").body == expected.tobytes()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?k=3", "the model makes 3"),
        ("?images=4", "the model makes 3"),
        ("?k=0&images=1", "exclude each other"),
        ("?compose=cart=1", "'cart'"),
        ("?compose=car=9", "0 to 2"),
        ("?compose=car", "CLASS=K"),
        ("?quality=0", "?quality='0'"),
        ("?format=gif", "?format='gif'"),
        ("?labels=../../etc/passwd", "label set '../../etc/passwd' is unknown"),
        ("?labels=%2Fetc%2Fpasswd.toml", "is unknown"),
        ("?height=99999", "?height"),
        ("?encoding=color", "raw ids have no colours"),
    ],
)
def test_parameters_that_mean_nothing(server: Running, query: str, says: str) -> None:
    answer = server.render(IDS, query)
    assert answer.status == 422
    assert says in error_of(answer)["message"]


def test_layouts_that_cannot_be_read_are_explained(server: Running) -> None:
    wrong = IDS.copy()
    wrong[3, 5] = 77
    for answer in (server.render(wrong), post(server, png(wrong), "?name=frankfurt.png")):
        assert answer.status == 422
        assert "77 at row 3, column 5" in error_of(answer)["message"]
    assert error_of(answer)["message"].startswith("frankfurt.png: ")
    assert "?unknown=void" in error_of(answer)["message"]
    assert post(server, png(wrong), "?unknown=void").status == 200
    damaged = bytearray(png(IDS))
    damaged[60] ^= 1
    assert "damaged" in error_of(post(server, bytes(damaged)))["message"]
    small = error_of(post(server, png(IDS[:8])))
    assert small["error"] == "mismatch" and "?fit=nearest" in small["message"]
    for body in (b"", b"GIF89a" + bytes(50), b"\xff\xd8\xff" + bytes(50)):
        assert post(server, body).status == 422


def test_a_layout_comes_back_as_it_was_read(server: Running) -> None:
    camvid, cityscapes = label_set("camvid"), label_set("cityscapes")
    road = next(value for value, i in cityscapes.ids.items() if cityscapes.names[i] == "road")
    ids = np.full(SIZE, road, np.uint8)
    path = "/v1/layout?labels=cityscapes&name=a_gtFine_labelIds.png"
    answer = server.ask("POST", path, png(ids), {"Content-Type": "image/png"})
    assert answer.status == 200
    assert set(answer.body) == {camvid.names.index("road")} and len(answer.body) == ids.size
    assert (answer.headers["x-size"], answer.headers["x-encoding"]) == ("16x24", "ids")


def test_a_preview_is_smaller(server: Running) -> None:
    answer = server.render(IDS, "?preview=true")
    assert answer.headers["x-size"] == "8x12"
    assert len(answer.body) == 8 * 12 * 3


def test_types_and_sizes(server: Running) -> None:
    assert post(server, png(IDS), Content_Type="text/plain").status == 415
    assert post(server, png(IDS), Content_Encoding="gzip").status == 415
    with running(max_pixels=300) as small:
        bomb = bytearray(png(IDS))
        bomb[16:24] = (60000).to_bytes(4, "big") * 2
        for body in (png(IDS), bytes(bomb)):
            answer = post(small, body)
            assert answer.status == 413
            assert "300 pixels" in error_of(answer)["message"]
        assert small.render(IDS).status == 413
        limit = Settings(max_pixels=300).max_body
        answer = small.ask("POST", "/v1/render", bytes(limit + 1), RAW)
        assert answer.status == 413
        # Without a Content-Length, what comes is counted.
        chunk = b"%x\r\n" % (limit + 1) + bytes(limit + 1) + b"\r\n0\r\n\r\n"
        head = (
            f"POST /v1/render HTTP/1.1\r\nHost: localhost:{small.port}\r\n"
            "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert small.raw(head.encode() + chunk).startswith(b"HTTP/1.1 413 ")


def test_model_labels_and_health(server: Running) -> None:
    model = json.loads(server.ask("GET", "/v1/model").body)
    assert (model["backend"], model["height"], model["images"]) == ("stub", *SIZE[:1], IMAGES)
    labels = json.loads(server.ask("GET", "/v1/labels").body)
    assert labels["classes"][3] == {
        **{"id": 3, "name": "road", "color": [128, 64, 128], "file_ids": [3]}
    }
    assert server.ask("GET", "/healthz").status == server.ask("GET", "/readyz").status == 200
    assert error_of(server.ask("GET", "/nothing"))["error"] == "not_found"
    assert server.ask("GET", "/v1/render").status == 405


def test_metrics_count(server: Running) -> None:
    before = server.metric('crn_fast_requests_total{route="/v1/render",status="200"}')
    server.render(IDS)
    after = server.metric('crn_fast_requests_total{route="/v1/render",status="200"}')
    assert after == before + 1
    for path in ("/a", "/b", "/c"):
        server.ask("GET", path)
    assert b"/a" not in server.ask("GET", "/metrics").body


@pytest.mark.parametrize(
    ("given", "kept"),
    [("job-7.a_B", True), ("a b", False), ("x" * 65, False), ("<script>", False), ("", False)],
)
def test_request_ids(server: Running, given: str, kept: bool) -> None:
    found = server.ask("GET", "/healthz", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert (found == given) if kept else found.isalnum() and len(found) == 32


def test_the_schema_is_whole(server: Running) -> None:
    schema = json.loads(server.ask("GET", "/openapi.json").body)
    assert schema["openapi"].startswith("3.")
    assert set(schema["paths"]) == {
        *("/v1/render", "/v1/layout", "/v1/labels", "/v1/model"),
        *("/healthz", "/readyz", "/metrics"),
    }
    render = schema["paths"]["/v1/render"]["post"]
    assert set(render["requestBody"]["content"]) == {"image/png", "application/octet-stream"}
    names = {parameter["name"] for parameter in render["parameters"]}
    assert {"k", "images", "compose", "labels", "encoding", "fit", "format"} <= names
    assert {"413", "415", "422", "429", "503", "504"} <= set(render["responses"])


def test_the_schema_is_valid(server: Running) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(json.loads(server.ask("GET", "/openapi.json").body))


def test_pages_come_from_here_alone(server: Running) -> None:
    for path in ("/", "/docs", "/page/main.js", "/page/style.css"):
        answer = server.ask("GET", path)
        assert answer.status == 200, path
        assert b"://" not in answer.body.replace(b"http://www.w3.org/", b""), path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/page/../server.py", "/page/%2e%2e/server.py", "/page//etc/passwd", "/page/"):
        assert server.ask("GET", path).status == 404, path
    with running(ui=False) as plain:
        assert plain.ask("GET", "/").status == 404
