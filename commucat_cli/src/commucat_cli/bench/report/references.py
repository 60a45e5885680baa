"""What figures are set beside: our targets, and other servers as they were measured."""

import operator
from collections.abc import Mapping
from typing import Any

import attrs

PEERS = ("Prosody", "ejabberd", "mosquitto (QoS 1)")
CONDITIONS = (
    "Peers: measured once, on another machine with 2 cores, clients on the same cores, TLS 1.3, bodies of "
    "256 bytes. In parentheses: with stream acknowledgements, as every message of CommuCat has them. "
    "Latencies of the peers are the range over all three, and none of them syncs to disk first."
)

_SIGNS = {"≥": operator.ge, "≤": operator.le}


@attrs.frozen(kw_only=True)
class Reference:
    """One line of the table."""

    label: str
    result: str
    """Name of the scenario's result."""
    figure: str
    sign: str
    target: float
    unit: str
    scale: float = 1.0
    """What the figure is divided by to have the unit."""
    peers: tuple[str, str, str] = ("", "", "")

    def value(self, results: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Ours, in the unit; None when it was not measured."""
        found = results.get(self.result, {}).get(self.figure)
        return None if found is None else found / self.scale

    def span(self, results: Mapping[str, Mapping[str, Any]]) -> tuple[float, float] | None:
        """Lowest and highest of all runs."""
        found = results.get(self.result, {}).get("range", {}).get(self.figure)
        return None if found is None else (found[0] / self.scale, found[1] / self.scale)

    def met(self, results: Mapping[str, Mapping[str, Any]]) -> bool | None:
        """Whether the target is reached."""
        value = self.value(results)
        return None if value is None else bool(_SIGNS[self.sign](value, self.target))


REFERENCES = (
    Reference(
        label="A. relay 1 to 1",
        result="relay",
        figure="msg_per_s",
        sign="≥",
        target=20_000,
        unit="msg/s",
        peers=("11,000 (8,000)", "15,000 to 18,000 (5,600 to 7,600)", ""),
    ),
    Reference(
        label="A. server CPU per message",
        result="relay",
        figure="server_cpu_us_per_msg",
        sign="≤",
        target=45,
        unit="µs",
        peers=("77 (103 to 117)", "44 to 56", "25"),
    ),
    Reference(
        label="B. delivered, p50",
        result="latency",
        figure="delivered_us_p50",
        sign="≤",
        target=1,
        unit="ms",
        scale=1000,
        peers=("0.17 to 0.32", "0.17 to 0.32", "0.17 to 0.32"),
    ),
    Reference(
        label="B. delivered, p99",
        result="latency",
        figure="delivered_us_p99",
        sign="≤",
        target=5,
        unit="ms",
        scale=1000,
        peers=("3.9 to 41", "3.9 to 41", "3.9 to 41"),
    ),
    Reference(
        label="C. full connects",
        result="connect",
        figure="connects_per_s",
        sign="≥",
        target=300,
        unit="1/s",
        peers=("160 to 212", "259", "701"),
    ),
    Reference(
        label="C. server CPU per connect",
        result="connect",
        figure="server_cpu_ms_per_connect",
        sign="≤",
        target=3,
        unit="ms",
    ),
    Reference(
        label="D. idle session",
        result="idle",
        figure="kib_per_session",
        sign="≤",
        target=47,
        unit="KiB",
        peers=("47", "63", "15"),
    ),
    Reference(
        label="E. offline, enqueue",
        result="offline",
        figure="enqueue_per_s",
        sign="≥",
        target=20_000,
        unit="msg/s",
        peers=("1,050", "730", "41,000"),
    ),
    Reference(
        label="E. offline, drain",
        result="offline",
        figure="drain_per_s",
        sign="≥",
        target=20_000,
        unit="msg/s",
        peers=("4,600", "6,200", "17,000 to 20,000"),
    ),
    Reference(
        label="E. acknowledged messages lost by SIGKILL",
        result="offline",
        figure="lost",
        sign="≤",
        target=0,
        unit="",
        peers=("", "", "all"),
    ),
    Reference(
        label="F. fan-out, last member, p50",
        result="fanout",
        figure="last_member_ms_p50",
        sign="≤",
        target=50,
        unit="ms",
    ),
    Reference(
        label="F. fan-out, deliveries",
        result="fanout",
        figure="deliveries_per_s",
        sign="≥",
        target=30_000,
        unit="1/s",
    ),
    Reference(
        label="G. between two servers",
        result="federation",
        figure="msg_per_s",
        sign="≥",
        target=2_000,
        unit="msg/s",
    ),
    Reference(
        label="G. caught up after an absence",
        result="federation",
        figure="catchup_per_s",
        sign="≥",
        target=2_000,
        unit="msg/s",
    ),
    Reference(
        label="G. messages lost by SIGKILL of the receiving server",
        result="federation",
        figure="lost",
        sign="≤",
        target=0,
        unit="",
    ),
    Reference(
        label="H. relay after connects, to fresh",
        result="churn",
        figure="ratio",
        sign="≥",
        target=0.9,
        unit="",
    ),
    Reference(
        label="I. message beside a call of eight, p99",
        result="calls",
        figure="message_us_p99",
        sign="≤",
        target=5,
        unit="ms",
        scale=1000,
    ),
)
