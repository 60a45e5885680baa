"""What another server itself may tell a device: new keys of its own devices, and what became of messages."""

from commucat_proto import DeliveryReport, Frame, FrameType, json_text, read_delivery_report
from commucat_server.federation import problems
from commucat_server.federation.addresses import split_address
from commucat_server.federation.peers import KnownPeer


def sender_of(peer: KnownPeer, sender: str) -> str:
    """``device@domain`` of the sender, which may come with its domain or without."""
    address = split_address(sender if "@" in sender else f"{sender}@{peer.domain}")
    if address is None or address[1] != peer.domain:
        raise problems.SENDER.raised()
    return "@".join(address)


def announcement_of(peer: KnownPeer, frame: Frame) -> bytes:
    """What another server itself may tell a device, and nothing else: that a device of its own has a new
    key, which counts by the old key's signature, and what became of messages."""
    if frame.type is FrameType.KEY_UPDATE:
        value = frame.control
        device_id = value.get("device_id") if isinstance(value, dict) else None
        if not isinstance(device_id, str):
            raise problems.SENDER.raised()
        return key_update_of(frame, device_id, sender_of(peer, device_id))
    report = read_delivery_report(frame)
    if report is None:
        raise problems.SENDER.raised()
    device = sender_of(peer, report.device)
    renamed = DeliveryReport(
        status=report.status,
        device=device,
        channel=report.channel,
        messages=report.messages,
        reason=report.reason,
    )
    return json_text.dumps(renamed.to_wire())


def key_update_of(frame: Frame, sender: str, address: str) -> bytes:
    """The announcement of a device's own new key, under the name by which it is known here."""
    value = frame.control
    if not isinstance(value, dict) or value.get("device_id") != sender.partition("@")[0]:
        raise problems.SENDER.raised()
    return json_text.dumps({**value, "device_id": address})
