"""A SQL database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from dagster_metaxy.extras import require

if TYPE_CHECKING:
    import polars as pl
    import sqlalchemy as sa


class DatabaseUnavailable(ConnectionError):
    """The database cannot be reached, or lets nobody in; it may pass."""


class DatabaseResource(dg.ConfigurableResource):
    """A SQL database, by SQLAlchemy.

    Connections are made when they are asked for, kept for the run, and closed at its end, also where
    it fails.
    """

    # What does not fit may be a secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str | None = Field(
        default=None,
        repr=False,
        description="SQLAlchemy's URL, instead of all that follows:"
        " `postgresql+psycopg://user:password@host/database`, `sqlite:////data/x.db`.",
        json_schema_extra={"dagster__is_secret": True},
    )
    dialect: str = Field(
        default="postgresql+psycopg",
        description="SQLAlchemy's name of the kind of database, and of its driver.",
    )
    host: str | None = None
    port: int | None = Field(default=None, description="The database's own if left out.")
    database: str | None = Field(default=None, description="Its name; of SQLite, the file.")
    user: str | None = None
    password: str | None = Field(
        default=None, repr=False, json_schema_extra={"dagster__is_secret": True}
    )

    _engine: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> DatabaseResource:
        require("DatabaseResource", "database", "sqlalchemy")
        parts = [
            name
            for name in ("host", "port", "database", "user", "password")
            if getattr(self, name) is not None
        ]
        if self.url is not None and parts:
            raise ValueError(f"a `url` says all: remove {', '.join(parts)}, or the url")
        if self.url is None and not {"host", "database"} & {*parts}:
            raise ValueError("write a `url`, or `host`, `database`, `user` and `password`")
        return self

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Prepare connections; none is made before it is asked for."""
        import sqlalchemy as sa
        from sqlalchemy.exc import NoSuchModuleError

        try:
            # Parameters may be what nobody should read in an error.
            self._engine = sa.create_engine(
                self._address(), hide_parameters=True, pool_pre_ping=True
            )
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the database needs its driver {error.name}, which is not installed",
                name=error.name,
            ) from None
        except NoSuchModuleError:
            raise ValueError(
                f"SQLAlchemy knows no database {self._address().drivername!r}"
            ) from None

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close all connections."""
        if self._engine is not None:
            self._engine.dispose()

    @property
    def engine(self) -> sa.Engine:
        """SQLAlchemy's engine, while a run goes on."""
        if self._engine is None:
            raise RuntimeError(
                "a DatabaseResource is connected inside a run; elsewhere, enter"
                " `with resource.process_config_and_initialize_cm() as database:`"
            )
        return self._engine

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A connection, which goes back at the end of the `with`: what it did is committed there, and
        undone where an error leaves it.

        Raises:
            DatabaseUnavailable: There is no connection to be had, or it broke; with the reason, without
                secrets.
        """
        from sqlalchemy.exc import DBAPIError

        engine = self.engine
        place = repr(engine.url.set(query={}))
        try:
            connection = engine.connect()
        except DBAPIError as error:
            said = self._told(error.orig)
            raise DatabaseUnavailable(f"{place} cannot be reached: {said}") from None
        try:
            with connection:
                yield connection
                connection.commit()
        except DBAPIError as error:
            if not error.connection_invalidated:
                error.code = None  # a link to SQLAlchemy's documentation, at the end of the text
                raise
            said = self._told(error.orig)
            raise DatabaseUnavailable(f"{place}: the connection broke: {said}") from None

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The rows that a statement gives.

        Of PostgreSQL, the types are those of the columns, also where there is no value, UUIDs and JSON
        are text, and a numeric NaN is null; of other databases, they are told by the values.

        Args:
            sql: A statement; `:name` stands for a value of `params`. Before a word or a number, any
                other colon is written as `\\:`.
            params: Values by name: never write them into the text.

        Raises:
            DatabaseUnavailable: There is no connection to be had, or it broke.
            ValueError: The statement gives no rows, or two columns of one name.
        """
        import polars as pl
        import sqlalchemy as sa

        with self.connect() as connection:
            result = connection.execute(sa.text(sql), dict(params or {}))
            if not result.returns_rows:
                raise ValueError(
                    "the statement gives no rows, and was undone: execute it with `connect()`"
                )
            names = list(result.keys())
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"two columns are named {twice[0]!r}: name one by `AS`")
            # What psycopg alone has.
            described = result.cursor.description if result.cursor is not None else ()
            types = [getattr(column, "type_display", "") for column in described or ()]
            rows: list[Any] = list(result)
        if any(types):
            rows = [[_plain(*pair) for pair in zip(types, row, strict=True)] for row in rows]
        known = {}
        for at, (name, told) in enumerate(zip(names, types, strict=True)):
            if (dtype := _dtype(told)) is not None:
                lists = (row[at] for row in rows if told.endswith("[]") and row[at])
                if not any(isinstance(item, list) for found in lists for item in found):
                    known[name] = dtype
        return pl.DataFrame(
            rows, schema=names, schema_overrides=known, infer_schema_length=None, orient="row"
        )

    def _address(self) -> sa.URL:
        import sqlalchemy as sa
        from sqlalchemy.exc import ArgumentError

        if self.url is None:
            return sa.URL.create(
                self.dialect, self.user, self.password, self.host, self.port, self.database
            )
        try:
            return sa.make_url(self.url)
        except (ArgumentError, ValueError):
            # Their texts hold the URL, or what they took for its port.
            raise ValueError(
                "the url cannot be read; it is dialect://user:password@host:port/database, and"
                " special characters of the password are written as %40 for @"
            ) from None

    def _told(self, error: BaseException | None) -> str:
        """What a driver says, in one line, without the password."""
        url = self._address()
        said = " ".join(str(error).split())
        secrets = {str(url.password or ""), *map(str, url.query.values())}
        # As they are in a URL, too.
        secrets |= {quote(secret, safe="") for secret in secrets}
        for secret in sorted(secrets, key=len, reverse=True):
            said = said.replace(secret, "***") if secret else said
        return said


