"""Noise handshakes XK, IK and X with 25519, ChaChaPoly and BLAKE2s.

XK and IK open sessions (CCP-1). X encrypts a single message to a known key and
carries the sender's static key in it. The computations are those of the
noiseprotocol library's state objects; this module adds what they leave open: the
order of turns, limits, one kind of error, and keys handed over instead of ciphers.
"""

import enum
import hmac
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from noise.backends.default.keypairs import KeyPair25519
from noise.exceptions import NoiseValueError
from noise.noise_protocol import NoiseProtocol

from .device_keys import KEY_LEN
from .errors import NoiseError
from .noise_backend import NoiseBackend
from .noise_transport import MAX_NOISE_MESSAGE, NoiseTransport
from .static_keys import StaticKeyPair


class NoisePattern(enum.Enum):
    """A handshake pattern; the value is its name in Hello."""

    XK = "XK"
    """Three messages; the client knows the server's key and sends its own in the last."""
    IK = "IK"
    """Two messages; the client sends its key in the first, which can be replayed."""
    X = "X"
    """One message from a sender to a known key; no answer."""

    @property
    def protocol_name(self) -> bytes:
        """The full Noise protocol name, which both sides hash."""
        return b"Noise_%s_25519_ChaChaPoly_BLAKE2s" % self.value.encode()


HANDSHAKE_OVERHEAD: Final[dict[NoisePattern, tuple[int, ...]]] = {
    # A key is 32 bytes, and 48 when encrypted; each payload gets a 16-byte tag.
    NoisePattern.XK: (48, 48, 64),
    NoisePattern.IK: (96, 48),
    NoisePattern.X: (96,),
}
"""Bytes of each handshake message beyond its payload, initiator's first."""

_BACKEND: Final = NoiseBackend()
# What the libraries raise for a wrong tag, a key of wrong length, and an agreement
# whose result is all zero (the peer sent a point of small order).
_REFUSALS: Final = (InvalidTag, NoiseValueError, ValueError)


