"""Numbers of the configuration that services take when they are built, and again at a reload."""

import attrs

from commucat_server.blobs.attachments import AttachmentFolder, AttachmentLimits
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.service import CallService
from commucat_server.config import FromStrangers, ServerConfig
from commucat_server.identity.devices import Devices
from commucat_server.identity.pairing import Pairing, PairingPolicy
from commucat_server.security.admin import ConfiguredToken
from commucat_storage import Storage


def pairing_policy(config: ServerConfig) -> PairingPolicy:
    """How devices are paired."""
    return PairingPolicy(
        domain=config.server.domain,
        ttl=config.limits.pairing_ttl,
        devices_per_user=config.limits.devices_per_user,
        require_approval=config.pairing.require_approval,
    )


def attachment_limits(config: ServerConfig) -> AttachmentLimits:
    """What users may upload; what they have uploaded keeps its time."""
    section = config.attachments
    return AttachmentLimits(
        max_bytes=section.max_bytes,
        user_bytes=section.user_bytes,
        lifetime=section.ttl,
        upload_lifetime=section.upload_ttl,
    )


def call_limits(config: ServerConfig) -> CallLimits:
    """What calls may take."""
    section = config.calls
    return CallLimits(
        ring_timeout=float(config.limits.ring_timeout),
        grace=float(section.grace),
        per_device=section.per_device,
        participants=section.participants,
        total=section.total,
        call_waiting=section.call_waiting,
        strangers=section.from_strangers is FromStrangers.RING,
        keep=section.keep,
    )


def take_limits(
    config: ServerConfig,
    *,
    domain: str,
    storage: Storage,
    pairing: Pairing,
    devices: Devices,
    calls: CallService,
    attachments: AttachmentFolder | None,
    token: ConfiguredToken,
) -> None:
    """Put the numbers of another configuration in force; ``domain`` is that of the server, and stays."""
    inbox, limits = storage.inbox_limits, config.limits
    inbox.max_rows, inbox.max_bytes = limits.inbox_rows, limits.inbox_bytes
    inbox.stranger_rows, inbox.stranger_bytes = limits.stranger_rows, limits.stranger_bytes
    pairing.policy = attrs.evolve(pairing_policy(config), domain=domain)
    devices.devices_per_user = limits.devices_per_user
    # How long a call rings is also how long its frames are stored, and needs a restart.
    calls.take_limits(attrs.evolve(call_limits(config), ring_timeout=calls.limits.ring_timeout))
    if attachments is not None:
        attachments.limits = attachment_limits(config)
    token.set(config.admin.token)
