"""X25519 key pairs for Noise."""

from typing import Self

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .device_keys import KEY_LEN
from .errors import InvalidKeyError


@attrs.frozen(kw_only=True)
class StaticKeyPair:
    """An X25519 key pair (RFC 7748). ``private`` is kept as given and clamped on use."""

    private: bytes = attrs.field(repr=False, eq=False)
    public: bytes = attrs.field(init=False)
    # Kept, because a server uses one pair for every connection and loading it costs
    # as much as a key agreement.
    loaded: X25519PrivateKey = attrs.field(init=False, repr=False, eq=False)
    """The private key as the cryptography library takes it."""

    @private.validator
    def _check_private(self, _attribute: object, value: object) -> None:
        if not isinstance(value, bytes) or len(value) != KEY_LEN:
            raise InvalidKeyError(f"an X25519 private key is {KEY_LEN} bytes long")

    def __attrs_post_init__(self) -> None:
        self._keep(X25519PrivateKey.from_private_bytes(self.private))

    def _keep(self, loaded: X25519PrivateKey) -> None:
        object.__setattr__(self, "loaded", loaded)
        object.__setattr__(self, "public", loaded.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """Make a fresh pair from the operating system's random source."""
        # Not by the constructor: loading the private bytes again costs as much as making them.
        loaded = X25519PrivateKey.generate()
        pair = cls.__new__(cls)
        object.__setattr__(pair, "private", loaded.private_bytes_raw())
        pair._keep(loaded)
        return pair

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """Take the 32 private bytes as they are.

        Raises:
            InvalidKeyError: not 32 bytes.
        """
        return cls(private=private)