class NoiseHandshake:
    """One side of one handshake. Messages alternate, the initiator's first.

    Args:
        pattern: which handshake.
        initiator: whether this side writes the first message.
        prologue: bytes both sides must agree on; CCP-1 uses the configured text,
            ``commucat`` by default.
        static: this side's key pair; every pattern here needs one.
        remote_static: the peer's 32-byte public key. An initiator must know it. A
            responder learns it; if given, the handshake fails unless the peer
            delivers exactly this key.
        ephemeral: fixed key pair for known-answer tests; fresh when absent. Reusing
            one breaks the secrecy of both sessions.

    After a message that cannot be read the handshake is over: every further call
    raises. A call out of turn, or with too long a payload, changes nothing.

    Raises:
        NoiseError: a needed key is absent or has the wrong length.
    """

    def __init__(
        self,
        *,
        pattern: NoisePattern,
        initiator: bool,
        prologue: bytes,
        static: StaticKeyPair | None,
        remote_static: bytes | None = None,
        ephemeral: StaticKeyPair | None = None,
    ) -> None:
        if static is None:
            raise NoiseError(f"{pattern.value} needs a static key pair")
        if initiator and remote_static is None:
            raise NoiseError(f"the initiator of {pattern.value} needs the responder's static key")
        if remote_static is not None and len(remote_static) != KEY_LEN:
            raise NoiseError(f"a static key is {KEY_LEN} bytes long")
        self._initiator = initiator
        self._overheads = HANDSHAKE_OVERHEAD[pattern]
        self._done = 0
        self._failed = False
        self._keys: tuple[bytes, bytes] | None = None
        self._expected_static = None if initiator else remote_static
        self._remote_static = remote_static if initiator else None

        # The library types nothing; Any stays inside this class.
        protocol: Any = NoiseProtocol(pattern.protocol_name, _BACKEND)
        protocol.initiator = initiator
        protocol.prologue = prologue
        protocol.keypairs["s"] = _local(static)
        if ephemeral is not None:
            protocol.keypairs["e"] = _local(ephemeral)
        if initiator:
            protocol.keypairs["rs"] = KeyPair25519.from_public_bytes(remote_static)
        protocol.initialise_handshake_state()
        self._state: Any = protocol.handshake_state
        self._symmetric: Any = protocol.symmetric_state

    @property
    def is_complete(self) -> bool:
        """Whether all messages have been exchanged, so that :meth:`split` may be called."""
        return self._done == len(self._overheads)

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static key: known from the start to an initiator, to a responder once delivered.

        A key from IK's or X's first message is authenticated, but the message may be a replay.
        """
        return self._remote_static

    @property
    def handshake_hash(self) -> bytes:
        """The 32-byte hash h over everything exchanged so far; final once complete."""
        digest: bytes = self._symmetric.h
        return digest

    def write_message(self, payload: bytes = b"") -> bytes:
        """Return this side's next message with a payload inside.

        The payload of a first message has no forward secrecy: whoever steals the
        responder's static key later can read it.

        Raises:
            NoiseError: not this side's turn, the message would exceed 65,535 bytes,
                or the peer's key is a point of small order.
        """
        overhead = self._take_turn(sending=True)
        if len(payload) > MAX_NOISE_MESSAGE - overhead:
            raise NoiseError(f"a Noise message has at most {MAX_NOISE_MESSAGE} bytes")
        message = bytearray()
        try:
            ciphers = self._state.write_message(payload, message)
        except _REFUSALS as exc:
            self._fail()
            raise NoiseError("the handshake message cannot be written") from exc
        self._advance(ciphers)
        return bytes(message)

    def read_message(self, message: bytes) -> bytes:
        """Return the payload of the peer's next message.

        Raises:
            NoiseError: not the peer's turn; or the message is too long or too short,
                does not decrypt, holds a point of small order, or delivers another
                static key than expected. The handshake is over then.
        """
        overhead = self._take_turn(sending=False)
        payload = bytearray()
        try:
            if not overhead <= len(message) <= MAX_NOISE_MESSAGE:
                raise NoiseError("the handshake message has an impossible length")
            ciphers = self._state.read_message(message, payload)
            self._note_remote_static()
        except _REFUSALS as exc:
            self._fail()
            raise NoiseError("the handshake message cannot be read") from exc
        except NoiseError:
            self._fail()
            raise
        self._advance(ciphers)
        return bytes(payload)

    def split(self) -> NoiseTransport:
        """Return the transport of the established session; once only, as two would reuse counters.

        After X the initiator's transport only sends and the responder's only receives.

        Raises:
            NoiseError: the handshake is not complete, or was split already.
        """
        if self._keys is None:
            raise NoiseError("the handshake is not complete, or was split already")
        from_initiator, from_responder = self._keys
        self._keys = None
        # A one-way pattern has one message and no key for the way back.
        back = from_responder if len(self._overheads) > 1 else None
        if self._initiator:
            return NoiseTransport(send_key=from_initiator, receive_key=back)
        return NoiseTransport(send_key=back, receive_key=from_initiator)

    def _take_turn(self, *, sending: bool) -> int:
        """Check that the next message goes this way; return its overhead in bytes."""
        if self._failed:
            raise NoiseError("the handshake has failed")
        if self.is_complete:
            raise NoiseError("the handshake is complete")
        initiators_turn = self._done % 2 == 0
        if sending != (self._initiator == initiators_turn):
            raise NoiseError("out of turn")
        return self._overheads[self._done]

    def _note_remote_static(self) -> None:
        delivered: bytes | None = getattr(self._state.rs, "public_bytes", None)
        if delivered is None:
            return
        if self._expected_static is not None and not hmac.compare_digest(delivered, self._expected_static):
            raise NoiseError("the peer delivered another static key")
        self._remote_static = delivered

    def _fail(self) -> None:
        self._failed = True
        # The library's objects refer to each other. Refusing a stranger must not leave
        # garbage that only the cycle collector frees.
        self._state.noise_protocol = self._symmetric.noise_protocol = self._state = None

    def _advance(self, ciphers: Any) -> None:
        self._done += 1
        if ciphers is not None:
            first, second = ciphers
            self._keys = (first.k, second.k)
            # Lets go of the ephemeral private key.
            self._state = None


def _local(pair: StaticKeyPair) -> KeyPair25519:
    return KeyPair25519(private=pair.loaded, public_bytes=pair.public)
