"""The steps that hear, in one run over real clips."""

from __future__ import annotations

from pathlib import Path

import media_tools
import pytest
from projects import CLIPS, Project, load_error

DUB = Path(__file__).parent.parent / "media" / "dub.wav"


@pytest.fixture
def heard(project: Project) -> Project:
    """Two videos, of which `two` has a second track, and a file that is sound alone."""
    folder = project.add_clips(names=("bikes", "portrait"))
    dubbed = media_tools.replace_audio(CLIPS / "portrait.mp4", DUB, project.root / "dubbed.mp4")
    media_tools.add_audio(CLIPS / "portrait.mp4", dubbed, folder / "two.mp4")
    (folder / "reading.wav").write_bytes(DUB.read_bytes())
    return project


def test_sound(heard: Project) -> None:
    heard.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: {path: videos, glob: "*"}
          feature_prefix: clips
          steps:
            - {type: audio, rate: 44100, channels: 2, format: flac}
            - {type: audio, name: second, track: 1, channels: null, format: mp3}
            - loudness
        """,
    )
    heard.run_job(raise_on_error=False)
    rows = {row["video_id"]: row for row in heard.rows("clips/audio").to_dicts()}
    assert set(rows) == {"portrait", "two", "reading"}
    for row in rows.values():
        assert (row["rate"], row["channels"], Path(row["path"]).suffix) == (44100, 2, ".flac")
        assert Path(row["path"]).read_bytes().startswith(b"fLaC")
    assert rows["reading"]["duration"] == pytest.approx(6.05, abs=0.01)
    # Only one has a second track.
    assert heard.counts("clips/second") == (3, 0, 0, 2)
    second = heard.rows("clips/second").row(0, named=True)
    assert (second["video_id"], second["channels"]) == ("two", 1)
    assert second["duration"] == pytest.approx(6.1, abs=0.1)
    table = heard.metadata("clips/second")["failed samples"]
    assert all("no audio track 1: it has 1" in r.data["message"] for r in table.records)
    loudness = {row["video_id"]: row for row in heard.rows("clips/loudness").to_dicts()}
    assert set(loudness) == {"portrait", "two", "reading"}
    assert loudness["portrait"]["integrated"] == pytest.approx(-25, abs=0.1)
    assert loudness["portrait"]["true_peak"] == pytest.approx(-5.9, abs=0.1)
    assert len(loudness["portrait"]["short_term"]) == 10


def test_a_rate_that_mp3_does_not_have(project: Project) -> None:
    project.add_clips(names=("bikes",))
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          steps: [{type: audio, format: mp3, rate: 17000}]
        """,
    )
    assert "MP3 has no rate of 17000: take one of 8000" in load_error(project)
