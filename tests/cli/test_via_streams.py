"""Sessions over HTTP/1.1 and by POSTs, against a server that is driven by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing
from trio.testing import MockClock
from wsproto.utilities import generate_accept_token

from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError, UnreachableError
from commucat_cli.transport import (
    H1Client,
    Response,
    SessionStream,
    Timeouts,
    Via,
    running,
    session_stream,
)
from commucat_cli.transport.framed_stream import MODE_HEADER, FramedStream
from commucat_cli.transport.framing import LineFraming
from commucat_cli.transport.posts import POST_LEN, PostedStream
from commucat_cli.transport.stream import Headers
from commucat_cli.transport.tasks import alongside
from commucat_proto import json_text

Handler = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The library's server side of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h11 = h11.Connection(h11.SERVER)

    async def event(self) -> object:
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(bytes(await self.stream.receive_some()))
        return event

    async def send(self, *events: h11.Event) -> None:
        for event in events:
            await self.stream.send_all(self.h11.send(event) or b"")

    async def start(self, mode: str = "", status: int = 200) -> h11.Request:
        """Take a request's head, and begin to answer."""
        request = await self.event()
        assert isinstance(request, h11.Request)
        fields = [(MODE_HEADER, mode)] if mode else []
        await self.send(h11.Response(status_code=status, headers=fields))
        return request

    async def whole(self, status: int, body: bytes = b"", **headers: str) -> h11.Request:
        """Take a whole request, and answer it."""
        request = await self.event()
        assert isinstance(request, h11.Request)
        while not isinstance(await self.event(), h11.EndOfMessage):
            pass
        fields = [("content-length", str(len(body))), *headers.items()]
        await self.send(
            h11.Response(status_code=status, headers=fields), h11.Data(data=body), h11.EndOfMessage()
        )
        return request


@asynccontextmanager
async def client_of(handler: Handler, via: Via = Via.HTTP1) -> AsyncIterator[H1Client]:
    """A client whose every connection is served by ``handler``."""
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.abc.Stream) -> None:
            await handler(Peer(stream))
            await stream.aclose()

        async def dial() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return ours

        failure: Exception | None = None
        try:
            async with running(H1Client(dial, "chat.example:443", via), Timeouts()) as client:
                yield client
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def session_of(handler: Handler, via: Via = Via.HTTP1) -> AsyncIterator[SessionStream]:
    async with client_of(handler, via) as client, session_stream(client, silence=80) as stream:
        yield stream


# -- HTTP/1.1 -------------------------------------------------------------------------------------


async def test_both_sides_stream_at_once_and_the_answer_goes_on_after_our_end() -> None:
    async def echo(peer: Peer) -> None:
        request = await peer.start()
        assert (request.method, request.target) == (b"POST", b"/connect")
        assert dict(request.headers)[b"transfer-encoding"] == b"chunked"
        while isinstance(event := await peer.event(), h11.Data):
            await peer.send(h11.Data(data=bytes(event.data)))
        await peer.send(h11.Data(data=b"last"), h11.EndOfMessage())

    async with session_of(echo) as stream:
        stream.send(b"one")
        assert (await stream.response())[0] == 200
        assert await stream.receive() == b"one"
        queue = [b"two", b"three"]
        stream.fill = lambda: queue.pop(0) if queue else b""
        stream.wake()
        stream.end()
        rest = b""
        while data := await stream.receive():
            rest += data
        assert rest == b"twothreelast"
        assert stream.answers_after_end


async def test_an_answer_that_breaks_off_is_no_end() -> None:
    async def break_off(peer: Peer) -> None:
        await peer.start()
        await peer.send(h11.Data(data=b"half"))

    async with session_of(break_off) as stream:
        assert await stream.receive() == b"half"
        with pytest.raises(ConnectionLostError, match="in the middle of its answer"):
            await stream.receive()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"SSH-2.0-x\r\n\r\n", NotCommuCatError, "does not speak HTTP/1"),
        (b"", ConnectionLostError, "without an answer"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", ConnectionLostError, "broke the"),
    ],
)
async def test_what_speaks_no_http_1(answer: bytes, error: type[CliError], words: str) -> None:
    async def speak(peer: Peer) -> None:
        await peer.event()
        await peer.stream.send_all(answer)

    async with session_of(speak) as stream:
        with pytest.raises(error, match=words):
            await stream.receive()
    async with client_of(speak) as client:
        with pytest.raises(CliError):
            await client.get("/")


async def test_a_kept_connection_that_was_closed_is_replaced_unnoticed() -> None:
    served: list[bytes] = []

    async def once(peer: Peer) -> None:
        served.append((await peer.whole(200, b"{}")).target)

    async with client_of(once) as client:
        for number in range(3):
            response = await client.get(f"/{number}")
            assert (response.status, response.body) == (200, b"{}")
    assert served == [b"/0", b"/1", b"/2"]


