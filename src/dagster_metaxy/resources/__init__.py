"""Resources and IO managers for Dagster: a database, an HTTP API, Metaxy's stores, files.

They can be named in YAML, by `dagster_metaxy.ResourcesComponent`, and built in Python. What they rest
on is imported when it is used.
"""

from dagster_metaxy.resources.api import ApiError, ApiResource, ApiUnavailable
from dagster_metaxy.resources.database import DatabaseResource, DatabaseUnavailable
from dagster_metaxy.resources.io_managers import JsonIOManager, MetaxyIOManager, ParquetIOManager
from dagster_metaxy.resources.metaxy_store import MetaxyStoreResource

__all__ = [
    "ApiError",
    "ApiResource",
    "ApiUnavailable",
    "DatabaseResource",
    "DatabaseUnavailable",
    "JsonIOManager",
    "MetaxyIOManager",
    "MetaxyStoreResource",
    "ParquetIOManager",
]
