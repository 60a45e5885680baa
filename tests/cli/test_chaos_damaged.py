"""The checker is checked: servers that break the promise in a small way must be caught."""

import json
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

import commucat_server
from end_to_end.server_process import BIN, clean_environment

PATIENCE = 240.0
"""Seconds for a run; only a hang takes so long."""


@attrs.frozen(kw_only=True)
class Damage:
    """A change of one file of the server, and the faults of which at least one must be found."""

    file: str
    before: str
    after: str
    found_as: tuple[str, ...]


ACK_BEFORE_COMMIT = Damage(
    file="connect/dispatch.py",
    before="        self._pending += 1\n        try:\n",
    after=(
        "        for request in batch:\n"
        "            if request.acknowledged:\n"
        "                self._live.acknowledge(request.channel, request.sequence, request.ack)\n"
        "        self._pending += 1\n        try:\n"
    ),
    found_as=("lost",),
)
DELETE_BEFORE_DELIVERY = Damage(
    file="connect/session.py",
    before="        taken = self._live.taken\n",
    after=(
        "        taken = self._live.taken\n"
        "        confirm = Confirm(self._live.device_id, self._live.epoch, taken)\n"
        "        await self._context.inbox.submit([confirm], lambda result: None)\n"
    ),
    found_as=("lost", "unconfirmed"),
)
SWAPPED_ON_DELIVERY = Damage(
    file="routing/live.py",
    before="        frames.extend(self._ready)\n",
    after=(
        "        if len(self._ready) > 1:\n"
        "            self._ready[0], self._ready[1] = self._ready[1], self._ready[0]\n"
        "        frames.extend(self._ready)\n"
    ),
    found_as=("out_of_order",),
)
LOST_AT_A_REPLACED_SESSION = Damage(
    file="routing/registry.py",
    before="                older.end(REPLACED)\n",
    after="                older.end(REPLACED)\n                session.cursor += 1\n",
    found_as=("lost", "unconfirmed"),
)
DAMAGES = {
    "ack before commit": ACK_BEFORE_COMMIT,
    "delete before delivery": DELETE_BEFORE_DELIVERY,
    "two rows swapped on delivery": SWAPPED_ON_DELIVERY,
    "one message lost at a replaced session": LOST_AT_A_REPLACED_SESSION,
}


def damaged_copy(damage: Damage, home: Path) -> Path:
    """A folder for PYTHONPATH with a server that has the damage."""
    folder = home / "damaged"
    original = Path(commucat_server.__file__).parent
    copy = folder / original.name
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / damage.file
    text = file.read_text()
    assert text.count(damage.before) == 1, (
        f"the damage no longer fits {damage.file}: the text that it replaces stands there "
        f"{text.count(damage.before)} times; adapt it to the changed server:\n{damage.before}"
    )
    file.write_text(text.replace(damage.before, damage.after))
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_server_is_caught(name: str, tmp_path: Path) -> None:
    damage = DAMAGES[name]
    folder = damaged_copy(damage, tmp_path)
    command = [str(BIN / "commucat-cli"), "chaos", "--messages", "600", "--kills", "2", "--seed", "2"]
    result = subprocess.run(
        [*command, "--duration-limit", "120", "--json"],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    print(result.stdout)
    assert result.returncode == 1, result.stderr
    figures = json.loads(result.stdout)
    assert figures["problem"] is None, "the run itself went to its end"
    assert not figures["holds"]
    assert sum(figures[kind] for kind in damage.found_as) > 0