async def test_a_connection_is_kept_for_the_next_request() -> None:
    connections = []

    async def twice(peer: Peer) -> None:
        connections.append(peer)
        await peer.whole(200)
        peer.h11.start_next_cycle()
        await peer.whole(404, b"gone")

    async with client_of(twice) as client:
        assert (await client.get("/a")).status == 200
        assert (await client.get("/b")).status == 404
    assert len(connections) == 1


async def test_a_new_connection_that_gives_no_answer_is_an_error() -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.event()

    async with client_of(hang_up) as client:
        with pytest.raises(ConnectionLostError):
            await client.get("/")


async def test_a_refusal_is_read_to_its_end() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.start(status=429)
        await peer.send(h11.Data(data=b"too many"), h11.EndOfMessage())

    async with session_of(refuse, Via.SSE_HTTP1) as stream:
        assert (await stream.response())[0] == 429
        assert await stream.whole_body() == b"too many"


@pytest.mark.parametrize("via", [Via.SSE_HTTP1, Via.LONG_POLL_HTTP1, Via.WEBSOCKET])
async def test_an_answer_in_another_form_is_refused(via: Via) -> None:
    async def plain(peer: Peer) -> None:
        await peer.start("binary")

    async with session_of(plain, via) as stream:
        with pytest.raises(NotCommuCatError, match=f"does not speak {via.form.value}"):
            await stream.response()


async def test_a_silent_server_is_given_up(autojump_clock: MockClock) -> None:
    async def silent(peer: Peer) -> None:
        await peer.start("sse")
        await peer.send(h11.Data(data=b":ready\n\n"))
        await trio.sleep(70)
        await peer.send(h11.Data(data=b":keepalive\n\n"))
        await trio.sleep_forever()

    async with session_of(silent, Via.SSE_HTTP1) as stream:
        with pytest.raises(ConnectionLostError, match="does not answer any more"):
            await stream.receive()
    assert trio.current_time() == pytest.approx(150)


# -- WebSocket ------------------------------------------------------------------------------------


async def switch(peer: Peer, *, honest: bool = True) -> None:
    request = await peer.event()
    assert isinstance(request, h11.Request)
    key = dict(request.headers)[b"sec-websocket-key"]
    accept = generate_accept_token(key) if honest else b"another"
    fields = [("upgrade", "websocket"), ("connection", "upgrade"), (MODE_HEADER, "websocket")]
    head = h11.InformationalResponse(status_code=101, headers=[*fields, ("sec-websocket-accept", accept)])
    await peer.event()
    # The first message follows at once, before anybody can read the head alone.
    await peer.stream.send_all((peer.h11.send(head) or b"") + b"\x82\x02hi")


async def test_an_upgrade_and_what_comes_right_behind_it() -> None:
    async def talk(peer: Peer) -> None:
        await switch(peer)
        data = b""
        while len(data) < (2 + 4 + 4) + (2 + 4):  # head, mask, payload
            data += await peer.stream.receive_some()
        assert data[0] == 0x82
        assert data[10] == 0x88  # our Close, behind all that was queued
        await peer.stream.send_all(b"\x82\x04last\x88\x02\x03\xe8")
        await trio.sleep_forever()

    async with session_of(talk, Via.WEBSOCKET) as stream:
        stream.send(b"mine")
        assert (await stream.response())[0] == 200
        assert await stream.receive() == b"hi"
        stream.end()
        assert await stream.receive() == b"last"
        assert await stream.receive() == b""


async def test_an_upgrade_that_answers_another_request_is_refused() -> None:
    async with session_of(lambda peer: switch(peer, honest=False), Via.WEBSOCKET) as stream:
        with pytest.raises(NotCommuCatError, match="not to our request"):
            await stream.response()


# -- POSTs ----------------------------------------------------------------------------------------


class Down:
    """A response of lines that a test writes."""

    def __init__(self) -> None:
        self.fill: Callable[[], bytes] | None = None
        self.to_client, self._chunks = trio.open_memory_channel[bytes](10)
        self.failure: CliError | None = None
        self.aborted = trio.Event()

    answers_after_end = True

    def wake(self) -> None:
        raise AssertionError("nothing is written to the response's own request")

    def send(self, data: bytes) -> None:
        self.wake()

    def end(self) -> None:
        self.wake()

    def abort(self, failure: CliError | None) -> None:
        self.failure = failure
        self.aborted.set()
        self.to_client.close()

    async def response(self) -> tuple[int, dict[str, str]]:
        return 200, {MODE_HEADER: "long-poll"}

    async def receive(self) -> bytes:
        try:
            return await self._chunks.receive()
        except trio.EndOfChannel:
            if self.failure is not None:
                raise self.failure from None
            return b""

    async def whole_body(self) -> bytes:
        return b""


Answer = Response | CliError


