"""What the REST handlers need from the rest of the server."""

from collections.abc import Callable

import attrs

from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.ops.counters import Counters
from commucat_server.provision import NoiseKeyVersion
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
    registry: Registry
    counters: Counters
    started_at: float
    clock: Callable[[], float]
    draining: Callable[[], bool]
