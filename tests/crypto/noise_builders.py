"""Pairs of Noise handshakes and established transports for tests."""

from commucat_crypto import HANDSHAKE_OVERHEAD, NoiseHandshake, NoisePattern, NoiseTransport, StaticKeyPair

CLIENT = StaticKeyPair.from_private(b"c" * 32)
SERVER = StaticKeyPair.from_private(b"s" * 32)


def handshake_pair(
    pattern: NoisePattern,
    *,
    prologue: bytes = b"commucat",
    expected_client: bytes | None = None,
    ephemeral: StaticKeyPair | None = None,
) -> tuple[NoiseHandshake, NoiseHandshake]:
    """Return initiator and responder that agree on everything."""
    initiator = NoiseHandshake(
        pattern=pattern,
        initiator=True,
        prologue=prologue,
        static=CLIENT,
        remote_static=SERVER.public,
        ephemeral=ephemeral,
    )
    responder = NoiseHandshake(
        pattern=pattern, initiator=False, prologue=prologue, static=SERVER, remote_static=expected_client
    )
    return initiator, responder


def run_handshake(initiator: NoiseHandshake, responder: NoiseHandshake, pattern: NoisePattern) -> None:
    """Exchange all messages, with empty payloads."""
    writer, reader = initiator, responder
    for _ in HANDSHAKE_OVERHEAD[pattern]:
        reader.read_message(writer.write_message())
        writer, reader = reader, writer


def transport_pair(pattern: NoisePattern = NoisePattern.XK) -> tuple[NoiseTransport, NoiseTransport]:
    """Return the initiator's and the responder's transport after a handshake."""
    initiator, responder = handshake_pair(pattern)
    run_handshake(initiator, responder, pattern)
    return initiator.split(), responder.split()
