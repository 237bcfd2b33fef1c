"""The root feature of a collection of videos: which there are, and what their streams hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dagster_metaxy import engines
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.keys import PartitionError, PatternError
from dagster_metaxy.declare.partitions import Partitioning
from dagster_metaxy.discovery.files import File, Listing, SourceError, list_files, unique_ids
from dagster_metaxy.engines import Engine
from dagster_metaxy.engines.processes import WorkerError
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Runtime
from dagster_metaxy.increment.outcome import FailedSample, Outcome, Pending, UpdateError
from dagster_metaxy.increment.progress import Progress
from dagster_metaxy.increment.selection import Scope

if TYPE_CHECKING:
    import metaxy as mx

    from dagster_metaxy.media.identify import Identity

Row = Mapping[str, Any]
# A file to read, the id that it gets unless it is a moved one, and the row of a known one.
_Candidate = tuple[File, str, Row | None]

HASH_VERSION = "1"
"""Code version of the stream hashes: another canonical form makes every video new."""

COLUMNS: Mapping[str, Column] = {
    "video_id": Column(
        "str", description="Path below the source, without the ending; kept when the file moves."
    ),
    "path": Column("str", description="Where the file can be opened."),
    "relative_path": Column("str", description="Path below the source, with the ending."),
    "size": Column("int", description="Size of the file in bytes."),
    "modified_at": Column("datetime", description="Modification time of the file, UTC."),
    "container": Column("str", description="Container format: mp4, mov, matroska, mpegts ..."),
    "duration": Column("float", description="Duration in seconds."),
    "width": Column("int", nullable=True, description="Width of the coded picture in pixels."),
    "height": Column("int", nullable=True, description="Height of the coded picture in pixels."),
    "rotation": Column(
        "int", nullable=True, description="Degrees that the picture is turned for display."
    ),
    "frame_rate": Column("float", nullable=True, description="Nominal frames per second."),
    "video_codec": Column(
        "str", nullable=True, description="Codec of the picture; null if there is none."
    ),
    "audio_codec": Column(
        "str", nullable=True, description="Codec of the sound; null if there is none."
    ),
    "audio_rate": Column("int", nullable=True, description="Audio samples per second."),
    "audio_channels": Column("int", nullable=True, description="Number of audio channels."),
}


def videos_feature(prefix: str) -> Feature:
    """The root feature `<prefix>/videos`, with the fields `video` and `audio`."""
    return Feature(
        key=f"{prefix}/videos",
        id_columns=("video_id",),
        columns=COLUMNS,
        fields=tuple({"key": key, "code_version": HASH_VERSION} for key in ("video", "audio")),
        description="The videos of the collection. Picture and sound are versioned apart, by"
        " hashes of their packets that survive remuxing.",
    )


@dataclass
class Comparison:
    """A listing beside what the store knows.

    Attributes:
        unchanged: Files whose size and modification time are as stored, with their rows.
        changed: Files of known videos that must be hashed again, with their rows.
        new: Files of no known video, with the id each gets unless it turns out to be a moved one.
        vanished: Rows of videos whose file is no longer listed, by id.
    """

    unchanged: list[tuple[File, Row]] = field(default_factory=list)
    changed: list[tuple[File, Row]] = field(default_factory=list)
    new: list[tuple[File, str]] = field(default_factory=list)
    vanished: dict[str, Row] = field(default_factory=dict)

    @property
    def nothing_to_do(self) -> bool:
        """Whether store and source agree."""
        return not (self.changed or self.new or self.vanished)


def compare(listing: Listing, rows: Sequence[Row], current: set[str] | None = None) -> Comparison:
    """Compare a listing with stored rows, by path, size and modification time; opens no file.

    Args:
        listing: What the source holds.
        rows: The newest row of each known video, of whatever feature version.
        current: Ids whose row is of the current feature version; all if left out.
    """
    by_path = {row["relative_path"]: row for row in rows}
    seen = {file.relative_path for file in listing.files}
    vanished = {
        row["video_id"]: row
        for row in rows
        if row["relative_path"] not in seen and not listing.may_hold(row["relative_path"])
    }
    result = Comparison(vanished=vanished)
    unknown = []
    for file in listing.files:
        row = by_path.get(file.relative_path)
        if row is None and (row := vanished.pop(file.stem, None)):
            # Another container under the same name, where the old file is gone: a remux.
            result.changed.append((file, row))
        elif row is None:
            unknown.append(file)
        elif (file.size, file.modified_at) == (row["size"], row["modified_at"]) and (
            current is None or row["video_id"] in current
        ):
            result.unchanged.append((file, row))
        else:
            result.changed.append((file, row))
    ids = unique_ids(unknown, {row["video_id"] for row in rows})
    result.new = [(file, ids[file.relative_path]) for file in unknown]
    return result


@dataclass(frozen=True)
class Videos:
    """A collection of videos in a folder, and the update of its root feature.

    Attributes:
        feature: The root feature.
        folder: The source.
        glob: Which files count; those with a usual video ending if left out.
        workers: How many files are read at once.
        chunk_samples: Rows are written when there are this many ...
        chunk_seconds: ... or when the oldest has waited this long.
        engine: Whether files are read in threads of this process, or in processes.
        time_limit: The seconds that a file may take, in processes; no limit if None.
    """

    feature: Feature
    folder: Path
    glob: str | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    chunk_samples: int = 1_000
    chunk_seconds: float = 5.0
    engine: Engine = "threads"
    time_limit: float | None = None

    def listing(self) -> Listing:
        """What the source holds now."""
        return list_files(self.folder, self.glob)

    def check_pattern(self, partitioning: Partitioning, enough: int = 1_000) -> str | None:
        """What is wrong with a pattern that finds no key in any path; None where it finds one, or
        where there is nothing to see.

        Args:
            partitioning: How the collection is partitioned.
            enough: How many files are looked at.
        """
        try:
            files = list_files(self.folder, self.glob, limit=enough).files
        except SourceError:  # the run will say so
            return None
        wrong = None
        for file in files:
            error = _pattern_error(file, partitioning.key)
            if error is None:
                return None
            wrong = wrong or error
        return wrong

    def stored(self, store: mx.MetadataStore) -> tuple[list[dict[str, Any]], set[str]]:
        """The newest row of each known video, and the ids whose row is of the current version."""
        history = stores.read(store, self.feature.key, with_feature_history=True)
        current = stores.read(store, self.feature.key)
        if history is None or current is None:
            return [], set()
        return history.to_dicts(), set(current["video_id"])

    def of(self, feature: Feature) -> Videos:
        """The same for `feature`, which is this one with more details."""
        return replace(self, feature=feature)

    @property
    def resource_names(self) -> set[str]:
        """Discovery asks for no Dagster resource."""
        return set()

    def run(self, store: mx.MetadataStore, scope: Scope, runtime: Runtime) -> Outcome:
        """Bring the root feature up to date with the source.

        A file with the size and modification time of its row is trusted. Others are hashed; a
        video is new or stale only where a hash says so, and a file that moved keeps its id.

        Args:
            store: The store, closed.
            scope: Which partitions.
            runtime: For its log.

        Raises:
            SourceError: The source could not be listed to the end.
            UpdateError: The processes that read files do not start.
        """
        started = time.monotonic()
        outcome = Outcome()
        log = runtime.log
        listing = self.listing()
        if not listing.files and not listing.unreadable:
            what = f"matches {self.glob!r}" if self.glob else "has a usual video ending"
            outcome.notes.append(f"no file below {self.folder} {what}")
        with store.open("w"):
            stores.check_table(store, self.feature)
            rows, current = self.stored(store)
            compared = compare(listing, rows, current)
            self._refuse_pattern(compared, scope)
            known = {row["relative_path"]: row["video_id"] for row in rows}
            for path, reason in listing.unreadable.items():
                video_id = known.get(path) or str(PurePosixPath(path).with_suffix(""))
                if scope.covers(self._partition(scope, video_id)):
                    self._fail(outcome, scope, video_id, reason, "OSError", log, path)
            if behind := [row for row in rows if listing.may_hold(row["relative_path"])]:
                outcome.notes.append(
                    f"{len(behind)} videos lie behind links that lead nowhere, or cannot be looked"
                    " at: they are kept"
                )
            live = self._moved_folder(store, compared, scope, outcome)
            live |= self._identify(store, compared, current, scope, runtime, outcome)
            self._delete_vanished(store, listing, compared, scope, outcome)
            stores.compact(store, self.feature.key)
        outcome.settle({self._partition(scope, video_id) for video_id in live})
        outcome.seconds = time.monotonic() - started
        return outcome

    def _refuse_pattern(self, compared: Comparison, scope: Scope) -> None:
        """Fail where the partitions' pattern finds no key in any file: that is not the files' fault."""
        if not scope.follows_path or compared.unchanged or compared.changed:
            return
        wrong = [_pattern_error(file, scope.key_of) for file, _ in compared.new]
        if wrong and all(wrong):
            raise SourceError(f"{self.feature.key}: {wrong[0]}")

    def pending(self, store: mx.MetadataStore, scope: Scope | None = None) -> Pending:
        """What a run would find to do, by paths, sizes and modification times; opens no file.

        Args:
            store: An open store.
            scope: Not asked: partitions are found by the ids.

        Raises:
            SourceError: The source could not be listed to the end.
        """
        compared = compare(self.listing(), *self.stored(store))
        notes = []
        if compared.changed:
            notes.append("whether the streams of changed files differ, the next run finds out")
        if compared.new and compared.vanished:
            notes.append("a new file may be a vanished one that moved; the next run finds out")
        return Pending(
            new=[{"video_id": video_id} for _, video_id in compared.new],
            stale=[{"video_id": row["video_id"]} for _, row in compared.changed],
            orphaned=[{"video_id": video_id} for video_id in compared.vanished],
            notes=notes,
        )

    def listed(self, store: mx.MetadataStore) -> set[str]:
        """The ids of those known videos whose file the source lists.

        Args:
            store: An open store.

        Raises:
            SourceError: The source could not be listed to the end.
        """
        paths = {file.relative_path for file in self.listing().files}
        return {r["video_id"] for r in self.stored(store)[0] if r["relative_path"] in paths}

    def _partition(self, scope: Scope, video_id: str) -> str | None:
        """The partition of a video; none where it belongs to none."""
        return scope.key({"video_id": video_id})

    def _may_keep_id(self, scope: Scope, candidate: str, former: str) -> bool:
        """Whether a moved video stays in its partition: one that leaves it is another video, since
        a partition by folder or date is found in the id."""
        if not scope.follows_path:
            return True
        return self._partition(scope, candidate) == self._partition(scope, former)

    def _fail(
        self,
        outcome: Outcome,
        scope: Scope,
        video_id: str,
        message: str,
        error: str,
        log: Any,
        path: str,
    ) -> None:
        failure = FailedSample({"video_id": video_id}, error, f"{path}: {message}")
        outcome.fail(failure, self._partition(scope, video_id))
        log.warning(f"{self.feature.key}: {failure}")

    def _moved_folder(
        self, store: mx.MetadataStore, compared: Comparison, scope: Scope, outcome: Outcome
    ) -> set[str]:
        """Rewrite the paths of unchanged files whose source folder was renamed."""
        live = set()
        moved = []
        for file, row in compared.unchanged:
            if scope.covers(self._partition(scope, row["video_id"])):
                live.add(row["video_id"])
                if row["path"] != file.path:
                    moved.append({**row, "path": file.path})
        if moved:
            self._write(store, moved, outcome)
            outcome.notes.append(f"{len(moved)} videos lie at another place; nothing else changed")
        return live

    def _identify(
        self,
        store: mx.MetadataStore,
        compared: Comparison,
        current: set[str],
        scope: Scope,
        runtime: Runtime,
        outcome: Outcome,
    ) -> set[str]:
        log = runtime.log
        tasks: list[_Candidate] = []
        for file, video_id, row in self._candidates(compared):
            try:
                sample = {"video_id": video_id}
                if scope.covers(scope.key_of(sample) if scope.key_of else None):
                    tasks.append((file, video_id, row))
            except PartitionError as error:
                if scope.keys is not None:  # a matter of the whole collection
                    continue
                self._fail(
                    outcome, scope, video_id, str(error), "PartitionError", log, file.relative_path
                )
        if tasks:
            log.info(f"{self.feature.key}: reading {len(tasks)} new or changed files")

        by_versions: dict[Any, list[Row]] = {}
        for row in compared.vanished.values():
            by_versions.setdefault(_versions(row[stores.PROVENANCE_BY_FIELD]), []).append(row)
        live: set[str] = set()
        chunk: list[Row] = []
        since = time.monotonic()
        refreshed = 0
        progress = Progress(self.feature.key, len(tasks), runtime)

        def take(file: File, video_id: str, row: Row | None, result: Identity) -> None:
            nonlocal refreshed
            versions = {"video": result.video, "audio": result.audio}
            former = [
                r
                for r in by_versions.get(_versions(versions), ())
                if r["video_id"] in compared.vanished
                and self._may_keep_id(scope, video_id, r["video_id"])
            ]
            if row is None and former:
                # The content of a video whose file is gone: the same video, moved. Of several
                # with this content, the one of the same name.
                name = PurePosixPath(file.relative_path).name
                row = next(
                    (r for r in former if PurePosixPath(r["relative_path"]).name == name),
                    former[0],
                )
                video_id = row["video_id"]
                del compared.vanished[video_id]
            if row is None:
                outcome.count("new", self._partition(scope, video_id))
            elif row[stores.PROVENANCE_BY_FIELD] != versions or video_id not in current:
                outcome.count("stale", self._partition(scope, video_id))
            else:
                refreshed += 1
            live.add(video_id)
            chunk.append(self._row(file, video_id, result, versions))

        limit = self.time_limit
        results = engines.run(
            self.engine,
            tasks,
            _identity,
            workers=self.workers,
            time_limit=None if limit is None else lambda _: limit,
        )
        try:
            with closing(results):
                for found in results:
                    if found is not None:
                        (file, video_id, row), result = found
                        progress.count(failed=isinstance(result, Exception))
                        if isinstance(result, Exception):
                            error, path = type(result).__name__, file.relative_path
                            self._fail(outcome, scope, video_id, str(result), error, log, path)
                        else:
                            take(file, video_id, row, result)
                    waited = time.monotonic() - since
                    if chunk and (len(chunk) >= self.chunk_samples or waited >= self.chunk_seconds):
                        full, chunk, since = chunk, [], time.monotonic()
                        self._write(store, full, outcome)
                    progress.tell()
        except WorkerError as error:
            raise UpdateError(f"{self.feature.key}: {error}") from error
        finally:
            if chunk:
                self._write(store, chunk, outcome)
        if refreshed:
            outcome.notes.append(
                f"{refreshed} files were touched, moved or remuxed; their streams are the same"
            )
        return live

    def _candidates(self, compared: Comparison) -> Iterator[_Candidate]:
        for file, row in compared.changed:
            yield file, row["video_id"], row
        for file, video_id in compared.new:
            yield file, video_id, None

    def _row(
        self, file: File, video_id: str, identity: Identity, versions: Mapping[str, str]
    ) -> Row:
        probed = {name: getattr(identity, name) for name in COLUMNS if hasattr(identity, name)}
        return {
            **probed,
            "video_id": video_id,
            "path": file.path,
            "relative_path": file.relative_path,
            "size": file.size,
            "modified_at": file.modified_at,
            stores.PROVENANCE_BY_FIELD: versions,
        }

    def _write(self, store: mx.MetadataStore, rows: Sequence[Row], outcome: Outcome) -> None:
        stores.append(store, self.feature.key, stores.typed(self.feature, rows))
        outcome.written += len(rows)

    def _delete_vanished(
        self,
        store: mx.MetadataStore,
        listing: Listing,
        compared: Comparison,
        scope: Scope,
        outcome: Outcome,
    ) -> None:
        # A run of some partitions has not read the new files of others, one of which may be the
        # video that is missing here, moved.
        elsewhere = {
            file.size
            for file, video_id in compared.new
            if not scope.covers(self._partition(scope, video_id))
        }
        gone = {
            video_id: self._partition(scope, video_id)
            for video_id, row in compared.vanished.items()
            if row["size"] not in elsewhere and scope.covers(self._partition(scope, video_id))
        }
        if gone and not listing.files and not listing.unreadable:
            # Far more often an unmounted disk than the end of a collection.
            outcome.notes.append(
                f"the source {self.folder} is empty, but the store knows {len(gone)} videos: they"
                " are kept. Delete them with Metaxy if they are really gone."
            )
            return
        if gone:
            ids = [(video_id,) for video_id in gone]
            stores.delete(store, self.feature.key, ["video_id"], ids, older=True)
            for partition in gone.values():
                outcome.count("orphaned", partition)


def _identity(candidate: _Candidate) -> Identity:
    from dagster_metaxy.media.identify import identify

    return identify(candidate[0].path)


def _pattern_error(file: File, key_of: Callable[[Row], str] | None) -> str | None:
    """That the partitions' pattern finds no key in a file's path, if so."""
    try:
        if key_of is not None:
            key_of({"video_id": file.stem})
    except PatternError as error:
        return f"no file has a partition: of {file.relative_path!r}, for example, {error}"
    except PartitionError:
        pass
    return None


def _versions(by_field: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(by_field.items()))
