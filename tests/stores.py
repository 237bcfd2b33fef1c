"""Every kind of store that tests compare in, as it stands in metaxy.toml; none needs a network.

Those of PostgreSQL and of object stores need a server, which `servers.py` starts.
"""

from __future__ import annotations

import contextlib
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

OBJECT_STORES = {
    "delta-s3": (_DELTA, "root_path", "storage_options"),
    "lancedb-s3": (_LANCE, "uri", "connect_kwargs.storage_options"),
}
"""Type, the option that names its place, and that of what the client of S3 needs to know."""


class OfflineDuckDBMetadataStore(DuckDBMetadataStore):
    """DuckDB without the community extension `hashfuncs`, which Metaxy downloads at every opening,
    also where it is not needed: MD5 is DuckDB's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.extensions.clear()


def server(variable: str) -> str:
    """Where a server is; skips the test where there is none."""
    found = os.environ.get(variable)
    if found is None:
        pytest.skip(f"{variable} is not set: no server, see tests/servers.py")
    return found


def _name(folder: str) -> str:
    return f"test-{hashlib.sha256(folder.encode()).hexdigest()[:16]}"


def database(folder: str) -> str:
    """The URL of a database of PostgreSQL of a folder's own, which is made if it is not there."""
    import psycopg
    from psycopg import sql

    there, name = server("DAGSTER_METAXY_TEST_POSTGRES"), _name(folder)
    with psycopg.connect(there, autocommit=True) as connection:
        known = connection.execute("select from pg_database where datname = %s", [name])
        if known.fetchone() is None:
            made = (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation)
            with contextlib.suppress(*made):  # another process was faster
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return f"{there.rpartition('/')[0]}/{name}"


def bucket(folder: str) -> tuple[str, dict[str, str]]:
    """The URL of a bucket of a folder's own, and what a client of S3 needs to know."""
    import boto3

    options = {
        "aws_endpoint": server("DAGSTER_METAXY_TEST_S3"),
        "aws_access_key_id": server("DAGSTER_METAXY_TEST_S3_KEY"),
        "aws_secret_access_key": server("DAGSTER_METAXY_TEST_S3_SECRET"),
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    client = boto3.client(
        "s3",
        endpoint_url=options["aws_endpoint"],
        aws_access_key_id=options["aws_access_key_id"],
        aws_secret_access_key=options["aws_secret_access_key"],
        region_name=options["aws_region"],
    )
    client.create_bucket(Bucket=_name(folder))
    return f"s3://{_name(folder)}", options


def store_config(kind: str, folder: str) -> str:
    """A metaxy.toml whose default store is of a kind, in a folder of the project."""
    further = ""
    if kind in OBJECT_STORES:
        store_type, option, options = OBJECT_STORES[kind]
        algorithm = "xxhash64"
        place, values = bucket(folder)
        further = f"\n[stores.dev.config.{options}]\n"
        further += "".join(f'{name} = "{value}"\n' for name, value in values.items())
    else:
        store_type, option, place, algorithm = STORES[kind]
        place = database(folder) if kind == "postgresql" else f"{folder}/{place}"
    return (
        'project = "sandbox"\nstore = "dev"\nhash_truncation_length = 16\n'
        f'auto_create_tables = true\n\n[stores.dev]\ntype = "{store_type}"\n\n[stores.dev.config]\n'
        f'{option} = "{place}"\nhash_algorithm = "{algorithm}"\n{further}'
    )
