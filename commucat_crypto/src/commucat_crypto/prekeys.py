"""Prekey bundles: the keys a device would publish so that others can start a hybrid session with it.

They are containers. CCP-1 defines neither a serialised form nor an agreement over
them, and the prekey carries no signature.
"""

from typing import Self

import attrs

from .device_keys import DeviceKeyPair
from .pq import KemKeyPair, PqSigningKeyPair
from .static_keys import StaticKeyPair


@attrs.frozen(kw_only=True)
class PublicPrekeyBundle:
    """The public halves of a :class:`PrekeyBundle`."""

    identity: bytes
    """Ed25519, 32 bytes."""
    signed_prekey: bytes
    """X25519, 32 bytes."""
    one_time_prekeys: tuple[bytes, ...]
    """X25519, 32 bytes each."""
    kem_identity_key: bytes
    """ML-KEM-768 encapsulation key, 1,184 bytes."""
    one_time_kem_keys: tuple[bytes, ...]
    """ML-KEM-768 encapsulation keys, 1,184 bytes each."""
    verifying_key: bytes
    """ML-DSA-65, 1,952 bytes."""


@attrs.frozen(kw_only=True)
class PrekeyBundle:
    """A device's identity and the key pairs behind its published bundle."""

    identity: DeviceKeyPair
    signed_prekey: StaticKeyPair
    one_time_prekeys: tuple[StaticKeyPair, ...]
    kem_identity: KemKeyPair
    one_time_kem_keys: tuple[KemKeyPair, ...]
    signing: PqSigningKeyPair

    @classmethod
    def generate(cls, identity: DeviceKeyPair, *, one_time_prekeys: int, one_time_kem_keys: int) -> Self:
        """Make fresh pairs around an identity, as many one-time pairs as the two counts say."""
        return cls(
            identity=identity,
            signed_prekey=StaticKeyPair.generate(),
            one_time_prekeys=tuple(StaticKeyPair.generate() for _ in range(one_time_prekeys)),
            kem_identity=KemKeyPair.generate(),
            one_time_kem_keys=tuple(KemKeyPair.generate() for _ in range(one_time_kem_keys)),
            signing=PqSigningKeyPair.generate(),
        )

    def public(self) -> PublicPrekeyBundle:
        """Return what may be published."""
        return PublicPrekeyBundle(
            identity=self.identity.public,
            signed_prekey=self.signed_prekey.public,
            one_time_prekeys=tuple(pair.public for pair in self.one_time_prekeys),
            kem_identity_key=self.kem_identity.encapsulation_key,
            one_time_kem_keys=tuple(pair.encapsulation_key for pair in self.one_time_kem_keys),
            verifying_key=self.signing.verifying_key,
        )
