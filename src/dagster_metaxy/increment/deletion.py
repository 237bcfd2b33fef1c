"""Deleting chosen samples, and all that was computed from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.errors import did_you_mean
from dagster_metaxy.declare.feature import AGGREGATION, EXPANSION
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts import Artifacts, Root, artifacts_of
from dagster_metaxy.increment.artifacts.base import Location
from dagster_metaxy.increment.conditions import parsed
from dagster_metaxy.increment.outcome import UpdateError, sample_name

if TYPE_CHECKING:
    import metaxy as mx
    import polars as pl

    StoreOf = Callable[[str], mx.MetadataStore]


class DeletionError(UpdateError):
    """A deletion that cannot be decided; nothing was deleted."""


@dataclass(frozen=True)
class Deletion:
    """What goes of one feature.

    Attributes:
        key: The feature key.
        id_columns: The columns that name a sample.
        samples: The ids of those that go.
        older: How many of them have rows of older feature versions only.
        stale: The ids of those that stay, computed from others that go.
        folders: Folders of artifacts, all of whose samples go.
        files: Artifacts of samples that go, in folders of samples that stay.
        artifacts: Where they lie; None where there are none.
    """

    key: str
    id_columns: tuple[str, ...]
    samples: Sequence[tuple[Any, ...]] = ()
    older: int = 0
    stale: Sequence[tuple[Any, ...]] = ()
    folders: Sequence[Location] = ()
    files: Sequence[Location] = ()
    artifacts: Artifacts[Any] | None = None

    def names(self, count: int) -> list[str]:
        """The first samples that go, as one writes them."""
        return [
            sample_name(dict(zip(self.id_columns, ids, strict=True)))
            for ids in self.samples[:count]
        ]


def plan_deletion(
    store_of: StoreOf,
    key: str,
    condition: str,
    artifacts: Mapping[str, Root],
    external: Collection[str] = (),
) -> list[Deletion]:
    """What goes where the samples of a feature that meet a condition are deleted.

    Downstream, a sample goes with the one it was computed from, and a group when all its members
    go; one that loses only some of them, or an optional upstream sample, stays and is stale.
    Samples of every feature version count. Deleted softly, Metaxy hides them from the version that
    is declared, and from later ones; deleted hard, rows of all versions are removed.

    Args:
        store_of: The open store of a feature.
        key: The feature key.
        condition: As SQL writes it, and Metaxy reads it: `video_id = 'bikes' AND duration > 3`.
        artifacts: Where the artifacts of features that may have any lie, by feature key.
        external: Keys of features that only other projects may write. What was computed from their
            samples goes all the same; of these, nothing does.

    Returns:
        The feature, then all downstream of it, upstream first, whether or not anything goes.

    Raises:
        DeletionError: There is no such feature, or the condition cannot be applied to it.
        ConditionError: It is none.
    """
    import metaxy as mx

    graph = mx.current_graph()
    known = sorted(k.to_string() for k in graph.feature_definitions_by_key)
    if key not in known:
        raise DeletionError(
            f"there is no feature {key!r}; there are: {', '.join(known) or 'none'}."
            + did_you_mean(key, known)
        )
    if key in external:
        raise DeletionError(
            f"{key} is external: only the project that produces it may delete its samples"
        )
    expression = parsed(condition)
    found: dict[str, _Split] = {}
    for k in [key, *(d.to_string() for d in graph.get_downstream_features([key]))]:
        spec = graph.get_feature_definition(k).spec
        split = _Split(spec, *_rows(store_of(k), k))
        if k == key:
            split.choose(expression, condition)
        else:
            for dep in spec.deps:
                if (upstream := found.get(dep.feature.to_string())) is not None:
                    split.follow(dep, upstream)
        found[k] = split
    return [
        Deletion(k, tuple(split.spec.id_columns))
        if k in external
        else split.deletion(store_of(k), artifacts_of(artifacts[k], k) if k in artifacts else None)
        for k, split in found.items()
    ]


def delete(store_of: StoreOf, deletions: Sequence[Deletion], *, hard: bool = False) -> None:
    """Delete what `plan_deletion` found.

    Downstream first, and rows before their files: after a kill, no row is there whose upstream or
    whose file is not, and planning and deleting again finishes the rest.

    Args:
        store_of: The store of a feature, open for writing.
        deletions: What goes.
        hard: Whether rows are removed from the store, not only marked as deleted.

    Raises:
        StoreError: A store refuses. Planning and deleting again finishes the rest.
    """
    for deletion in reversed(deletions):
        if deletion.samples:
            stores.delete(
                store_of(deletion.key),
                deletion.key,
                deletion.id_columns,
                deletion.samples,
                hard=hard,
                older="deleted",
            )
        if deletion.artifacts is not None:
            deletion.artifacts.unlink(deletion.files)
            deletion.artifacts.retire(deletion.folders)
            deletion.artifacts.close()


def _rows(store: mx.MetadataStore, key: str) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """The newest row of each sample, of whatever feature version: live ones, and deleted ones."""
    import polars as pl

    if not store.has_feature(key):
        return None, None
    rows = stores.read(store, key, with_feature_history=True, include_soft_deleted=True)
    assert rows is not None
    live = pl.col("metaxy_deleted_at").is_null()
    return rows.filter(live), rows.filter(~live)


@dataclass
class _Split:
    """The rows of a feature: those that go, and those that stay.

    Attributes:
        spec: The feature.
        staying: Live rows that stay; None where the feature was never written.
        deleted: Rows that were deleted softly before.
        going: Live rows that go.
        stale: Those of the rows that stay that become stale.
        gone: Ids of parents that go, whether or not there are rows of theirs.
    """

    spec: mx.FeatureSpec
    staying: pl.DataFrame | None
    deleted: pl.DataFrame | None
    going: pl.DataFrame | None = None
    stale: pl.DataFrame | None = None
    gone: set[tuple[Any, ...]] = field(default_factory=set)

    @property
    def key(self) -> str:
        return self.spec.key.to_string()

    @property
    def parents(self) -> list[str]:
        """The columns that name what a row was computed from; folders are named by them."""
        for dep in self.spec.deps:
            relationship = dep.lineage.relationship
            if relationship.type.value == EXPANSION:
                return list(getattr(relationship, "on", None) or ())
        return list(self.spec.id_columns)

    def choose(self, expression: Any, condition: str) -> None:
        """Let those samples go that meet a condition."""
        import narwhals as nw
        import polars as pl
        from narwhals.exceptions import ColumnNotFoundError

        if self.staying is None or self.deleted is None:
            return
        # Metaxy's conditions have no dates: they are compared as text, which is written alike.
        times = pl.selectors.temporal().cast(pl.String)
        try:
            going, deleted = (
                rows.filter(
                    nw.from_native(rows.with_columns(times)).select(expression).to_native()[:, 0]
                )
                for rows in (self.staying, self.deleted)
            )
        except ColumnNotFoundError:
            columns = [c for c in self.staying.columns if not stores.is_system(c)]
            raise DeletionError(
                f"the filter {condition!r} names a column that {self.key} does not have; it has:"
                f" {', '.join(columns)} (text is put in single quotes)"
            ) from None
        except Exception as error:
            raise DeletionError(
                f"the filter {condition!r} cannot be applied to {self.key}:"
                f" {str(error).splitlines()[0]}"
            ) from None
        self._let_go(going.select(self.spec.id_columns))
        # Of a deletion that was killed before it came to the files.
        self.gone |= set(deleted.select(self.parents).rows())

    def follow(self, dep: mx.FeatureDep, upstream: _Split) -> None:
        """Let those samples go that were computed from upstream samples that go."""
        if upstream.going is None or upstream.staying is None or upstream.going.is_empty():
            return
        relationship = dep.lineage.relationship
        on = list(getattr(relationship, "on", None) or ())
        if not on:
            rename = dep.rename or {}
            theirs = [rename.get(c, c) for c in upstream.spec.id_columns]
            on = [c for c in self.spec.id_columns if c in theirs]
            if relationship.type.value == AGGREGATION:
                on = list(self.spec.id_columns)
        gone = _as_dep_sees(dep, upstream.going).select(on).unique()
        touched = gone.clear()
        if relationship.type.value == AGGREGATION:
            left = _as_dep_sees(dep, upstream.staying)
            touched = _matching(gone, left, on)
            gone = _matching(gone, left, on, how="anti")
        if dep.optional:
            gone, touched = gone.clear(), gone.vstack(touched)
        if on == self.parents:
            self.gone |= set(gone.rows())
        if self.staying is not None:
            self._let_go(_matching(self.staying, gone, on).select(self.spec.id_columns))
            stale = _matching(self.staying, touched, on)
            if self.stale is not None:
                ids = list(self.spec.id_columns)
                stale = _matching(
                    self.staying, stale.select(ids).vstack(self.stale.select(ids)), ids
                )
            self.stale = stale

    def _let_go(self, ids: pl.DataFrame) -> None:
        columns = list(self.spec.id_columns)
        assert self.staying is not None
        going = _matching(self.staying, ids, columns)
        self.going = going if self.going is None else self.going.vstack(going)
        self.staying = _matching(self.staying, ids, columns, how="anti")
        if self.stale is not None:
            self.stale = _matching(self.stale, ids, columns, how="anti")

    def deletion(self, store: mx.MetadataStore, artifacts: Artifacts[Any] | None) -> Deletion:
        """What goes, with its artifacts."""
        import metaxy as mx
        import polars as pl

        ids = tuple(self.spec.id_columns)
        rows = self.going if self.going is not None else pl.DataFrame()
        artifacts = artifacts if artifacts and artifacts.any else None
        folders, files = self._artifacts(store, artifacts) if artifacts else ((), ())
        older = 0
        if not rows.is_empty():
            rows = rows.sort(ids)
            version = mx.current_graph().get_feature_version(self.key)
            older = rows.filter(pl.col("metaxy_feature_version") != version).height
        return Deletion(
            self.key,
            ids,
            samples=[] if rows.is_empty() else rows.select(ids).rows(),
            older=older,
            stale=[] if self.stale is None else self.stale.select(ids).sort(ids).rows(),
            folders=folders,
            files=files,
            artifacts=artifacts,
        )

    def _artifacts(
        self, store: mx.MetadataStore, artifacts: Artifacts[Any]
    ) -> tuple[list[Any], list[Any]]:
        parents = self.parents
        kept: set[tuple[Any, ...]] = set()
        files: list[Any] = []
        gone = set(self.gone)
        if self.staying is not None and self.going is not None:
            kept = set(self.staying.select(parents).rows())
            gone |= set(self.going.select(parents).rows())
            files = artifacts.files_of(_texts(self.going))
            if files:
                left = {*artifacts.files_of(_texts(self.staying))}
                files = [file for file in files if file not in left]
        # Of all the rows that were ever written, as a deletion that was killed may have left files;
        # but not what a run beside this one has published, of which it is about to write the row.
        rows = stores.rows_of(store, self.key, parents, gone - kept, **stores.HISTORY)
        folders = sorted(artifacts.of_rows(rows, parents), key=lambda folder: folder.parts)
        going = {*folders}
        return folders, [f for f in files if not going & {*f.parents}]


def _as_dep_sees(dep: mx.FeatureDep, rows: pl.DataFrame) -> pl.DataFrame:
    """Upstream rows renamed and filtered as Metaxy does for a dependency."""
    import narwhals as nw

    rows = rows.rename({old: new for old, new in (dep.rename or {}).items() if old in rows.columns})
    return nw.from_native(rows).filter(*dep.filters).to_native() if dep.filters else rows


def _matching(
    rows: pl.DataFrame, ids: pl.DataFrame, on: Sequence[str], how: Any = "semi"
) -> pl.DataFrame:
    """Those rows that have one of the ids, or none of them (`anti`)."""
    # Tables that others wrote may hold one id as integers of several widths.
    ids = ids.select(on).cast({c: rows.schema[c] for c in on}).unique()  # type: ignore[arg-type]
    return rows.join(ids, on=list(on), how=how, nulls_equal=True)


def _texts(rows: pl.DataFrame) -> set[str]:
    """The texts in rows, some of which may name files."""
    import polars as pl

    return {
        value
        for column, dtype in rows.schema.items()
        if dtype == pl.String and not stores.is_system(column)
        for value in rows[column].drop_nulls().to_list()
    }
