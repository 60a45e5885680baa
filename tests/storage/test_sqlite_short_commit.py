"""What is little is committed by one statement, with the same result as by many."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commucat_storage import (
    Confirm,
    Operation,
    RefusalReason,
    Resolve,
    ResolveOutcome,
    SqliteSettings,
    open_sqlite,
)
from commucat_storage.applying import Group
from commucat_storage.device_inbox import _MOST_SIZES
from commucat_storage.sqlite import short_commit
from commucat_storage.sqlite.connection import connect_writer
from commucat_storage.sqlite.turns import Turns
from commucat_storage.sqlite.writer import Entry, Writer
from storage.storage_builders import accepted, add_devices, asking, message, refusal, refused

NAMES = ("a", "b", "c")


class Store:
    """A writer of its own, and every statement that it executes."""

    def __init__(self, path: Path, limits: SqliteSettings | None = None) -> None:
        limits = limits or SqliteSettings()
        self.path = path
        self.connection = connect_writer(path, limits)
        self.writer = Writer(self.connection, path, limits, Turns())
        self.statements: list[str] = []
        self.epochs = dict(self.connection.execute("SELECT d.device_id, o.epoch FROM " + _INBOXES).fetchall())
        # From the second transaction on it knows whether others have written, and has all inboxes in memory.
        self.commit(message("a"), self.confirm("b", 0), self.confirm("c", 0))
        self.commit(message("other"))  # Makes the views.
        self.connection.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        # The steps of a trigger are told by the text of the statement that it belongs to, and its pragma.
        if not statement.startswith("--") and self.statements[-1:] != [statement]:
            self.statements.append(statement)

    def commit(self, *batches: Operation | Sequence[Operation]) -> list[object]:
        entries = [
            Entry(lambda result: None, tuple(batch) if isinstance(batch, Sequence) else (batch,))
            for batch in batches
        ]
        results = self.writer.commit(entries)
        return [outcome for result in results if isinstance(result, tuple) for outcome in result]

    def confirm(self, name: str, number: int) -> Confirm:
        return Confirm(name, self.epochs[name], number)

    def counters(self, name: str) -> tuple[object, ...]:
        query = f"SELECT o.confirmed, o.rows, o.bytes, o.next_number FROM {_INBOXES} WHERE d.device_id = ?"
        row: tuple[object, ...] = self.connection.execute(query, (name,)).fetchone()
        return row


_INBOXES = "user_device AS d JOIN inbox_offset AS o ON o.inbox = d.inbox"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A store with some devices."""
    path = tmp_path / "store.db"

    async def fill() -> None:
        async with open_sqlite(path) as storage:
            await add_devices(storage, *NAMES, "other")

    trio.run(fill)
    return path


@pytest.fixture
def store(empty: Path) -> Iterator[Store]:
    made = Store(empty)
    with closing(made.writer):
        yield made


