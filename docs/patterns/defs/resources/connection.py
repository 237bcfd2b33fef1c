from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dagster_metaxy.resources import DatabaseResource


class Session(dg.ConfigurableResource):
    """A temporary table for a run; it goes with the run, also where that fails."""

    database: DatabaseResource

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Session"]:
        with self.database.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE scratch (value TEXT)")
        try:
            yield self
        finally:
            with self.database.connect() as connection:
                connection.exec_driver_sql("DROP TABLE scratch")
