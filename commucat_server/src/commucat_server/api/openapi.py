"""The OpenAPI 3.1 document of the REST interface, put together from what each handler says of itself.

**How a module documents its handlers.** Beside the path, each handler gets ``opt=documented(...)``::

    @get(
        "/api/devices",
        opt=documented(
            "The devices of the caller's user",
            tag="devices",
            session=True,                     # or admin=True: the bearer token that it needs
            ok={200: record({"devices": array(DEVICE)})},
            problems={404: "There is no such device."},
        ),
    )
    async def list_devices(request: ApiRequest) -> ...

- ``ok`` are the answers that are no problem documents: status to JSON schema (``schemas``), to None for an
  answer without a body, or to an :class:`Answer` for another media type.
- ``problems`` say when a problem document comes, by status. What many have in common is added: 401 and 403
  with ``session``, 401 with ``admin``, 400 and 408 for a body that is too long or too slow, 503 if ``store``.
- ``headers`` are those of an answer that a client needs, by status: name to description. Those that every
  answer has are added.
- ``body`` is the schema of a JSON body, or a :class:`Body`. Bodies are read by hand (``bodies``), so this
  is what tells clients, and the tests that hold the answers against it.
- Parameters in the path are taken from the path; ``parameters`` describes those that need more than a name.
  ``asks`` are headers of the request that the handler reads, each with its schema; ``needs`` those that it
  cannot do without.

The document has whatever ``RESOURCES`` of ``application`` gives; a test fails for handlers that say nothing.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from commucat_server.api.answers import Handlers
from commucat_server.api.schemas import SHARED, Schema, ref, text
from commucat_server.listener.problem import SECURITY_HEADERS

OPTION = "commucat_openapi"
PATH = "/openapi.json"
_PARAMETER = re.compile(r"\{([a-z_]+)(?::[a-z]+)?\}")
_COMMON_HEADERS: dict[str, Any] = {
    name.decode(): {"required": True, "schema": {"type": "string", "const": value.decode()}}
    for name, value in SECURITY_HEADERS
    # Pages and pictures have another one.
    if name != b"content-security-policy"
} | {"content-security-policy": {"required": True, "schema": {"type": "string"}}}
_OF_PROBLEMS: Mapping[int, Mapping[str, str]] = {
    401: {"www-authenticate": "`Bearer`."},
    429: {"retry-after": "Seconds until another request may succeed."},
}
_STORE_IS_AWAY = "The store is not available; try again later."


@attrs.frozen(kw_only=True)
class Answer:
    """An answer that is no problem document and no JSON."""

    media_type: str
    description: str = "Done."
    schema: Schema = attrs.Factory(lambda: {"type": "string"})


@attrs.frozen(kw_only=True)
class Body:
    """What a handler reads."""

    schema: Schema
    required: bool = True
    media_types: tuple[str, ...] = ("application/json",)


@attrs.frozen(kw_only=True)
class Documentation:
    """What a handler says of itself, see the module."""

    summary: str
    tag: str
    description: str
    session: bool
    admin: bool
    ok: Mapping[int, Schema | Answer | None]
    problems: Mapping[int, str]
    body: Body | None
    parameters: Mapping[str, Schema]
    headers: Mapping[int, Mapping[str, str]]
    asks: Mapping[str, Schema]
    needs: Mapping[str, Schema]


def documented(
    summary: str,
    *,
    tag: str,
    ok: Mapping[int, Schema | Answer | None],
    problems: Mapping[int, str] | None = None,
    body: Schema | Body | None = None,
    session: bool = False,
    admin: bool = False,
    store: bool | None = None,
    description: str = "",
    parameters: Mapping[str, Schema] | None = None,
    headers: Mapping[int, Mapping[str, str]] | None = None,
    asks: Mapping[str, Schema] | None = None,
    needs: Mapping[str, Schema] | None = None,
) -> dict[str, Any]:
    """The ``opt`` of a handler. ``store`` says whether it needs the store; what needs a session does."""
    told = {429: "Too many requests of this address, device or user."}
    if session:
        told |= {401: "No valid session token.", 403: "The device is not active."}
    if admin:
        told[401] = "No valid token of the operator."
    if body is not None:
        told[400] = "The body is too long, or not what is described."
        told[408] = "Nothing of the body came for a while."
    if session if store is None else store:
        told[503] = _STORE_IS_AWAY
    told |= problems or {}
    if isinstance(body, dict):
        body = Body(schema=body)
    return {
        OPTION: Documentation(
            summary=summary,
            tag=tag,
            description=description,
            session=session,
            admin=admin,
            ok=ok,
            problems=dict(sorted(told.items())),
            body=body,
            parameters=parameters or {},
            headers=headers or {},
            asks=asks or {},
            needs=needs or {},
        )
    }


def handlers(others: Handlers, version: str) -> Handlers:
    """``/openapi.json`` about itself and ``others``."""

    @get(
        PATH,
        sync_to_thread=False,
        opt=documented("This document", tag="server", ok={200: {"type": "object"}}),
    )
    def openapi() -> Response[dict[str, Any]]:
        return Response(document, media_type="application/json", headers={"cache-control": "no-store"})

    described = [handler for handler in (*others, openapi) if isinstance(handler, HTTPRouteHandler)]
    document = document_of(described, version)
    return [openapi]


def document_of(described: Iterable[HTTPRouteHandler], version: str) -> dict[str, Any]:
    """The OpenAPI document of the handlers that document themselves."""
    paths: dict[str, dict[str, Any]] = {}
    for handler in described:
        documentation = handler.opt.get(OPTION)
        if not isinstance(documentation, Documentation) or not documentation.ok:
            continue  # what always refuses is no operation that anybody would want
        for path in sorted(handler.paths):
            for method in sorted(handler.http_methods):
                if method in ("OPTIONS", "HEAD"):
                    continue
                paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = _operation(
                    documentation, path, method
                )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CommuCat server API",
            "version": version,
            "description": "The REST interface beside CCP-1. Everything is JSON; what goes wrong is a "
            "problem document (RFC 9457). Members that are not described may come with any version. "
            "HEAD is answered like GET, without the body.",
            "license": {"name": "MPL-2.0", "identifier": "MPL-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": SHARED,
            "headers": _COMMON_HEADERS,
            "securitySchemes": {
                "SessionToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`session` of a handshake: 64 hexadecimal digits.",
                },
                "AdminToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of the server's operator.",
                },
            },
        },
    }


def _operation(documentation: Documentation, path: str, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(path, method),
        "summary": documentation.summary,
        "tags": [documentation.tag],
        "responses": _responses(documentation),
    }
    if documentation.description:
        operation["description"] = documentation.description
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": documentation.parameters.get(name, text(minLength=1)),
        }
        for name in _PARAMETER.findall(path)
    ]
    for required, wanted in ((True, documentation.needs), (False, documentation.asks)):
        parameters += [
            {"name": name, "in": "header", "required": required, "schema": schema}
            for name, schema in wanted.items()
        ]
    if parameters:
        operation["parameters"] = parameters
    if documentation.body is not None:
        body = documentation.body
        operation["requestBody"] = {
            "required": body.required,
            "content": {kind: {"schema": body.schema} for kind in body.media_types},
        }
    if documentation.session:
        operation["security"] = [{"SessionToken": []}]
    if documentation.admin:
        operation["security"] = [{"AdminToken": []}]
    return operation


def _operation_id(path: str, method: str) -> str:
    # A dash is no border of a word: /api/server-info and /api/server/info are two operations.
    words = re.sub(r"[^A-Za-z0-9/]", "", _PARAMETER.sub(r"\1", path)).split("/")
    return method.lower() + ("".join(word.capitalize() for word in words) or "Root")


def _responses(documentation: Documentation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in documentation.ok.items():
        if answer is None:
            responses[str(status)] = {"description": "Done; the answer has no body."}
        elif isinstance(answer, Answer):
            responses[str(status)] = {
                "description": answer.description,
                "content": {answer.media_type: {"schema": answer.schema}},
            }
        else:
            responses[str(status)] = {
                "description": "Done.",
                "content": {"application/json": {"schema": answer}},
            }
    for status, when in documentation.problems.items():
        responses[str(status)] = {
            "description": when,
            "content": {"application/problem+json": {"schema": ref("Problem")}},
        }
    for number, response in responses.items():
        told = {**_OF_PROBLEMS.get(int(number), {}), **documentation.headers.get(int(number), {})}
        response["headers"] = {
            **{name: {"$ref": f"#/components/headers/{name}"} for name in _COMMON_HEADERS},
            **{
                name: {"required": True, "description": meaning, "schema": {"type": "string"}}
                for name, meaning in told.items()
            },
        }
    return responses
