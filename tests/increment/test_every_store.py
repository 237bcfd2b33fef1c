"""What each kind of store does alike, and what each cannot; docs/stores.md tells users."""

from __future__ import annotations

import ast
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metaxy as mx
import pytest
from metaxy.metadata_store.exceptions import HashAlgorithmNotSupportedError
from metaxy.versioning.types import HashAlgorithm
from stores import STORES, store_config
from worlds import RUNTIME

from dagster_metaxy.declare.columns import TYPES, Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.project import MetaxyProject, load_project
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.selection import Scope
from dagster_metaxy.increment.update import Update

pytestmark = pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES", "ignore:fetch_arrow_table")

NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 1234, tzinfo=dt.timezone.utc)
VALUES: dict[str, Any] = {
    "str": "é'\"\\ {}",
    "int": 2**53 + 1,
    "float": 0.1,
    "bool": True,
    "bytes": b"\x00\xff",
    "date": dt.date(2026, 1, 2),
    "datetime": NOON,
}


def _config(kind: str, root: Path) -> Path:
    (root / "data").mkdir()
    file = root / "metaxy.toml"
    file.write_text(store_config(kind, str(root / "data")))
    return file


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def project(kind: str, tmp_path: Path) -> Iterator[MetaxyProject]:
    mx.MetaxyConfig.reset()
    _config(kind, tmp_path)
    with mx.FeatureGraph().use():
        yield load_project(tmp_path, "sandbox")
    mx.MetaxyConfig.reset()


def _define(columns: dict[str, Column], *ids: str, key: str = "t/own") -> Feature:
    feature = Feature(key, ids or ("id",), {"id": Column("int"), **columns})
    feature.register("sandbox")
    return feature


def _append(store: mx.MetadataStore, feature: Feature, *rows: dict[str, Any]) -> None:
    versions = {stores.PROVENANCE_BY_FIELD: {"default": "1"}}
    stores.append(store, feature.key, stores.typed(feature, [{**row, **versions} for row in rows]))


def _ids(store: mx.MetadataStore) -> list[int]:
    rows = stores.read(store, "t/own")
    assert rows is not None
    return sorted(rows["id"])


def test_values_of_every_type_come_back(project: MetaxyProject) -> None:
    # The names are SQL's own, too.
    columns = {f"select {name}": Column(name, nullable=True) for name in TYPES}
    feature = _define(columns)
    full = {
        f"select {name}": [VALUES[name[5:-1]]] if name.startswith("list") else VALUES[name]
        for name in TYPES
    }
    empty = dict.fromkeys(columns)
    with stores.opened(project.store(), "w") as store:
        _append(store, feature, {"id": 0, **empty})  # from which no type can be told
        _append(store, feature, {"id": 1, **full}, {"id": 2, **empty})
        stores.check_table(store, feature)
        rows = stores.read(store, "t/own")
    assert rows is not None
    assert rows.sort("id").select(list(columns)).to_dicts() == [empty, full, empty]
    assert {name: rows.schema[name] for name in columns} == {
        name: column.dtype for name, column in columns.items()
    }


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("type_", ["str", "int", "float", "bool", "date", "datetime"])
def test_deleting_by_columns_of_every_type(project: MetaxyProject, type_: str, hard: bool) -> None:
    feature = _define({"order": Column(type_, nullable=True)}, "id", "order")
    value = VALUES[type_]
    with stores.opened(project.store(), "w") as store:
        _append(store, feature, *({"id": n, "order": value if n % 3 else None} for n in range(9)))
        gone = [(1, value), (2, value), (3, None), (4, None), (6, value), (99, value)]
        stores.delete(store, "t/own", ["id", "order"], gone, hard=hard)
        assert _ids(store) == [0, 4, 5, 6, 7, 8]
        stores.delete(store, "t/own", ["order"], [(value,)], hard=hard)
        assert _ids(store) == [0, 6]
        history = stores.read(store, "t/own", **stores.HISTORY)
    assert history is not None
    assert (set(history["id"]) == {0, 6}) is hard


