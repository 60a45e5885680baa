"""How the two sides of a call may reach each other: ICE candidates and what goes with them."""

import enum

import attrs

from commucat_proto.calls.wire_struct import (
    BOOL,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    WireStruct,
    array,
    checked,
    choice,
    optional,
    struct,
    wire,
)


class TransportProtocol(enum.Enum):
    TCP = "tcp"
    UDP = "udp"


class CandidateType(enum.Enum):
    """Where a candidate's address comes from (RFC 8445, section 5.1.1)."""

    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"
    RELAY = "relay"


class TcpType(enum.Enum):
    """Who opens a TCP candidate's connection (RFC 6544, section 4.5)."""

    ACTIVE = "active"
    PASSIVE = "passive"
    SIMULTANEOUS_OPEN = "so"


_PROTOCOL = wire(choice(TransportProtocol))


@attrs.frozen(kw_only=True, field_transformer=checked)
class TransportCandidate(WireStruct):
    """One address at which a side may be reached. ``address`` is an IP address or a host name."""

    address: str = attrs.field(metadata=wire(TEXT))
    port: int = attrs.field(metadata=wire(U16))
    protocol: TransportProtocol = attrs.field(default=TransportProtocol.UDP, metadata=_PROTOCOL)
    foundation: str | None = attrs.field(default=None, metadata=wire(optional(TEXT)))
    component: int | None = attrs.field(default=None, metadata=wire(optional(U8)))
    priority: int | None = attrs.field(default=None, metadata=wire(optional(U32)))
    candidate_type: CandidateType | None = attrs.field(
        default=None, metadata=wire(optional(choice(CandidateType)))
    )
    related_address: str | None = attrs.field(default=None, metadata=wire(optional(TEXT)))
    related_port: int | None = attrs.field(default=None, metadata=wire(optional(U16)))
    tcp_type: TcpType | None = attrs.field(default=None, metadata=wire(optional(choice(TcpType))))
    sdp_mid: str | None = attrs.field(default=None, metadata=wire(optional(TEXT)))
    sdp_mline_index: int | None = attrs.field(default=None, metadata=wire(optional(U16)))
    url: str | None = attrs.field(default=None, metadata=wire(optional(TEXT)))


@attrs.frozen(kw_only=True, field_transformer=checked)
class TransportCandidateRef(WireStruct):
    """Names a candidate of the selected pair."""

    address: str = attrs.field(metadata=wire(TEXT))
    port: int = attrs.field(metadata=wire(U16))
    protocol: TransportProtocol = attrs.field(default=TransportProtocol.UDP, metadata=_PROTOCOL)
    candidate_type: CandidateType | None = attrs.field(
        default=None, metadata=wire(optional(choice(CandidateType)))
    )
    foundation: str | None = attrs.field(default=None, metadata=wire(optional(TEXT)))
    priority: int | None = attrs.field(default=None, metadata=wire(optional(U32)))


@attrs.frozen(kw_only=True, field_transformer=checked)
class IceCredentials(WireStruct):
    """What connectivity checks are signed with; ``expires_at`` in Unix seconds."""

    username_fragment: str = attrs.field(metadata=wire(TEXT))
    password: str = attrs.field(repr=False, metadata=wire(TEXT))
    expires_at: int | None = attrs.field(default=None, metadata=wire(optional(U64)))


@attrs.frozen(kw_only=True, field_transformer=checked)
class CallTransport(WireStruct):
    """A side's ways to be reached. Older peers call the candidates ``udp_candidates``."""

    prefer_relay: bool = attrs.field(default=False, metadata=wire(BOOL))
    candidates: tuple[TransportCandidate, ...] = attrs.field(
        default=(), metadata=wire(array(struct(TransportCandidate)), alias="udp_candidates")
    )
    fingerprints: tuple[str, ...] = attrs.field(default=(), metadata=wire(array(TEXT)))
    ice_credentials: IceCredentials | None = attrs.field(
        default=None, metadata=wire(optional(struct(IceCredentials)))
    )
    trickle: bool = attrs.field(default=False, metadata=wire(BOOL))
    consent_interval_secs: int | None = attrs.field(default=None, metadata=wire(optional(U16)))
