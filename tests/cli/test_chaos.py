"""A chaos run: its plan comes from the seed alone, and the server keeps its promise."""

import json
import subprocess
from pathlib import Path

import pytest

from commucat_cli.chaos.payload import Message, decode_message, encode_message
from commucat_cli.chaos.plan import (
    NOBODY,
    Join,
    Leave,
    Part,
    Parting,
    Plan,
    Replace,
    Send,
    Slow,
    Strike,
    make_plan,
)
from end_to_end.server_process import BIN, clean_environment

PATIENCE = 240.0
"""Seconds for a run; only a hang takes so long."""


def plan_of(seed: int = 1, devices: int = 8, messages: int = 2000, kills: int = 4) -> Plan:
    return make_plan(seed=seed, devices=devices, messages=messages, kills=kills)


def chaos(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "commucat-cli"), "chaos", *arguments],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# -- the plan -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan_of() == plan_of()


def test_another_seed_gives_another_plan() -> None:
    assert plan_of(seed=1).devices != plan_of(seed=2).devices
    assert plan_of(seed=1).faults != plan_of(seed=2).faults


@pytest.mark.parametrize(("devices", "messages"), [(2, 1), (2, 7), (8, 2000), (5, 3)])
def test_a_plan_sends_exactly_as_many_messages_as_asked(devices: int, messages: int) -> None:
    plan = plan_of(devices=devices, messages=messages)
    sends = [step for device in plan.devices for step in device.steps if isinstance(step, Send)]
    assert sum(len(send.sizes) for send in sends) == messages
    assert len(plan.devices) == devices


@pytest.mark.parametrize("kills", [0, 4, 9])
def test_a_plan_kills_as_often_as_asked_and_does_the_rest_too(kills: int) -> None:
    faults = plan_of(kills=kills).faults
    strikes = [fault.strike for fault in faults]
    assert strikes.count(Strike.KILL) == kills
    assert Strike.STOP in strikes
    assert Strike.FULL_DISK in strikes
    assert [fault.after for fault in faults] == sorted(fault.after for fault in faults)
    assert all(1 <= fault.after <= 2000 for fault in faults)


def test_a_plan_of_the_usual_size_has_everything_in_it() -> None:
    plan = plan_of()
    steps = [step for device in plan.devices for step in device.steps]
    assert {type(step) for step in steps} == {Send, Join, Leave, Slow, Part, Replace}
    assert {step.how for step in steps if isinstance(step, Part)} == set(Parting)
    assert {step.resume for step in steps if isinstance(step, Part)} == {True, False}
    assert any(NOBODY in step.members for step in steps if isinstance(step, Join))
    assert {device.delivery_ack for device in plan.devices} == {True, False}


# -- the payload ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 64, 20_000])
def test_a_payload_says_which_message_it_is(size: int) -> None:
    message = Message("chaos-03", 42, 7, "00112233445566ff")
    payload = encode_message(message, size)
    assert decode_message(payload) == message
    assert len(payload) >= size
    assert size < 64 or len(payload) == size


@pytest.mark.parametrize("position", [0, 6, 22, 40, 99])
def test_a_payload_with_one_changed_bit_is_nobodys(position: int) -> None:
    payload = bytearray(encode_message(Message("chaos-03", 42, 7, "00112233445566ff"), 100))
    payload[position] ^= 1
    assert decode_message(bytes(payload)) is None


@pytest.mark.parametrize("payload", [b"", b"chaos1", b"hello", b"chaos1" + bytes(100)])
def test_what_no_client_has_made_is_nobodys(payload: bytes) -> None:
    assert decode_message(payload) is None


# -- the run --------------------------------------------------------------------------------------


def test_the_server_keeps_its_promise(tmp_path: Path) -> None:
    """The seed is drawn anew every time and stands in the output: that is what a failure is repeated with."""
    result = chaos(tmp_path, "--messages", "500", "--kills", "2", "--duration-limit", "200", "--json")
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["holds"]
    assert (figures["kills"], figures["stops"], figures["full_disks"]) == (2, 2, 1)
    assert figures["faults"] == []
    for fault in ("lost", "invented", "out_of_order", "duplicates", "renumbered", "excluded"):
        assert figures[fault] == 0
    assert 0 < figures["acknowledged"] <= 500
    assert figures["delivered"] >= figures["acknowledged"]
    assert figures["reconnects"] > 0
    assert figures["server_limits"]["inbox_rows"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_end_in_time_has_failed(tmp_path: Path) -> None:
    result = chaos(tmp_path, "--messages", "1000000", "--kills", "0", "--seed", "5", "--duration-limit", "4")
    assert result.returncode == 1
    assert "of 1000000 messages finished within 4 s" in result.stderr
    assert "seed" in result.stdout
