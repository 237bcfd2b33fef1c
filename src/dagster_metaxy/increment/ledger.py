"""What is remembered of each sample beside its rows: how its compute ended, from which input, and
what it cost.

It is kept in the same store, as a feature of its own named `<key>/metaxy_ledger`, in a graph
of its own: no tool that looks at the project's features sees it. It is the quarantine, too: a sample
that failed is held back while its input and code are those that failed. Losing the ledger loses
explanations, and has failed samples tried again; nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.outcome import ArtifactFile, Cost, FailedSample
from dagster_metaxy.increment.selection import Ids

if TYPE_CHECKING:
    import metaxy as mx
    import polars as pl

_COLUMNS: Mapping[str, Column] = {
    "rows": Column(
        "int", nullable=True, description="Rows that the compute gave; null where it failed."
    ),
    "version": Column("str", description="Provenance of the rows: of the input and the code."),
    "feature_version": Column(
        "str", nullable=True, description="The feature version that was computed."
    ),
    "input": Column("str", description="The versions of the input, by upstream feature, as JSON."),
    "code": Column("str", description="The code version of each field, as JSON."),
    "error": Column("str", nullable=True, description="Name of the error's class."),
    "kinds": Column(
        "str", nullable=True, description="The error's class and its bases with modules, as JSON."
    ),
    "message": Column("str", nullable=True, description="What the error says."),
    "place": Column("str", nullable=True, description="Where it was raised."),
    "partition": Column("str", nullable=True, description="The partition of a failed sample."),
    "attempts": Column("int", description="How often this version has failed; 0 if it is done."),
    "seconds": Column("float", description="Wall time of the compute in seconds."),
    "cpu_seconds": Column("float", description="Processor time of the compute in seconds."),
    "bytes_written": Column("int", description="Size of the sample's artifacts in bytes."),
    "files": Column(
        "str",
        nullable=True,
        description="Name, content type and bytes of each artifact, as JSON.",
    ),
}


@dataclass(frozen=True)
class Entry:
    """How the compute of a sample ended last.

    Attributes:
        ids: Values of the parent columns.
        version: Provenance that the rows have, or would have had.
        rows: Rows that it gave; None where it failed.
        input: By upstream feature: `version` of its code, `fields` with the version of each, and
            how many `samples`.
        code: The code version of each field.
        failure: What went wrong; None where it is done.
        cost: What it took.
        files: The artifacts that it wrote.
    """

    ids: Ids
    version: str
    rows: int | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    failure: FailedSample | None = None
    cost: Cost = field(default_factory=Cost)
    files: Sequence[ArtifactFile] = ()


class Ledger:
    """The entries of one feature.

    Args:
        store: An open store.
        feature: The feature, its id columns typed.
    """

    def __init__(self, store: mx.MetadataStore, feature: Feature) -> None:
        self._store = store
        self._of = feature.key
        self._columns = feature.parent_columns
        # Prefixed, since an id column may have any name.
        columns = {f"remembered_{name}": column for name, column in _COLUMNS.items()}
        self._feature = Feature(
            key=f"{feature.key}/{stores.LEDGER}",
            id_columns=self._columns,
            columns={**{c: feature.columns[c] for c in self._columns}, **columns},
        )

    @cached_property
    def _graph(self) -> mx.FeatureGraph:
        """Where its own feature is registered; made when it is needed, as most runs do nothing."""
        import metaxy as mx

        graph = mx.FeatureGraph()
        # Metaxy lets a project write its own features only.
        project = mx.get_feature_by_key(self._of).project
        with graph.use():
            self._feature.register(project)
        return graph

    def read(self, ids: Collection[Ids]) -> dict[Ids, Entry]:
        """The entries of some samples."""
        with self._graph.use():
            if not self._store.has_feature(self._feature.key):
                return {}
            if len(ids) <= stores.IDS_PER_FILTER:
                rows = stores.rows_of(self._store, self._feature.key, self._columns, ids)
            else:
                frame = stores.read(self._store, self._feature.key)
                rows = () if frame is None else frame.iter_rows(named=True)
            return {e.ids: e for e in map(self._entry, rows) if e.ids in ids}

    def all(self) -> list[Entry]:
        """All entries."""
        with self._graph.use():
            frame = stores.read(self._store, self._feature.key)
        return [] if frame is None else [self._entry(row) for row in frame.iter_rows(named=True)]

    def mean_seconds(self) -> float | None:
        """What computing a sample took on average; None where nothing is known."""
        import polars as pl

        frame = self._read("rows", "seconds")
        if frame is None:
            return None
        mean = frame.filter(pl.col("remembered_rows") > 0)["remembered_seconds"].mean()
        return float(mean) if isinstance(mean, int | float) else None

    def childless(self) -> pl.DataFrame | None:
        """The ids of what is done without rows, and its provenance under Metaxy's name; None where
        nothing is known."""
        import polars as pl

        frame = self._read("rows", "version")
        if frame is None:
            return None
        return frame.filter(pl.col("remembered_rows") == 0).select(
            *self._columns, pl.col("remembered_version").alias(stores.PROVENANCE)
        )

    def ended(self, version: str) -> pl.DataFrame | None:
        """The ids of what was computed at a feature version, and in `failed`, whether that failed;
        None where nothing is known."""
        import polars as pl

        frame = self._read("feature_version", "error")
        if frame is None:
            return None
        return frame.filter(pl.col("remembered_feature_version") == version).select(
            *self._columns, failed=pl.col("remembered_error").is_not_null()
        )

    def _read(self, *names: str) -> pl.DataFrame | None:
        """Some columns of all entries beside the ids; None where there are none, or they were
        declared after all entries were written."""
        wanted = [*self._columns, *(f"remembered_{name}" for name in names)]
        with self._graph.use():
            if not self._store.has_feature(self._feature.key):
                return None
            there = self._store.read(self._feature.key).collect_schema().names()
            if not set(wanted) <= set(there):
                return None
            return stores.read(self._store, self._feature.key, columns=wanted)

    def write(self, entries: Iterable[Entry]) -> None:
        """Remember how computes ended, instead of what was known of these samples before."""
        import metaxy as mx

        version = mx.current_graph().get_feature_version(self._of)
        rows = [self._row(entry, version) for entry in entries]
        if rows:
            with self._graph.use():
                stores.append(self._store, self._feature.key, stores.typed(self._feature, rows))

    def compact(self) -> None:
        """Merge the small files that writing chunk by chunk leaves, if there are many."""
        with self._graph.use():
            stores.compact(self._store, self._feature.key)

    def delete(self, ids: Collection[Ids]) -> None:
        """Forget samples that are gone."""
        with self._graph.use():
            if ids and self._store.has_feature(self._feature.key):
                stores.delete(self._store, self._feature.key, self._columns, ids)

    def _entry(self, row: Mapping[str, Any]) -> Entry:
        # Nullable ones may have been declared after the row was written.
        known: dict[str, Any] = {name: row.get(f"remembered_{name}") for name in _COLUMNS}
        ids = tuple(row[c] for c in self._columns)
        failure = None
        if known["error"] is not None:
            failure = FailedSample(
                dict(zip(self._columns, ids, strict=True)),
                known["error"],
                known["message"] or "",
                known["place"] or "",
                known["partition"],
                kinds=json.loads(known["kinds"] or "[]"),
                attempts=known["attempts"],
                since=row["metaxy_created_at"],
            )
        return Entry(
            ids,
            known["version"],
            known["rows"],
            json.loads(known["input"]),
            json.loads(known["code"]),
            failure,
            Cost(known["seconds"], known["cpu_seconds"], known["bytes_written"]),
            [ArtifactFile(*file) for file in json.loads(known["files"] or "[]")],
        )

    def _row(self, entry: Entry, feature_version: str) -> dict[str, Any]:
        failure = entry.failure
        known = {
            "rows": entry.rows,
            "version": entry.version,
            "feature_version": feature_version,
            "input": json.dumps(entry.input, sort_keys=True),
            "code": json.dumps(entry.code, sort_keys=True),
            "error": failure.error if failure else None,
            "kinds": json.dumps(list(failure.kinds)) if failure else None,
            "message": failure.message if failure else None,
            "place": failure.where if failure else None,
            "partition": failure.partition if failure else None,
            "attempts": failure.attempts if failure else 0,
            "seconds": entry.cost.seconds,
            "cpu_seconds": entry.cost.cpu_seconds,
            "bytes_written": entry.cost.bytes_written,
            "files": json.dumps([[f.name, f.content_type, f.bytes] for f in entry.files])
            if entry.files
            else None,
        }
        return {
            **dict(zip(self._columns, entry.ids, strict=True)),
            **{f"remembered_{name}": value for name, value in known.items()},
            stores.PROVENANCE_BY_FIELD: {"default": entry.version},
        }
