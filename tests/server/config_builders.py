"""Loads configurations from text, the way a server does."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from commucat_crypto import StaticKeyPair
from commucat_server.config import ServerConfig, load_config


def load_text(
    folder: Path,
    toml: str | bytes | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_path: Path | None = None,
    data_dir: Path | None = None,
    bind: str | None = None,
) -> ServerConfig:
    """Load with ``folder`` as the working directory and ``toml`` as its ``commucat.toml``."""
    if toml is not None:
        content = toml.encode() if isinstance(toml, str) else toml
        (folder / "commucat.toml").write_bytes(content)
    return load_config(
        config_path=config_path, data_dir=data_dir, bind=bind, environ=environ or {}, cwd=folder
    )


def noise_variables() -> dict[str, str]:
    """A fresh Noise pair as the environment gives it."""
    pair = StaticKeyPair.generate()
    return {"COMMUCAT_NOISE_PRIVATE": pair.private.hex(), "COMMUCAT_NOISE_PUBLIC": pair.public.hex()}


def hex_key() -> str:
    return secrets.token_hex(32)
