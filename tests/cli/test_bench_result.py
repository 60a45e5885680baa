"""How runs become one result: nothing that went wrong may disappear in a median."""

import json

import attrs
import pytest

from cli.bench_builders import FAULTS, effort, load_of, receiver_report, sender_report
from commucat_cli.bench.child import ChildError
from commucat_cli.bench.crew import Exchange, shares
from commucat_cli.bench.jobs import (
    Ready,
    ReceiverReport,
    SenderReport,
    decode_line,
    encode_line,
)
from commucat_cli.bench.open_files import allow
from commucat_cli.bench.result import ClientUse, Faults, Figure, Result, Run
from commucat_cli.bench.scenarios import Churn, Connect, Fanout, Idle, Latency, Offline, Relay
from commucat_cli.bench.scenarios.outcome import clients_of, exchange_faults
from commucat_cli.bench.scenarios.relay import relay_figures
from commucat_cli.errors import CliError


def run_of(faults: Faults | None = None, **figures: Figure) -> Run:
    return Run(figures=figures, faults=faults or Faults(), acknowledged=10, refused=1)


def figures_of(*runs: Run) -> dict[str, object]:
    return Result.of(Relay(), runs, None).figures


def exchange_of(*receivers: ReceiverReport, cpu: float | None = 0.0003) -> Exchange:
    return Exchange(load=load_of(10), sender=sender_report(), receivers=list(receivers), server_cpu=cpu)


def test_relay_lasts_from_the_first_message_to_whatever_came_last() -> None:
    figures = relay_figures(Relay(messages=10), exchange_of(receiver_report()))
    assert (figures["seconds"], figures["msg_per_s"]) == (4.0, 2.5)
    assert figures["server_cpu_us_per_msg"] == 30.0


def test_an_unknown_cpu_time_is_null() -> None:
    figures = relay_figures(Relay(messages=10), exchange_of(receiver_report(), cpu=None))
    assert figures["server_cpu_us_per_msg"] is None


def test_the_last_process_decides_when_a_message_has_arrived() -> None:
    exchange = exchange_of(
        receiver_report(arrivals=[1.0, 2.0, 0.0]), receiver_report(arrivals=[3.0, 1.0, 4.0])
    )
    assert exchange.arrivals == [3.0, 2.0, 0.0], "0: somebody never got it"


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        ({"received": 9}, "lost"),
        ({"duplicates": 1}, "duplicates"),
        ({"out_of_order": 1}, "out_of_order"),
        ({"damaged": 1}, "damaged"),
    ],
)
def test_every_fault_of_any_run_makes_a_failure(fault: dict[str, int], field: str) -> None:
    good = Run(figures={}, faults=exchange_faults(exchange_of(receiver_report()), 1))
    bad = Run(figures={}, faults=exchange_faults(exchange_of(receiver_report(**fault)), 1))
    assert Result.of(Relay(), [good, good], None).whole
    result = Result.of(Relay(), [good, good, bad], None)
    assert not result.whole
    assert {name: result.figures[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0) | {field: 1}


def test_a_message_of_which_the_sender_never_heard_makes_a_failure() -> None:
    exchange = attrs.evolve(exchange_of(receiver_report()), sender=sender_report(acknowledged=8, refused=1))
    result = Result.of(Relay(), [Run(figures={}, faults=exchange_faults(exchange, 1))], None)
    assert not result.whole
    assert result.figures["unanswered"] == 1


def test_runs_are_reported_by_median_and_range() -> None:
    figures = figures_of(*(run_of(speed=speed) for speed in (30.0, 10.0, 20.0)))
    assert (figures["runs"], figures["speed"]) == (3, 20.0)
    assert figures["range"] == {"speed": [10.0, 30.0]}
    assert (figures["acknowledged"], figures["refused"]) == (30, 3)


def test_lists_have_a_median_for_each_place_and_unknown_stays_unknown() -> None:
    figures = figures_of(run_of(parts=[1.0, 5.0], cpu=None), run_of(parts=[3.0, 5.0], cpu=None))
    assert (figures["parts"], figures["cpu"], figures["range"]) == ([2.0, 5.0], None, {})


def test_a_busy_client_is_named_even_if_it_was_busy_in_one_run_only() -> None:
    busy = sender_report(effort=effort(0.0, 2.0, 1.9))
    runs = [
        attrs.evolve(run_of(), clients=clients_of(sender, [receiver_report()]))
        for sender in (sender_report(), busy)
    ]
    figures = figures_of(*runs)
    [warning] = figures["warnings"]  # type: ignore[misc]
    assert warning.startswith("client-bound: sender used 95% of a core")


def test_a_task_that_took_no_time_used_no_core() -> None:
    assert ClientUse.of("sender", effort(1.0, 1.0, 0.1)).busy == 0.0


def test_reports_cross_the_pipe_unchanged() -> None:
    for value in (sender_report(), receiver_report(), Ready(devices=["a"])):
        kind = type(value)
        assert decode_line(encode_line(value), kind) == value
    assert {SenderReport, ReceiverReport} == {type(sender_report()), type(receiver_report())}


@pytest.mark.parametrize("plan", [Relay(), Offline(), Latency(), Connect(), Idle(), Fanout(), Churn()])
def test_options_are_repeated_by_name(plan: Relay) -> None:
    asked = plan.asked()
    assert asked
    assert not asked.keys() & {"runs", "server", "tls_ca", "stall"}
    assert json.loads(json.dumps(asked)) == asked


def test_work_is_shared_without_a_rest() -> None:
    assert shares(10, 3) == [4, 3, 3]
    assert shares(2, 5) == [1, 1]


def test_a_rate_that_needs_too_much_memory_is_refused() -> None:
    with pytest.raises(CliError, match="1000000 is the most"):
        Latency(rate=100_000.0, duration=3600.0)


def test_more_sessions_than_files_is_one_clear_line() -> None:
    with pytest.raises(ChildError, match=r"sessions need \d+ open files in one process, and the hard limit"):
        allow(2**40)
