"""The examples of docs/protocol.md are true."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from commucat_crypto import DeviceKeyPair, NoiseKeyStatement

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def documents_with(member: str) -> list[dict[str, Any]]:
    blocks = re.findall(r"```json\n(.*?)```", PROTOCOL, re.DOTALL)
    # Some blocks show frames, one in each line.
    return [json.loads(block) for block in blocks if f'\n  "{member}"' in block]


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_the_noise_keys_of_the_examples_are_signed_by_the_ca_beside_them() -> None:
    documents = documents_with("noise_keys")
    assert len(documents) == 2
    for document in documents:
        for entry in document["noise_keys"]:
            NoiseKeyStatement(
                domain="chat.example.org",
                version=entry["version"],
                public=bytes.fromhex(entry["public"]),
                valid_after=seconds(entry["valid_after"]),
                rotates_at=seconds(entry["rotates_at"]),
                expires_at=seconds(entry["expires_at"]),
            ).verify(bytes.fromhex(document["device_ca_public"]), bytes.fromhex(entry["signature"]))


def test_the_example_of_a_signature_is_the_signature() -> None:
    [signature] = re.findall(r"Signature:\n\n    ([0-9a-f]{128})\n", PROTOCOL)
    statement = NoiseKeyStatement(
        domain="chat.example.org",
        version=3,
        public=bytes([9]) * 32,
        valid_after=1800000000,
        rotates_at=1800604800,
        expires_at=1803196800,
    )
    assert statement.sign(DeviceKeyPair.from_seed(bytes(range(32, 64)))).hex() == signature
