"""What the REST handlers need from the rest of the server."""

from collections.abc import Callable

import attrs

from commucat_ledger import Ledger
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.devices import Devices
from commucat_server.identity.key_history import KeyHistories
from commucat_server.identity.pairing import Pairing
from commucat_server.identity.rotation import Rotations
from commucat_server.ops.counters import Counters
from commucat_server.provision import NoiseKeyVersion, Shared
from commucat_server.routing.registry import Registry
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
    pairing: Pairing
    claim_limit: SharedRateLimit
    """Claims from one address that fail."""
    claim_failures: SharedRateLimit
    """Claims that fail, all addresses together."""
    new_device_limit: SharedRateLimit
    """Devices never seen before that one address brings, by Hello or by a code."""
    devices: Devices
    rotations: Rotations
    key_histories: KeyHistories
    purge_soon: Callable[[], None]
    """Have queues of revoked devices deleted now and not with the next round."""
