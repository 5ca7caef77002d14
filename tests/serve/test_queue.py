"""Batches, refusals, deadlines, and answers that are each one's own."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from crn_fast.serve import api
from serving import RAW, Answer, Running, layouts, running, until
from stub_engine import Stub, picture


def test_no_two_answers_are_crossed() -> None:
    ids = layouts(120)
    with running(Stub(0.01), max_queue=200) as server:

        def work(i: int) -> list[tuple[int, Answer]]:
            return [(j, server.render(ids[j], f"?k={j % 3}")) for j in range(i, 120, 12)]

        answers = [pair for some in server.together(12, work) for pair in some]
        assert len(answers) == 120
        for j, answer in answers:
            assert answer.status == 200
            assert answer.body == picture(ids[j], j % 3).tobytes()
        batches = server.metric("crn_fast_batch_size_count")
        assert batches < 120 == server.metric("crn_fast_batch_size_sum")


def test_a_full_batch_leaves_at_once() -> None:
    ids = layouts(8)
    with running(Stub(0.2), window=0.1) as server:
        server.render(ids[0])  # warm
        since = time.perf_counter()
        server.together(8, lambda i: server.render(ids[i]))
        assert time.perf_counter() - since < 8 * 0.2  # eight alone would take that


def test_max_batch_holds() -> None:
    ids = layouts(6)
    with running(Stub(0.05), max_batch=2) as server:
        server.together(6, lambda i: server.render(ids[i]))
        assert server.metric('crn_fast_batch_size_bucket{le="2.0"}') == server.metric(
            "crn_fast_batch_size_count"
        )


def test_no_more_is_rendered_while_pictures_wait_to_be_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, held = layouts(12), list[int]()
    with running(Stub(0.0), max_batch=1) as server:

        def encode(pictures: np.ndarray, *how: object) -> bytes:
            time.sleep(0.03)
            held.append(len(server.server.queue._made))
            return pictures.tobytes()

        monkeypatch.setattr(api, "_encode", encode)
        answers = server.together(12, lambda i: server.render(ids[i]))
        assert [one.body for one in answers] == [picture(one).tobytes() for one in ids]
        assert 0 < max(held) <= 2


def test_a_full_queue_refuses_with_the_time_to_wait() -> None:
    ids = layouts(12)
    with running(Stub(0.3), max_queue=3, max_batch=1) as server:
        answers = server.together(12, lambda i: server.render(ids[i]))
        refused = [answer for answer in answers if answer.status != 200]
        assert 0 < len(refused) < 12
        for answer in refused:
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
        for i, answer in enumerate(answers):
            if answer.status == 200:
                assert answer.body == picture(ids[i]).tobytes()
        assert server.render(ids[0]).status == 200  # all places are free again


def test_what_is_late_is_told_and_not_rendered() -> None:
    ids = layouts(4)
    with running(Stub(0.5), timeout=0.7, max_batch=1) as server:
        answers = server.together(4, lambda i: server.render(ids[i]))
        assert sorted(answer.status for answer in answers) == [200, 504, 504, 504]
        until(lambda: server.metric("crn_fast_waiting") == 0)
        assert server.metric("crn_fast_batch_size_count") <= 2
        time.sleep(0.5)  # for the one that was being rendered
        assert server.render(ids[0]).body == picture(ids[0]).tobytes()


def test_who_leaves_is_forgotten() -> None:
    ids = layouts(1)[0].tobytes()
    with running(Stub(0.4), max_batch=1) as server:
        head = f"POST /v1/render HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ids)}\r\n"
        request = f"{head}Content-Type: {RAW['Content-Type']}\r\n\r\n".encode() + ids
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
        for client in clients:
            client.sendall(request)
        until(lambda: server.metric("crn_fast_waiting") == 6)
        for client in clients:
            client.close()
        until(lambda: server.metric("crn_fast_waiting") == 0)
        time.sleep(0.5)
        assert server.metric("crn_fast_batch_size_count") <= 1


def test_the_one_and_the_many_are_the_same(server: Running) -> None:
    ids = layouts(1)[0]
    alone = server.render(ids).body
    many = server.together(16, lambda i: server.render(ids).body)
    assert set(many) == {alone}


@pytest.mark.parametrize("part", ["headers", "body", "answer"])
def test_the_slow_are_closed(part: str) -> None:
    with running(Stub(0.0, size=(512, 1024)), client_timeout=0.6) as server:
        body = np.zeros((512, 1024), np.uint8).tobytes()
        head = "POST /v1/render?images=3&format=raw HTTP/1.1\r\nHost: localhost\r\n"
        rest = f"Content-Type: {RAW['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
        clients = []
        for _ in range(30):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.settimeout(5)
            clients.append(client)
        sent = {"headers": head, "body": head + rest, "answer": head + rest}[part].encode()
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                for client in clients:
                    try:
                        client.sendall(b"x" if part != "answer" else b"")
                    except OSError:
                        return

        for client in clients[: 30 if part != "answer" else 4]:
            client.sendall(sent + (body if part == "answer" else b""))
        dripping = threading.Thread(target=drip)
        dripping.start()
        since = time.monotonic()
        connections = server.server._uvicorn.server_state.connections
        until(lambda: server.ask("GET", "/healthz").status == 200 and len(connections) <= 2, 8)
        assert time.monotonic() - since < 5
        stop.set()
        dripping.join()
        for client in clients:
            client.close()
