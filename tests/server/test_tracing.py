"""Trace context of requests, and what log lines of a session have in common."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from commucat_proto import FrameType
from commucat_server.identity.tokens import token_hash
from commucat_server.ops.delivery_log import DeliveryLog
from commucat_server.ops.spans import open_spans
from commucat_server.ops.tracing import TraceContext, log_members, trace_of
from commucat_server.provision import ProvisionError
from server.api_builders import Api
from server.config_builders import load_text
from server.connect_builders import MemoryConnectStream, Person, Server, running_server
from server.rest_builders import api_context

ALICE, BOB = Person(handle="alice"), Person(handle="bob")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"
FOUND = {"trace_id": TRACE, "parent_id": PARENT}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as running:
        yield running


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """Everything that is logged, with what it inherits from its context."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    try:
        yield capture.entries
    finally:
        structlog.configure(**before)


@pytest.mark.parametrize(
    "value", [GOOD, f" {GOOD} ", f"00-{TRACE}-{PARENT}-ff", f"cc-{TRACE}-{PARENT}-00-more"]
)
def test_a_proper_traceparent_is_taken(value: str) -> None:
    assert log_members(trace_of(value)) == FOUND


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("fe", False), ("ff", True)])
def test_whether_the_caller_records_the_trace_is_known(flags: str, sampled: bool) -> None:
    assert trace_of(f"00-{TRACE}-{PARENT}-{flags}") == TraceContext(TRACE, PARENT, sampled)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"{GOOD},{GOOD}",
        f"cc-{TRACE}-{PARENT}-00-" + "x" * 1000,
    ],
)
def test_others_are_ignored(value: str | None) -> None:
    assert trace_of(value) is None
    assert log_members(trace_of(value)) == {}


@given(st.text(max_size=80))
def test_garbage_is_ignored(value: str) -> None:
    assert set(log_members(trace_of(value))) <= {"trace_id", "parent_id"}


async def test_lines_about_a_request_name_its_trace(
    server: Server, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.connect(ALICE)

    async def broken(_: str) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.storage, "load_device", broken)
    api = Api(api_context(server))
    path = f"/api/devices/{ALICE.device_id}/certificate"
    lines.clear()

    await api.ask("GET", path, ("authorization", alice.token), ("traceparent", GOOD))
    await api.ask("GET", path, ("authorization", alice.token), ("traceparent", "garbage"))

    first, second = (line for line in lines if line["event"] == "request failed")
    assert FOUND.items() <= first.items()
    assert "trace_id" not in second


async def test_lines_about_a_session_name_it_as_the_ledger_does(server: Server, lines: list[Any]) -> None:
    stream = MemoryConnectStream()
    stream.headers = {"traceparent": GOOD}
    alice = await server.connect(ALICE, stream=stream)
    alice.stream.write(b"\xff\xff\xff\xff")
    await trio.testing.wait_all_tasks_blocked(0.01)

    about = [
        line
        for line in lines
        if line["event"] in ("handshake established", "session broken", "connection closed")
    ]
    assert [line["event"] for line in about] == [
        "handshake established",
        "session broken",
        "connection closed",
    ]
    for line in about:
        assert line["session_hash"] == token_hash(alice.token)[:16]
        assert line["trace_id"] == TRACE
    [event] = [line for line in lines if line["event"] == "device_key_event"]
    assert (event["device"], event["action"], event["log_level"]) == (ALICE.device_id, "register", "debug")


async def test_a_failed_handshake_is_told_with_its_stage(server: Server, lines: list[Any]) -> None:
    await server.connect(ALICE)
    thief = Person(handle="alice", device_id=ALICE.device_id)
    await server.open(thief).handshake()
    await trio.testing.wait_all_tasks_blocked()

    [failure] = [line for line in lines if line["event"] == "handshake failure"]
    assert (failure["device"], failure["stage"], failure["log_level"]) == (ALICE.device_id, "hello", "debug")


async def test_deliveries_are_told_at_level_debug_only(server: Server, lines: list[Any]) -> None:
    alice, bob = await server.connect(ALICE), await server.connect(BOB)
    await alice.join(7, BOB.device_id)
    log = DeliveryLog(server.context.inbox, server.context.registry)
    await alice.message(7, b"not told")
    log.tell(True)
    await alice.message(7, b"live content")
    bob.stream.lose()
    await trio.testing.wait_all_tasks_blocked(0.01)
    await alice.message(7, b"queued content")
    log.tell(False)
    await alice.message(7, b"not told")

    told = [line for line in lines if line["event"] == "delivered frame"]
    assert [(line["target"], line["relay"], line["frame"]) for line in told] == [
        (BOB.device_id, False, int(FrameType.MSG)),
        (BOB.device_id, True, int(FrameType.MSG)),
    ]
    assert "content" not in repr(told)


async def test_without_a_collector_there_are_no_spans_and_no_library(tmp_path: Path) -> None:
    async with open_spans(load_text(tmp_path, ""), version="1", node="n") as spans:
        with spans.span("x", None) as span:
            span.name("y")
            span.note("a", 1)
            span.fail("z")


async def test_spans_without_the_library_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "commucat_server.ops.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    config = load_text(tmp_path, '[telemetry]\notlp_endpoint = "http://127.0.0.1:4318"\n')
    with pytest.raises(ProvisionError, match=r"pip install 'commucat-server\[telemetry\]'"):
        async with open_spans(config, version="1", node="n"):
            pass
