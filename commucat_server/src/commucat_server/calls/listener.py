"""What other rooms of the server may hear about calls."""

from typing import Protocol

from commucat_server.calls.call import Call


class CallListener(Protocol):
    """Told by the board at once, in the thread of the event loop, also of calls of other nodes.

    Of each call ``on_joined`` comes first, of the device that began it, or after a restart of each that was
    in it, and ``on_over`` last, once. An offer that was never stored is not told of. A device that is away
    for a while is in the call still. No method may wait, raise, or change the board.
    """

    def on_joined(self, call: Call, device_id: str) -> None:
        """The device is in the call from now on; ``call.joined`` has it already."""

    def on_left(self, call: Call, device_id: str) -> None:
        """A device that was in the call is not any more. The call goes on, unless ``on_over`` follows."""

    def on_over(self, call: Call) -> None:
        """The call is over; ``call.joined`` still has those who were in it."""