class Poster:
    """Answers POSTs as a test says, 204 by default, and keeps the stream that they make."""

    via = Via.LONG_POLL_POSTS

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.posts: list[tuple[int, bytes]] = []
        self.known = bytearray()

    async def run(self) -> None:
        return

    async def keep_alive(self, interval: float, patience: float) -> None:
        return

    async def get(self, path: str, headers: Headers = ()) -> Response:
        raise AssertionError(path)

    async def request(self, method: str, path: str, headers: Headers = (), body: bytes = b"") -> Response:
        await trio.lowlevel.checkpoint()
        start, _, offset = path.rpartition("=")
        assert (method, start) == ("POST", "/connect?upstream=abc&offset")
        self.posts.append((int(offset), body))
        answer = self._answers.pop(0) if self._answers else Response(status=204, headers={}, body=b"")
        if isinstance(answer, CliError):
            raise answer
        if answer.status == 204:
            assert len(self.known) == int(offset)
            self.known += body
        return answer


def problem(status: int, expected: object = None) -> Response:
    return Response(status=status, headers={}, body=json_text.dumps({"expected": expected}))


@asynccontextmanager
async def posting(poster: Poster) -> AsyncIterator[tuple[PostedStream, Down]]:
    down = Down()
    framing = LineFraming()
    framed = FramedStream(down, Via.LONG_POLL_POSTS.form, framing)
    posted = PostedStream(down, framed, poster, patience=15)  # type: ignore[arg-type]  # the part of it that is used
    framing.on_upstream = posted.announced
    async with alongside(posted.run):
        yield posted, down


async def announce(posted: PostedStream, down: Down) -> None:
    await down.to_client.send(b'{"upstream":"abc"}\n{"data":"aGk="}\n')
    assert await posted.receive() == b"hi"


async def test_nothing_is_posted_before_the_server_has_told_where() -> None:
    poster = Poster()
    async with posting(poster) as (posted, down):
        posted.send(b"early")
        await trio.testing.wait_all_tasks_blocked()
        assert poster.posts == []
        await announce(posted, down)
        await trio.testing.wait_all_tasks_blocked()
        assert poster.posts == [(0, b"early")]


async def test_posts_follow_each_other_and_the_end_closes_the_response() -> None:
    poster = Poster()
    long = bytes(range(256)) * (POST_LEN // 128)
    async with posting(poster) as (posted, down):
        await announce(posted, down)
        posted.send(long)
        queue = [b"filled"]
        posted.fill = lambda: queue.pop() if queue else b""
        posted.end()
        await down.aborted.wait()
        assert await posted.receive() == b""
    assert poster.known == long + b"filled"
    assert [offset for offset, _ in poster.posts] == [0, POST_LEN, 2 * POST_LEN]
    assert not posted.answers_after_end


@pytest.mark.parametrize(
    "trouble",
    [
        UnreachableError("no answer"),
        ConnectionLostError("no answer"),
        problem(429),
        problem(408, 0),
        problem(503),
    ],
)
async def test_a_post_without_a_good_answer_is_repeated(trouble: Answer, autojump_clock: MockClock) -> None:
    poster = Poster(trouble, trouble)
    async with posting(poster) as (posted, down):
        await announce(posted, down)
        posted.send(b"again")
        posted.end()
        await down.aborted.wait()
    assert down.failure is None
    assert poster.posts == [(0, b"again")] * 3


async def test_the_offset_that_the_server_expects_counts(autojump_clock: MockClock) -> None:
    """The first POST got no answer, but half of it had arrived."""
    poster = Poster(ConnectionLostError("no answer"), problem(409, 4))
    poster.known += b"half"
    async with posting(poster) as (posted, down):
        await announce(posted, down)
        posted.send(b"half and half")
        posted.end()
        await down.aborted.wait()
    assert poster.posts == [(0, b"half and half"), (0, b"half and half"), (4, b" and half")]
    assert poster.known == b"half and half"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(404), "ended the session"),
        (problem(400), "answers 400"),
        (problem(409, 99), "byte 99"),
        (problem(409, "x"), "byte -1"),
        (Response(status=409, headers={}, body=b"{"), "byte -1"),
    ],
)
async def test_a_post_that_cannot_be_mended_ends_the_session(answer: Response, words: str) -> None:
    async with posting(Poster(answer)) as (posted, down):
        await announce(posted, down)
        posted.send(b"bytes")
        with pytest.raises(ConnectionLostError, match=words):
            await posted.receive()


async def test_posts_are_not_repeated_for_ever(autojump_clock: MockClock) -> None:
    async with posting(Poster(*[problem(429)] * 1000)) as (posted, down):
        await announce(posted, down)
        posted.send(b"bytes")
        with pytest.raises(ConnectionLostError, match="within 15 s"):
            await posted.receive()
    assert trio.current_time() == pytest.approx(15, abs=0.2)
