"""A chaos run: its plan comes from the seed alone, and the server keeps its promise."""

import json
from pathlib import Path

import pytest

from cli.chaos_builders import chaos
from commucat_cli.chaos.payload import (
    Message,
    decode_control,
    decode_message,
    encode_control,
    encode_message,
)
from commucat_cli.chaos.plan import NOBODY, DevicePlan, Plan, Strike, confirms, group_of, make_plan
from commucat_cli.chaos.steps import (
    Aside,
    ChangeGroup,
    GroupEvent,
    Join,
    Leave,
    Part,
    Parting,
    Replace,
    Send,
    Slow,
)
from commucat_cli.transport import WAYS
from commucat_proto import FrameType, json_text
from databases.postgres_cluster import run_sql
from databases.postgres_databases import PostgresDatabases


def plan_of(seed: int = 1, devices: int = 8, messages: int = 2000, kills: int = 4) -> Plan:
    return make_plan(seed=seed, devices=devices, messages=messages, kills=kills)


# -- the plan -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan_of() == plan_of()


def test_another_seed_gives_another_plan() -> None:
    assert plan_of(seed=1).devices != plan_of(seed=2).devices
    assert plan_of(seed=1).faults != plan_of(seed=2).faults


@pytest.mark.parametrize(("devices", "messages"), [(2, 1), (2, 7), (8, 2000), (5, 3)])
def test_a_plan_sends_exactly_as_many_messages_as_asked(devices: int, messages: int) -> None:
    plan = plan_of(devices=devices, messages=messages)
    sends = [step for device in plan.devices for step in device.steps if isinstance(step, Send | Aside)]
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
    assert {type(step) for step in steps} == {Send, Aside, Join, Leave, ChangeGroup, Slow, Part, Replace}
    assert {step.event for step in steps if isinstance(step, ChangeGroup)} == set(GroupEvent)
    assert {step.frame for step in steps if isinstance(step, Send)} == {FrameType.MSG, FrameType.KEY_UPDATE}
    assert any(group_of(step.channel) for step in steps if isinstance(step, Send))
    assert {step.how for step in steps if isinstance(step, Part)} == set(Parting)
    assert {step.resume for step in steps if isinstance(step, Part)} == {True, False}
    assert any(NOBODY in step.members for step in steps if isinstance(step, Join))
    assert {device.delivery_ack for device in plan.devices} == {True, False}


def test_sessions_go_every_way_that_can_confirm() -> None:
    for device in plan_of().devices:
        expected = set(WAYS) if device.delivery_ack else {way for way in WAYS if confirms(way)}
        assert (set(device.ways), len(device.ways)) == (expected, len(expected))
    assert len({device.ways for device in plan_of().devices}) > 1


def test_groups_stay_within_a_domain_and_routes_do_not() -> None:
    plan = make_plan(seed=1, devices=8, messages=2000, kills=4, domains=2)
    home = {device.name: device.domain for device in plan.devices}
    assert list(home.values()) == [0, 1] * 4

    def meant(device: DevicePlan, kind: type[Join | ChangeGroup]) -> set[int]:
        named: set[str] = set()
        for step in device.steps:
            if isinstance(step, kind):
                named.update(step.members if isinstance(step, Join) else step.devices)
        return {home[name] for name in named - {NOBODY}}

    assert all(meant(device, ChangeGroup) == {device.domain} for device in plan.devices)
    assert any(meant(device, Join) == {0, 1} for device in plan.devices)
    sends = [step for device in plan.devices for step in device.steps if isinstance(step, Send | Aside)]
    assert sum(len(send.sizes) for send in sends) == 2000


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


@pytest.mark.parametrize("size", [0, 500])
def test_a_frame_of_json_says_which_message_it_is(size: int) -> None:
    message = Message("chaos-03", 1002, 7, "00112233445566ff")
    value = json_text.loads(encode_control(message, {"group_id": "g"}, size))
    assert isinstance(value, dict)
    assert value["group_id"] == "g"
    assert decode_control({**value, "by": "chaos-03"}) == message
    assert decode_control({**value, "padding": value["padding"] + "x"}) is None


@pytest.mark.parametrize("value", [None, [], {}, {"chaos": {}}, {"chaos": {"id": "x"}, "padding": ""}])
def test_json_that_no_client_has_made_is_nobodys(value: object) -> None:
    assert decode_control(value) is None


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
    assert figures["group_changes"] > 0
    assert figures["notices"] > 0
    assert list(tmp_path.iterdir()) == []


def test_several_runs_are_summed_up(tmp_path: Path) -> None:
    arguments = ("--devices", "2", "--messages", "30", "--kills", "0", "--runs", "2", "--seed", "7")
    result = chaos(tmp_path, *arguments, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert (figures["seed"], figures["runs"], figures["messages"], figures["stops"]) == (7, 2, 60, 2)
    assert figures["holds"]
    assert (figures["failed_seeds"], figures["faults"]) == ([], [])


def test_the_promise_holds_on_postgresql(tmp_path: Path, postgres_databases: PostgresDatabases) -> None:
    dsn = postgres_databases.empty()
    size = ("--devices", "4", "--messages", "300", "--kills", "2")
    result = chaos(tmp_path, *size, "--duration-limit", "200", "--dsn", dsn, "--json")

    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["holds"]
    assert (figures["kills"], figures["full_disks"]) == (2, 0)
    assert figures["acknowledged"] > 0
    assert int(run_sql(dsn, "SELECT count(*) FROM devices")) == 4


def test_the_promise_holds_on_three_nodes_of_which_some_are_killed(
    tmp_path: Path, postgres_databases: PostgresDatabases
) -> None:
    dsn = postgres_databases.empty()
    size = ("--devices", "6", "--messages", "400", "--kills", "3", "--nodes", "3")
    result = chaos(tmp_path, *size, "--duration-limit", "300", "--dsn", dsn, "--json")

    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads(result.stdout)
    assert figures["holds"]
    assert (figures["nodes"], figures["kills"], figures["lost"]) == (3, 3, 0)
    assert figures["delivered"] > 0
    # Every device was connected, and its session given a claim, at one node after another.
    assert int(run_sql(dsn, "SELECT min(owner_claim) FROM inbox_offset")) > 1


def test_several_nodes_need_a_database(tmp_path: Path) -> None:
    result = chaos(tmp_path, "--nodes", "2")

    assert result.returncode == 2
    assert "add --dsn URL" in result.stderr


def test_a_run_that_does_not_end_in_time_has_failed(tmp_path: Path) -> None:
    result = chaos(tmp_path, "--messages", "1000000", "--kills", "0", "--seed", "5", "--duration-limit", "4")
    assert result.returncode == 1
    assert "of 1000000 messages finished within 4 s" in result.stderr
    assert "seed" in result.stdout