def test_deleting_more_than_a_filter_takes(
    project: MetaxyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "IDS_PER_FILTER", 50)
    feature = _define({"part": Column("str")}, "id", "part")
    with stores.opened(project.store(), "w") as store:
        _append(store, feature, *({"id": n, "part": "a"} for n in range(300)))
        gone = [(n, "a") for n in range(250)]
        stores.delete(store, "t/own", ["id", "part"], gone[:125])
        stores.delete(store, "t/own", ["id", "part"], gone, hard=True)
        assert _ids(store) == list(range(250, 300))


def test_a_column_that_is_declared_later(project: MetaxyProject, kind: str) -> None:
    with stores.opened(project.store(), "w") as store:
        _append(store, _define({}), {"id": 1})
    feature = _define({"more": Column("int", nullable=True)})
    with stores.opened(project.store(), "w") as store:
        if kind == "delta":
            stores.check_table(store, feature)
            _append(store, feature, {"id": 2, "more": 2})
            assert _ids(store) == [1, 2]
        else:
            with pytest.raises(UpdateError, match=r"'more' was declared after the table .*t/own"):
                stores.check_table(store, feature)


def test_a_column_that_is_declared_no_more(project: MetaxyProject) -> None:
    with stores.opened(project.store(), "w") as store:
        feature = _define({"less": Column("int"), "x": Column("str")})
        _append(store, feature, {"id": 1, "less": 1, "x": "a"})
        feature = _define({"x": Column("str")})
        stores.check_table(store, feature)
        _append(store, feature, {"id": 2, "x": "b"})
        rows = stores.read(store, "t/own")
    assert rows is not None
    assert sorted(rows.select("id", "less", "x").rows()) == [(1, 1, "a"), (2, None, "b")]


@pytest.mark.parametrize(
    "algorithm", ["xxhash64", "xxh3_64", "xxhash32", "wyhash", "sha256", "md5"]
)
def test_hash_algorithms_without_a_network(kind: str, algorithm: str, tmp_path: Path) -> None:
    file = _config(kind, tmp_path)
    file.write_text(file.read_text().replace(STORES[kind][3], HashAlgorithm(algorithm).value))
    mx.MetaxyConfig.reset()
    with mx.FeatureGraph().use():
        project = load_project(tmp_path, "sandbox")
        feature = _define({})
        if kind == "duckdb" and algorithm != "md5":
            with pytest.raises(HashAlgorithmNotSupportedError), project.store().open("w"):
                pass
            return
        with stores.opened(project.store(), "w") as store:
            _append(store, feature, {"id": 1})
            assert _ids(store) == [1]
    mx.MetaxyConfig.reset()


def test_null_characters_in_text(project: MetaxyProject, kind: str) -> None:
    feature = _define({"x": Column("str")})
    with stores.opened(project.store(), "w") as store:
        if kind == "postgresql":
            with pytest.raises(stores.StoreError, match=r"t/own.*NUL"):
                _append(store, feature, {"id": 1, "x": "a\0b"})
        else:
            _append(store, feature, {"id": 1, "x": "a\0b"})
            rows = stores.read(store, "t/own")
            assert rows is not None
            assert rows["x"].to_list() == ["a\0b"]


TESTED = {
    "install": None,
    "several runs at once": (
        "faults/test_races.py::test_several_runs_at_once",
        "faults/test_object_stores.py::test_several_runs_at_once",
        "faults/test_races.py::TestDuckDB::test_a_second_run_says_what_to_do",
    ),
    "first write of a table by several at once": (
        "faults/test_races.py::test_the_first_write_of_a_table_by_several_processes",
    ),
    "in an object store": ("faults/test_object_stores.py::test_deleting_and_compacting",),
    "without a network": (
        "components/test_one_project_in_every_store.py::test_it_computes_the_same",
    ),
    "hash algorithms without a network": ("test_hash_algorithms_without_a_network",),
    "`orphans: hard`, `hard: true`": ("test_deleting_by_columns_of_every_type",),
    "a column that is declared later": ("test_a_column_that_is_declared_later",),
    "small files": (
        "faults/test_compaction.py::test_files_do_not_add_up_in_a_run",
        "faults/test_object_stores.py::test_deleting_and_compacting",
    ),
    "length of names": ("TestPostgreSQL::test_names_that_are_too_long",),
    "null characters in text": ("test_null_characters_in_text",),
}
"""The tests of each row of the table of docs/stores.md."""


