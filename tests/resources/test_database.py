"""DatabaseResource on SQLite and PostgreSQL, in real runs."""

from __future__ import annotations

import datetime as dt
import json
import traceback
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError, ProgrammingError
from stores import database

from dagster_metaxy.resources import DatabaseResource, DatabaseUnavailable


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/x.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("create table clips (name text, frames integer, rate real)"))
        connection.execute(
            sa.text(
                "insert into clips values ('a', null, 25.0), ('b', 3, 29.97), ('c''s', 7, null)"
            )
        )
    engine.dispose()
    return url


def run(resource: DatabaseResource, body: Callable[[DatabaseResource], Any]) -> tuple[Any, bool]:
    """What a body returns inside a run, and whether the run succeeds."""
    returned: list[Any] = []

    @dg.asset
    def asked(database: DatabaseResource) -> None:
        returned.append(body(database))

    result = dg.materialize([asked], resources={"database": resource}, raise_on_error=False)
    return (returned or [None])[0], result.success


def test_rows_by_values(url: str) -> None:
    frame, ok = run(
        DatabaseResource(url=url),
        lambda db: db.query("select * from clips where name = :name", {"name": "c's"}),
    )
    assert ok
    assert frame.to_dicts() == [{"name": "c's", "frames": 7, "rate": None}]


def test_types_are_of_all_rows(url: str) -> None:
    frame, _ = run(
        DatabaseResource(url=url), lambda db: db.query("select * from clips order by name")
    )
    assert frame.schema == {"name": pl.String(), "frames": pl.Int64(), "rate": pl.Float64()}
    assert frame.height == 3


def test_no_rows(url: str) -> None:
    frame, ok = run(DatabaseResource(url=url), lambda db: db.query("select * from clips where 0"))
    assert ok
    assert frame.columns == ["name", "frames", "rate"]
    assert frame.is_empty()


def test_by_its_parts(url: str) -> None:
    parts = DatabaseResource(dialect="sqlite", database=url.removeprefix("sqlite:///"))
    frame, _ = run(parts, lambda db: db.query("select count(*) as n from clips"))
    assert frame.item() == 3


def test_a_connection_commits_or_undoes(url: str) -> None:
    def insert(database: DatabaseResource, name: str) -> None:
        with database.connect() as connection:
            connection.execute(sa.text("insert into clips values (:n, 1, 1)"), {"n": name})
            if name == "undone":
                raise ValueError("midway")

    resource = DatabaseResource(url=url)
    assert run(resource, lambda db: insert(db, "done"))[1]
    assert not run(resource, lambda db: insert(db, "undone"))[1]
    names, _ = run(resource, lambda db: db.query("select name from clips")["name"].to_list())
    assert names == ["a", "b", "c's", "done"]


@pytest.mark.parametrize("fails", [False, True])
def test_all_connections_are_closed_with_the_run(url: str, fails: bool) -> None:
    opened: list[Any] = []
    closed: list[Any] = []

    def body(database: DatabaseResource) -> None:
        event.listen(database.engine, "connect", lambda c, _: opened.append(c))
        event.listen(database.engine, "close", lambda c, _: closed.append(c))
        with database.connect(), database.connect():
            database.query("select 1")
        assert len(opened) == 3
        assert closed == []  # kept for the next
        if fails:
            raise ValueError("of the asset")

    _, ok = run(DatabaseResource(url=url), body)
    assert ok is not fails
    assert len(opened) == len(closed) == 3


def test_nothing_is_connected_before_it_is_asked_for(tmp_path: Path) -> None:
    away = DatabaseResource(url=f"sqlite:///{tmp_path}/no/such/folder/x.db")
    assert run(away, lambda db: "not asked")[1]
    told: list[str] = []

    def asks(database: DatabaseResource) -> None:
        with pytest.raises(DatabaseUnavailable) as caught:
            database.query("select 1")
        told.append(str(caught.value))
        assert isinstance(caught.value, ConnectionError)

    assert run(away, asks)[1]
    assert told == [f"{away.url} cannot be reached: unable to open database file"]


