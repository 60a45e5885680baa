"""A certificate that is asked for while the device's key changes is one of the new key, or none."""

from pathlib import Path

import attrs

from commucat_crypto import DeviceKeyPair
from commucat_server.identity.certificates import row_of
from commucat_server.identity.pairing import key_event_of
from commucat_storage import Device, Rotation
from server.connect_builders import NOW, Person, Server, running_server

ALICE = Person(handle="alice")


async def rotate(server: Server, device: Device) -> bytes:
    new = DeviceKeyPair.generate()
    certificate = server.context.issuer.issue(
        user_id=device.user_id, device_id=device.device_id, public_key=new.public
    )
    await server.storage.rotate_device_key(
        Rotation(
            rotation_id="r",
            device_id=device.device_id,
            old_public_key=device.public_key,
            new_public_key=new.public,
            signature=bytes(64),
            nonce=None,
            proof_expires_at=NOW + 60,
            applied_at=NOW,
            key_event=key_event_of(attrs.evolve(device, public_key=new.public), NOW),
            certificate=row_of(certificate, "rotate"),
            min_interval=0,
        )
    )
    return new.public


async def test_of_a_key_that_was_rotated_away_there_is_no_new_certificate(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        await server.connect(ALICE)
        read_before = await server.storage.load_device(ALICE.device_id)
        assert read_before is not None
        public = await rotate(server, read_before)
        told = await server.storage.key_events(ALICE.device_id)

        certificate = await server.context.issuer.current(read_before)

        assert certificate is not None
        assert certificate.public_key == public
        assert await server.storage.key_events(ALICE.device_id) == told


async def test_of_a_device_that_was_revoked_there_is_no_new_certificate(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        await server.connect(ALICE)
        read_before = await server.storage.load_device(ALICE.device_id)
        assert read_before is not None
        await server.storage.revoke_device(ALICE.device_id, NOW, key_event_of(read_before, NOW), ())

        assert await server.context.issuer.current(read_before) is None
        assert await server.storage.newest_certificate(ALICE.device_id) is None
