"""/metrics, /api/security-stats and /healthz: what they say, and to whom."""

import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from commucat_server.ops.watch import CollectorPauses, LoopLag
from commucat_server.security.admin import AdminAccess, ConfiguredToken
from commucat_storage import StorageUnavailableError
from commucat_storage.bus import BusCounters
from server.api_builders import Api
from server.connect_builders import NOW, Person, Server, running_server
from server.metrics_builders import metrics_of, types, values
from server.rest_builders import api_context

ALICE, BOB = Person(handle="alice"), Person(handle="bob")
CHANNEL = 7
TOKEN = "0123456789abcdef" * 4
# The reference server's names, from its own exposition.
REFERENCE = {
    "commucat_connections_active": "gauge",
    "commucat_frames_ingress": "counter",
    "commucat_frames_egress": "counter",
    "commucat_relay_enqueued": "counter",
    "commucat_security_noise": "counter",
    "commucat_security_pq": "counter",
    "commucat_security_fec_packets": "counter",
    "commucat_multipath_sessions": "counter",
    "commucat_multipath_paths": "gauge",
    "commucat_ice_binding_requests": "counter",
    "commucat_ice_binding_failures": "counter",
    "commucat_censorship_deflections": "counter",
    "commucat_calls_active": "gauge",
    "commucat_calls_total": "counter",
    "commucat_call_voice_frames": "counter",
    "commucat_call_video_frames": "counter",
    "commucat_transport_candidates": "counter",
    "commucat_transport_pairs": "counter",
    "commucat_transport_keepalive": "counter",
    "commucat_federation_outbox_enqueued": "counter",
    "commucat_federation_outbox_delivered": "counter",
    "commucat_federation_inbound_processed": "counter",
    "commucat_federation_inbound_rejected": "counter",
    "commucat_rate_limit_http": "counter",
    "commucat_rate_limit_connect": "counter",
    "commucat_secret_rotations_noise": "counter",
    "commucat_secret_rotations_admin": "counter",
    "commucat_device_rotations": "counter",
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as running:
        yield running


async def test_every_name_of_the_reference_server_is_there_with_its_type(server: Server) -> None:
    found = await types(metrics_of(server))

    assert {name: found.get(name) for name in REFERENCE} == REFERENCE
    assert (await values(metrics_of(server))).keys() >= REFERENCE.keys()


async def test_the_text_is_what_prometheus_reads(server: Server) -> None:
    text = (await metrics_of(server, bus=BusCounters()).exposition()).decode()

    families = {family.name: family for family in text_string_to_metric_families(text)}

    assert all(family.type != "unknown" for family in families.values())
    assert all(family.documentation for family in families.values())
    names = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))


async def test_what_happens_is_counted(server: Server) -> None:
    metrics = metrics_of(server)
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    await server.connect(BOB)
    await alice.message(CHANNEL, b"one")
    await alice.message(CHANNEL + 1, b"nowhere")
    thief = Person(handle="alice", device_id=ALICE.device_id)
    await server.open(thief).handshake()

    seen = await values(metrics)

    assert seen["commucat_connections_active"] == 2
    assert seen['commucat_sessions{mode="binary"}'] == 2
    assert seen['commucat_sessions{mode="websocket"}'] == 0
    assert seen["commucat_security_noise"] == 2
    assert seen["commucat_relay_enqueued"] == 1
    assert seen["commucat_frames_ingress"] == 3
    assert seen['commucat_refusals_total{reason="no_route"}'] == 1
    assert (
        sum(value for name, value in seen.items() if name.startswith("commucat_handshake_failures_total"))
        == 1
    )
    assert seen["commucat_queue_messages"] == 1
    assert seen["commucat_queue_oldest_age_seconds"] == 0
    assert seen["commucat_journal_commit_seconds_count"] > 0
    assert seen["commucat_ready"] == 1
    assert seen["process_resident_memory_bytes"] > 0


async def test_sessions_that_end_are_no_longer_counted(server: Server) -> None:
    alice = await server.connect(ALICE)
    alice.stream.close()
    while await alice.next_frame() is not None:
        pass
    await trio.testing.wait_all_tasks_blocked(0.01)

    assert server.context.counters.sessions == {"binary": 0}


async def test_the_age_of_the_queue_is_reckoned_from_the_oldest_message(server: Server) -> None:
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    bob = await server.connect(BOB)
    bob.stream.lose()
    await trio.testing.wait_all_tasks_blocked(0.01)
    await alice.message(CHANNEL, b"one")

    seen = await values(metrics_of(server, clock=lambda: NOW + 3000.0))

    assert seen["commucat_queue_oldest_age_seconds"] == 3000


