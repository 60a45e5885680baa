"""The checker is checked: servers that break the promise in a small way must be caught."""

import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

import commucat_server
import commucat_storage
from end_to_end.server_process import BIN, clean_environment

PATIENCE = 240.0
"""Seconds for a run; only a hang takes so long."""
SEEDS = (2, 3, 4, 77, 78)
"""Of the runs, one after the other until one catches the damage."""


@attrs.frozen(kw_only=True)
class Damage:
    """A change of one file of the server, and the faults of which at least one must be found."""

    package: ModuleType = commucat_server
    file: str
    before: str
    after: str
    found_as: tuple[str, ...]
    messages: int = 600
    """How many are sent, so that it strikes."""
    options: tuple[str, ...] = ()
    """Of the run."""


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
    file="connect/writer.py",
    before="        frames = self._live.take()\n",
    after=(
        "        frames = self._live.take()\n"
        "        from commucat_storage import Confirm\n"
        "        confirm = Confirm(self._live.device_id, self._live.epoch, self._live.taken)\n"
        "        submit = self._context.inbox.submit\n"
        "        trio.lowlevel.spawn_system_task(submit, [confirm], lambda result: None)\n"
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
    messages=3000,
)
REMOVED_MEMBER_STAYS = Damage(
    package=commucat_storage,
    file="group_changes.py",
    before="        else:\n            self._groups.remove(group, change.device_id)\n",
    after="        elif change.action is GroupAction.LEAVE:\n"
    "            self._groups.remove(group, change.device_id)\n",
    found_as=("excluded",),
    messages=1200,
)
CONFIRMED_BEFORE_THE_ANSWER = Damage(
    file="federation/lane.py",
    before="        body = services.signer.batch(epoch, rows, peer.domain)\n",
    after=(
        "        body = services.signer.batch(epoch, rows, peer.domain)\n"
        "        taken = Confirm(outbox_of(self.domain), epoch, rows[-1].number)\n"
        "        await services.inbox.submit([taken], lambda result: None)\n"
    ),
    found_as=("lost",),
    options=("--domains", "2"),
)
IDS_NOT_KEPT = Damage(
    file="federation/inbound.py",
    before='            key=f"federation:{peer.domain}:{event_id}",\n',
    after='            key=f"federation:{peer.domain}:{event_id}:{id(value)}:{self._clock()}",\n',
    found_as=("duplicates", "renumbered"),
    # Only an answer that is lost behind its commit shows it: more kills, more of those.
    options=("--domains", "2", "--kills", "8"),
)
DAMAGES = {
    "an outbox is confirmed before the peer has answered": CONFIRMED_BEFORE_THE_ANSWER,
    "ids of events are not kept": IDS_NOT_KEPT,
    "a removed member still gets messages": REMOVED_MEMBER_STAYS,
    "ack before commit": ACK_BEFORE_COMMIT,
    "delete before delivery": DELETE_BEFORE_DELIVERY,
    "two rows swapped on delivery": SWAPPED_ON_DELIVERY,
    "one message lost at a replaced session": LOST_AT_A_REPLACED_SESSION,
}


def damaged_copy(damage: Damage, home: Path) -> Path:
    """A folder for PYTHONPATH with a server that has the damage."""
    folder = home / "damaged"
    assert damage.package.__file__ is not None
    original = Path(damage.package.__file__).parent
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


def chaos_figures(damage: Damage, folder: Path, seed: int) -> dict[str, Any]:
    """What one run against the damaged server in ``folder`` counted; the run itself went to its end."""
    command = [str(BIN / "commucat-cli"), "chaos", "--kills", "2", "--seed", str(seed)]
    result = subprocess.run(
        [*command, *damage.options, "--messages", str(damage.messages), "--duration-limit", "120", "--json"],
        cwd=folder.parent,
        env=clean_environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    print(result.stdout)
    assert result.returncode in (0, 1), result.stderr
    figures: dict[str, Any] = json.loads(result.stdout)
    assert figures["problem"] is None, "the run itself went to its end"
    assert figures["holds"] == (result.returncode == 0)
    return figures


def is_caught(damage: Damage, figures: dict[str, Any]) -> bool:
    return not figures["holds"] and sum(figures[kind] for kind in damage.found_as) > 0


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_server_is_caught(name: str, tmp_path: Path) -> None:
    """By one of five runs: a damage may need a message at the very moment of a fault."""
    damage = DAMAGES[name]
    folder = damaged_copy(damage, tmp_path)
    assert any(is_caught(damage, chaos_figures(damage, folder, seed)) for seed in SEEDS)
