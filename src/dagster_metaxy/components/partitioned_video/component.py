"""PartitionedVideoComponent: a collection of videos, its steps, its sensor and its job."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, ClassVar

import dagster as dg
from pydantic import Field, field_validator

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.components._base import FeatureComponent
from dagster_metaxy.components._graph import project_features
from dagster_metaxy.components._job import REPORT_FAILURES, update_job
from dagster_metaxy.components.partitioned_video.scaffolder import PartitionedVideoScaffolder
from dagster_metaxy.components.partitioned_video.sources import (
    SOURCE_SCHEMA,
    AnySource,
    CacheModel,
)
from dagster_metaxy.declare.errors import LocatedError, with_others
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import (
    VIDEO_PARTITIONS_SCHEMA,
    Partitioning,
    VideoPartitions,
    video_partitioning,
)
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.declare.schema import model_schema, one_of, plain, structured, tagged, text_or
from dagster_metaxy.discovery.sensor import build_sensor
from dagster_metaxy.discovery.videos import Videos, videos_feature
from dagster_metaxy.engines import Engine
from dagster_metaxy.extras import MissingExtra, require
from dagster_metaxy.increment.artifacts import root_of
from dagster_metaxy.increment.compute import Compute
from dagster_metaxy.increment.update import Update
from dagster_metaxy.locations import Cache, split_glob
from dagster_metaxy.media.models import ModelError
from dagster_metaxy.report.previews import Histogram, Kinds, Preview, Total
from dagster_metaxy.steps import STEPS, AnyStep
from dagster_metaxy.steps._picture import PictureStep, look_together
from dagster_metaxy.steps._step import Step

_OF_VIDEOS = (
    Kinds("video_codec", beside=("width", "height", "audio_codec"), counted="videos"),
    Histogram("duration", "s"),
    Total("duration", name="hours", scale=3600.0),
    Total("size", name="gigabytes", scale=1e9),
)


@dg.scaffold_with(PartitionedVideoScaffolder)
class PartitionedVideoComponent(FeatureComponent):
    """A collection of videos as an incremental asset graph.

    It gives the feature `<feature_prefix>/videos`, whose fields `video` and `audio` are versioned
    apart by hashes of the streams' packets; a feature for each step; a job named after the prefix
    that brings the collection and all features downstream of it up to date in one run; and a
    sensor, off by default, that asks for such a run when files are new, changed or gone.

    Touching, renaming or remuxing a file recomputes nothing; replacing a soundtrack recomputes
    what depends on sound. A file that cannot be read to its end is refused by name, and stops no
    other.

    Scaffold it with

        dg scaffold defs PartitionedVideoComponent clips --source ./videos

    `--source` is a folder or URL, with a glob or without (`videos` if left out), `--feature-prefix`
    what the features' keys begin with (the folder's name), `--partitions` is `none` or `dynamic`.
    """

    # Corrupt media is normal input, and what decodes it is native code.
    _default_engine: ClassVar[Engine] = "processes"

    source: Annotated[
        # Never None: it hides the models from Dagster, which takes no mappings in nested ones.
        AnySource | None,
        structured(
            SOURCE_SCHEMA,
            "string",
            "object",
            description="Where the videos are: a folder, or a URL of an object store (`s3://`, `gs://`,"
            " `az://`), with a glob or without; or what a table or an API lists, wherever the videos"
            " lie.",
            examples=[
                "videos",
                "s3://bucket/videos/**/*.mp4",
                {"path": "s3://bucket/videos", "glob": "**/*.mp4"},
                {
                    "type": "sql",
                    "resource": "database",
                    "query": "SELECT id, location, updated_at FROM videos",
                    "version": "updated_at",
                },
                {"type": "http", "resource": "catalog", "path": "videos", "items": "data"},
            ],
        ),
    ]
    cache: Annotated[
        Annotated[CacheModel, Field()] | None,
        structured(
            model_schema(CacheModel),
            "object",
            description="Where copies of remote videos are kept on this machine. Without it, each step"
            " reads them where they lie, which loads what it reads, and nothing else.",
            examples=[{"folder": ".cache/videos", "max_gigabytes": 50}],
            nullable=True,
        ),
    ] = None
    feature_prefix: Annotated[
        str,
        plain(
            description="What the keys of the collection's features begin with, and the name of its"
            " job and of its set of dynamic partitions.",
            examples=["clips"],
        ),
    ]
    partitions: Annotated[
        VideoPartitions,
        structured(
            VIDEO_PARTITIONS_SCHEMA,
            "string",
            "object",
            description="How the collection is cut for Dagster's UI and its backfills: `none`;"
            " `dynamic`, one partition per video; `static`, with given keys; `daily`, by a date in"
            " the path. By a `column` that the source keeps, also `hourly`, `weekly` and `monthly`,"
            " with any number of videos in a partition. What is computed is decided video by video"
            " in any case.",
            examples=[
                "dynamic",
                {"type": "daily", "start_date": "2026-01-01"},
                {"type": "dynamic", "column": "camera"},
            ],
        ),
    ] = "none"
    remove_deleted_keys: Annotated[
        bool,
        dg.Resolver.default(
            description="Whether a run over all removes the keys of dynamic partitions whose videos"
            " were deleted. Dagster's automation is upset by keys that go while it looks at them.",
            examples=[True],
        ),
    ] = False
    steps: Annotated[
        list[AnyStep],
        structured(
            {"items": text_or(one_of(tuple(STEPS)), tagged(STEPS))},
            "array",
            description="What is made of each video: names of steps, or type and parameters.",
            examples=[["audio", {"type": "frames", "every_seconds": 1, "max_size": 320}]],
        ),
    ] = []  # noqa: RUF012 - pydantic copies it

    @field_validator("source", mode="before")
    @classmethod
    def _normalize_source(cls, source: Any) -> Any:
        if source is None:
            raise ValueError("write a folder or URL of videos, or what lists them")
        if isinstance(source, str):
            path, glob = split_glob(source)
            source = {"path": path, "glob": glob} if glob else {"path": path}
        return {"type": "files", **source} if isinstance(source, dict) else source

    @field_validator("steps", mode="before")
    @classmethod
    def _normalize_steps(cls, steps: Any) -> Any:
        if not isinstance(steps, list):
            return steps
        return [{"type": step} if isinstance(step, str) else step for step in steps]

    @field_validator("feature_prefix")
    @classmethod
    def _check_prefix(cls, prefix: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", prefix) or "__" in prefix:
            raise ValueError(f"{prefix!r} is not words joined by slashes")
        return prefix

    @property
    def job_name(self) -> str:
        """The name of the collection's job: the prefix, with underscores for what is no letter."""
        return re.sub(r"\W", "_", self.feature_prefix)

    def _cache(self, project_root: Path) -> Cache | None:
        return self.cache.cache(project_root) if self.cache else None

    def _videos(self, project_root: Path) -> Videos:
        def wrong(message: str, *path: str) -> Exception:
            return self.error(message, "source", *path)

        assert self.source is not None
        source = self.source.source(project_root, wrong)
        return Videos(
            videos_feature(self.feature_prefix, source.columns),
            source,
            self._cache(project_root),
            getattr(self.source, "settle_seconds", 0.0),
            **self.update_options(),
        )

    @property
    def key_attribute(self) -> str:
        """The attribute that the features' keys begin with."""
        return "feature_prefix"

    def feature_assets(self, project_root: Path) -> Sequence[FeatureAsset]:
        """The root feature and a feature for each step."""
        try:
            require("reading videos", Step.extra, "av", "PIL", "xxhash", "numpy")
        except MissingExtra as error:
            raise self.error(str(error)) from None
        partitioning = video_partitioning(
            lambda message, *path: self.error(message, "partitions", *path),
            self.partitions,
            name=self.feature_prefix,
            columns=getattr(self.source, "columns", None),
        )
        if self.remove_deleted_keys and not (
            partitioning and isinstance(partitioning.definition, dg.DynamicPartitionsDefinition)
        ):
            raise self.error(
                "only the keys of dynamic partitions can be removed: write `partitions: dynamic`, or"
                " leave remove_deleted_keys out",
                "remove_deleted_keys",
            )

        def asset(
            runner: Videos | Update,
            *kinds: str,
            previews: Sequence[Preview] = (),
            of_all_videos: bool = False,
        ) -> FeatureAsset:
            attributes = {
                "group_name": self.group_name or self.job_name,
                "kinds": {*(self.kinds or ()), *kinds},
                "description": runner.feature.description,
            }
            return FeatureAsset(
                runner,
                store=self.store,
                partitioning=None if of_all_videos else partitioning,
                remove_deleted_keys=self.remove_deleted_keys and isinstance(runner, Videos),
                attributes={**self.asset_attributes(), **attributes},
                previews=previews,
                **self.op_options(),
            )

        def step_assets() -> Iterator[FeatureAsset]:
            for step in self._ready_steps(project_root):
                feature = step.feature(self.feature_prefix)
                if partitioning is not None and not step.of_all_videos:
                    feature = self._seeing(feature, partitioning)
                update = Update(
                    feature,
                    Compute(
                        step.reading_through(self._cache(project_root)).compute,
                        joint=look_together if isinstance(step, PictureStep) else None,
                    ),
                    artifacts=root_of(self.artifacts, project_root),
                    workers=step.workers or os.cpu_count() or 1,
                    batch_size=step.batch_size,
                    **self.update_options(),
                )
                yield asset(
                    update, step.type, previews=step.previews, of_all_videos=step.of_all_videos
                )

        videos = asset(self._videos(project_root), "video", previews=_OF_VIDEOS)
        return [videos, *step_assets()]

    def _ready_steps(self, project_root: Path) -> Sequence[Step]:
        """The steps, whose packages and models are there, each after those that it is made from."""
        named: dict[str, Step] = {}
        order: TopologicalSorter[str] = TopologicalSorter()
        wrong: list[LocatedError] = []
        missing: dict[int, MissingExtra] = {}
        for index, declared in enumerate(self.steps):
            step, name = declared.below(project_root), declared.feature_name
            if name in named:
                what = f"the step {name!r} is there twice: give one of them another `name`"
                wrong.append(self.error(what, "steps", index))
            named[name] = step
            try:
                step.check_installed()
            except MissingExtra as error:
                missing[index] = error
            except ModelError as error:
                wrong.append(self.error(f"the step {name!r}: {error}", "steps", index))
        for index, step in enumerate(self.steps):
            order.add(step.feature_name)
            for key, wanted in step.inputs.items():
                if (name := getattr(step, key)) is None:  # one that it can do without
                    continue
                order.add(step.feature_name, name)
                if name not in named or named[name].type != wanted:
                    what = (
                        f"the step {step.feature_name!r} is made from a step of the type {wanted!r}"
                        f" that is called {name!r}, and there is none: add it to steps, or name"
                        f" another one in `{key}`"
                    )
                    wrong.append(self.error(what, "steps", index, key))
        if missing:
            # All at once: one command installs them.
            needs = [need for error in missing.values() for need in error.needs]
            wrong.append(self.error(str(MissingExtra(*needs)), "steps", min(missing)))
        if wrong:
            raise with_others(wrong[0], wrong[1:])
        return [named[name] for name in order.static_order()]

    def _seeing(self, feature: Feature, partitioning: Partitioning) -> Feature:
        """`feature`, whose compute sees the column of the videos that partitions are found by."""
        further = [name for name in partitioning.columns if name not in feature.parent_columns]
        if not further:
            return feature
        if taken := [name for name in further if name in feature.columns]:
            raise self.error(
                f"{feature.key!r} has a column {taken[0]!r} of its own, with another meaning: call that"
                " of the source otherwise",
                "partitions",
                "column",
            )
        dep, *others = feature.deps
        return replace(
            feature, deps=({**dep, "select": (*(dep.get("select") or ()), *further)}, *others)
        )

    def _check_pattern(
        self, project_root: Path, root: FeatureAsset, project: MetaxyProject
    ) -> None:
        """Refuse a pattern that finds no partition in any file, while there is nothing to lose: a
        collection that has rows must load."""
        if root.partitioning is None or not root.partitioning.follows_path:
            return
        wrong = self._videos(project_root).check_pattern(root.partitioning)
        if wrong is None:
            return
        try:
            with project.store(self.store).open("r") as store:
                written = store.has_feature(root.feature.key, check_fallback=True)
        except Exception:  # of a store that is out of reach; the run will say so
            return
        if not written:
            raise self.error(wrong, "partitions", "pattern")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The assets, the job and the sensor."""
        features = project_features(context, self)
        project = features.project
        root = features.of(self)[0]
        with project.use():
            self._check_pattern(Path(context.project_root), root, project)
            return dg.Definitions(
                assets=self.asset_definitions(features),
                jobs=[
                    update_job(
                        self.job_name,
                        features.downstream(root.feature.key),
                        features.assets.values(),
                        project,
                        f"Brings {root.feature.key} and all features downstream of it up to date, in"
                        " all partitions, in one run.",
                    )
                ],
                sensors=[
                    build_sensor(
                        name=f"{self.job_name}_sensor",
                        job_name=self.job_name,
                        report_op=REPORT_FAILURES,
                        videos=self._videos(Path(context.project_root)),
                        partitioning=root.partitioning,
                        project=project,
                        store=self.store,
                    )
                ],
            )
