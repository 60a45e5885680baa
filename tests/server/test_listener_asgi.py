"""The bridge to ASGI: a tiny application, and a real Litestar one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h2.events
import orjson
import pytest
import structlog.testing
import trio
import trio.testing
from litestar import Litestar, Request, get, post
from litestar.params import JSONBody
from litestar.response import Stream

from commucat_server.listener import LifespanError, ListenerSettings, asgi_lifespan
from server.listener_builders import LOCAL, REMOTE, echo, served

TOO_LARGE = {
    "type": "about:blank",
    "title": "BadRequest",
    "status": 400,
    "detail": "request body too large (max 1 MB)",
}
FAILED = {
    "type": "about:blank",
    "title": "InternalError",
    "status": 500,
    "detail": "internal server error",
}


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            return body


async def respond(send: Any, body: bytes, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def test_scope_describes_the_request() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await respond(send, b"")

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app, state={"answer": 42}) as test:
            headers = [("accept", "*/*"), ("cookie", "a=1"), ("cookie", "b=2")]
            stream_id = await test.peer.request(
                "/a%20b/%C3%A9?q=%20", method="GET", headers=headers, end=True
            )
            await test.peer.answer(stream_id)
    assert logs == []
    [scope] = scopes
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": "GET",
        "scheme": "https",
        "path": "/a b/é",
        "raw_path": b"/a%20b/%C3%A9",
        "query_string": b"q=%20",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"accept", b"*/*"), (b"cookie", b"a=1; b=2")],
        "client": REMOTE,
        "server": LOCAL,
        "state": {"answer": 42},
    }


async def test_bodies_stream_both_ways() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"X-Kind", b"echo")]})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/echo")
        await test.peer.send(stream_id, b"first")
        await test.peer.until(lambda: test.peer.body(stream_id) == b"first")
        await test.peer.send(stream_id, b"x" * 2_000_000, end=True)
        status, headers, body = await test.peer.answer(stream_id)
    assert (status, headers["x-kind"]) == (201, "echo")
    assert body == b"first" + b"x" * 2_000_000


async def test_head_has_no_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"hello", headers=[(b"content-length", b"5")])

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/", method="HEAD", end=True)
        status, headers, body = await test.peer.answer(stream_id)
    assert (status, headers["content-length"], body) == (200, "5", b"")


async def test_the_rest_of_an_answer_to_head_is_not_asked_for() -> None:
    """It may be a long file, and nobody would get it."""
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"500")]})
        for number in range(500):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent.append(number)

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app) as test:
            stream_id = await test.peer.request("/", method="HEAD", end=True)
            status, headers, body = await test.peer.answer(stream_id)
    assert (status, headers["content-length"], body) == (200, "500", b"")
    assert sent == []
    assert logs == []


async def test_a_body_is_taken_no_faster_than_the_application_reads() -> None:
    """What it has not read waits with the client, not in our memory."""
    received = 0
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        while True:
            message = await receive()
            received += len(message["body"])
            if not go_on.is_set():
                await go_on.wait()
            if not message["more_body"]:
                return await respond(send, b"")

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: test.peer.send(stream_id, bytes(900_000), end=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert received < 400_000
            window = test.peer.protocol.local_flow_control_window(stream_id)
            assert window < 400_000
            go_on.set()
        assert (await test.peer.answer(stream_id))[0] == 200
    assert received == 900_000


@pytest.mark.parametrize("status", [204, 304])
async def test_bodiless_statuses_have_no_body(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"must not be sent", status)

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/", end=True)
        answer = await test.peer.answer(stream_id)
    assert (answer[0], answer[2]) == (status, b"")


@pytest.mark.parametrize("announced", [True, False])
async def test_body_above_the_limit_is_refused(announced: bool) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await read_body(receive)
        finally:
            ended.append("cancelled")

    size = 1024 * 1024 + 1
    headers = [("content-length", str(size))] if announced else []
    async with served(echo, app, settings=ListenerSettings(max_body=1024 * 1024)) as test:
        stream_id = await test.peer.request("/", headers=headers)
        if not announced:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(test.peer.send, stream_id, b"x" * size)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        status, answer, body = await test.peer.answer(stream_id)
        await test.peer.until_reset(stream_id)
    assert (status, answer["content-type"], answer["cache-control"]) == (
        400,
        "application/problem+json",
        "no-store",
    )
    assert orjson.loads(body) == TOO_LARGE
    assert ended == ([] if announced else ["cancelled"])


async def test_body_of_exactly_the_limit_is_taken() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"%d" % len(await read_body(receive)))

    async with served(echo, app, settings=ListenerSettings(max_body=100_000)) as test:
        stream_id = await test.peer.request("/")
        await test.peer.send(stream_id, b"x" * 100_000, end=True)
        assert (await test.peer.answer(stream_id))[2] == b"100000"


async def test_failure_before_the_answer_is_a_problem_document() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("broken on purpose")

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app) as test:
            stream_id = await test.peer.request("/", end=True)
            status, headers, body = await test.peer.answer(stream_id)
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert orjson.loads(body) == FAILED
    assert [(entry["event"], entry["path"]) for entry in logs] == [("request failed", "/")]


async def test_failure_within_the_answer_is_a_reset() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("broken on purpose")

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app) as test:
            stream_id = await test.peer.request("/", end=True)
            await test.peer.until_reset(stream_id)
            other = await test.peer.request("/connect", end=True)
            assert (await test.peer.answer(other))[0] == 200
    assert [entry["event"] for entry in logs] == ["request failed"]


@pytest.mark.parametrize("started", [False, True])
async def test_incomplete_answer_is_reported(started: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app) as test:
            stream_id = await test.peer.request("/", end=True)
            if started:
                await test.peer.until_reset(stream_id)
            else:
                assert orjson.loads((await test.peer.answer(stream_id))[2]) == FAILED
    assert [entry["event"] for entry in logs] == ["request not answered to its end"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.body"}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.start", "status": 200}],
        [{"type": "websocket.accept"}],
    ],
)
async def test_messages_out_of_turn_are_the_applications_fault(messages: list[dict[str, Any]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app) as test:
            stream_id = await test.peer.request("/", end=True)
            assert (await test.peer.answer(stream_id))[0] == 500
    assert [entry["event"] for entry in logs] == ["request failed"]


async def test_application_is_told_that_the_peer_left() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        seen.append((await receive())["type"])

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/", end=True)
        await trio.testing.wait_all_tasks_blocked()
        test.peer.protocol.reset_stream(stream_id)
        await test.peer.flush()
        await trio.testing.wait_all_tasks_blocked()
    assert seen == ["http.disconnect"]


async def test_peer_that_leaves_within_its_body_is_a_disconnect() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([(await receive())["type"], (await receive())["type"]])

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/")
        await test.peer.send(stream_id, b"half")
    assert seen == ["http.request", "http.disconnect"]


async def test_endless_answer_ends_with_its_peer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app) as test:
            stream_id = await test.peer.request("/", end=True)
            await test.peer.until(lambda: len(test.peer.body(stream_id)) > 1_000_000)
            test.peer.protocol.reset_stream(stream_id)
            await test.peer.flush()
            await test.peer.until(lambda: not test.connection._streams)
    assert logs == []


async def test_disconnect_follows_the_complete_answer() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                seen.append((await receive())["type"])

            nursery.start_soon(listen)
            await respond(send, b"done")

    async with served(echo, app) as test:
        stream_id = await test.peer.request("/", end=True)
        assert (await test.peer.answer(stream_id))[2] == b"done"
        await trio.testing.wait_all_tasks_blocked()
    assert seen == ["http.disconnect"]


async def test_head_and_body_leave_in_one_write() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"hello")

    async with served(echo, app) as test:
        await test.peer.request("/", end=True)
        await trio.testing.wait_all_tasks_blocked()
        await test.peer.read()
        assert test.peer.count(h2.events.ResponseReceived) == test.peer.count(h2.events.StreamEnded) == 1


@pytest.mark.parametrize("started", [False, True])
async def test_body_that_stalls_is_given_up(started: bool, autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"early", "more_body": True})
        await read_body(receive)

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app, settings=ListenerSettings(stall_timeout=5)) as test:
            stream_id = await test.peer.request("/")
            await trio.sleep(4)
            await test.peer.send(stream_id, b"a step forward")
            if started:
                await test.peer.until_reset(stream_id)
            else:
                assert (await test.peer.answer(stream_id))[0] == 408
    assert trio.current_time() == 9
    assert logs == []


async def test_answer_that_nobody_reads_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    with structlog.testing.capture_logs() as logs:
        async with served(echo, app, settings=ListenerSettings(stall_timeout=5)) as test:
            test.peer.reads_bodies = False
            stream_id = await test.peer.request("/", end=True)
            await test.peer.until_reset(stream_id)
    assert trio.current_time() == 5
    assert logs == []


# Lifespan


async def test_lifespan_brackets_the_block_and_keeps_state() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        told.append((await receive())["type"])
        scope["state"]["pool"] = "open"
        await send({"type": "lifespan.startup.complete"})
        told.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    async with asgi_lifespan(app) as state:
        assert state == {"pool": "open"}
        assert told == ["lifespan.startup"]
    assert told == ["lifespan.startup", "lifespan.shutdown"]


async def test_application_without_lifespan_is_served_anyway() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    with structlog.testing.capture_logs() as logs:
        async with asgi_lifespan(app) as state:
            assert state == {}
    assert [entry["event"] for entry in logs] == ["the application has no lifespan"]


@pytest.mark.parametrize("polite", [True, False])
async def test_failed_startup_keeps_the_server_from_starting(polite: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if not polite:
            raise RuntimeError("no database")
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(LifespanError, match="no database"):
        async with asgi_lifespan(app):
            raise AssertionError("must not be reached")


async def test_failed_shutdown_is_reported() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise RuntimeError("cannot close")

    with pytest.raises(LifespanError, match="cannot close"):
        async with asgi_lifespan(app):
            pass


# Litestar


@attrs.frozen(kw_only=True)
class Greeting:
    name: str
    times: int


@post("/greet")
async def greet(data: JSONBody[Greeting]) -> dict[str, str]:
    return {"text": ", ".join([data.name] * data.times)}


@get("/stream")
async def stream_numbers() -> Stream:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(100):
            await trio.lowlevel.checkpoint()
            yield b"%d\n" % number

    return Stream(numbers())


@get("/client")
async def client(request: Request[Any, Any, Any]) -> dict[str, Any]:
    assert request.client is not None
    return {"host": request.client.host, "token": request.headers.get("authorization")}


@get("/broken")
async def broken() -> None:
    raise ValueError("broken on purpose")


@asynccontextmanager
async def pool(app: Litestar) -> AsyncIterator[None]:
    app.state.pool = "open"
    yield
    app.state.pool = "closed"


async def test_litestar_runs_behind_the_listener() -> None:
    app = Litestar([greet, stream_numbers, client, broken], lifespan=[pool])
    async with asgi_lifespan(app) as state, served(echo, app, state=state) as test:
        assert app.state.pool == "open"
        peer = test.peer

        stream_id = await peer.request("/greet", headers=[("content-type", "application/json")])
        await peer.send(stream_id, b'{"name": "cat", "times": 2}', end=True)
        status, _, body = await peer.answer(stream_id)
        assert (status, orjson.loads(body)) == (201, {"text": "cat, cat"})

        stream_id = await peer.request("/greet", headers=[("content-type", "application/json")])
        await peer.send(stream_id, b'{"name": "cat"}', end=True)
        assert (await peer.answer(stream_id))[0] == 400

        stream_id = await peer.request("/stream", method="GET", end=True)
        assert (await peer.answer(stream_id))[2].split() == [b"%d" % number for number in range(100)]

        stream_id = await peer.request(
            "/client", method="GET", headers=[("authorization", "Bearer x")], end=True
        )
        answer = orjson.loads((await peer.answer(stream_id))[2])
        assert answer == {"host": REMOTE[0], "token": "Bearer x"}

        stream_id = await peer.request("/nowhere", method="GET", end=True)
        assert (await peer.answer(stream_id))[0] == 404

        stream_id = await peer.request("/broken", method="GET", end=True)
        assert (await peer.answer(stream_id))[0] == 500
    assert app.state.pool == "closed"
