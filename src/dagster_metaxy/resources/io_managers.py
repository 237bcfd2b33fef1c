"""IO managers: JSON and Parquet files on a local disk or an object store, and Metaxy's own.

An asset names one by its `io_manager_key`; `metadata: {path: ...}` says where its file is, if not at
its key below `base_path`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from dagster_metaxy.extras import require
from dagster_metaxy.resources._environment import with_variables
from dagster_metaxy.resources.metaxy_store import project_store

if TYPE_CHECKING:
    from upath import UPath


class _FilesIOManager(dg.ConfigurableIOManagerFactory):
    """Files at the keys of assets."""

    # What does not fit may be a secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    extension: ClassVar[str]

    base_path: str = Field(
        description="The folder of all files, absolute or below the working directory, which `dg` makes"
        " the project's root; or the URL of one in an object store, such as s3://bucket/data."
    )
    storage_options: dict[str, Any] = Field(
        default={},
        repr=False,
        description="What fsspec takes for the object store, such as `key`, `secret` and"
        " `client_kwargs: {endpoint_url: ...}`. If left out, the store's client looks for credentials"
        " where it always does.",
    )

    @model_validator(mode="after")
    def _check(self) -> _FilesIOManager:
        if self.base_path.startswith("s3://"):
            require(f"{type(self).__name__} at s3://", "s3", "s3fs")
        return self

    @abstractmethod
    def files(
        self, context: dg.InitResourceContext, base: UPath, name: str | None
    ) -> dg.UPathIOManager:
        """The IO manager of one asset.

        Args:
            context: Of the run.
            base: The folder.
            name: The name of its file, without the ending; the asset's key if None.
        """

    def create_io_manager(self, context: dg.InitResourceContext) -> dg.IOManager:
        """The IO manager of all assets."""
        return _ByPath(self, context)


class _ByPath(dg.IOManager):
    """Hands an asset to the files at `metadata: {path: ...}`, or at its key."""

    def __init__(self, manager: _FilesIOManager, context: dg.InitResourceContext) -> None:
        self.manager = manager
        self.context = context
        self.options = with_variables(manager.storage_options)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a file."""
        self._files(context.definition_metadata).handle_output(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read a file, or those of several partitions by their keys."""
        above = context.upstream_output
        return self._files(above.definition_metadata if above else {}).load_input(context)

    def _files(self, metadata: Any) -> dg.UPathIOManager:
        from upath import UPath

        base = UPath(self.manager.base_path, **self.options)
        path = (metadata or {}).get("path")
        path = getattr(path, "value", path)
        if path is None:
            return self.manager.files(self.context, base, None)
        if not isinstance(path, str) or PurePath(path).suffix != self.manager.extension:
            raise dg.Failure(
                f"the asset's metadata `path` must end in {self.manager.extension} (got {path!r})",
                allow_retries=False,
            )
        if "://" in path:
            there = UPath(path)
            if there.protocol == base.protocol:
                there = UPath(path, **self.options)
        else:
            there = UPath(path) if PurePath(path).is_absolute() else base / path
        return self.manager.files(self.context, there.parent, there.stem)


class _Named(dg.UPathIOManager):
    """Files that may have another name than the key of their asset."""

    _name: str | None

    def get_asset_relative_path(self, context: dg.InputContext | dg.OutputContext) -> UPath:
        from upath import UPath

        return UPath(self._name) if self._name else super().get_asset_relative_path(context)


class _JsonFiles(_Named):
    extension = ".json"

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        # First, so that what is no JSON leaves the file as it was.
        text = json.dumps(obj, ensure_ascii=False, allow_nan=False)
        path.write_text(text, encoding="utf-8")

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))


class JsonIOManager(_FilesIOManager):
    """Keeps what assets return as JSON files, a partition in a file of its own."""

    extension: ClassVar[str] = ".json"

    def files(
        self, context: dg.InitResourceContext, base: UPath, name: str | None
    ) -> dg.UPathIOManager:
        """Those of one asset."""
        files = _JsonFiles(base)
        files._name = name
        return files


_JsonFiles.__name__ = JsonIOManager.__name__  # what logs name


class ParquetIOManager(_FilesIOManager):
    """Keeps Polars frames as Parquet files, a partition in a file of its own, by dagster-polars.

    An asset gets a `pl.DataFrame` or a `pl.LazyFrame`, as its parameter is annotated.
    """

    extension: ClassVar[str] = ".parquet"

    @model_validator(mode="after")
    def _check_polars(self) -> ParquetIOManager:
        require("ParquetIOManager", "parquet", "dagster_polars")
        return self

    def files(
        self, context: dg.InitResourceContext, base: UPath, name: str | None
    ) -> dg.UPathIOManager:
        """Those of one asset."""
        files = _parquet_files()(base_dir=str(base), storage_options=dict(base.storage_options))
        files.setup_for_execution(context)
        files._name = name
        return files


@cache
def _parquet_files() -> type[Any]:
    import polars as pl
    from dagster_polars import BasePolarsUPathIOManager

    # Not its PolarsParquetIOManager, whose reader fails with polars 2 (0.27.12), and which lets polars
    # look for the credentials of object stores elsewhere than fsspec.
    class ParquetFiles(_Named, BasePolarsUPathIOManager):
        extension: ClassVar[str] = ".parquet"  # type: ignore[misc]

        _name: Any = PrivateAttr(default=None)

        def write_df_to_path(
            self, context: dg.OutputContext, df: pl.DataFrame, path: UPath
        ) -> None:
            with path.open("wb") as file:
                df.write_parquet(file)

        def sink_df_to_path(self, context: dg.OutputContext, df: pl.LazyFrame, path: UPath) -> None:
            with path.open("wb") as file:
                df.sink_parquet(file)

        def scan_df_from_path(self, path: UPath, context: dg.InputContext) -> pl.LazyFrame:
            if isinstance(path, PurePath):
                return pl.scan_parquet(str(path))
            import pyarrow.dataset as ds

            return pl.scan_pyarrow_dataset(ds.dataset(path.path, filesystem=path.fs))

    ParquetFiles.__name__ = ParquetIOManager.__name__  # what logs name
    return ParquetFiles


class MetaxyIOManager(dg.ConfigurableIOManagerFactory):
    """Metaxy's own IO manager: an asset loads the rows of a feature, or writes them.

    An input is a lazy narwhals frame, as Metaxy reads: `frame.collect().to_polars()` is one of Polars.
    The feature is what `metadata: {metaxy/feature: ...}` says; assets of components of this package
    say it by themselves.
    """

    store: str | None = Field(
        default=None,
        description="Name of the store in metaxy.toml; its default store if left out.",
    )

    def create_io_manager(self, context: dg.InitResourceContext) -> dg.IOManager:
        """Metaxy's, on the store."""
        import metaxy.ext.dagster as mxd

        run_id = context.run.run_id if context.run else None
        store: Any = project_store(self.store, run_id)
        return mxd.MetaxyIOManager(store=store)
