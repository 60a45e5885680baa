"""Encrypted attachments: every change of the blob is noticed, and no note harms its reader."""

import os

import attrs
import orjson
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.attachment import (
    MARK,
    PIECE_LEN,
    SEALED_PIECE_LEN,
    TAG_LEN,
    AttachmentCipher,
    AttachmentError,
    AttachmentNote,
    pieces_of,
    safe_name,
)

KEY = bytes(range(32))
NOTE = AttachmentNote(attachment_id="ab-_9", key=KEY, size=70_000, name="räksmörgås.txt", digest=bytes(32))


def sealed_pieces(data: bytes, key: bytes = KEY) -> list[bytes]:
    cipher = AttachmentCipher(key, len(data))
    return [
        cipher.encrypt(number, data[number * PIECE_LEN : (number + 1) * PIECE_LEN])
        for number in range(cipher.pieces)
    ]


def opened(pieces: list[bytes], size: int, key: bytes = KEY) -> bytes:
    cipher = AttachmentCipher(key, size)
    assert len(pieces) == cipher.pieces
    return b"".join(cipher.decrypt(number, piece) for number, piece in enumerate(pieces))


@pytest.mark.parametrize("size", [0, 1, PIECE_LEN - 1, PIECE_LEN, PIECE_LEN + 1, 3 * PIECE_LEN])
def test_a_file_comes_back_and_its_blob_has_the_size_that_the_note_says(size: int) -> None:
    data = os.urandom(size)

    pieces = sealed_pieces(data)

    assert opened(pieces, size) == data
    assert sum(map(len, pieces)) == attrs.evolve(NOTE, size=size).blob_size == size + TAG_LEN * len(pieces)
    assert all(len(piece) == SEALED_PIECE_LEN for piece in pieces[:-1])


def test_the_bytes_are_those_of_the_description() -> None:
    """Put together from RFC 8439 and the words of the module, not from its code."""
    data = b"x" * (PIECE_LEN + 3)
    cipher = ChaCha20Poly1305(blake3(KEY, derive_key_context="commucat attachment v1 encryption").digest())
    last = bytes([1, 0, 0, 0, 0, 0, 0, 0]) + bytes(3) + b"\x01"
    bound = b"commucat:attachment:v1" + bytes([1]) + bytes(7) + b"\x01" + bytes([3, 0, 1]) + bytes(5)

    assert sealed_pieces(data)[1] == cipher.encrypt(last, b"xxx", bound)


def test_pieces_that_are_moved_lost_cut_or_of_another_file_do_not_decrypt() -> None:
    data = os.urandom(3 * PIECE_LEN)
    pieces = sealed_pieces(data)
    cipher = AttachmentCipher(KEY, len(data))

    for number, piece in ((0, pieces[1]), (1, pieces[2]), (2, pieces[1])):
        with pytest.raises(AttachmentError):
            cipher.decrypt(number, piece)
    # Cut off behind a whole piece: the note would have to lie about the size, and that is bound.
    with pytest.raises(AttachmentError):
        opened(pieces[:2], 2 * PIECE_LEN)
    with pytest.raises(AttachmentError):
        cipher.decrypt(2, pieces[2][:-1])
    with pytest.raises(AttachmentError):
        AttachmentCipher(KEY, len(data) + 1).decrypt(0, pieces[0])
    with pytest.raises(AttachmentError):
        AttachmentCipher(bytes(32), len(data)).decrypt(0, pieces[0])


@given(st.integers(0, 8 * 120 - 1))
def test_one_bit_flipped_anywhere_is_noticed(bit: int) -> None:
    [piece] = sealed_pieces(bytes(104))
    broken = bytearray(piece)
    broken[bit // 8] ^= 1 << bit % 8

    with pytest.raises(AttachmentError):
        AttachmentCipher(KEY, 104).decrypt(0, bytes(broken))


def test_a_piece_that_cannot_be_of_this_file_is_the_callers_mistake() -> None:
    cipher = AttachmentCipher(KEY, 10)
    for number, data in ((0, b"short"), (1, b"x"), (-1, b"x")):
        with pytest.raises(ValueError, match="piece"):
            cipher.encrypt(number, data)
    for key, size in ((b"short", 1), (KEY, -1), (KEY, 2**60)):
        with pytest.raises(ValueError, match="a key has 32 bytes"):
            AttachmentCipher(key, size)
    assert pieces_of(0) == 1


# -- notes ---------------------------------------------------------------------------------------------


def test_a_note_comes_back_from_its_text_and_shows_no_key() -> None:
    assert AttachmentNote.from_text(NOTE.to_text()) == NOTE
    assert KEY.hex() not in repr(NOTE)
    assert AttachmentNote.from_text("hello") is None
    assert AttachmentNote.from_text("") is None
    assert AttachmentNote.from_text(NOTE.to_text().removeprefix("\x1e")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ""},
        {"id": "../x"},
        {"id": "a" * 129},
        {"key": "00"},
        {"key": "zz" * 32},
        {"key": 5},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": 2**51},
        {"name": None},
        {"name": "x" * 1025},
        {"blake3": None},
    ],
)
def test_a_note_with_a_wrong_member_is_none(change: dict[str, object]) -> None:
    value = orjson.loads(NOTE.to_text().removeprefix(MARK))

    with pytest.raises(AttachmentError):
        AttachmentNote.from_text(MARK + orjson.dumps(value | change).decode())


@given(st.text())
def test_any_text_is_a_note_an_ordinary_text_or_an_error(text: str) -> None:
    for whole in (text, MARK + text):
        try:
            AttachmentNote.from_text(whole)
        except AttachmentError:
            continue


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\evil.exe", "evil.exe"),
        ("/", "attachment"),
        ("..", "attachment"),
        (".bashrc", "bashrc"),
        ("", "attachment"),
        ("a\x00b\n\x1b[31m.txt", "a_b__[31m.txt"),
        ("invoice\u202egnp.exe", "invoice_gnp.exe"),
        ("räksmörgås.txt", "räksmörgås.txt"),
        ("\ud800.txt", "_.txt"),
        ("x" * 300 + ".tar", "x" * 176 + ".tar"),
        ("é" * 300, "é" * 90),
        ("con:aux|?*.txt", "con_aux___.txt"),
    ],
)
def test_a_name_is_made_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text())
def test_any_name_becomes_one_that_a_file_may_have(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 200
    assert "/" not in safe
    assert not safe.startswith(".")
    assert safe.isprintable() or " " in safe or any(ord(c) > 127 for c in safe)