def dump(path: Path) -> list[tuple[object, ...]]:
    """All messages and where each inbox stands; epochs are at random and left out."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT * FROM relay_queue ORDER BY position").fetchall()
        rows += connection.execute(
            "SELECT inbox, next_number, confirmed, rows, bytes, shared, earliest, stranger_rows, "
            "stranger_bytes, reports FROM inbox_offset ORDER BY inbox"
        ).fetchall()
        rows += connection.execute("SELECT refs, payload FROM relay_payload ORDER BY payload_id").fetchall()
        return rows


def test_a_message_is_one_statement(store: Store) -> None:
    [outcome] = store.commit(message("a", payload=b"meow"))
    assert accepted(outcome) == {"a": 2}
    assert len(store.statements) == 1
    assert store.counters("a") == (0, 2, 8, 3)


def test_so_are_four_messages_with_the_confirmations_of_others(store: Store) -> None:
    outcomes = store.commit(
        [message("a"), message("b")], message("c", payload=b""), store.confirm("a", 1), message("b")
    )
    assert [accepted(each) for each in outcomes[:3]] == [{"a": 2}, {"b": 1}, {"c": 1}]
    assert len(store.statements) == 1
    assert store.counters("a") == (1, 1, 4, 3)
    assert store.counters("b") == (0, 2, 8, 3)
    assert store.counters("c") == (0, 1, 0, 2)


def test_marks_of_a_row_are_kept(store: Store) -> None:
    store.commit(asking(b"123456", "b", sender="a"))
    assert len(store.statements) == 1
    [row] = store.connection.execute(
        "SELECT stranger, reporter, reference, payload FROM relay_queue WHERE reporter IS NOT NULL"
    ).fetchall()
    assert row == (1, "a", b"123456", b"meow")


def test_a_question_is_a_look_whether_others_have_written(store: Store) -> None:
    [before] = store.commit(Resolve("a", 7))
    assert before == ResolveOutcome((), (refusal("", RefusalReason.NO_ROUTE),))
    assert store.statements == ["PRAGMA data_version"]
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("INSERT INTO route VALUES ('a', 7, 0, '[\"b\"]', NULL)")
    assert store.commit(Resolve("a", 7)) == [ResolveOutcome(("b",))]


def test_a_question_beside_a_message_changes_nothing_of_its_commit(store: Store) -> None:
    store.statements.clear()
    question, outcome = store.commit(Resolve("b", 7), message("b"))
    assert isinstance(question, ResolveOutcome)
    assert accepted(outcome) == {"b": 1}
    assert len(store.statements) == 1


def test_what_is_more_is_committed_by_more_statements(store: Store) -> None:
    store.commit([message("a"), message("b"), message("c"), message("a"), message("b")])
    assert len(store.statements) > 1
    store.statements.clear()
    store.commit(message("a", "b"))  # One payload for both.
    assert len(store.statements) > 1


def test_what_another_process_has_written_counts(store: Store) -> None:
    store.commit(message("b"))
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("UPDATE user_device SET status = 'revoked' WHERE device_id = 'b'")
    store.statements.clear()
    outcomes = store.commit(message("b"), message("c"))
    assert refused(outcomes[0]) == {"b": RefusalReason.REVOKED}
    assert accepted(outcomes[1]) == {"c": 1}
    assert "ROLLBACK" not in store.statements  # Tried in vain, but nothing had begun.
    assert store.counters("b") == (0, 1, 4, 2)


def test_what_another_process_writes_while_messages_are_looked_at_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply: Callable[[Group, Sequence[Operation]], list[object]] = Group.apply

    def slowly(self: Group, batch: Sequence[Operation]) -> list[object]:
        outcomes = apply(self, batch)
        monkeypatch.undo()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("UPDATE user_device SET status = 'revoked' WHERE device_id = 'b'")
        return outcomes

    monkeypatch.setattr(Group, "apply", slowly)
    [outcome] = store.commit(message("b"))
    assert refused(outcome) == {"b": RefusalReason.REVOKED}
    assert store.counters("b") == (0, 0, 0, 1)


def test_what_fails_before_the_transaction_is_done_again_within_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply: Callable[[Group, Sequence[Operation]], list[object]] = Group.apply

    def half(self: Group, batch: Sequence[Operation]) -> list[object]:
        apply(self, batch)
        monkeypatch.undo()
        raise KeyError("read from two states")

    monkeypatch.setattr(Group, "apply", half)
    [outcome] = store.commit(message("b"))
    assert accepted(outcome) == {"b": 1}
    assert store.counters("b") == (0, 1, 4, 2)


def test_a_full_inbox_counts_what_was_confirmed_just_before(empty: Path) -> None:
    store = Store(empty, SqliteSettings(max_rows=2, max_bytes=100))
    with closing(store.writer):
        # Reported, so that the sizes have to be looked up.
        store.commit(asking(b"123456", "a", sender="b"))
        outcomes = store.commit(store.confirm("a", 1), message("a"), message("a"))
        assert accepted(outcomes[1]) == {"a": 3}
        assert refused(outcomes[2]) == {"a": RefusalReason.QUOTA}
        assert store.counters("a") == (1, 2, 8, 4)


def test_sizes_of_a_long_inbox_are_looked_up(store: Store) -> None:
    for size in range(_MOST_SIZES + 10):
        store.commit(message("b", payload=bytes(size)))
    store.statements.clear()
    store.commit(store.confirm("b", 20))
    assert any("sum(q.size)" in each for each in store.statements)
    assert store.counters("b")[:3] == (20, _MOST_SIZES - 10, sum(range(20, _MOST_SIZES + 10)))


def test_those_of_a_short_one_are_remembered(store: Store) -> None:
    for size in range(_MOST_SIZES):
        store.commit(message("b", payload=bytes(size)))
    store.statements.clear()
    store.commit(store.confirm("b", 20))
    store.commit(store.confirm("b", 19))  # Nothing new.
    store.commit(store.confirm("b", 30))
    assert [each.split()[0] for each in store.statements] == ["INSERT", "PRAGMA", "INSERT"]
    assert store.counters("b")[:3] == (30, _MOST_SIZES - 30, sum(range(30, _MOST_SIZES)))


@attrs.frozen
class Step:
    """What happens in one transaction: messages by recipients and size, confirmations by part of an inbox,
    questions by who asks."""

    messages: tuple[tuple[tuple[str, ...], int, bool], ...]
    confirmed: tuple[tuple[str, float], ...]
    asked: tuple[str, ...]


steps = st.builds(
    Step,
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True).map(tuple),
            st.integers(0, 40),
            st.booleans(),
        ),
        max_size=4,
    ).map(tuple),
    st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0, 1)), max_size=2).map(tuple),
    st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
)


@given(st.lists(steps, max_size=12))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_leave_the_same(empty: Path, plan: list[Step]) -> None:
    with TemporaryDirectory(dir=empty.parent) as folder:
        left = []
        for most in (0, short_commit.MOST_ROWS):
            path = Path(folder) / f"{most}.db"
            with closing(sqlite3.connect(empty)) as source, closing(sqlite3.connect(path)) as target:
                source.backup(target)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("commucat_storage.sqlite.writer.MOST_ROWS", most)
                store = Store(path, SqliteSettings(max_rows=10, max_bytes=200))
                with closing(store.writer):
                    outcomes = [store.commit(*_batches(store, step)) for step in plan]
            left.append((outcomes, dump(path)))
        assert left[0] == left[1]


def _batches(store: Store, step: Step) -> list[Operation]:
    batches: list[Operation] = []
    for index, (names, size, reports) in enumerate(step.messages):
        if reports:
            batches.append(asking(b"%06d" % index, *names, sender="a", payload=bytes(size)))
        else:
            batches.append(message(*names, payload=bytes(size)))
    for name, part in step.confirmed:
        confirmed, _, _, following = store.counters(name)
        assert isinstance(confirmed, int)
        assert isinstance(following, int)
        batches.append(store.confirm(name, confirmed + round(part * (following - 1 - confirmed))))
    batches += [Resolve(name, 7) for name in step.asked]
    return batches or [message("a")]