def _plain(told: str, value: Any) -> Any:
    """A value as a column of a frame takes it.

    Args:
        told: Its type, as PostgreSQL writes it.
        value: As its driver gives it.
    """
    if value is None:
        return None
    if told.endswith("[]"):
        return [_plain(told[:-2], item) for item in value]
    if told in ("json", "jsonb"):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Decimal):  # polars has none that is no number
        return value if value.is_finite() else None
    return str(value) if told in ("uuid", "inet", "cidr") else value


def _dtype(told: str) -> pl.DataType | None:
    """The type of a column that PostgreSQL tells; None where it is to be told by the values."""
    import polars as pl

    if told.endswith("[]"):
        inner = _dtype(told[:-2])
        return None if inner is None else pl.List(inner)
    name, _, size = told.partition("(")
    if name == "numeric":
        precision, _, scale = size.rstrip(")").partition(",")
        return pl.Decimal(int(precision), int(scale)) if precision and scale else None
    if name.startswith("int") and name[3:].isdecimal():
        return pl.Int64()
    return {
        "bool": pl.Boolean(),
        "float4": pl.Float64(),
        "float8": pl.Float64(),
        "text": pl.String(),
        "varchar": pl.String(),
        "bpchar": pl.String(),
        "uuid": pl.String(),
        "inet": pl.String(),
        "cidr": pl.String(),
        "json": pl.String(),
        "jsonb": pl.String(),
        "bytea": pl.Binary(),
        "date": pl.Date(),
        "time": pl.Time(),
        "timestamp": pl.Datetime("us"),
        "timestamptz": pl.Datetime("us", "UTC"),
        "interval": pl.Duration("us"),
    }.get(name)
