"""Fixtures: a project to load and run, one with videos, and an S3 server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import metaxy as mx
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from objects import Bucket, Proxy, environment
from projects import Project
from worlds import World

from dagster_metaxy.components import PartitionedVideoComponent
from dagster_metaxy.components.partitioned_video import sources


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take longest go first: at the end, one worker would wait for another."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that tests have just written are finished."""
    monkeypatch.setattr(sources, "SETTLE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def in_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections compute in threads, which take no time to start; what `dg` runs, and what is marked
    so, as by default."""
    if request.node.get_closest_marker("default_engine") is None:
        monkeypatch.setattr(PartitionedVideoComponent, "_default_engine", "threads")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, which the environment says how to reach."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return Bucket(s3_endpoint, f"bucket-{uuid.uuid4().hex}")


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between the environment and the bucket."""
    made = Proxy(bucket.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A store with a root feature, in a graph of its own."""
    mx.MetaxyConfig.reset()
    with mx.FeatureGraph().use():
        yield World(tmp_path)
    mx.MetaxyConfig.reset()


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
