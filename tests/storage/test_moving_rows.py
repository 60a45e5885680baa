"""Rows as lines, and digests over them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_storage.moving import TABLES, DamagedBackupError, Table
from commucat_storage.moving.rows import Row, RowCodec, RowDigest
from commucat_storage.moving.tables import Column, Kind

INTEGERS = st.integers(-(2**63), 2**63 - 1)
# Lone surrogates too: PostgreSQL's side can hold them.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
VALUES: dict[Kind, st.SearchStrategy[object]] = {
    Kind.TEXT: TEXTS,
    Kind.INT: INTEGERS,
    Kind.BOOL: st.booleans(),
    Kind.BYTES: st.binary(max_size=40),
    Kind.TEXTS: st.lists(TEXTS, max_size=4),
    Kind.DECIMAL: st.integers(0, 2**64 - 1).map(str),
    Kind.SECONDS: INTEGERS,
    Kind.EXPIRY: INTEGERS,
    Kind.MICROSECONDS: INTEGERS,
    Kind.JSON: TEXTS,
    Kind.JSON_VALUE: TEXTS,
}


def value_of(column: Column) -> st.SearchStrategy[object]:
    return st.none() | VALUES[column.kind] if column.optional else VALUES[column.kind]


def rows_of(table: Table) -> st.SearchStrategy[Row]:
    return st.tuples(*map(value_of, table.columns))


tables_and_rows = st.sampled_from(TABLES).flatmap(
    lambda table: st.tuples(st.just(table), st.lists(rows_of(table), max_size=4))
)


@given(tables_and_rows)
def test_a_row_comes_back_from_its_line(case: tuple[Table, list[Row]]) -> None:
    table, rows = case
    codec = RowCodec(table)
    for row in rows:
        line = codec.line(row)
        assert line.isascii()
        assert line.index(b"\n") == len(line) - 1
        assert codec.row(line) == row


@given(st.sampled_from(TABLES), st.binary(max_size=60))
def test_garbage_is_damage_and_nothing_else(table: Table, line: bytes) -> None:
    with pytest.raises(DamagedBackupError, match=table.name):
        RowCodec(table).row(line)


@pytest.mark.parametrize(
    "line",
    [
        b'["d",1,1,["x"],null]',  # 1 is no boolean
        b'["d",true,true,["x"],null]',  # nor true a number
        b'["d",1,true,["x",2],null]',
        b'["d",1,true,"x",null]',
        b'["d",null,true,["x"],null]',
        b'["d",1,true,["x"]]',
        b'["d",1,true,["x"],null,null]',
        b'{"d":1}',
        b"[" * 100_000,
    ],
)
def test_values_of_another_type_are_damage(line: bytes) -> None:
    [routes] = [table for table in TABLES if table.name == "route"]
    RowCodec(routes).row(b'["d",1,true,["x"],null]')
    with pytest.raises(DamagedBackupError, match="route"):
        RowCodec(routes).row(line)


def digest_of(lines: list[bytes]) -> RowDigest:
    digest = RowDigest()
    digest.add(lines)
    return digest


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=8), st.data())
def test_a_digest_depends_on_the_lines_but_not_their_order(lines: list[bytes], data: st.DataObject) -> None:
    digest = digest_of(lines)
    parted = digest_of(lines[:1])
    parted.add(lines[1:])
    index = data.draw(st.integers(0, len(lines) - 1))

    assert digest_of(data.draw(st.permutations(lines))) == digest == parted
    assert len(digest.hex()) == 64
    changed = [*lines[:index], lines[index] + b"!", *lines[index + 1 :]]
    for other in (changed, [*lines, lines[index]], lines[1:]):
        assert digest_of(other) != digest
        assert digest_of(other).hex() != digest.hex()
