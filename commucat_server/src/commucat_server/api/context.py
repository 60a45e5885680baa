"""What the REST handlers need from the rest of the server."""

from collections.abc import Callable, Sequence

import attrs

from commucat_ledger import Ledger
from commucat_server.blobs.attachments import AttachmentFolder
from commucat_server.blobs.avatars import AvatarFolder
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.ops.counters import Counters
from commucat_server.provision import NoiseKeyVersion, Shared
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.registry import Registry
from commucat_storage import Storage


@attrs.frozen(kw_only=True)
class ApiContext:
    """The services behind the REST interface; built once by the composition root."""

    version: str
    policy: AdmissionPolicy
    patterns: tuple[str, ...]
    keepalive: int
    presence_ttl: int
    noise_keys: tuple[NoiseKeyVersion, ...]
    storage: Storage
    issuer: CertificateIssuer
    node: str
    """The name of this process among those that share the store; another one at each start."""
    worker: int
    """Which of the workers of one server it is, from 1; 0 if it is alone."""
    registry: Registry
    counters: Counters
    shared: Shared
    started_at: float
    clock: Callable[[], float]
    draining: Callable[[], bool]
    ledger: Ledger
    friend_notices: FriendNotices | None = None
    """Tells users of requests; without it nobody is told."""
    introduce: Callable[[Sequence[str]], None] | None = None
    """Told of devices whose users have become friends; for presence."""
    avatars: AvatarFolder | None = None
    """None: uploads are switched off."""
    attachments: AttachmentFolder | None = None
    """The same for attachments."""
