"""What the REST handlers need from the rest of the server."""

from collections.abc import Awaitable, Callable, Sequence

import attrs

from commucat_ledger import Ledger
from commucat_proto import MAX_FRAME_LEN
from commucat_server.api.assistance import Assistance
from commucat_server.blobs.attachments import AttachmentFolder
from commucat_server.blobs.avatars import AvatarFolder
from commucat_server.federation.service import Federation
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.devices import Devices
from commucat_server.identity.key_history import KeyHistories
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.identity.pairing import Pairing
from commucat_server.identity.rotation import Rotations
from commucat_server.ops.counters import Counters
from commucat_server.ops.spans import Spans
from commucat_server.provision import Shared
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.registry import Registry
from commucat_server.security.admin import AdminAccess
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.limits import RateLimits
from commucat_server.security.rate import SharedRateLimit
from commucat_storage import Storage


@attrs.frozen(kw_only=True)
class ApiContext:
    """The services behind the REST interface; built once by the composition root."""

    version: str
    policy: AdmissionPolicy
    patterns: tuple[str, ...]
    keepalive: int
    presence_ttl: int
    noise_keys: NoiseCatalogue
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
    pairing: Pairing
    claim_failures: SharedRateLimit
    """Claims that fail, all addresses together; those of one address have a scope of ``limits``."""
    new_device_limit: SharedRateLimit
    """Devices never seen before that one address brings, by Hello or by a code."""
    devices: Devices
    rotations: Rotations
    key_histories: KeyHistories
    purge_soon: Callable[[], None]
    """Have queues of revoked devices deleted now and not with the next round."""
    admin: AdminAccess = attrs.field(factory=AdminAccess)
    clients: ClientAddresses = attrs.field(factory=ClientAddresses)
    limits: RateLimits | None = None
    """None: nothing is limited."""
    exposition: Callable[[], Awaitable[bytes]] | None = None
    """The text of ``/metrics``; None: there is no such path."""
    friend_notices: FriendNotices | None = None
    """Tells users of requests; without it nobody is told."""
    introduce: Callable[[Sequence[str]], None] | None = None
    """Told of devices whose users have become friends; for presence."""
    avatars: AvatarFolder | None = None
    """None: uploads are switched off."""
    attachments: AttachmentFolder | None = None
    """The same for attachments."""
    spans: Spans = attrs.field(factory=Spans)
    federation: Federation | None = None
    """None: federation is switched off."""
    assistance: Assistance | None = None
    """None: no advice on paths is given."""
    max_frame: int = MAX_FRAME_LEN
    """Bytes of a frame that is accepted."""
