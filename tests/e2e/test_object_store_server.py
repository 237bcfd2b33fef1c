"""Videos and artifacts in a real object store: Ceph's, which `tests/servers.py` starts."""

from __future__ import annotations

import os
import uuid

import pytest
from objects import Bucket, environment
from projects import CLIPS, Project
from stores import server


@pytest.fixture
def ceph(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    endpoint = server("DAGSTER_METAXY_TEST_S3")
    who = server("DAGSTER_METAXY_TEST_S3_KEY"), server("DAGSTER_METAXY_TEST_S3_SECRET")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(endpoint, *who).items():
        monkeypatch.setenv(name, value)
    return Bucket(endpoint, f"bucket-{uuid.uuid4().hex}", *who)


def test_a_collection(project: Project, ceph: Bucket) -> None:
    for name in ("bikes", "portrait"):
        ceph.put(f"{ceph.url}/in/{name}.mp4", (CLIPS / f"{name}.mp4").read_bytes())
    project.write(
        "clips/defs.yaml",
        f"""
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: {ceph.url}/in
          artifacts: {ceph.url}/out
          feature_prefix: clips
          partitions: dynamic
          steps: [{{type: frames, every_seconds: 1, max_size: 64}}]
        """,
    )

    def frames() -> set[str]:
        return {url for url in ceph.urls if url.startswith(f"{ceph.url}/out/")}

    assert project.run_job().success
    assert project.counts("clips/videos") == (2, 0, 0, 0)
    assert set(project.rows("clips/frames")["path"]) == frames()
    assert project.green("clips/frames") == {"bikes", "portrait"}
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 0, 0, 0)

    # Moved: nothing is computed. Replaced: the frames go, and others come. Deleted: they go.
    before = frames()
    ceph.put(f"{ceph.url}/in/moved/bikes.mp4", (CLIPS / "bikes.mp4").read_bytes())
    ceph.delete(f"{ceph.url}/in/bikes.mp4")
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 0, 0, 0)
    assert frames() == before
    ceph.put(f"{ceph.url}/in/portrait.mp4", (CLIPS / "bigbuckbunny.mp4").read_bytes())
    ceph.delete(f"{ceph.url}/in/moved/bikes.mp4")
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 1, 1, 0)
    assert set(project.rows("clips/frames")["path"]) == frames()
    assert not frames() & before
    assert {row["video_id"] for row in project.rows("clips/videos").to_dicts()} == {"portrait"}
