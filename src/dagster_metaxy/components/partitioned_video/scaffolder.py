"""What `dg scaffold defs PartitionedVideoComponent` writes."""

from __future__ import annotations

import re
from pathlib import Path

import click
import dagster as dg
from pydantic import BaseModel, Field

from dagster_metaxy.components._scaffold import (
    clean_on_failure,
    ensure_metaxy_config,
    project_root,
)
from dagster_metaxy.locations import is_url, split_glob


class PartitionedVideoParams(BaseModel):
    """Flags of the scaffold."""

    source: str = Field(
        default="videos",
        description="Folder of the videos, absolute or below the project's root; or a URL such as"
        " s3://bucket/videos; with a glob or without, such as videos/**/*.mp4.",
    )
    feature_prefix: str | None = Field(
        default=None, description="Prefix of the feature keys; the folder's name if left out."
    )
    partitions: str = Field(default="none", description="`none`, or `dynamic`: one per video.")


_YAML = """\
# A folder of videos as an incremental asset graph.
# Try it:  dg check defs  and then  dg launch --job {job}
# A second launch computes nothing: only what is new or changed is computed.
type: dagster_metaxy.PartitionedVideoComponent

attributes:
  # Absolute, or below the project's root; or a URL, such as s3://bucket/videos. With a glob:
  #   source: "{folder}/**/*.mp4"
  source: "{source}"

  # The features are {prefix}/videos and one for each step; the job is named after it, too.
  feature_prefix: {prefix}

  # How the collection is cut for the UI and for backfills; what is computed is decided video by
  # video in any case. One of
  #   none     one asset, all videos
  #   dynamic  a partition per video, registered as videos appear
  #   {{type: static, partition_keys: [cam_a, cam_b]}}   by the first folder of the path
  #   {{type: daily, start_date: "2026-01-01"}}          by a date in the path
  partitions: {partitions}

  # What is made of each video: names of steps, or type and parameters.
  steps:
    - type: frames        # depends on the picture alone
      every_seconds: 1
      max_size: 640
    - audio               # depends on the sound alone: replace a soundtrack, and no frame is touched
"""

_PYTHON = '''\
"""A folder of videos as an incremental asset graph."""

import dagster as dg

from dagster_metaxy import PartitionedVideoComponent


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> PartitionedVideoComponent:
    return PartitionedVideoComponent(
        # Absolute, or below the project's root.
        source="{source}",
        # The features are {prefix}/videos and one for each step; the job is named after it, too.
        feature_prefix="{prefix}",
        # "none", "dynamic" (a partition per video), or a mapping as in YAML.
        partitions="{partitions}",
        steps=[{{"type": "frames", "every_seconds": 1, "max_size": 640}}, "audio"],
    )
'''


class PartitionedVideoScaffolder(dg.Scaffolder[PartitionedVideoParams]):
    """Writes a component that loads, checks and materializes as it stands."""

    @classmethod
    def get_scaffold_params(cls) -> type[PartitionedVideoParams]:
        return PartitionedVideoParams

    def scaffold(self, request: dg.ScaffoldRequest[PartitionedVideoParams]) -> None:
        with clean_on_failure(request) as folder:
            root = project_root(request)
            params = request.params
            if params.partitions not in ("none", "dynamic"):
                raise click.UsageError(
                    f"--partitions {params.partitions!r}: none or dynamic; the others take more"
                    " than a word, and are explained in the file."
                )
            prefix = params.feature_prefix or re.sub(r"[^A-Za-z0-9-]+", "_", folder.name)
            if re.search(r"[\"\\\n]", params.source):
                raise click.UsageError("--source: quotes and backslashes are not taken in paths.")
            remote = is_url(params.source)
            below, _ = split_glob(params.source)
            source = root / below
            if not remote and not source.exists():
                source.mkdir(parents=True)
                click.echo(f"Made {below}: put videos there.")
            ensure_metaxy_config(root)
            words = {
                "source": params.source if remote else Path(params.source).as_posix(),
                "folder": below.rstrip("/"),
                "prefix": prefix,
                "job": re.sub(r"\W", "_", prefix),
                "partitions": params.partitions,
            }
            if request.scaffold_format == "python":
                (folder / "component.py").write_text(_PYTHON.format(**words))
            else:
                (folder / "defs.yaml").write_text(_YAML.format(**words))
            click.echo(f"Next: dg launch --job {words['job']}")
