"""Every kind of store that tests compare in, as it stands in metaxy.toml; none needs a network.

That of PostgreSQL needs a server, which `servers.py` starts.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from metaxy.ext.duckdb import DuckDBMetadataStore

_DELTA = "metaxy.ext.polars.handlers.delta.DeltaMetadataStore"
_LANCE = "metaxy.ext.lancedb.LanceDBMetadataStore"
_POSTGRES = "metaxy.ext.postgresql.PostgreSQLMetadataStore"

# Type, the option that names its place, that place, and the algorithm of its hashes.
STORES = {
    "delta": (_DELTA, "root_path", "delta", "xxhash64"),
    "duckdb": ("stores.OfflineDuckDBMetadataStore", "database", "duck.db", "md5"),
    "lancedb": (_LANCE, "uri", "lance", "xxhash64"),
    "postgresql": (_POSTGRES, "connection_string", "", "xxhash64"),
}


class OfflineDuckDBMetadataStore(DuckDBMetadataStore):
    """DuckDB without the community extension `hashfuncs`, which Metaxy downloads at every opening,
    also where it is not needed: MD5 is DuckDB's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.extensions.clear()


def database(folder: str) -> str:
    """The URL of a database of PostgreSQL of a folder's own, which is made if it is not there.

    Skips the test where there is no server.
    """
    server = os.environ.get("DAGSTER_METAXY_TEST_POSTGRES")
    if server is None:
        pytest.skip("no PostgreSQL: DAGSTER_METAXY_TEST_POSTGRES is not set, see tests/servers.py")
    import psycopg

    name = f"test_{hashlib.sha256(folder.encode()).hexdigest()[:16]}"
    with psycopg.connect(server, autocommit=True) as connection:
        known = connection.execute("select from pg_database where datname = %s", [name])
        if known.fetchone() is None:
            connection.execute(f"create database {name}")  # type: ignore[arg-type]
    return f"{server.rpartition('/')[0]}/{name}"


def store_config(kind: str, folder: str) -> str:
    """A metaxy.toml whose default store is of a kind, in a folder of the project."""
    store_type, option, place, algorithm = STORES[kind]
    place = database(folder) if kind == "postgresql" else f"{folder}/{place}"
    return (
        'project = "sandbox"\nstore = "dev"\nhash_truncation_length = 16\n'
        f'auto_create_tables = true\n\n[stores.dev]\ntype = "{store_type}"\n\n[stores.dev.config]\n'
        f'{option} = "{place}"\nhash_algorithm = "{algorithm}"\n'
    )