def test_errors_hide_password_and_parameters(url: str) -> None:
    def asks(database: DatabaseResource) -> None:
        with pytest.raises(OperationalError) as caught:
            database.query("select * from missing where a = :a", {"a": "hunter2"})
        assert "no such table" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "https://" not in str(caught.value)

    assert run(DatabaseResource(url=url), asks)[1]
    away = DatabaseResource(host="127.0.0.1", port=9, database="m", user="me", password="hun/ter2")

    def connects(database: DatabaseResource) -> None:
        with pytest.raises(DatabaseUnavailable) as caught:
            database.query("select 1")
        assert str(caught.value).startswith(
            "postgresql+psycopg://me:***@127.0.0.1:9/m cannot be reached: "
        )
        assert "ter2" not in str(caught.value)

    assert run(away, connects)[1]
    assert "ter2" not in repr(away)
    assert "ter2" not in str(away)


@pytest.mark.parametrize(
    "said",
    [
        "password hun/ter2 is wrong",
        "in postgresql://me:hun%2Fter2@host",
        "two\nlines: hun/ter2",
    ],
)  # fmt: skip
def test_what_a_driver_says_of_the_password(said: str) -> None:
    for resource in (
        DatabaseResource(host="h", password="hun/ter2"),
        DatabaseResource(url="postgresql://me:hun%2Fter2@h"),
        DatabaseResource(url="postgresql://h?password=hun%2Fter2"),
    ):
        told = resource._told(Exception(said))
        assert "ter2" not in told
        assert "***" in told
        assert "\n" not in told


def test_a_driver_that_is_not_installed() -> None:
    resource = DatabaseResource(url="mysql+pymysql://me:hunter2@host/m")
    with (
        pytest.raises(
            ModuleNotFoundError, match="needs its driver pymysql, which is not installed"
        ),
        resource.process_config_and_initialize_cm(),
    ):
        pass


def test_outside_of_a_run(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="process_config_and_initialize_cm"):
        DatabaseResource(url=url).query("select 1")
    monkeypatch.setenv("THE_URL", url)
    with DatabaseResource(url=dg.EnvVar("THE_URL")).process_config_and_initialize_cm() as database:
        assert database.query("select 1 as one").item() == 1


@pytest.mark.parametrize("sql", ["delete from clips", "select 1 as a, 2 as a"])
def test_a_statement_that_gives_no_frame(url: str, sql: str) -> None:
    def asks(database: DatabaseResource) -> int:
        with pytest.raises(ValueError, match=r"gives no rows, and was undone|are named 'a'"):
            database.query(sql)
        return database.query("select count(*) as n from clips").item()

    assert run(DatabaseResource(url=url), asks) == (3, True)


UTC = dt.timezone.utc
TYPES: dict[str, tuple[str, pl.DataType, Any]] = {
    "bool": ("true", pl.Boolean(), True),
    "bigint": ("9223372036854775807", pl.Int64(), 2**63 - 1),
    "float8": ("0.1", pl.Float64(), 0.1),
    "text": ("'é'", pl.String(), "é"),
    "varchar(9)": ("'é'", pl.String(), "é"),
    "numeric(10,2)": ("12.5", pl.Decimal(10, 2), Decimal("12.50")),
    "bytea": (r"'\x00ff'", pl.Binary(), b"\x00\xff"),
    "date": ("'2026-01-02'", pl.Date(), dt.date(2026, 1, 2)),
    "timestamp": ("'2026-01-02 03:04:05'", pl.Datetime("us"), dt.datetime(2026, 1, 2, 3, 4, 5)),
    "timestamptz": (
        "'2026-01-02 03:04:05.000006+02'",
        pl.Datetime("us", "UTC"),
        dt.datetime(2026, 1, 2, 1, 4, 5, 6, tzinfo=UTC),
    ),
    "interval": ("'1 day'", pl.Duration("us"), dt.timedelta(days=1)),
    "uuid": (f"'{'0' * 8}-0000-4000-8000-{'1' * 12}'", pl.String(), f"{'0' * 8}-0000-4000-8000-{'1' * 12}"),
    "inet": ("'127.0.0.1'", pl.String(), "127.0.0.1"),
    "json": ("""'{"a": [1, null]}'""", pl.String(), '{"a": [1, null]}'),
    "jsonb": ("'[1]'", pl.String(), "[1]"),
    "int4[]": ("'{1,null}'", pl.List(pl.Int64()), [1, None]),
    "text[]": ("'{}'", pl.List(pl.String()), []),
    "uuid[]": ("'{null}'", pl.List(pl.String()), [None]),
}  # fmt: skip