def test_what_users_are_told_is_tested(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath
    lines = (root / "docs/stores.md").read_text().splitlines()
    table = [[c.strip() for c in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    assert [name.lower() for name in table[0][1:]] == list(STORES)
    assert [row[0] for row in table[2:]] == list(TESTED)
    for test in (test for tests in TESTED.values() for test in tests or ()):
        file, *names = test.split("::") if ".py" in test else (Path(__file__), *test.split("::"))
        found: Any = ast.parse((root / "tests" / file).read_text())
        for name in names:
            found = next(node for node in found.body if getattr(node, "name", "") == name)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
class TestPostgreSQL:
    def test_what_cannot_be_written_whole_is_not_written(self, project: MetaxyProject) -> None:
        feature = _define({"x": Column("int")})
        with stores.opened(project.store(), "w") as store:
            _append(store, feature, {"id": 0, "x": 0})
            store.conn.raw_sql('alter table "t__own" add check (x < 900)').close()  # type: ignore[attr-defined]
            with pytest.raises(stores.StoreError, match=r"t/own.*violates check constraint"):
                _append(store, feature, *({"id": n, "x": n} for n in range(1, 1000)))
            assert _ids(store) == [0]

    @pytest.mark.parametrize(
        ("key", "column", "excess"),
        [("t/" + "x" * 45, "c", 0), ("t/" + "x" * 46, "c", 1), ("t/own", "é" * 32, 1)],
    )
    def test_names_that_are_too_long(
        self, project: MetaxyProject, key: str, column: str, excess: int
    ) -> None:
        feature = _define({column: Column("int")}, key=key)
        with stores.opened(project.store(), "w") as store:
            if excess:
                with pytest.raises(UpdateError, match=rf"too long for PostgreSQL.* by {excess}\."):
                    stores.check_table(store, feature)
            else:
                stores.check_table(store, feature)
                _append(store, feature, {"id": 1, column: 1})
                assert stores.read(store, key) is not None

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (("/test-", "/none-"), "does not exist"),
            (("127.0.0.1", "nowhere.invalid"), "resolve host"),
            (("//postgres:", "//postgres:hunter2-"), "password authentication failed"),
        ],
    )
    def test_it_cannot_be_opened(
        self, tmp_path: Path, project: MetaxyProject, wrong: tuple[str, str], said: str
    ) -> None:
        file = tmp_path / "metaxy.toml"
        file.write_text(file.read_text().replace(*wrong))
        mx.MetaxyConfig.reset()
        store = load_project(tmp_path, "sandbox").store()
        with (
            pytest.raises(stores.StoreError, match=f"cannot be opened.*{said}") as raised,
            stores.opened(store, "w"),
        ):
            pass
        assert "hunter2" not in str(raised.value)

    def test_the_server_goes_while_a_run_writes(
        self, project: MetaxyProject, tmp_path: Path
    ) -> None:
        import psycopg

        docs = _define({}, key="t/docs")
        with stores.opened(project.store(), "w") as store:
            _append(store, docs, *({"id": n} for n in range(9)))
        words = Feature("t/own", ("id",), {"x": Column("int")}, deps=({"feature": "t/docs"},))
        words = words.with_id_types({"t/docs": docs})
        words.register("sandbox")
        calls: list[int] = []
        server, _, database = project.store().connection_string.rpartition("/")  # type: ignore[attr-defined]

        def compute(sample: dict[str, Any]) -> dict[str, int]:
            calls.append(sample["id"])
            if len(calls) == 7:  # in the third chunk
                with psycopg.connect(f"{server}/postgres") as connection:
                    connection.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                        [database],
                    )
            return {"x": 1}

        update = Update(words, Compute(compute), tmp_path / "artifacts", chunk_rows=3)
        with pytest.raises(stores.StoreError, match=r"[36] are in the store"):
            update.run(project.store(), Scope(), RUNTIME)
        outcome = update.run(project.store(), Scope(), RUNTIME)
        assert outcome.failed == []
        with stores.opened(project.store(), "r") as store:
            assert _ids(store) == list(range(9))
        assert len(calls) < 18
