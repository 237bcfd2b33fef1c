"""Cuts: those that are seen in the clips, and those that clips were made with."""

from __future__ import annotations

from pathlib import Path

import av
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import scenes

BIKES = [0, 30, 76, 137, 187, 242]
"""The first frames of the six shots, by eye."""


def test_bikes(bikes: Path) -> None:
    found = scenes.detect(bikes)
    assert [s.index for s in found] == list(range(6))
    assert [s.start_frame for s in found] == BIKES
    assert [s.start for s in found] == pytest.approx([frame / 25 for frame in BIKES])
    assert [s.end for s in found] == pytest.approx([frame / 25 for frame in (*BIKES[1:], 250)])
    assert found[0].score is None
    assert all(s.score and s.score > 3 for s in found[1:])


def test_no_cut(portrait: Path, bunny: Path) -> None:
    for clip, seconds in ((portrait, 12.4), (bunny, 5.28)):
        (scene,) = scenes.detect(clip)
        assert (scene.start, scene.end, scene.score) == (0, pytest.approx(seconds), None)


def test_phone_clip(phone: Path) -> None:
    """A black frame at the cut, and a varying frame rate."""
    first, second = scenes.detect(phone)
    assert (second.start, second.start_frame) == (pytest.approx(2.4, abs=0.002), 72)
    assert (first.end, second.end) == (second.start, pytest.approx(6.4, abs=0.05))


def test_as_pyscenedetect_finds_them(bikes: Path) -> None:
    detector = pytest.importorskip("scenedetect")
    found = detector.detect(str(bikes), detector.AdaptiveDetector())
    assert [start.frame_num for start, _ in found] == [s.start_frame for s in scenes.detect(bikes)]


def test_parameters(bikes: Path) -> None:
    found = scenes.detect(bikes, min_scene_seconds=2.3)
    # 1.2 s is too early for a cut, and so are 5.48 s and 9.68 s after those before them.
    assert [s.start_frame for s in found] == [0, 76, 137, 242]
    scores = sorted(s.score or 0 for s in scenes.detect(bikes))
    fewer = scenes.detect(bikes, threshold=scores[2] + 0.01)
    assert len(fewer) == 4
    assert {s.start_frame for s in fewer} < {*BIKES}


def shots(index: int, width: int, height: int) -> np.ndarray:
    """A cut every 20 frames; movement of its own in each."""
    noise = np.random.default_rng(index // 20).integers(0, 255, (6, 8, 3))
    pixels = np.kron(noise, np.ones((height // 6, width // 8, 1))).astype(np.uint8)
    return np.roll(pixels, index, axis=1)


@pytest.mark.parametrize("times", [None, [i / 10 + (i % 3) / 100 for i in range(100)]])
def test_made_cuts(times: list[float] | None, tmp_path: Path) -> None:
    clip = tools.clip(tmp_path / "shots.mp4", frames=100, times=times, draw=shots)
    found = scenes.detect(clip)
    assert [s.start_frame for s in found] == [0, 20, 40, 60, 80]
    starts = [times[i] if times else i / 25 for i in (0, 20, 40, 60, 80)]
    assert [s.start for s in found] == pytest.approx(starts, abs=1e-3)


def test_fast_movement_a_fade_and_standing_still_are_no_cuts(tmp_path: Path) -> None:
    def fast(index: int, width: int, height: int) -> np.ndarray:
        return np.roll(shots(0, width, height), index * 30, axis=1)

    def fade(index: int, width: int, height: int) -> np.ndarray:
        return (shots(0, width, height) * (1 - index / 50)).astype(np.uint8)

    def still(index: int, width: int, height: int) -> np.ndarray:
        return shots(0, width, height) // 2 + np.uint8(4 * (index // 25))

    for draw in (fast, fade, still):
        clip = tools.clip(tmp_path / "clip.mp4", frames=50, draw=draw)
        assert len(scenes.detect(clip)) == 1, draw


@pytest.mark.parametrize("frames", [1, 2, 4, 6])
def test_few_frames(frames: int, tmp_path: Path) -> None:
    clip = tools.clip(tmp_path / "short.mp4", frames=frames)
    (scene,) = scenes.detect(clip)
    assert (scene.start, scene.end) == (0, pytest.approx(frames / 25, abs=0.03))


def test_a_cut_at_the_time_of_its_packet(bikes: Path) -> None:
    """x264 puts a keyframe on each cut of this clip but one."""
    with av.open(str(bikes)) as container:
        keys = {
            round(float(p.pts * p.time_base), 3)
            for p in container.demux(video=0)
            if p.is_keyframe and p.pts is not None and p.time_base is not None
        }
    assert {round(s.start, 3) for s in scenes.detect(bikes)} == keys
