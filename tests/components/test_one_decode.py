"""Picture steps of one run decode a video once, and give what each gives by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import media_tools
import pytest
from projects import Project

from dagster_metaxy.media import decoding
from dagster_metaxy.media.frames import FrameTaker

FRAMES = ("clips/frames", "clips/small", "clips/sparse")
KEYS = (*FRAMES, "clips/quality", "clips/scenes")
ALL = len(KEYS)
NAMES = ("bikes", "portrait")
VIDEOS = len(NAMES)


@pytest.fixture
def pictures(project: Project) -> Project:
    """A project with three steps that look at the picture."""
    project.add_clips(names=NAMES)
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          engine: threads
          feature_prefix: clips
          partitions: dynamic
          steps:
            - {type: frames, max_size: 160}
            - {type: frames, name: small, every_seconds: 0.5, max_size: 64}
            - {type: frames, name: sparse, every_seconds: 4, max_size: 64}
            - quality
            - scenes
        """,
    )
    return project


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many viewers each decode had."""
    found: list[int] = []
    look = decoding.look_together

    def counted(media: Any, viewers: Any) -> list[Any]:
        found.append(len(viewers))
        return look(media, viewers)

    monkeypatch.setattr(decoding, "look_together", counted)
    return found


def content(project: Project, key: str) -> list[Any]:
    """The rows of a feature with their versions, and its files' bytes."""
    rows = project.rows(key)
    same = [c for c in rows.columns if c in ("metaxy_provenance", "metaxy_data_version")]
    same += [c for c in rows.columns if not c.startswith("metaxy_") and c != "path"]
    ids = [c for c in rows.columns if c in ("video_id", "frame_index", "scene_index")]
    return [
        [*(row[c] for c in same), Path(row["path"]).read_bytes() if "path" in row else b""]
        for row in rows.sort(ids).to_dicts()
    ]


def handed(project: Project) -> list[Path]:
    """What was handed over, and not taken."""
    return [*project.root.glob("data/artifacts/*/.work/handed/*")]


def test_together_they_give_what_each_gives_alone(pictures: Project, decodes: list[int]) -> None:
    assert pictures.run_job().success
    assert decodes == [ALL] * VIDEOS
    together = {key: content(pictures, key) for key in KEYS}
    assert [pictures.counts(key) for key in KEYS] == [(VIDEOS, 0, 0, 0)] * ALL
    assert not handed(pictures)
    files = [*pictures.root.glob("data/artifacts/clips__*/*/*/*.jpg")]
    assert len(files) == sum(len(together[key]) for key in FRAMES)
    # What is spent on one decode is told of all.
    spent = [pictures.metadata(key)["compute seconds"] for key in KEYS]
    assert min(spent) > max(spent) / ALL

    decodes.clear()
    some = ("clips/small", "clips/quality")
    for key in some:
        op = f"update_{key.replace('/', '__')}"
        only = {"ops": {op: {"config": {"force": True}}}}
        assert pictures.run_job(run_config=only, op_selection=[op]).success
    assert decodes == [1] * VIDEOS * len(some)
    assert {key: content(pictures, key) for key in KEYS} == together


def test_only_what_is_stale_is_computed_together(pictures: Project, decodes: list[int]) -> None:
    pictures.run_job()
    decodes.clear()
    yaml = pictures.sandbox.defs_folder_path / "clips/defs.yaml"
    yaml.write_text(yaml.read_text().replace("every_seconds: 0.5", "every_seconds: 0.7"))
    pictures.run_job()
    assert decodes == [1] * VIDEOS
    decodes.clear()
    media_tools.remux(
        pictures.root / "videos/portrait.mp4", pictures.root / "videos/bikes.mp4", audio=False
    )
    pictures.run_job()
    assert decodes == [ALL]
    decodes.clear()
    pictures.run_job()
    assert decodes == []


