"""A SQL database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from dagster_metaxy.resources._extras import require

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
            DatabaseUnavailable: There is no connection to be had; with the reason, without secrets.
        """
        from sqlalchemy.exc import DBAPIError

        engine = self.engine
        try:
            connection = engine.connect()
        except DBAPIError as error:
            raise DatabaseUnavailable(
                f"{engine.url.set(query={})!r} cannot be reached: {self._told(error.orig)}"
            ) from None
        with connection:
            yield connection
            connection.commit()

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The rows that a statement gives.

        Args:
            sql: A statement; `:name` stands for a value of `params`.
            params: Values by name: never write them into the text.

        Raises:
            DatabaseUnavailable: There is no connection to be had.
        """
        import polars as pl
        import sqlalchemy as sa

        with self.connect() as connection:
            return pl.read_database(
                sa.text(sql),
                connection,
                infer_schema_length=None,
                execute_options={"parameters": dict(params or {})},
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
