"""Garbage collection: removing artifacts that no live row names.

Such are left by runs that were killed between publishing files and writing their row, and by
removals that were killed or refused.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts import Artifacts, Root, artifacts_of
from dagster_metaxy.increment.artifacts.base import Contents, Location

if TYPE_CHECKING:
    import metaxy as mx
    import narwhals as nw
    import polars as pl

_VERSION, _UPDATED, _DELETED = "metaxy_feature_version", "metaxy_updated_at", "metaxy_deleted_at"
_SAMPLE, _FOLDER = "metaxy_sample", "metaxy_folder"


@dataclass
class Collection:
    """The garbage of one feature.

    Attributes:
        artifacts: The files of the feature.
        before: Unix time; what was changed since is left alone.
        garbage: What goes: versions of samples; on disk, what dead runs left, and empty folders, too.
        written: Whether any store has the feature.
        notes: Sentences that the reader should see.
        errors: Folders that could not be looked at, or removed, and why.
    """

    artifacts: Artifacts[Any]
    before: float
    garbage: list[Contents[Any]] = field(default_factory=list)
    written: bool = True
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def telling(self, folder: Location) -> Iterator[None]:
        """Take note of what is wrong with a folder, and go on."""
        try:
            yield
        except OSError as error:
            # A run has removed it meanwhile, or published into it.
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                self.errors.append(f"{folder}: {error.strerror or error}")
        except stores.StoreError as error:  # which names it
            self.errors.append(str(error))


def find_garbage(
    feature: Feature,
    root: Root,
    opened: Sequence[mx.MetadataStore],
    before: float,
    *,
    keep_older: bool = True,
) -> Collection:
    """The artifacts of a feature that no live row names; nothing is changed.

    A folder stays where a live row names a file in it; or is of its sample and version and names no
    other folder of these, since a compute may write files that its rows do not name. Links are not
    followed; they stay, as does what no update makes.

    Args:
        feature: The feature, its id columns typed.
        root: Where the artifacts of all features lie.
        opened: The open stores whose rows count.
        before: Unix time. What was changed since is left alone, since the run that made it may not
            have written its row yet.
        keep_older: Whether all rows of older feature versions count, which come back where code is
            reverted; else, only those of samples that have no row of a later one.
    """
    found = Collection(artifacts_of(root, feature.key), before)
    # Files first, rows afterwards: what is published and written in between has its row then.
    listed = found.artifacts.listed(found.notes, found.telling)
    kept = _Kept(feature, found.artifacts)
    having = [store for store in opened if kept.add_rows_of(store, keep_older)]
    found.written = bool(having)
    unnamed = [one for one in listed if not kept.names(one.folder)]
    found.garbage = sorted(
        (one for one in unnamed if one.changed < before), key=lambda one: one.folder.parts
    )
    if young := len(unnamed) - len(found.garbage):
        found.notes.append(
            f"{feature.key}: {young} folder{'' if young == 1 else 's'} without a row may be of a run"
            " that goes on"
        )
    return found


def remove(found: Collection) -> list[Contents[Any]]:
    """Remove what `find_garbage` found; what cannot be removed is added to the errors.

    Beside a running update it is safe as long as that writes each row before its files are as old
    as those looked for.

    Returns:
        What was removed.
    """
    artifacts = found.artifacts
    removed = []
    for one in found.garbage:
        with found.telling(one.folder):
            if artifacts.remove(one, found.before):
                removed.append(one)
    if removed or found.errors:
        artifacts.close()
    return removed


class _Kept:
    """The folders of a feature that stay, by the rows that are live.

    Args:
        feature: The feature.
        artifacts: Its files.
    """

    def __init__(self, feature: Feature, artifacts: Artifacts[Any]) -> None:
        self._feature = feature
        self._artifacts = artifacts
        # Anywhere in a path: a project may have been moved, or be mounted elsewhere.
        self._path = (
            rf"^.*/{re.escape(artifacts.folder.name)}/(?<{_SAMPLE}>[^/]+)/(?<{_FOLDER}>[^/]+)"
        )
        self._folders: set[tuple[str, str]] = set()
        self._samples: set[tuple[str, str]] = set()
        self._versions: set[str] = set()

    def names(self, folder: Location) -> bool:
        """Whether the folder of a version of a sample stays."""
        sample, name = folder.parent.name, folder.name
        # Computed again, a version has folders that end in more.
        return _named(sample, name) in self._folders or any(
            version in self._versions or _named(sample, version) in self._samples
            for version in {name, name.rpartition("-")[0]}
        )

    def add_rows_of(self, store: mx.MetadataStore, keep_older: bool) -> bool:
        """Let stay what the live rows in a store name; False where it has none of the feature."""
        import polars as pl

        key = self._feature.key
        if not store.has_feature(key):
            return False
        schema = store.read(key, **stores.HISTORY).collect_schema()
        ids = [c for c in self._feature.id_columns if c in schema]
        parents = [c for c in self._feature.parent_columns if c in schema]
        texts = [
            name for name, dtype in schema.items() if not stores.is_system(name) and _is_text(dtype)
        ]
        system = (stores.PROVENANCE, _VERSION, _UPDATED, _DELETED)
        columns = list(dict.fromkeys((*ids, *parents, *texts, *system)))
        rows = stores.read(store, key, columns=columns, **stores.HISTORY)
        assert rows is not None
        rows = self._live(rows, ids, parents, keep_older)
        version = [*parents, stores.PROVENANCE, _VERSION]
        unnamed = rows.select(version).unique()
        own = pl.col(_FOLDER) == pl.col(stores.PROVENANCE)
        own |= pl.col(_FOLDER).str.starts_with(pl.col(stores.PROVENANCE) + "-")
        for text in texts:
            values = rows.select(*version, pl.col(text).alias("metaxy_text"))
            if rows[text].dtype.is_nested():
                values = values.explode("metaxy_text")
            found = pl.col("metaxy_text").str.extract_groups(self._path)
            paths = values.with_columns(found).unnest("metaxy_text").drop_nulls([_SAMPLE, _FOLDER])
            folders = paths.select(_SAMPLE, _FOLDER).unique()
            self._folders.update(_named(*names) for names in folders.iter_rows())
            unnamed = unnamed.join(paths.filter(own), on=version, how="anti", nulls_equal=True)
        kinds = [rows.schema[c] for c in parents]
        if len(parents) == len(self._feature.parent_columns) and all(map(_is_sure, kinds)):
            for *values, provenance in unnamed.drop(_VERSION).unique().iter_rows():
                self._samples.add(_named(self._artifacts.sample_name(values), provenance))
        else:
            self._versions.update(unnamed[stores.PROVENANCE])
        return True

    def _live(
        self, rows: pl.DataFrame, ids: Sequence[str], parents: Sequence[str], keep_older: bool
    ) -> pl.DataFrame:
        """The rows that are live, or would be if code were reverted."""
        import metaxy as mx
        import polars as pl

        at = pl.coalesce(_DELETED, _UPDATED)
        # Metaxy takes the newest row of each sample and feature version; a deletion is a row, too.
        newest = at.eq_missing(at.max().over(_VERSION, *ids))
        live = newest & pl.col(_DELETED).is_null()
        if parents and not keep_older:
            declared = pl.col(_VERSION) == mx.current_graph().get_feature_version(self._feature.key)
            latest = pl.col(_VERSION).sort_by(declared, at).last().over(*parents)
            live &= pl.col(_VERSION) == latest
        return rows.filter(live)


def _named(sample: str, version: str) -> tuple[str, str]:
    # There are file systems on which names that differ in case are one.
    return sample.casefold(), version


def _is_text(dtype: nw.dtypes.DType) -> bool:
    """Whether values are texts, or lists of them."""
    import narwhals as nw

    return dtype == nw.String or (
        isinstance(dtype, nw.List | nw.Array) and dtype.inner == nw.String
    )


def _is_sure(dtype: pl.DataType) -> bool:
    """Whether ids read from any store make the folder name that they made when they were computed.

    Of times and floats that is not sure; there, the version alone has to tell.
    """
    import polars as pl

    return dtype in (pl.String, pl.Boolean, pl.Date) or dtype.is_integer()
