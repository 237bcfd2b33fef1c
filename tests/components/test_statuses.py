"""What Dagster shows of partitions after runs, by its own code, and the keys of deleted videos."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import media_tools
import pytest
from backfills import DEFINITIONS, backfill_to_the_end
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from projects import CLIPS, Project, load_error
from watches import Watch

KINDS = {
    "dynamic": ("dynamic", ["a", "b", "c", "d"]),
    "static": ("{type: static, partition_keys: [a, b, c, d]}", ["a", "b", "c", "d"]),
    "daily": (
        '{type: daily, start_date: "2026-01-01", end_date: "2026-01-05", end_offset: 0}',
        ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"],
    ),
}
VIDEOS, FRAMES, MARKS = "clips/videos", "clips/frames", "clips/marks"


class Collection:
    """A collection with a folder per partition, and a feature of one's own downstream."""

    def __init__(self, project: Project, kind: str, *attributes: str) -> None:
        self.project = project
        partitions, self.folders = KINDS[kind]
        self.keys = [f"{f}/clip" for f in self.folders] if kind == "dynamic" else self.folders
        lines = "".join(f"\n  {line}" for line in attributes)
        project.write(
            "clips/defs.yaml",
            "type: dagster_metaxy.PartitionedVideoComponent\nattributes:\n  source: videos\n"
            f"  feature_prefix: clips\n  partitions: {partitions}\n"
            f"  steps: [{{type: frames, every_seconds: 5, max_size: 32}}]{lines}\n",
        )
        own = {
            "dynamic": "{type: dynamic, name: clips}",
            "static": partitions,
            "daily": partitions,
        }[kind]
        by = "video_id" if kind == "dynamic" else "folder"
        project.write(
            "marks/defs.yaml",
            f"""
            type: dagster_metaxy.MetaxyAssetComponent
            attributes:
              feature: clips/marks
              deps: [clips/folders]
              id_columns: [video_id]
              columns: {{mark: int}}
              partitions_def: {own}
              partition_by: {by}
              compute: .compute.marks
            ---
            type: dagster_metaxy.MetaxyAssetComponent
            attributes:
              feature: clips/folders
              deps: [clips/videos]
              id_columns: [video_id]
              columns: {{folder: str, path: str}}
              compute: .compute.folders
            """,
        )
        project.write(
            "marks/compute.py",
            """
            from pathlib import Path

            def folders(sample):
                return {"folder": sample["video_id"].split("/")[0], "path": sample["path"]}

            def marks(sample):
                return {"mark": 1 // (not Path(sample["path"] + ".bad").exists())}
            """,
        )

    def file(self, number: int) -> Path:
        """The file of a partition."""
        return self.project.root / "videos" / self.folders[number] / "clip.mp4"

    def put(self, number: int, clip: str = "bikes") -> None:
        """Put a clip into a partition."""
        self.file(number).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS / f"{clip}.mp4", self.file(number))

    def corrupt(self, number: int) -> None:
        """Put half a clip into a partition."""
        self.file(number).parent.mkdir(parents=True, exist_ok=True)
        media_tools.truncate(CLIPS / "portrait.mp4", self.file(number), 0.5)

    def spoil(self, number: int, bad: bool = True) -> None:
        """Let the mark of a partition fail, or not."""
        flag = Path(f"{self.file(number)}.bad")
        flag.touch() if bad else flag.unlink()

    def shown(self, key: str) -> str:
        """What Dagster shows of each partition: Materialized, Failed, In progress or nothing."""
        instance, asset = self.project.instance, dg.AssetKey(key.split("/"))
        definition = self.project.load().resolve_asset_graph().get(asset).partitions_def
        assert definition is not None
        keys = definition.get_partition_keys(dynamic_partitions_store=instance)
        assert set(keys) <= set(self.keys)
        found = instance.get_status_by_partition(asset, keys, definition) or {}
        return "".join(status.value[0] if (status := found.get(k)) else "-" for k in self.keys)

    def events(self, key: str) -> list[int]:
        """How many materializations there were of each partition."""
        records = self.project.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(key.split("/"))), limit=1_000
        ).records
        told = [record.partition_key for record in records]
        return [told.count(key) for key in self.keys]

    def run(self) -> dg.ExecuteInProcessResult:
        """A plain launch of the job."""
        return self.project.run_job(raise_on_error=False)


Launch = Callable[[], dg.ExecuteInProcessResult]


def launcher(collection: Collection, way: str) -> Launch:
    """A plain launch, or what the sensor asks for."""
    watch = Watch(collection.project)
    return collection.run if way == "job" else lambda: watch.run(watch.tick())


@pytest.fixture(params=sorted(KINDS))
def collection(request: pytest.FixtureRequest, project: Project) -> Collection:
    made = Collection(project, request.param)
    for number in range(3):
        made.put(number)
    return made