@pytest.mark.parametrize("limit", [None, 1])
def test_config_of_each_op_counts(pictures: Project, decodes: list[int], limit: int | None) -> None:
    config = {"limit": limit} if limit else {"only": ["bikes"]}
    run_config = {"ops": {"update_clips__small": {"config": config}}}
    assert pictures.run_job(run_config=run_config).success
    assert sorted(decodes) == [ALL - 1] * (VIDEOS - 1) + [ALL]
    assert pictures.counts("clips/small") == (1, 0, 0, 0)


def test_assets_of_one_run(pictures: Project, decodes: list[int]) -> None:
    pictures.run_job(op_selection=["update_clips__videos"])
    assert pictures.materialize("clips/small", "clips/sparse", partition="bikes").success
    assert decodes == [2]
    assert {row["video_id"] for row in pictures.rows("clips/small").to_dicts()} == {"bikes"}


def test_what_a_dead_run_has_computed_for_others_is_not_lost(
    pictures: Project, decodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = decoding.look_together

    def dies(media: Any, viewers: Any) -> list[Any]:
        if len(decodes) == VIDEOS - 1:
            raise KeyboardInterrupt
        return extract(media, viewers)

    with monkeypatch.context() as patch:
        patch.setattr("os.cpu_count", lambda: 1)
        patch.setattr(decoding, "look_together", dies)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - as Dagster raises it
            pictures.run_job()
    assert decodes == [ALL]
    assert len([p for p in handed(pictures) if p.suffix == ".json"]) == ALL - 1
    decodes.clear()
    assert pictures.run_job().success
    assert decodes == [ALL]
    assert [pictures.counts(key) for key in KEYS[1:]] == [(VIDEOS, 0, 0, 0)] * (ALL - 1)


def test_one_that_fails_fails_alone(
    pictures: Project, decodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    see = FrameTaker.see

    def fails(self: FrameTaker, picture: Any, time: float) -> None:
        if self._every == 0.5 and time > 11:  # portrait alone is that long
            raise RuntimeError("mine")
        see(self, picture, time)

    monkeypatch.setattr(FrameTaker, "see", fails)
    pictures.run_job(raise_on_error=False)
    (failed,) = pictures.metadata("clips/small")["failed samples"].records
    assert (failed.data["sample"], failed.data["message"]) == ("video_id=portrait", "mine")
    for key in ("clips/frames", "clips/sparse"):
        assert pictures.counts(key) == (VIDEOS, 0, 0, 0)
    # It was tried again by itself, and said what was wrong.
    assert decodes == [ALL] * VIDEOS + [1]
    assert not handed(pictures)


def test_damage_is_met_by_those_who_look_there(pictures: Project, decodes: list[int]) -> None:
    bad = pictures.root / "videos/portrait.mp4"
    media_tools.damage(bad, bad, 0.7)
    pictures.run_job(raise_on_error=False)
    failed = {key: pictures.counts(key)[3] for key in KEYS}
    assert failed == dict(zip(KEYS, (1, 1, 0, 1, 1), strict=True))
    alone = dict(failed)
    for key in ("clips/small", "clips/sparse"):
        op = f"update_{key.replace('/', '__')}"
        config = {"ops": {op: {"config": {"force": True, "retry_quarantined": True}}}}
        pictures.run_job(run_config=config, op_selection=[op], raise_on_error=False)
        alone[key] = pictures.counts(key)[3]
    assert failed == alone


def test_processes_hand_over_too(pictures: Project) -> None:
    yaml = pictures.sandbox.defs_folder_path / "clips/defs.yaml"
    yaml.write_text(yaml.read_text().replace("engine: threads", "time_limit: 60"))
    assert pictures.run_job().success
    assert [pictures.counts(key) for key in KEYS] == [(VIDEOS, 0, 0, 0)] * ALL
    # The others take what the first has made.
    spent = [pictures.metadata(key)["compute seconds"] for key in KEYS]
    assert min(spent) > max(spent) / ALL
    assert not handed(pictures)
