"""The benchmark counts rightly; how fast anything is does not matter here."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from cli.operator_builders import Operator, operator_in
from commucat_cli.bench.jobs import Ready, ReceiverReport, SenderReport, decode_line, encode_line
from commucat_cli.bench.payload import HEADER_LEN, Tally, make_payloads
from commucat_cli.bench.plan import Plan, Scenario
from commucat_cli.bench.result import Measured, Result
from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, server_process

RUN = bytes(range(8))
OPEN = "[server]\nauto_approve_devices = true\n"


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    return operator_in(tmp_path, monkeypatch)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, OPEN) as process:
        yield process


# -- counting -------------------------------------------------------------------------------------


def tally_of(payloads: list[bytes], messages: int = 5, size: int = 64) -> Tally:
    tally = Tally(RUN, messages, size)
    for payload in payloads:
        tally.take(payload)
    return tally


def counts(tally: Tally) -> tuple[int, int, int, int]:
    return tally.received, tally.duplicates, tally.out_of_order, tally.damaged


def test_all_messages_in_order_are_whole() -> None:
    payloads = make_payloads(RUN, 5, 64)
    assert {len(payload) for payload in payloads} == {64}
    assert len(set(payloads)) == 5
    tally = tally_of(payloads)
    assert counts(tally) == (5, 0, 0, 0)
    assert tally.complete


def test_the_smallest_payload_is_the_header_alone() -> None:
    assert counts(tally_of(make_payloads(RUN, 5, HEADER_LEN), size=HEADER_LEN)) == (5, 0, 0, 0)


def test_a_missing_message_is_seen() -> None:
    payloads = make_payloads(RUN, 5, 64)
    tally = tally_of(payloads[:2] + payloads[3:])
    assert counts(tally) == (4, 0, 0, 0)
    assert not tally.complete


def test_a_message_that_comes_twice_does_not_stand_in_for_a_missing_one() -> None:
    payloads = make_payloads(RUN, 5, 64)
    tally = tally_of([*payloads[:4], payloads[3]])
    assert counts(tally) == (4, 1, 0, 0)
    assert not tally.complete


def test_messages_that_change_places_are_seen() -> None:
    payloads = make_payloads(RUN, 5, 64)
    payloads[1], payloads[2] = payloads[2], payloads[1]
    assert counts(tally_of(payloads)) == (5, 0, 1, 0)


@pytest.mark.parametrize("position", [0, 7, 8, 16, 63])
def test_one_changed_bit_is_seen_wherever_it_is(position: int) -> None:
    payloads = make_payloads(RUN, 5, 64)
    changed = bytearray(payloads[2])
    changed[position] ^= 0x80
    assert counts(tally_of([*payloads[:2], bytes(changed), *payloads[3:]])) == (4, 0, 0, 1)


@pytest.mark.parametrize("payload", [b"", b"short", make_payloads(b"otherrun", 1, 64)[0]])
def test_what_nobody_sent_is_damaged(payload: bytes) -> None:
    assert counts(tally_of([payload])) == (0, 0, 0, 1)


# -- judging --------------------------------------------------------------------------------------

SENT = SenderReport(started=100.0, ended=102.0, acknowledged=10, refused=0, cpu_seconds=0.5, problem=None)
RECEIVED = ReceiverReport(
    started=103.0,
    ended=104.0,
    received=10,
    duplicates=0,
    out_of_order=0,
    damaged=0,
    cpu_seconds=0.25,
    problem=None,
)


def result_of(scenario: Scenario, received: ReceiverReport = RECEIVED, **cpu: float | None) -> Result:
    times: dict[str, float | None] = {"cpu_before": 1.0, "cpu_between": 1.0001, "cpu_after": 1.0003} | cpu
    measured = Measured(
        sender=SENT,
        receiver=received,
        cpu_before=times["cpu_before"],
        cpu_between=times["cpu_between"],
        cpu_after=times["cpu_after"],
    )
    return Result.of(Plan(scenario=scenario, messages=10), measured, limits=None, rss_kib=None)


def test_relay_lasts_from_the_first_message_to_whatever_came_last() -> None:
    figures = result_of(Scenario.RELAY).figures
    assert (figures["seconds"], figures["msg_per_s"]) == (4.0, 2.5)
    assert figures["server_cpu_us_per_msg"] == 30.0


def test_offline_counts_the_time_of_sending_and_of_fetching_but_not_between() -> None:
    figures = result_of(Scenario.OFFLINE).figures
    assert (figures["enqueue_per_s"], figures["drain_per_s"]) == (5.0, 10.0)
    assert (figures["seconds"], figures["msg_per_s"]) == (3.0, 3.3)
    assert (figures["enqueue_cpu_us_per_msg"], figures["drain_cpu_us_per_msg"]) == (10.0, 20.0)


def test_an_unknown_cpu_time_is_null() -> None:
    figures = result_of(Scenario.RELAY, cpu_before=None, cpu_after=None).figures
    assert figures["server_cpu_us_per_msg"] is None


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        ({"received": 9}, "lost"),
        ({"duplicates": 1}, "duplicates"),
        ({"out_of_order": 1}, "out_of_order"),
        ({"damaged": 1}, "damaged"),
    ],
)
def test_every_fault_makes_the_run_a_failure(fault: dict[str, int], field: str) -> None:
    assert result_of(Scenario.RELAY).whole
    result = result_of(Scenario.RELAY, attrs.evolve(RECEIVED, **fault))
    assert not result.whole
    assert result.figures[field] == 1


def test_reports_cross_the_pipe_unchanged() -> None:
    assert decode_line(encode_line(SENT), SenderReport) == SENT
    assert decode_line(encode_line(RECEIVED), ReceiverReport) == RECEIVED
    assert decode_line(encode_line(Ready(devices=["a"])), Ready) == Ready(devices=["a"])


# -- the real thing -------------------------------------------------------------------------------

COMMON = {
    "scenario",
    "messages",
    "receivers",
    "size",
    "window",
    "seconds",
    "msg_per_s",
    "server_cpu_us_per_msg",
    "lost",
    "duplicates",
    "out_of_order",
    "damaged",
    "refused",
    "acknowledged",
    "server_rss_kib",
    "sender_cpu_seconds",
    "receiver_cpu_seconds",
    "cpus",
    "python",
    "sqlite",
    "server_limits",
}
OFFLINE_ONLY = {"enqueue_per_s", "drain_per_s", "enqueue_cpu_us_per_msg", "drain_cpu_us_per_msg"}


@pytest.mark.parametrize(("scenario", "more"), [("relay", {"deliveries_per_s"}), ("offline", OFFLINE_ONLY)])
def test_a_small_run_loses_nothing(scenario: str, more: set[str], operator: Operator) -> None:
    options = ["--messages", "300", "--size", "100", "--window", "50", "--json"]
    code, out, err = operator.run("bench", scenario, *options)
    assert code == 0, out + err
    figures = json.loads(out)
    assert figures.keys() == COMMON | more
    asked = ("scenario", "messages", "size", "window", "receivers")
    assert [figures[name] for name in asked] == [scenario, 300, 100, 50, 1]
    faults = ("lost", "duplicates", "out_of_order", "damaged", "refused")
    assert [figures[name] for name in faults] == [0, 0, 0, 0, 0]
    assert figures["acknowledged"] == 300
    assert figures["seconds"] > 0
    assert figures["server_cpu_us_per_msg"] is not None
    assert figures["server_rss_kib"] > 0
    assert list(operator.home.iterdir()) == [], "everything of the run is in a temporary directory"


@pytest.mark.parametrize("scenario", ["relay", "offline"])
def test_each_of_several_receivers_gets_everything(scenario: str, operator: Operator) -> None:
    code, out, err = operator.run("bench", scenario, "--messages", "100", "--receivers", "3", "--json")
    assert code == 0, out + err
    figures = json.loads(out)
    assert (figures["receivers"], figures["lost"], figures["duplicates"]) == (3, 0, 0)


def test_a_server_that_runs_already_is_used(operator: Operator, server: ServerProcess) -> None:
    target = ["--server", server.url, "--tls-ca", str(server.ca_file)]
    code, out, err = operator.run("bench", "relay", "--messages", "100", *target)
    assert code == 0, out + err
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (shown["lost"], shown["duplicates"]) == ("0", "0")
    assert (shown["server_cpu_us_per_msg"], shown["server_limits"]) == ("unknown", "unknown")
    assert server.running


def test_messages_that_a_full_inbox_refuses_are_lost(
    operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    few = f"{OPEN}[limits]\ninbox_rows = 40\n"
    with server_process(tmp_path_factory.mktemp("small"), few) as server:
        target = ["--server", server.url, "--tls-ca", str(server.ca_file)]
        code, out, _ = operator.run(
            "bench", "offline", "--messages", "100", "--stall", "1", "--json", *target
        )
    assert code == 1
    figures = json.loads(out)
    assert (figures["acknowledged"], figures["refused"], figures["lost"]) == (40, 60, 60)


def test_a_server_that_is_not_there_is_one_line(operator: Operator, server: ServerProcess) -> None:
    ca = str(server.ca_file)
    server.stop()
    code, out, err = operator.run("bench", "relay", "--server", server.url, "--tls-ca", ca)
    assert (code, out) == (1, "")
    assert err.startswith("error: the receiver ended: cannot connect to ")
    assert err.count("\n") == 1


def test_a_terminated_run_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "commucat-cli"), "bench", "relay", "--messages", "10000000", "--size", "16"],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
    )
    with process:
        end = time.monotonic() + DEADLINE
        while not list(tmp_path.glob("*/sender.log")):  # the last file that a run makes
            assert process.poll() is None
            assert time.monotonic() < end
            os.sched_yield()
        processes = [pid for pid in all_processes() if str(tmp_path) in working_directory(pid)]
        assert len(processes) >= 3, "the command itself, server and receiver"
        process.terminate()
        assert process.wait(DEADLINE) == 143
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def all_processes() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdecimal()]


def working_directory(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["relay", "--messages", "0"],
        ["relay", "--size", str(HEADER_LEN - 1)],
        ["offline", "--window", "0"],
        ["relay", "--receivers", "501"],
        ["relay", "--tls-ca", "file.pem"],
        ["relay", "--server", "http://example.org"],
        ["sideways"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], operator: Operator) -> None:
    assert operator.run("bench", *arguments)[0] == 2
