"""One decode for many viewers: each sees what it sees alone, and what a plain decoding has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import av
import media_tools as tools
import pytest

from dagster_metaxy.media import decoding
from dagster_metaxy.media._picture import Picture
from dagster_metaxy.media.decoding import Times, Video, Viewer, Which, look, look_together
from dagster_metaxy.media.errors import MediaError


class Recorder(Viewer[list[tuple[float, float, bytes]]]):
    """What it saw: the time it was for, the frame's own, and its pixels."""

    def __init__(self, wanted: Callable[[Video], Which | Times]) -> None:
        self._wanted = wanted
        self.seen: list[tuple[float, float, bytes]] = []

    def wants(self, video: Video) -> Which | Times:
        return self._wanted(video)

    def see(self, picture: Picture, time: float) -> None:
        self.seen.append((time, picture.time, picture.rgb(96).tobytes()))

    def result(self, duration: float) -> list[tuple[float, float, bytes]]:
        return self.seen


def every(seconds: float) -> Callable[[], Recorder]:
    return partial(Recorder, lambda video: Times(i * seconds for i in count()))


def at(*times: float, past_end: bool = False) -> Callable[[], Recorder]:
    return partial(Recorder, lambda video: Times(times, past_end))


def which(kind: Which) -> Callable[[], Recorder]:
    return partial(Recorder, lambda video: kind)


CLIPS = ["portrait", "bunny", "bikes"]
MADE = ["h265", "vp9", "av1", "mpeg4", "vfr", "slides"]


@pytest.fixture
def clip(request: pytest.FixtureRequest, made) -> Path:
    return request.getfixturevalue(request.param) if request.param in CLIPS else made(request.param)


@pytest.mark.parametrize("clip", [*CLIPS, *MADE], indirect=True)
def test_each_sees_together_what_it_sees_alone(clip: Path) -> None:
    viewers = [every(0.3), every(2.0), which(Which.EVERY), at(0.0, 1.7, 99.0, past_end=True)]
    together = look_together(clip, viewers)
    assert together == [look(clip, viewer) for viewer in viewers]
    # By another decoding.
    with av.open(str(clip)) as container:
        frames = list(container.decode(video=0))
    seen = together[2]
    assert len(seen) == len(frames)
    begins = [time for _, time, _ in seen]
    for wanted, time, pixels in (*together[0], *together[1]):
        right = max(i for i, begin in enumerate(begins) if begin <= wanted + 0.0006)
        assert (time, pixels) == (begins[right], seen[right][2])
    assert [wanted for wanted, _, _ in together[3]] == [0.0, 1.7, 99.0]
    assert together[3][-1][1:] == seen[-1][1:]


@pytest.mark.parametrize("clip", [*CLIPS, "h265", "vp9"], indirect=True)
def test_keyframes(clip: Path) -> None:
    alone = look(clip, which(Which.KEYFRAMES))
    beside, _ = look_together(clip, [which(Which.KEYFRAMES), which(Which.EVERY)])
    assert alone == beside
    with av.open(str(clip)) as container:
        keys = [f for f in container.decode(video=0) if f.key_frame]
    assert len(alone) == len(keys) >= 1


def packets_decoded(clip: Path, viewer: Callable[[], Viewer[Any]], monkeypatch) -> float:
    """The share of the frames of a video that were decoded for a viewer."""
    decoded = 0
    frames_of = decoding._frames_of

    def counted(*args: Any) -> Iterable[Any]:
        nonlocal decoded
        for frame in frames_of(*args):
            decoded += 1
            yield frame

    monkeypatch.setattr(decoding, "_frames_of", counted)
    look(clip, viewer)
    return decoded / len(tools.decoded(clip))


def test_what_nobody_wants_is_not_decoded(tmp_path: Path, monkeypatch) -> None:
    clip = tools.clip(tmp_path / "clip.mp4", rate=25, frames=250, options={"g": "25"})
    assert packets_decoded(clip, every(5.0), monkeypatch) < 0.05
    clip = tools.clip(
        tmp_path / "long.mp4", rate=25, frames=250, options={"g": "250", "sc_threshold": "0"}
    )
    assert 0.35 < packets_decoded(clip, at(4.0), monkeypatch) < 0.6


@pytest.mark.parametrize("ending", ["mp4", "ts", "mkv"])
def test_groups_that_depend_on_the_one_before(ending: str, tmp_path: Path) -> None:
    """Leading pictures, which x265 makes unless it is told otherwise."""
    options = {"x265-params": "log-level=0:open-gop=1:keyint=12:min-keyint=12:bframes=4"}
    clip = tools.clip(tmp_path / "open.mp4", video="libx265", frames=100, options=options)
    clip = clip if ending == "mp4" else tools.remux(clip, tmp_path / f"open.{ending}")
    alone = look(clip, every(0.1))
    beside, all_frames = look_together(clip, [every(0.1), which(Which.EVERY)])
    assert alone == beside
    assert len(all_frames) == 100


def test_an_open_file_is_read_again_from_its_start(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=0:open-gop=1:keyint=12:min-keyint=12:bframes=4"}
    clip = tools.clip(tmp_path / "open.mp4", video="libx265", frames=50, options=options)
    with clip.open("rb") as file:
        assert look(file, every(0.1)) == look(clip, every(0.1))


class Broken(Recorder):
    def see(self, picture: Picture, time: float) -> None:
        super().see(picture, time)
        if len(self.seen) == 2:
            raise KeyError("mine")


def test_a_viewer_that_fails_stops_no_other(bikes: Path) -> None:
    broken = partial(Broken, lambda video: Which.EVERY)
    error, seen = look_together(bikes, [broken, every(1.0)])
    assert isinstance(error, KeyError)
    assert seen == look(bikes, every(1.0))
    with pytest.raises(KeyError, match="mine"):
        look(bikes, broken)


def test_damage_where_nobody_looks(portrait: Path, tmp_path: Path) -> None:
    bad = tools.damage(portrait, tmp_path / "bad.mp4", 0.3)
    assert len(look(bad, at(0.0))) == 1
    with pytest.raises(MediaError, match=r"picture at \d\.\d\d s can't be decoded"):
        look(bad, every(1.0))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi", "webm"])
def test_the_length_of_the_picture(ending: str, tmp_path: Path) -> None:
    codec = "libvpx-vp9" if ending == "webm" else "mpeg4" if ending == "avi" else "libx264"
    clip = tools.clip(tmp_path / f"clip.{ending}", video=codec, rate=25, frames=60)
    found: list[float] = []

    def wants(video: Video) -> Times:
        found.append(video.measure())
        return Times([0.0])

    look(clip, partial(Recorder, wants))
    assert found == [pytest.approx(2.4, abs=0.05)]
