"""Changing this device's key, so that an interruption anywhere leaves a device that can connect."""

import os
import time
from datetime import UTC, datetime
from typing import Any

import attrs

from commucat_cli.client.connection import Connection
from commucat_cli.client.session import open_session
from commucat_cli.errors import CliError, HandshakeRefused, RestError, TrustError
from commucat_cli.profile import Profile, ProfileKeys
from commucat_cli.transport import Timeouts, Via
from commucat_crypto import CryptoError, DeviceCertificate, rotation_statement

PATH = "/api/device/csr"
PROOF_LIFETIME = 60
"""Seconds that the proof is good for; servers allow 600 unless told otherwise."""
NONCE_LEN = 16


async def rotate_key(profile: Profile, via: Via | None = None, timeouts: Timeouts = Timeouts()) -> bytes:  # noqa: B008
    """Give the device another key; returns its public half.

    The new key is on the disk before the server hears of it. If an earlier attempt was interrupted it is
    finished: the server may have the new key already, then only that lets us in.

    Raises:
        CliError: what went wrong; the profile can be used as before.
    """
    with profile.changing_keys():
        keys = profile.keys
        if keys.next is not None and await _is_taken(profile, keys, via, timeouts):
            profile.save_keys(keys.changed())
            return profile.keys.device.public
        keys = keys.changing()
        profile.save_keys(keys)
        assert keys.next is not None
        async with open_session(profile, receives=False, via=via, timeouts=timeouts) as connection:
            certificate = await _ask(connection, profile, keys)
        profile.save_keys(keys.changed())
        profile.state.save_certificate(certificate)
        return profile.keys.device.public


async def _is_taken(profile: Profile, keys: ProfileKeys, via: Via | None, timeouts: Timeouts) -> bool:
    """Whether the server knows the device by the next key already."""
    assert keys.next is not None
    try:
        async with open_session(
            profile, receives=False, via=via, timeouts=timeouts, keys=attrs.evolve(keys, device=keys.next)
        ):
            return True
    except HandshakeRefused:
        return False


async def _ask(connection: Connection, profile: Profile, keys: ProfileKeys) -> DeviceCertificate:
    assert keys.next is not None
    expires_at = int(time.time()) + PROOF_LIFETIME
    nonce = os.urandom(NONCE_LEN)
    statement = rotation_statement(keys.device_id, keys.next.public, expires_at=expires_at, nonce=nonce)
    body: dict[str, Any] = {
        "public_key": keys.next.public.hex(),
        "signature": keys.device.sign(statement).hex(),
        "expires_at": datetime.fromtimestamp(expires_at, UTC).isoformat(),
        "nonce": nonce.hex(),
        "new_key_signature": keys.next.sign(statement).hex(),
    }
    try:
        answer = await connection.post(PATH, body)
    except RestError as exc:
        if exc.status == 404:
            raise CliError("the server does not let devices change their keys") from exc
        raise
    try:
        certificate = DeviceCertificate.from_wire(answer.get("certificate"))
        certificate.verify(profile.account().device_ca)
    except CryptoError as exc:
        raise TrustError(f"the server sent a wrong certificate for the new key: {exc}") from exc
    if (certificate.device_id, certificate.public_key) != (keys.device_id, keys.next.public):
        raise TrustError("the server's certificate is not for the new key")
    return certificate
