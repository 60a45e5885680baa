"""The devices of an account, and what others may know of them."""

from typing import Any

from litestar import Response, get
from litestar.params import FromPath

from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import authenticate
from commucat_server.api.context import ApiContext
from commucat_server.api.problems import ProblemError
from commucat_storage import DeviceStatus


def handlers(context: ApiContext) -> Handlers:
    """Below ``/api/devices``."""

    @get("/api/devices/{device_id:str}/certificate")
    async def device_certificate(request: ApiRequest, device_id: FromPath[str]) -> Response[dict[str, Any]]:
        """The certificate that a sender needs to seal to a device."""
        await authenticate(request, context)
        device = await context.storage.load_device(device_id)
        if device is None or device.status is not DeviceStatus.ACTIVE:
            # A revoked device is nobody to write to; peers need not tell it from no device.
            raise ProblemError(404, "device not found")
        certificate = await context.issuer.current(device)
        return json_answer({"certificate": certificate.to_wire()})

    return [device_certificate]
