"""Every kind of store that tests compare in, as it stands in metaxy.toml; none needs a network."""

from __future__ import annotations

from typing import Any

from metaxy.ext.duckdb import DuckDBMetadataStore

_DELTA = "metaxy.ext.polars.handlers.delta.DeltaMetadataStore"
_LANCE = "metaxy.ext.lancedb.LanceDBMetadataStore"

# Type, the option that names its place, that place, and the algorithm of its hashes.
STORES = {
    "delta": (_DELTA, "root_path", "delta", "xxhash64"),
    "duckdb": ("stores.OfflineDuckDBMetadataStore", "database", "duck.db", "md5"),
    "lancedb": (_LANCE, "uri", "lance", "xxhash64"),
}


class OfflineDuckDBMetadataStore(DuckDBMetadataStore):
    """DuckDB without the community extension `hashfuncs`, which Metaxy downloads at every opening,
    also where it is not needed: MD5 is DuckDB's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.extensions.clear()


def store_config(kind: str, folder: str) -> str:
    """A metaxy.toml whose default store is of a kind, in a folder of the project."""
    store_type, option, place, algorithm = STORES[kind]
    return (
        'project = "sandbox"\nstore = "dev"\nhash_truncation_length = 16\n'
        f'auto_create_tables = true\n\n[stores.dev]\ntype = "{store_type}"\n\n[stores.dev.config]\n'
        f'{option} = "{folder}/{place}"\nhash_algorithm = "{algorithm}"\n'
    )
