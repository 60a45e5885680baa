"""What the REST handlers need from the rest of the server."""

from collections.abc import Callable

import attrs

from commucat_ledger import Ledger
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.ops.counters import Counters
from commucat_server.provision import Shared
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
