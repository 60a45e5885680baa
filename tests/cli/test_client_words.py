"""Derived channels, numbers to compare, and what reaches a terminal."""

import json
import os

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from cli.cli_builders import device
from commucat_cli.client import ReceivedMessage, derive_channel, fingerprint, safety_number
from commucat_cli.commands.display import json_line, text_line
from commucat_cli.errors import CliError
from commucat_cli.terminal import MAX_LINE_LEN, LineReader, Output, OutputClosedError, one_line, printable

device_ids = st.text(min_size=1, max_size=20)


def test_the_derived_channel_is_the_documented_one() -> None:
    digest = blake3(b"commucat:channel:v1" + b"\x05\0\0\0alice" + b"\x03\0\0\0bob" + b"\x02\0\0\0").digest()
    expected = 1 + int.from_bytes(digest[:4], "little") % (2**32 - 1)
    assert derive_channel("bob", "alice", 2) == expected


@given(device_ids, device_ids, st.integers(0, 2**32 - 1))
def test_both_devices_derive_the_same_channel(one: str, other: str, attempt: int) -> None:
    channel = derive_channel(one, other, attempt)
    assert channel == derive_channel(other, one, attempt)
    assert 1 <= channel <= 2**32 - 1


def test_another_attempt_is_another_channel() -> None:
    assert len({derive_channel("a", "b", attempt) for attempt in range(16)}) == 16
    assert derive_channel("ab", "c") != derive_channel("a", "bc")


def test_safety_numbers_are_symmetric_and_depend_on_both_keys() -> None:
    alice, bob = ("alice", device(1).public), ("bob", device(2).public)
    number = safety_number(alice, bob)
    assert number == safety_number(bob, alice)
    assert number != safety_number(alice, ("bob", device(3).public))
    assert number != safety_number(alice, ("bo", device(2).public))
    groups = number.split(" ")
    assert len(groups) == 12
    assert all(len(group) == 5 and group.isdigit() for group in groups)
    assert fingerprint(*alice) != fingerprint(*bob)


def message(text: str, sent_at: int = 1_700_000_000_123) -> ReceivedMessage:
    return ReceivedMessage(
        message_id=bytes(range(16)), sender="alice", channel=7, number=3, sent_at=sent_at, text=text
    )


def test_a_message_as_json() -> None:
    assert json.loads(json_line(message("hi\n\x1b[2J"))) == {
        "from": "alice",
        "channel": 7,
        "sequence": 3,
        "id": bytes(range(16)).hex(),
        "sent_at": "2023-11-14T22:13:20.123Z",
        "text": "hi\n\x1b[2J",
    }


@given(st.text())
def test_json_lines_are_one_line_each_and_harmless(text: str) -> None:
    line = json_line(message(text))
    assert json.loads(line)["text"] == text
    assert line.endswith("\n")
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line[:-1])
    assert line.splitlines() == [line[:-1]]


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    shown = text_line(message(text))
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    assert all(line.startswith("    ") for line in shown[:-1].split("\n")[1:])
    assert "\n" not in one_line(text)


def test_characters_that_deceive_are_made_visible() -> None:
    assert printable("a\u202eb\x1b[0m\u2028\r") == "a\\u202eb\\u001b[0m\\u2028\\u000d"
    assert printable("привет 🐈\tx\n") == "привет 🐈\tx\n"


@pytest.mark.parametrize("sent_at", [253_402_300_800_000, 2**63 - 1])
def test_impossible_times_are_shown_as_unknown(sent_at: int) -> None:
    assert json.loads(json_line(message("x", sent_at)))["sent_at"] is None
    assert text_line(message("x", sent_at)).startswith("[?] alice: x")


async def lines_of(data: bytes) -> list[str]:
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    try:
        reader = LineReader(read_end)
        lines = []
        while (line := await reader.next_line()) is not None:
            lines.append(line)
        assert await reader.next_line() is None
        return lines
    finally:
        os.close(read_end)


async def test_lines_of_standard_input() -> None:
    assert await lines_of(b"") == []
    assert await lines_of("one\r\n\n日本\nthree".encode()) == ["one", "", "日本", "three"]


async def test_lines_that_cannot_be_sent_are_named_by_their_number() -> None:
    with pytest.raises(CliError, match=r"line 2 .*not UTF-8"):
        await lines_of(b"good\n\xff\n")


async def test_a_line_that_never_ends_is_not_kept() -> None:
    endless = os.open("/dev/zero", os.O_RDONLY)
    with pytest.raises(CliError, match=f"line 1 .*longer than {MAX_LINE_LEN}"):
        await LineReader(endless).next_line()
    os.close(endless)


async def test_standard_input_that_is_closed_is_an_error() -> None:
    with pytest.raises(CliError, match="cannot be read"):
        await LineReader(-1).next_line()


async def test_output_to_a_reader_that_is_gone() -> None:
    read_end, write_end = os.pipe()
    output = Output(write_end)
    await output.write("привет\n")
    assert os.read(read_end, 100).decode() == "привет\n"
    os.close(read_end)
    with pytest.raises(OutputClosedError):
        await output.write("x")
    os.close(write_end)