async def test_a_store_that_fails_costs_nothing_but_its_own_figures(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(after: int) -> None:
        raise StorageUnavailableError("away")

    monkeypatch.setattr(server.storage, "queue_state", fail)

    seen = await values(metrics_of(server))

    assert "commucat_queue_messages" not in seen
    assert seen["commucat_connections_active"] == 0


async def test_the_samples_of_a_worker_say_which_one_it_is(server: Server) -> None:
    seen = await values(metrics_of(server, worker=2))

    assert all('worker="2"' in name for name in seen)
    assert seen['commucat_sessions{worker="2",mode="sse"}'] == 0


async def test_labels_cannot_break_a_line(server: Server) -> None:
    server.context.counters.refusals['a"b\\c\nd'] = 1

    text = (await metrics_of(server).exposition()).decode()

    assert 'commucat_refusals_total{reason="a\\"b\\\\c\\nd"} 1' in text.splitlines()


async def test_lateness_of_the_event_loop_is_measured(autojump_clock: trio.testing.MockClock) -> None:
    lag = LoopLag()
    with trio.move_on_after(2.2):
        await lag.run()

    assert sum(lag.timings.counts) == 4
    assert lag.timings.longest == 0


async def test_collections_are_timed_while_somebody_looks(nursery: trio.Nursery) -> None:
    pauses = CollectorPauses()
    before = list(gc.callbacks)
    async with trio.open_nursery() as looking:
        looking.start_soon(pauses.run)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        looking.cancel_scope.cancel()
    gc.collect()

    assert sum(pauses.timings[2].counts) == 1
    assert gc.callbacks == before


# -- who may see them -----------------------------------------------------------------------------------

PATHS = ["/metrics", "/api/security-stats"]


def guarded(server: Server, token: str | None = TOKEN, **members: object) -> Api:
    admin = AdminAccess(authority=ConfiguredToken(token), **members)  # type: ignore[arg-type]
    return Api(api_context(server, admin=admin, exposition=metrics_of(server).exposition))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", TOKEN])
async def test_the_administrators_token_opens_them(server: Server, path: str, value: str) -> None:
    answer = await guarded(server).ask("GET", path, ("authorization", value))

    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", f"Bearer {TOKEN[:-1]}"),),
        (("authorization", f"Bearer {TOKEN}0"),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", f"Bearer {TOKEN.upper()}"),),
        (("authorization", "Bearer \xe9\xff"),),
        (("authorization", "x" * 10_000),),
    ],
)
@pytest.mark.parametrize("client", ["192.0.2.1", "127.0.0.1"])
async def test_without_the_token_nobody_sees_them(
    server: Server, path: str, headers: tuple[tuple[str, str], ...], client: str
) -> None:
    answer = await guarded(server).ask("GET", path, *headers, client=client)

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert json.loads(answer.body) == {"type": "about:blank", "title": "Unauthorized", "status": 401}


async def test_a_sessions_token_is_no_administrators(server: Server) -> None:
    alice = await server.connect(ALICE)

    answer = await guarded(server).ask("GET", "/metrics", ("authorization", f"Bearer {alice.token}"))

    assert answer.status == 401


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("bind", "client", "headers", "status"),
    [
        ("127.0.0.1", "127.0.0.1", (), 200),
        ("localhost", "::1", (), 200),
        ("::1", "::1", (), 200),
        ("127.0.0.1", "127.0.0.1", (("x-forwarded-for", "127.0.0.1"),), 403),
        ("127.0.0.1", "127.0.0.1", (("Forwarded", "for=127.0.0.1"),), 403),
        ("127.0.0.1", "127.0.0.1", (("via", "1.1 nginx"),), 403),
        ("127.0.0.1", "192.0.2.1", (), 403),
        ("0.0.0.0", "127.0.0.1", (), 403),
        ("chat.example.org", "127.0.0.1", (), 403),
    ],
)
async def test_without_a_configured_token_only_this_machine_sees_them(
    server: Server, path: str, bind: str, client: str, headers: tuple[tuple[str, str], ...], status: int
) -> None:
    api = guarded(server, None, bind_host=bind)
    lower = tuple((name.lower(), value) for name, value in headers)

    answer = await api.ask("GET", path, *lower, client=client)

    assert answer.status == status
    if status == 403:
        assert "admin.token" in json.loads(answer.body)["detail"]


async def test_everybody_sees_them_where_the_operator_wants_that(server: Server) -> None:
    api = guarded(server, None, bind_host="0.0.0.0", anonymous=True)

    assert (await api.ask("GET", "/metrics")).status == 200


async def test_security_statistics_count_real_handshakes(server: Server) -> None:
    await server.connect(ALICE)

    answer = await guarded(server).ask("GET", "/api/security-stats", ("authorization", TOKEN))

    assert json.loads(answer.body) == {
        "noise_handshakes": 1,
        "pq_handshakes": 0,
        "fec_packets": 0,
        "multipath_sessions": 0,
        "average_paths": 0.0,
        "censorship_deflections": 0,
        "clear_sessions": 0,
    }


async def test_health_tells_of_security_only_who_may_know(server: Server) -> None:
    await server.connect(ALICE)
    api = guarded(server)

    stranger = json.loads((await api.ask("GET", "/healthz")).body)
    administrator = json.loads((await api.ask("GET", "/healthz", ("authorization", TOKEN))).body)

    assert "security" not in stranger
    assert administrator["security"]["noise_handshakes"] == 1
    assert stranger["status"] == "healthy"
    assert stranger["connections"] == 1
    assert stranger["websocket"] == {
        "active_connections": 0,
        "pings_received": 0,
        "pongs_sent": 0,
        "pongs_received": 0,
        "connection_errors": 0,
        "ping_pong_ratio": 0.0,
    }


async def test_answers_are_counted_by_status(server: Server) -> None:
    api = guarded(server)
    await api.ask("GET", "/metrics")
    await api.ask("GET", "/healthz")
    await api.ask("GET", "/nowhere")

    assert server.context.counters.http_requests == 3
    assert server.context.counters.http_answers == {401: 1, 200: 1, 404: 1}
