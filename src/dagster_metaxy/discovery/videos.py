"""The root feature of a collection of videos: which there are, and what their streams hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dagster_metaxy import engines, locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.keys import PartitionError, PatternError
from dagster_metaxy.declare.partitions import Partitioning
from dagster_metaxy.declare.words import counted
from dagster_metaxy.discovery.files import File, Listing, SourceError, list_files, unique_ids
from dagster_metaxy.discovery.reading import read
from dagster_metaxy.discovery.sources import Files, Source
from dagster_metaxy.engines import Engine
from dagster_metaxy.engines.processes import WorkerError
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Runtime
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import (
    Cost,
    FailedSample,
    Outcome,
    RemoteError,
    UpdateError,
)
from dagster_metaxy.increment.plan import (
    CHANGED,
    CODE,
    QUARANTINED,
    Orphan,
    Plan,
    Task,
    changed_fields,
    failed_before,
    order,
    unforeseen,
)
from dagster_metaxy.increment.progress import Progress
from dagster_metaxy.increment.quarantine import Quarantine
from dagster_metaxy.increment.root import delete_gone
from dagster_metaxy.increment.selection import Ids, Scope, Selection
from dagster_metaxy.increment.store import StoreError

if TYPE_CHECKING:
    import metaxy as mx

    from dagster_metaxy.media.identify import Identity

Row = Mapping[str, Any]


_NAMED = 5

HASH_VERSION = "1"
"""Code version of the stream hashes: another canonical form makes every video new."""

COLUMNS: Mapping[str, Column] = {
    "video_id": Column(
        "str",
        description="Path below the source, without the ending; of a table or an API, the id there."
        " Kept when the file moves.",
    ),
    "path": Column("str", description="Where the file can be opened: a path, or a URL."),
    "relative_path": Column(
        "str", description="Path below the source, with the ending; of a table, the id."
    ),
    "size": Column("int", description="Size of the file in bytes."),
    "modified_at": Column("datetime", description="Modification time of the file, UTC."),
    "etag": Column(
        "str",
        nullable=True,
        description="What an object store names the content by, or the version that a table gives.",
    ),
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


def videos_feature(prefix: str, columns: Mapping[str, Column] | None = None) -> Feature:
    """The root feature `<prefix>/videos`, with the fields `video` and `audio`.

    Args:
        prefix: Of the key.
        columns: What the source gives beside that.
    """
    return Feature(
        key=f"{prefix}/videos",
        id_columns=("video_id",),
        columns={**COLUMNS, **(columns or {})},
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
    def retold(self) -> list[tuple[File, Row]]:
        """The unchanged files of which the source gives further columns with other values."""
        return [
            (file, row)
            for file, row in self.unchanged
            if any(row.get(name) != value for name, value in file.kept.items())
        ]

    @property
    def nothing_to_do(self) -> bool:
        """Whether store and source agree."""
        return not (self.changed or self.new or self.vanished or self.retold)


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
        elif file.is_as(row) and (current is None or row["video_id"] in current):
            result.unchanged.append((file, row))
        else:
            result.changed.append((file, row))
    ids = unique_ids(unknown, {row["video_id"] for row in rows})
    result.new = [(file, ids[file.relative_path]) for file in unknown]
    return result


@dataclass
class _Work:
    """Which files are read.

    Attributes:
        plan: Why, video by video.
        files: The file of each task, and the row of its video where it is known.
        read: The tasks whose file could be read; of a plan, those that will be.
        unseen: Paths that could not be looked at, and are of no known video.
    """

    plan: Plan
    files: dict[Ids, tuple[File, Row | None]] = field(default_factory=dict)
    read: set[Ids] = field(default_factory=set)
    unseen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Videos:
    """A collection of videos, and the update of its root feature.

    Attributes:
        feature: The root feature.
        source: Where the videos are found.
        cache: Where copies of remote files are kept; they are read where they lie if None.
        settle_seconds: A file on a disk that was written so recently and cannot be read is taken for
            one that is still being copied, and waited for.
        workers: How many files are read at once.
        quarantine: Which files that could not be read are tried again by themselves, beside those
            that were out of reach.
        chunk_samples: Rows are written when there are this many ...
        chunk_seconds: ... or when the oldest has waited this long.
        engine: Whether files are read in threads of this process, or in processes.
        time_limit: The seconds that a file may take, in processes; no limit if None.
    """

    feature: Feature
    source: Source
    cache: locations.Cache | None = None
    settle_seconds: float = 0.0
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    quarantine: Quarantine = field(default_factory=Quarantine)
    chunk_samples: int = 1_000
    chunk_seconds: float = 5.0
    engine: Engine = "threads"
    time_limit: float | None = None

    @property
    def foresees(self) -> bool:
        """Whether the source can be listed outside a run: not where it needs a resource."""
        return self.source.resource is None

    def listing(self, resources: Mapping[str, Any] | None = None) -> Listing:
        """What the source holds now.

        Args:
            resources: Those of Dagster that the source needs, by name.

        Raises:
            SourceError: It could not be listed to the end.
        """
        return self.source.listing(resources or {})

    def check_pattern(self, partitioning: Partitioning, enough: int = 1_000) -> str | None:
        """What is wrong with a pattern that finds no key in any path; None where it finds one, or
        where there is nothing to see, as in sources that are not on this machine.

        Args:
            partitioning: How the collection is partitioned.
            enough: How many files are looked at.
        """
        source = self.source
        if not isinstance(source, Files) or not isinstance(source.root, Path):
            return None
        try:
            files = list_files(source.root, source.glob, limit=enough).files
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
        """The Dagster resource that the source needs, if any."""
        return {self.source.resource} if self.source.resource else set()

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
        # Read before the listing: what another run writes meanwhile is not gone.
        with stores.opened(store, "w"):
            known = {row["video_id"]: row[stores.UPDATED_AT] for row in self.stored(store)[0]}
        listing = self.listing(runtime.resources)
        if not listing.files and not listing.unreadable:
            outcome.warn(f"there is no video in {self.source.place}")
        with stores.opened(store, "w"):
            stores.check_table(store, self.feature, fills=True)
            rows, current = self.stored(store)
            compared = compare(listing, rows, current)
            self._refuse_pattern(compared, scope)
            ledger = Ledger(store, self.feature)
            work = self._work(listing, compared, rows, ledger, scope, runtime.selection)
            plan = outcome.plan = work.plan
            for failure in plan.refused:
                if scope.covers(failure.partition):
                    outcome.fail(failure, failure.partition)
                    log.warning(f"{self.feature.key}: {failure}")
            for task in plan.held:
                if task.failure and scope.covers(task.partition):
                    outcome.hold(task.failure, task.partition)
            outcome.tell_quarantined()
            if behind := [row for row in rows if listing.may_hold(row["relative_path"])]:
                outcome.notes.append(
                    f"{counted(len(behind), 'video', 'videos')} cannot be looked at now, as behind links that lead nowhere:"
                    " what is known of them is kept"
                )
            live = self._refresh(store, compared, scope, outcome)
            live |= self._identify(store, ledger, work, compared, current, scope, runtime, outcome)
            outcome.notes.extend(self._outside(listing, scope))
            gone = self._gone(listing, compared, work, scope, outcome.notes)
            since = {(video_id,): known[video_id] for video_id in gone if video_id in known}
            for (video_id,) in delete_gone(store, self.feature, since):
                outcome.count("orphaned", gone[video_id])
            stores.compact(store, self.feature.key)
        if not self.foresees:
            # Nobody but this run can tell.
            outcome.remaining = Plan(
                self.feature, refused=[*outcome.failed, *outcome.quarantined], left=plan.left
            )
        outcome.settle(live)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _refuse_pattern(self, compared: Comparison, scope: Scope) -> None:
        """Fail where the partitions' pattern finds no key in any file: that is not the files' fault."""
        if not scope.follows_path or compared.unchanged or compared.changed:
            return
        wrong = [_pattern_error(file, scope.key_of) for file, _ in compared.new]
        if wrong and all(wrong):
            raise SourceError(f"{self.feature.key}: {wrong[0]}")

    def plan(
        self,
        store: mx.MetadataStore,
        scope: Scope | None = None,
        selection: Selection | None = None,
    ) -> Plan:
        """What a run would find to do, by paths, sizes and modification times; opens no file. Of a
        source that needs a resource, what failed last is all that is known.

        Args:
            store: An open store.
            scope: Which samples; all if left out.
            selection: What would be asked for.

        Raises:
            SourceError: The source could not be listed to the end.
        """
        if not self.foresees:
            note = f"what is new, changed or gone in {self.source.place}, only its run can tell"
            return unforeseen(self.feature, Ledger(store, self.feature), note)
        rows, current = self.stored(store)  # before the listing, as a run does
        listing = self.listing()
        compared = compare(listing, rows, current)
        scope = scope or Scope()
        ledger = Ledger(store, self.feature)
        work = self._work(listing, compared, rows, ledger, scope, selection or Selection())
        plan = work.plan
        work.read.update(work.files)
        if compared.changed:
            plan.notes.append("whether the streams of changed files differ, the next run finds out")
        if compared.new and compared.vanished:
            plan.notes.append("a new file may be a vanished one that moved; the next run finds out")
        for video_id, partition in sorted(
            self._gone(listing, compared, work, scope, plan.notes).items()
        ):
            plan.orphaned.append(Orphan((video_id,), partition, "its file is gone"))
        return plan

    def _work(
        self,
        listing: Listing,
        compared: Comparison,
        rows: Sequence[Row],
        ledger: Ledger,
        scope: Scope,
        selection: Selection,
    ) -> _Work:
        """Which files are read, and why."""
        work = _Work(Plan(self.feature))
        plan = work.plan
        known = {row["relative_path"]: row for row in rows}
        for path, reason in listing.unreadable.items():
            row = known.get(path)
            if row is None:
                work.unseen.append(path)
                row = {"video_id": self.source.video_id(path)}
            sample = {**row, **listing.kept.get(path, {})}
            plan.refused.append(self._refused(scope, sample, "OSError", path, reason))
        candidates = list(self._candidates(compared))
        entries = ledger.read({(video_id,) for _, video_id, _ in candidates}) if candidates else {}
        for file, video_id, row in candidates:
            ids = (video_id,)
            sample = {"video_id": video_id, **file.kept}
            try:
                partition = scope.key_of(sample) if scope.key_of else None
            except PartitionError as error:
                partition = None
                if scope.follows_path:
                    if scope.keys is None:  # a matter of the whole collection
                        path = file.relative_path
                        plan.refused.append(
                            self._refused(scope, sample, "PartitionError", path, str(error))
                        )
                    continue
            task = Task([], ids, partition, stale=row is not None, provenance=_file_version(file))
            entry = entries.get(ids)
            if entry is not None and entry.version == task.provenance and entry.failure:
                # What was out of reach is tried at every run; the file itself is not at fault.
                away = entry.failure.is_one_of(("OSError",))
                asked = away or selection.retries(ids, plan.name(ids))
                failed_before(task, entry.failure, self.quarantine, asked)
            elif row is not None:
                task.why, task.detail = CHANGED, _file_change(file, row)
            if task.why == QUARANTINED:
                plan.held.append(task)
            elif scope.covers(partition):
                plan.tasks.append(task)
                work.files[ids] = (file, row)
            else:
                plan.left.append(task)
        order(plan.tasks)
        plan.expect(ledger, entries.values())
        return work

    def _refused(
        self, scope: Scope, sample: Row, error: str, path: str, message: str
    ) -> FailedSample:
        named = {"video_id": sample["video_id"]}
        partition = self._partition(scope, sample)
        # The path of what a table lists is its id, which is told anyway.
        message = f"{path}: {message}" if self.source.resource is None else message
        return FailedSample(named, error, message, partition=partition)

    def listed(self, store: mx.MetadataStore) -> set[str]:
        """The ids of those known videos whose file the source lists; none where that takes a
        resource.

        Args:
            store: An open store.

        Raises:
            SourceError: The source could not be listed to the end.
        """
        if not self.foresees:
            return set()
        paths = {file.relative_path for file in self.listing().files}
        return {r["video_id"] for r in self.stored(store)[0] if r["relative_path"] in paths}

    def _partition(self, scope: Scope, sample: Row) -> str | None:
        """The partition of a video; none where it belongs to none."""
        # Rows from before the source kept the column do not have it.
        return scope.key({**dict.fromkeys(scope.columns), **sample})

    def _outside(self, listing: Listing, scope: Scope) -> Iterator[str]:
        """A note on the videos that are in no partition, since what their column says is none."""
        if scope.key_of is None or scope.follows_path or scope.keys is not None:
            return
        outside: dict[str, str] = {}
        for file in listing.files:
            try:
                scope.key_of({"video_id": file.stem, **file.kept})
            except PartitionError as error:
                outside[file.stem] = str(error)
        if outside:
            shown = "; ".join(f"{name}: {why}" for name, why in list(outside.items())[:_NAMED])
            yield (
                f"{counted(len(outside), 'video belongs', 'videos belong')} to no partition, so that only runs over all compute"
                f" them: {shown}{'; ...' if len(outside) > _NAMED else ''}"
            )

    def _may_keep_id(self, scope: Scope, candidate: str, former: str) -> bool:
        """Whether a moved video stays in its partition: one that leaves it is another video, since
        a partition by folder or date is found in the id."""
        if not scope.follows_path:
            return True
        one, other = ({"video_id": video_id} for video_id in (candidate, former))
        return self._partition(scope, one) == self._partition(scope, other)

    def _refresh(
        self, store: mx.MetadataStore, compared: Comparison, scope: Scope, outcome: Outcome
    ) -> set[str | None]:
        """Rewrite rows of unchanged files of which the source tells something else: where they lie,
        since its folder was renamed, or further columns; gives the partitions of unchanged files."""
        live: set[str | None] = set()
        other = []
        for file, row in compared.unchanged:
            told = {"path": file.path, **file.kept}
            before, now = (self._partition(scope, sample) for sample in (row, {**row, **told}))
            if scope.covers(now):
                live.add(now)
            if (scope.covers(now) or scope.covers(before)) and any(
                row.get(name) != value for name, value in told.items()
            ):
                other.append({**dict.fromkeys(self.feature.columns), **row, **told})
                if before != now:
                    outcome.touch(key for key in (before, now) if scope.covers(key))
        if other:
            self._write(store, other, outcome)
            outcome.notes.append(
                f"{counted(len(other), 'video lies', 'videos lie')} at another place, or have other values in the columns that"
                " the source tells; their streams are the same, so that nothing is computed anew"
            )
        return live

    def _identify(
        self,
        store: mx.MetadataStore,
        ledger: Ledger,
        work: _Work,
        compared: Comparison,
        current: set[str],
        scope: Scope,
        runtime: Runtime,
        outcome: Outcome,
    ) -> set[str | None]:
        """Read files, and write what their streams hold; gives the partitions of those that could be
        read.

        The plan then says of each what was found.
        """
        log = runtime.log
        plan = work.plan
        tasks, plan.tasks = plan.tasks, []
        if tasks:
            log.info(
                f"{self.feature.key}: reading"
                f" {counted(len(tasks), 'new or changed file', 'new or changed files')}{plan.expectation}"
            )

        by_versions: dict[Any, list[Row]] = {}
        for row in compared.vanished.values():
            by_versions.setdefault(_versions(row[stores.PROVENANCE_BY_FIELD]), []).append(row)
        live: set[str | None] = set()
        chunk: list[Row] = []
        entries: list[Entry] = []
        since = time.monotonic()
        before = outcome.written
        refreshed = 0
        copied: list[str] = []
        progress = Progress(self.feature.key, len(tasks), runtime)

        def take(task: Task, identity: Identity, status: locations.Status, cost: Cost) -> None:
            nonlocal refreshed
            work.read.add(task.ids)
            file, row = work.files[task.ids]
            video_id = str(task.ids[0])
            versions = {"video": identity.video, "audio": identity.audio}
            former = [
                r
                for r in by_versions.get(_versions(versions), ())
                if file.id is None  # whose video it is, the source has said
                and r["video_id"] in compared.vanished
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
            now = self._partition(scope, {"video_id": video_id, **file.kept})
            if row is not None and (before := self._partition(scope, row)) != now:
                outcome.touch(key for key in (before, now) if scope.covers(key))
            if row is None:
                outcome.count("new", now)
                plan.tasks.append(task)
            elif row[stores.PROVENANCE_BY_FIELD] != versions or video_id not in current:
                outcome.count("stale", now)
                plan.tasks.append(self._explained(task, video_id, row, versions))
            else:
                refreshed += 1
            live.add(now)
            outcome.cost({"video_id": video_id}, cost)
            entries.append(Entry((video_id,), task.provenance, rows=1, cost=cost))
            chunk.append(self._row(file, status, video_id, identity, versions))

        limit = self.time_limit
        results = engines.run(
            self.engine,
            [(work.files[task.ids][0].path, self.cache, task) for task in tasks],
            read,
            workers=self.workers,
            time_limit=None if limit is None else lambda _: limit,
        )
        try:
            with closing(results):
                for found in results:
                    if found is not None:
                        (*_, task), result = found
                        progress.count(failed=isinstance(result, Exception))
                        if isinstance(result, Exception):
                            file, _ = work.files[task.ids]
                            if self._is_being_written(file, result):
                                copied.append(file.relative_path)
                                plan.left.append(task)
                                continue
                            failure = _failure(task, file, result)
                            outcome.fail(failure, task.partition)
                            log.warning(f"{self.feature.key}: {failure}")
                            entries.append(Entry(task.ids, task.provenance, failure=failure))
                            plan.tasks.append(task)
                        else:
                            take(task, *result)
                    waited = time.monotonic() - since
                    if entries and (
                        len(chunk) >= self.chunk_samples or waited >= self.chunk_seconds
                    ):
                        full, chunk, since = chunk, [], time.monotonic()
                        known, entries = entries, []
                        self._write(store, full, outcome)
                        ledger.write(known)
                    progress.tell()
            full, chunk = chunk, []
            known, entries = entries, []
            self._write(store, full, outcome)
            ledger.write(known)
        except BaseException as error:
            # Finished work is kept where it can be, and what went wrong first is what is told.
            try:
                self._write(store, chunk, outcome)
                ledger.write(entries)
            except Exception as second:
                log.warning(str(second))
            if isinstance(error, StoreError):
                kept = outcome.written - before
                raise error.of_run(kept, outcome.costs.samples - kept) from error
            if isinstance(error, WorkerError):
                raise UpdateError(f"{self.feature.key}: {error}") from error
            raise
        order(plan.tasks)
        if copied:
            outcome.notes.append(
                f"{counted(len(copied), 'file is', 'files are')} still being written, such as {copied[0]!r}: the next run"
                " looks again"
            )
        if refreshed:
            outcome.notes.append(
                f"{counted(refreshed, 'file was', 'files were')} touched, moved or remuxed; their streams are the same"
            )
        return live

    def is_fresh(self, file: File) -> bool:
        """Whether a file was written so recently that it may not be finished."""
        # An object of a store appears when it is whole.
        if locations.is_url(file.path) or file.modified_at is None:
            return False
        return time.time() - file.modified_at.timestamp() < self.settle_seconds

    def _is_being_written(self, file: File, error: Exception) -> bool:
        """Whether a file that could not be read may be half a copy."""
        if isinstance(error, RemoteError) and error.failure.is_one_of(
            [locations.ChangedError.__name__]
        ):
            return True
        with suppress(OSError):  # as it is now, not as it was listed
            found = locations.status(file.path)
            return self.is_fresh(replace(file, modified_at=found.modified_at))
        return False

    def _explained(self, task: Task, video_id: str, row: Row, versions: Mapping[str, str]) -> Task:
        """A task of a known video whose streams were read, with what differs."""
        before = row[stores.PROVENANCE_BY_FIELD]
        changed = changed_fields(before, versions)
        if changed:
            return replace(task, ids=(video_id,), why=CHANGED, detail=", ".join(changed))
        detail = f"{task.detail + ', ' if task.detail else ''}hashed by other code"
        return replace(task, ids=(video_id,), why=CODE, detail=detail)

    def _candidates(self, compared: Comparison) -> Iterator[tuple[File, str, Row | None]]:
        for file, row in compared.changed:
            yield file, row["video_id"], row
        for file, video_id in compared.new:
            yield file, video_id, None

    def _row(
        self,
        file: File,
        status: locations.Status,
        video_id: str,
        identity: Identity,
        versions: Mapping[str, str],
    ) -> Row:
        probed = {name: getattr(identity, name) for name in COLUMNS if hasattr(identity, name)}
        return {
            **probed,
            "video_id": video_id,
            "path": file.path,
            "relative_path": file.relative_path,
            "size": status.size,
            "modified_at": status.modified_at,
            "etag": file.etag,
            **file.kept,
            stores.PROVENANCE_BY_FIELD: versions,
        }

    def _write(self, store: mx.MetadataStore, rows: Sequence[Row], outcome: Outcome) -> None:
        if rows:
            stores.append(store, self.feature.key, stores.typed(self.feature, rows))
            outcome.written += len(rows)

    def _gone(
        self,
        listing: Listing,
        compared: Comparison,
        work: _Work,
        scope: Scope,
        notes: list[str],
    ) -> dict[str, str | None]:
        """The vanished videos that are taken for gone, with their partitions.

        Where nothing was found at all, none is: that is far more often an unmounted disk than the
        end of a collection. Nor is one that a new file may be, which was not read: it belongs to
        another partition than the run's, failed, or is quarantined.
        """
        vanished = {
            video_id: partition
            for video_id, row in compared.vanished.items()
            if scope.covers(partition := self._partition(scope, row))
        }
        if not vanished:
            return {}
        if not listing.files and not listing.unreadable:
            notes.append(
                f"the source {self.source.place} is empty, but the store knows"
                f" {counted(len(vanished), 'video: it is', 'videos: they are')} kept. Delete them with Metaxy"
                " if they are really gone."
            )
            return {}
        if work.unseen:
            notes.append(
                f"{counted(len(vanished), 'video has vanished, but is', 'videos have vanished, but are')}"
                " kept as long as there are files that"
                f" cannot be looked at, such as {work.unseen[0]!r}: one of these may be theirs"
            )
            return {}
        unread: dict[int | None, list[str]] = {}
        for file, video_id in compared.new:
            if (video_id,) not in work.read and file.id is None:
                unread.setdefault(file.size, []).append(video_id)
        gone = {
            video_id: partition
            for video_id, partition in vanished.items()
            if not any(
                self._may_keep_id(scope, candidate, video_id)
                for candidate in unread.get(compared.vanished[video_id]["size"], ())
            )
        }
        if kept := len(vanished) - len(gone):
            notes.append(
                f"{counted(kept, 'video has vanished, but is', 'videos have vanished, but are')}"
                " kept: a new file of the same size that was not"
                " read may be theirs"
            )
        return gone


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


def _failure(task: Task, file: File, error: Exception) -> FailedSample:
    """The failure of a file that could not be read."""
    before = task.failure.attempts if task.failure else 0
    failure = FailedSample.of({"video_id": task.ids[0]}, error)
    message = failure.message
    # The path of what a table lists is its id, which is told anyway.
    if file.id is None and not message.startswith(file.path):
        message = f"{file.relative_path}: {message}"
    return replace(failure, message=message, where="", attempts=before + 1)


def _file_version(file: File) -> str:
    """What a file is known by before it is read."""
    return f"{HASH_VERSION}:{file.relative_path}:{file.version}"


def _file_change(file: File, row: Row) -> str:
    """How a file differs from the stored row."""
    changes = [
        f"{name} {before} -> {now}"
        for name, before, now in (
            ("path", row["relative_path"], file.relative_path),
            ("size", row["size"], file.size),
            ("version", row.get("etag"), file.etag),
        )
        if before != now and now is not None
    ]
    return ", ".join(changes) or "the file was modified"


def _versions(by_field: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(by_field.items()))