class TestPostgreSQL:
    @pytest.fixture
    def there(self, tmp_path: Path) -> sa.URL:
        return sa.make_url(database(str(tmp_path))).set(drivername="postgresql+psycopg")

    @staticmethod
    def resource(url: sa.URL, **other: Any) -> DatabaseResource:
        parts: dict[str, Any] = {
            name: getattr(url, name) for name in ("host", "port", "database", "password")
        }
        return DatabaseResource(**{**parts, "user": url.username, **other})

    def test_types(self, there: sa.URL) -> None:
        """Those of the columns, whatever the rows hold."""
        columns = ", ".join(f"v{n} {name}" for n, name in enumerate(TYPES))
        values = ", ".join(sql for sql, _, _ in TYPES.values())
        nulls = ", ".join("null" for _ in TYPES)

        def asks(database: DatabaseResource) -> list[pl.DataFrame]:
            with database.connect() as connection:
                text = f"create table t (n int, {columns})"
                connection.exec_driver_sql(text)
                connection.exec_driver_sql(f"insert into t values (1, {values}), (2, {nulls})")
            return [
                database.query("select * from t where n = any(:of) order by n", {"of": of})
                for of in ([1, 2], [2], [])
            ]

        frames, ok = run(DatabaseResource(url=there.render_as_string(False)), asks)
        assert ok
        for frame in frames:
            found = dict(zip(TYPES, frame.drop("n").schema.values(), strict=True))
            assert found == {name: dtype for name, (_, dtype, _) in TYPES.items()}
        rows = [value for _, _, value in TYPES.values()]
        assert [list(row[1:]) for row in frames[0].rows()] == [rows, [None] * len(rows)]
        assert frames[1].height, frames[2].height == (1, 0)

    def test_values_that_polars_cannot_have(self, there: sa.URL) -> None:
        sql = """select '{"a": 1}'::jsonb as j, array[[1, 2]] as a, 'NaN'::numeric as n
            union all select '[true, "é"]', null, 1.25"""
        frame, ok = run(self.resource(there), lambda db: db.query(sql))
        assert ok
        assert [json.loads(text) for text in frame["j"]] == [{"a": 1}, [True, "é"]]
        assert frame["a"].to_list() == [[[1, 2]], None]
        assert frame["n"].to_list() == [None, Decimal("1.25")]

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"password": "hun/ter2"}, "password authentication failed for user"),
            ({"database": "nosuch"}, 'database "nosuch" does not exist'),
            ({"user": "nosuch"}, "password authentication failed for user"),
        ],
    )
    @pytest.mark.parametrize("whole", [False, True])
    def test_nobody_is_let_in(
        self, there: sa.URL, other: dict[str, str], said: str, whole: bool
    ) -> None:
        parts = {"username" if name == "user" else name: value for name, value in other.items()}
        url = there.set(**parts).render_as_string(False)  # type: ignore[arg-type]
        resource = DatabaseResource(url=url) if whole else self.resource(there, **other)

        def asks(database: DatabaseResource) -> None:
            with pytest.raises(DatabaseUnavailable, match=said) as caught:
                database.query("select 1")
            told = "".join(traceback.format_exception(caught.value))
            assert str(other.get("password", there.password)) not in told
            assert "\n" not in str(caught.value)
            assert url not in told

        assert run(resource, asks)[1]

    def test_sql_that_is_wrong(self, there: sa.URL) -> None:
        def asks(database: DatabaseResource) -> None:
            with pytest.raises(ProgrammingError, match=r'syntax error at or near "frm"') as caught:
                database.query("select * frm x where a = :a", {"a": "hunter2"})
            told = f"{caught.value} {caught.value.__cause__!r}"
            assert str(there.password) not in told
            assert "hunter2" not in told

        assert run(self.resource(there), asks)[1]

    def test_a_server_that_goes_midway(self, there: sa.URL) -> None:
        """What was begun is undone, and the next call connects anew."""

        def cut(database: DatabaseResource, *after: str) -> None:
            with database.connect() as connection:
                connection.execute(sa.text("insert into t values (1)"))
                pid = connection.execute(sa.text("select pg_backend_pid()")).scalar()
                database.query("select pg_terminate_backend(:pid)", {"pid": pid})
                for statement in after:
                    connection.execute(sa.text(statement))

        def asks(database: DatabaseResource) -> int:
            with database.connect() as connection:
                connection.execute(sa.text("create table t (n int)"))
            for after in (["insert into t values (2)"], ["insert into t values (2)"], []):
                # With none after it, what breaks is the commit.
                with pytest.raises(DatabaseUnavailable, match="the connection broke: ") as caught:
                    cut(database, *after)
                assert str(there.password) not in "".join(traceback.format_exception(caught.value))
            return database.query("select count(*) from t").item()

        assert run(self.resource(there), asks) == (0, True)
