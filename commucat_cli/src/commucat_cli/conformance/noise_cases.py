"""Runs the CCP-1 test vectors for Noise handshakes and transport messages."""

import hashlib
from typing import TypeVar

from commucat_crypto import NoiseHandshake, NoisePattern, NoiseTransport, StaticKeyPair

from .crypto_expectations import Case, expect, expect_error, expect_hex, require_fields

Side = TypeVar("Side", NoiseHandshake, NoiseTransport)


def run_noise(document: Case, case: Case) -> None:
    """Whole transcripts with transport messages; or one message that its reader must refuse."""
    if case["valid"] is True:
        _run_transcript(case)
        return
    require_fields(
        case,
        "valid based_on message_index message_hex error",
        "reader_prologue_hex reader_static_private_hex",
    )
    expect("valid", case["valid"], False)
    [base] = [other for other in document["cases"] if other["name"] == case["based_on"]]
    sides = _sides(base)
    index = case["message_index"]
    reader_name = "responder" if index % 2 == 0 else "initiator"
    if "reader_prologue_hex" in case or "reader_static_private_hex" in case:
        sides[reader_name] = _side(
            base,
            reader_name,
            prologue_hex=case.get("reader_prologue_hex", base["prologue_hex"]),
            static_hex=case.get("reader_static_private_hex"),
        )
    for message in base["messages"][:index]:
        _pass_message(sides, message)
    refused = bytes.fromhex(case["message_hex"])
    expect_error(case["error"], lambda: sides[reader_name].read_message(refused))


def _run_transcript(case: Case) -> None:
    statics = "init_static_private_hex init_static_public_hex resp_static_private_hex resp_static_public_hex"
    ephemerals = (
        "init_ephemeral_private_hex init_ephemeral_public_hex "
        "resp_ephemeral_private_hex resp_ephemeral_public_hex"
    )
    require_fields(
        case,
        f"valid pattern protocol prologue_hex {statics} {ephemerals} messages handshake_hash_hex "
        "initiator_to_responder_key_hex responder_to_initiator_key_hex transport",
    )
    expect_hex("protocol", NoisePattern(case["pattern"]).protocol_name, case["protocol"].encode().hex())
    for prefix in ("init_static", "init_ephemeral", "resp_static", "resp_ephemeral"):
        pair = StaticKeyPair.from_private(bytes.fromhex(case[f"{prefix}_private_hex"]))
        expect_hex(prefix, pair.public, case[f"{prefix}_public_hex"])
    sides = _sides(case)
    for index, message in enumerate(case["messages"]):
        expect("turn", message["from"], "initiator" if index % 2 == 0 else "responder")
        _pass_message(sides, message)
    for name, side in sides.items():
        expect(f"{name} is complete", side.is_complete, True)
        expect_hex(f"{name}'s hash", side.handshake_hash, case["handshake_hash_hex"])
    delivered = sides["responder"].remote_static
    expect("delivered static key", delivered, bytes.fromhex(case["init_static_public_hex"]))
    transports = {name: side.split() for name, side in sides.items()}
    keys = {
        "initiator": bytes.fromhex(case["initiator_to_responder_key_hex"]),
        "responder": bytes.fromhex(case["responder_to_initiator_key_hex"]),
    }
    # The transports keep their keys to themselves; a reader with the vector's key must understand them.
    eavesdroppers = {name: NoiseTransport(send_key=None, receive_key=key) for name, key in keys.items()}
    for message in case["transport"]:
        _pass_transport_message(transports, eavesdroppers[message["from"]], message)


def _pass_transport_message(
    transports: dict[str, NoiseTransport], eavesdropper: NoiseTransport, message: Case
) -> None:
    require_fields(
        message, "from nonce ciphertext_sha256 length", "plaintext_hex plaintext_build ciphertext_hex"
    )
    if "plaintext_build" in message:
        plaintext = b"".join(bytes.fromhex(piece) * count for piece, count in message["plaintext_build"])
    else:
        plaintext = bytes.fromhex(message["plaintext_hex"])
    sender, reader = _sender_and_reader(transports, message)
    expect("nonce", sender.sent, message["nonce"])
    ciphertext = sender.encrypt(plaintext)
    expect("length", len(ciphertext), message["length"])
    expect_hex("ciphertext digest", hashlib.sha256(ciphertext).digest(), message["ciphertext_sha256"])
    if "ciphertext_hex" in message:
        expect_hex("ciphertext", ciphertext, message["ciphertext_hex"])
    expect("plaintext", reader.decrypt(ciphertext), plaintext)
    expect("plaintext under the vector's key", eavesdropper.decrypt(ciphertext), plaintext)


def _pass_message(sides: dict[str, NoiseHandshake], message: Case) -> None:
    require_fields(message, "from payload_hex message_hex hash_after_hex")
    payload = bytes.fromhex(message["payload_hex"])
    writer, reader = _sender_and_reader(sides, message)
    written = writer.write_message(payload)
    expect_hex("handshake message", written, message["message_hex"])
    expect("payload", reader.read_message(written), payload)
    for side in (writer, reader):
        expect_hex("hash after the message", side.handshake_hash, message["hash_after_hex"])


def _sender_and_reader(sides: dict[str, Side], message: Case) -> tuple[Side, Side]:
    other = {"initiator": "responder", "responder": "initiator"}
    return sides[message["from"]], sides[other[message["from"]]]


def _sides(case: Case) -> dict[str, NoiseHandshake]:
    return {
        name: _side(case, name, prologue_hex=case["prologue_hex"], static_hex=None)
        for name in ("initiator", "responder")
    }


def _side(case: Case, name: str, *, prologue_hex: str, static_hex: str | None) -> NoiseHandshake:
    initiator = name == "initiator"
    prefix = "init" if initiator else "resp"
    return NoiseHandshake(
        pattern=NoisePattern(case["pattern"]),
        initiator=initiator,
        prologue=bytes.fromhex(prologue_hex),
        static=StaticKeyPair.from_private(bytes.fromhex(static_hex or case[f"{prefix}_static_private_hex"])),
        remote_static=bytes.fromhex(case["resp_static_public_hex"]) if initiator else None,
        ephemeral=StaticKeyPair.from_private(bytes.fromhex(case[f"{prefix}_ephemeral_private_hex"])),
    )
