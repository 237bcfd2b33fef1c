"""Fixtures: a project to load and run, and one with videos."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from objects import Server
from projects import Project


@pytest.fixture
def project() -> Iterator[Project]:
    with create_defs_folder_sandbox() as sandbox, dg.DagsterInstance.ephemeral() as instance:
        made = Project(sandbox, instance)
        yield made
        made.close()


@pytest.fixture
def videos(project: Project) -> Project:
    """A project with the clips, both steps, and a partition per video."""
    project.add_clips()
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          partitions: dynamic
          steps:
            - {type: frames, every_seconds: 1, max_size: 160}
            - audio
        """,
    )
    return project


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """An S3 server."""
    server = Server()
    yield server
    server.stop()
