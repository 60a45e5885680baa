"""JSON Schema (draft 2020-12, as OpenAPI 3.1 has it) of bodies: small words to build it from."""

from collections.abc import Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]


def text(description: str = "", **more: Any) -> Schema:
    """A string."""
    return _described({"type": "string", **more}, description)


def integer(description: str = "", **more: Any) -> Schema:
    """A whole number."""
    return _described({"type": "integer", **more}, description)


def number(description: str = "") -> Schema:
    """Any number."""
    return _described({"type": "number"}, description)


def boolean(description: str = "") -> Schema:
    """A truth value."""
    return _described({"type": "boolean"}, description)


def hexadecimal(length: int, description: str = "") -> Schema:
    """``length`` bytes in hexadecimal digits."""
    return text(description, pattern=f"^[0-9a-fA-F]{{{2 * length}}}$")


def time(description: str = "") -> Schema:
    """RFC 3339."""
    return text(description, format="date-time")


def array(items: Schema, description: str = "") -> Schema:
    """A list."""
    return _described({"type": "array", "items": items}, description)


def record(
    members: dict[str, Schema],
    *,
    optional: Sequence[str] = (),
    description: str = "",
) -> Schema:
    """An object: all members but the ``optional`` ones are there. Others may come with later versions."""
    schema: Schema = {"type": "object", "properties": members}
    required = [name for name in members if name not in optional]
    if required:
        schema["required"] = required
    return _described(schema, description)


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"oneOf": [schema, {"type": "null"}]}


def constant(*values: str) -> Schema:
    """One of some texts."""
    return {"type": "string", "enum": list(values)}


def ref(name: str) -> Schema:
    """A schema of :data:`SHARED`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description} if description else schema


KEY = hexadecimal(32)
DEVICE_ID = text("Names a device; 32 random hexadecimal digits, or what its owner chose.")
SERIAL = integer("Unsigned, 64 bits.", minimum=0, maximum=2**64 - 1)

SHARED: dict[str, Schema] = {
    "Problem": record(
        {
            "type": constant("about:blank"),
            "title": text("Short and stable; what programs compare."),
            "status": integer(),
            "detail": text("For people."),
        },
        optional=["detail"],
        description="A problem document, RFC 9457.",
    ),
    "Certificate": record(
        {
            "serial": SERIAL,
            "user_id": text(),
            "device_id": DEVICE_ID,
            "public_key": KEY,
            "issuer": KEY,
            "issued_at": integer("Unix seconds."),
            "expires_at": integer("Unix seconds."),
            "signature": hexadecimal(64, "Ed25519 over compact JSON of the members before, in this order."),
        },
        description="The server's statement that a device key belongs to a user.",
    ),
    "User": record(
        {
            "id": text(),
            "user_id": text("The same as id."),
            "handle": text(),
            "display_name": nullable(text()),
            "avatar_url": nullable(text()),
        }
    ),
}
"""What more than one module refers to, by :func:`ref`."""