def failed_steps(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [event.step_key for event in result.get_step_failure_events()]


@pytest.mark.parametrize("way", ["job", "sensor"])
def test_failed_then_mended(collection: Collection, way: str) -> None:
    launch = launcher(collection, way)
    collection.spoil(0)
    result = launch()
    assert failed_steps(result) == ["report_failures"]
    assert collection.shown(VIDEOS) == collection.shown(FRAMES) == "MMM-"
    assert collection.shown(MARKS) == "FMM-"

    # One file is spoilt, a new one is, and one that failed is mended.
    collection.corrupt(1)
    collection.corrupt(3)
    collection.spoil(0, bad=False)
    collection.put(0, "portrait")
    result = launch()
    assert failed_steps(result) == ["report_failures"]
    assert collection.shown(VIDEOS) == "MFMF"
    assert collection.shown(FRAMES) == collection.shown(MARKS) == "MMM-"
    assert collection.events(VIDEOS) == [2, 1, 1, 0]
    assert collection.events(FRAMES) == [2, 1, 1, 0]
    assert collection.events(MARKS) == [1, 1, 1, 0]

    # One is mended, and one is taken away.
    collection.put(1, "portrait")
    collection.file(3).unlink()
    assert launch().success
    assert collection.shown(VIDEOS) == "MMMM"
    assert collection.shown(FRAMES) == collection.shown(MARKS) == "MMM-"
    assert collection.events(VIDEOS) == [2, 2, 1, 1]
    if way == "sensor":
        assert not Watch(collection.project).tick().run_requests


def test_runs_of_partitions(collection: Collection) -> None:
    collection.corrupt(1)
    instance = collection.project.instance
    if collection.keys != collection.folders:
        instance.add_dynamic_partitions("clips", collection.keys)
    for key in collection.keys[:3]:
        collection.project.materialize(VIDEOS, FRAMES, partition=key, raise_on_error=False)
    assert collection.shown(VIDEOS) == "MFM-"
    # A run that was to make the frames has failed, too.
    assert collection.shown(FRAMES) == "MFM-"
    # What a run of a partition left as failed, the job mends, and the other way round.
    collection.put(1)
    collection.corrupt(2)
    collection.run()
    assert collection.shown(VIDEOS) == "MMF-"
    assert collection.shown(FRAMES) == "MMM-"
    collection.put(2, "portrait")
    assert collection.project.materialize(VIDEOS, FRAMES, partition=collection.keys[2]).success
    assert collection.shown(VIDEOS) == collection.shown(FRAMES) == "MMM-"
    assert collection.run().success
    assert collection.events(VIDEOS) == [1, 1, 2, 0]


def test_a_backfill(collection: Collection) -> None:
    collection.corrupt(1)
    collection.project.load()
    dynamic = "clips" if collection.keys != collection.folders else None
    done = backfill_to_the_end(collection.project, VIDEOS, collection.keys[:3], dynamic)
    assert done.green == {collection.keys[0], collection.keys[2]}
    assert done.failed == {collection.keys[1]}


class TestOneKind:
    @pytest.fixture
    def collection(self, project: Project) -> Collection:
        made = Collection(project, "static")
        for number in range(3):
            made.put(number)
        return made

    def test_the_failure_names_the_samples(self, collection: Collection) -> None:
        collection.corrupt(1)
        collection.spoil(2)
        with pytest.raises(dg.Failure) as caught:
            collection.project.run_job()
        text = str(caught.value.description)
        assert text.startswith("all is done but for samples that failed:\nclips/videos: 1 sample")
        assert "video_id=b/clip: " in text
        assert "clips/marks: 1 sample failed:\nvideo_id=c/clip: ZeroDivisionError" in text
        assert not caught.value.allow_retries

    def test_a_run_from_failure_repeats_what_failed(self, collection: Collection) -> None:
        collection.corrupt(1)
        instance = collection.project.instance
        first = collection.run()
        collection.project.close()
        file = collection.project.root / "definitions.py"
        file.write_text(DEFINITIONS)
        repository = ReconstructableRepository.for_file(
            str(file), "defs", str(collection.project.root)
        )
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        with dg.execute_job(
            repository.get_reconstructable_job("clips"), instance, reexecution_options=options
        ) as again:
            assert {event.step_key for event in again.get_step_failure_events()} == {
                "report_failures"
            }
            assert not again.get_step_success_events()
        assert collection.shown(VIDEOS) == "MFM-"

    def test_no_run_is_retried_for_it(self, collection: Collection) -> None:
        collection.corrupt(1)
        instance = collection.project.instance
        run = instance.get_run_by_id(collection.run().run_id)
        assert run is not None
        run = run.with_tags({**run.tags, "dagster/max_retries": "3"})
        assert not auto_reexecution_should_retry_run(instance, run, RunFailureReason.STEP_FAILURE)

    def test_a_run_that_ends_early(self, collection: Collection) -> None:
        for number in range(3):
            collection.corrupt(number)
        result = collection.run()
        assert failed_steps(result) == ["update_clips__videos"]
        assert collection.shown(VIDEOS) == "FFF-"
        assert collection.shown(FRAMES) == "----"
        for number in range(3):
            collection.put(number)
        assert collection.run().success
        assert collection.shown(VIDEOS) == collection.shown(FRAMES) == "MMM-"

    def test_what_a_killed_run_mended_is_shown(self, collection: Collection) -> None:
        collection.corrupt(1)
        collection.run()
        collection.put(1)
        instance = collection.project.instance
        with dg.DagsterInstance.ephemeral() as lost:  # its events never come
            collection.project.instance = lost
            assert collection.run().success
        collection.project.instance = instance
        assert collection.shown(VIDEOS) == "MFM-"
        assert collection.run().success
        assert collection.shown(VIDEOS) == "MMM-"
        assert collection.events(VIDEOS) == [1, 1, 1, 0]

    def test_a_failed_sample_that_is_in_no_partition_fails_no_run(
        self, collection: Collection
    ) -> None:
        (collection.project.root / "videos/elsewhere").mkdir()
        collection.file(0).rename(collection.project.root / "videos/elsewhere/clip.mp4")
        assert collection.run().success
        assert collection.project.counts(VIDEOS) == (2, 0, 0, 1)

    def test_an_empty_source_turns_nothing_green(self, collection: Collection) -> None:
        collection.corrupt(1)
        collection.run()
        for number in range(3):
            collection.file(number).unlink()
        assert collection.run().success
        assert collection.shown(VIDEOS) == "MFM-"


def test_without_partitions_nothing_is_reported(project: Project) -> None:
    project.add_clips(names=("bikes",))
    (project.root / "videos/bad.mp4").touch()
    project.write(
        "clips/defs.yaml",
        "type: dagster_metaxy.PartitionedVideoComponent\n"
        "attributes: {source: videos, feature_prefix: clips}\n",
    )
    assert project.run_job().success
    assert project.counts("clips/videos") == (1, 0, 0, 1)


class TestDeletedKeys:
    @pytest.fixture
    def collection(self, project: Project) -> Collection:
        made = Collection(project, "dynamic", "remove_deleted_keys: true")
        for number in range(3):
            made.put(number)
        return made

    @staticmethod
    def keys(collection: Collection) -> list[str]:
        return sorted(collection.project.instance.get_dynamic_partitions("clips"))

    def test_they_go_with_the_videos(self, collection: Collection) -> None:
        a, b, c, _ = collection.keys
        instance = collection.project.instance
        instance.add_dynamic_partitions("clips", ["by-hand"])
        assert collection.run().success
        assert self.keys(collection) == [a, b, "by-hand", c]
        collection.file(1).unlink()
        assert collection.run().success
        assert self.keys(collection) == [a, "by-hand", c]
        assert b not in set(collection.project.rows(FRAMES)["video_id"])
        # Where a run was killed before it came to this, the next one does it.
        instance.add_dynamic_partitions("clips", [b])
        assert collection.run().success
        assert self.keys(collection) == [a, "by-hand", c]
        # And it comes back with the video.
        collection.put(1)
        assert collection.run().success
        assert self.keys(collection) == [a, b, "by-hand", c]

    def test_not_of_a_video_that_moved_or_cannot_be_read(self, collection: Collection) -> None:
        a, b, c, _ = collection.keys
        collection.put(1, "portrait")
        assert collection.run().success
        (collection.project.root / "videos/moved").mkdir()
        collection.file(1).rename(collection.project.root / "videos/moved/clip.mp4")
        assert collection.run().success
        assert self.keys(collection) == [a, b, c]
        collection.file(2).unlink()
        assert collection.run().success
        assert self.keys(collection) == [a, b]
        collection.corrupt(2)
        assert failed_steps(collection.run()) == ["report_failures"]
        assert self.keys(collection) == [a, b, c]

    def test_not_where_another_feature_has_samples(self, collection: Collection) -> None:
        collection.project.write(
            "labels/defs.yaml",
            """
            type: dagster_metaxy.MetaxyAssetComponent
            attributes:
              feature: t/labels
              id_columns: [video_id]
              columns: {label: str}
              version_columns: label
              partitions_def: {type: dynamic, name: clips}
              compute: .compute.labels
            """,
        )
        collection.project.write(
            "labels/compute.py",
            """
            def labels():
                return [{"video_id": "b/clip", "label": "x"}]
            """,
        )
        collection.project.write("jobs/defs.yaml", "type: dagster_metaxy.MetaxyJobsComponent\n")
        assert collection.project.run_job("metaxy_update").success
        for number in (1, 2):
            collection.file(number).unlink()
        assert collection.run().success
        assert self.keys(collection) == collection.keys[:2]

    def test_off_by_default(self, project: Project) -> None:
        collection = Collection(project, "dynamic")
        for number in range(2):
            collection.put(number)
        collection.run()
        collection.file(1).unlink()
        assert collection.run().success
        assert self.keys(collection) == collection.keys[:2]

    def test_only_of_dynamic_partitions(self, project: Project) -> None:
        Collection(project, "daily", "remove_deleted_keys: true")
        text = load_error(project)
        assert "only the keys of dynamic partitions can be removed" in text
        assert "clips/defs.yaml:7" in text
