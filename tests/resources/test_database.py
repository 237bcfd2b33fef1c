"""DatabaseResource on SQLite, in real runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

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
