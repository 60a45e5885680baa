"""Whoever joins, invites, removes, guesses and vanishes: each frame reaches exactly whom it must.

Random scripts of several users, devices and sessions, one of them a stranger who knows all numbers and names,
run against the whole server and against a model made from the documents alone.
"""

import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_proto import FrameType
from server.connect_builders import running_server
from server.routing_runner import POLICY, USERS, Runner

PATIENCE = 60.0
"""Seconds of one script; only a hang takes so long."""

devices = st.sampled_from(("a", "a", "a", "b", "b", "c", "a2", "m", "r"))
names = st.sampled_from((*USERS, "ghost"))
channels = st.sampled_from((1, 2, 2, 2**32 - 1))
groups = st.sampled_from(("g", "g", "g", "h"))
roles = st.sampled_from(("member", "admin", "co-owner", "owner"))
messages = st.tuples(
    st.just("message"), channels, st.sampled_from((FrameType.MSG, FrameType.MSG, FrameType.KEY_UPDATE))
)
live = st.tuples(st.sampled_from(("typing", "voice")), channels)
frames = st.one_of(
    messages,
    live,
    st.tuples(st.just("join"), channels, st.lists(names, max_size=4, unique=True)),
    st.tuples(st.just("join_group"), channels, groups),
    st.tuples(st.just("leave"), channels),
    st.tuples(st.just("create"), channels, groups, st.dictionaries(names, roles, max_size=4)),
    st.tuples(st.just("invite"), channels, groups, names, roles),
    st.tuples(
        st.just("event"),
        channels,
        groups,
        st.sampled_from(("remove", "leave", "role", "transfer", "free")),
        names,
        roles,
    ),
    st.tuples(st.just("presence"), st.sampled_from(("online", "away"))),
)
volleys = st.lists(st.tuples(devices, st.booleans(), st.one_of(messages, live)), min_size=2, max_size=8)
steps = st.one_of(
    st.tuples(st.just("frames"), devices, st.booleans(), st.lists(frames, min_size=2, max_size=8)),
    st.tuples(st.just("frames"), devices, st.booleans(), st.lists(frames, min_size=2, max_size=8)),
    st.tuples(st.just("volley"), volleys),
    st.tuples(st.just("cut"), devices, volleys, st.booleans()),
    st.tuples(st.just("connect"), devices, st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.just("drop"), devices, st.booleans()),
    st.tuples(st.just("second"), devices),
    st.tuples(st.just("confirm"), devices),
    st.tuples(st.just("revoke"), st.sampled_from(("m", "r"))),
)

ACQUAINTED: list[tuple[str, tuple[Any, ...]]] = [
    ("a", ("join", 1, ["b", "c"])),
    ("b", ("join", 1, ["a", "c"])),
    ("c", ("join", 1, ["a", "b"])),
    ("a", ("create", 2, "g", {"b": "admin", "c": "member", "r": "member"})),
    ("b", ("join_group", 2, "g")),
    ("r", ("join_group", 2, "g")),
]
"""A beginning in which there is something to attack."""


async def take(runner: Runner, step: tuple[Any, ...]) -> None:
    match step:
        case ("frames", name, via_second, sent):
            for frame in sent:
                runner.send(name, via_second, frame)
        case ("volley", volley):
            runner.send_together(volley)
        case ("cut", victim, volley, polite):
            # What a lost connection still carried, nobody can say.
            runner.send_together(each for each in volley if polite or each[0] != victim)
            await runner.drop(victim, polite=polite)
        case ("connect", name, ik, resume, acks):
            await runner.connect(name, ik=ik, resume=resume, acks=acks)
        case ("drop", name, polite):
            await runner.drop(name, polite=polite)
        case ("second", name):
            await runner.open_second(name)
        case ("confirm", name):
            await runner.confirm(name)
        case ("revoke", name):
            await runner.revoke(name)


async def play(script: list[tuple[Any, ...]], *, acquainted: bool) -> None:
    with tempfile.TemporaryDirectory() as directory, trio.fail_after(PATIENCE):
        async with (
            running_server(Path(directory), policy=POLICY) as server,
            trio.open_nursery() as nursery,
        ):
            runner = Runner(server, nursery)
            for name in USERS:
                await runner.connect(name)
            for name, frame in ACQUAINTED if acquainted else []:
                runner.send(name, False, frame)
                await runner.settle()
            for step in script:
                await take(runner, step)
                await runner.settle()
            for name in USERS:
                # Numbers are never given twice: the next one says how much was ever stored.
                await runner.connect(name)
            nursery.cancel_scope.cancel()


@settings(max_examples=25)
@given(script=st.lists(steps, min_size=4, max_size=16), acquainted=st.sampled_from((True, True, False)))
def test_frames_reach_exactly_those_whom_the_documents_name(
    script: list[tuple[Any, ...]], acquainted: bool
) -> None:
    trio.run(lambda: play(script, acquainted=acquainted))
