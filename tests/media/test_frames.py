"""The frames on a grid of times, compared with a decoding of their own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import av.error
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import frames
from dagster_metaxy.media.errors import MediaError


def shown(pictures: list[tuple[float, np.ndarray]], time: float) -> np.ndarray:
    """The last picture that begins by `time`."""
    return [pixels for start, pixels in pictures if start <= time + 1e-3][-1]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over every third pixel."""
    return float(np.abs(a[::3, ::3].astype(np.int16) - b[::3, ::3]).mean())


@pytest.mark.parametrize(
    ("clip", "every", "count"),
    [
        ("portrait", 1.0, 13),
        ("bunny", 1.0, 6),
        ("bunny", 0.5, 11),
        ("bunny", 7.0, 1),
        ("bikes", 1.0, 10),
        ("bikes", 0.04, 250),
        ("h265", 0.5, 4),
        ("vp9", 0.5, 4),
        ("av1", 0.5, 4),
        ("mpeg4", 0.5, 4),
        ("vfr", 1.0, 8),
        ("slides", 4.0, 8),
    ],
)
def test_frames_are_those_on_screen(clip, every, count, request, made, tmp_path) -> None:
    real = clip in ("portrait", "bunny", "bikes")
    path = request.getfixturevalue(clip) if real else made(clip)
    found = frames.extract(path, tmp_path, every_seconds=every, quality=95)

    assert [f.index for f in found] == list(range(count))
    assert [f.time for f in found] == pytest.approx([i * every for i in range(count)])
    assert [f.file for f in found] == [f"frame_{i:06d}.jpg" for i in range(count)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f.file for f in found]
    pictures = tools.decoded(path)
    for frame in found[:: max(1, count // 20)]:
        pixels = tools.jpeg(tmp_path / frame.file)
        right = max(i for i, (start, _) in enumerate(pictures) if start <= frame.time + 1e-3)
        near = range(max(0, right - 3), min(len(pictures), right + 4))
        differences = {i: difference(pixels, pictures[i][1]) for i in near}
        assert pixels.shape == pictures[right][1].shape == (frame.height, frame.width, 3)
        assert frame.size == (tmp_path / frame.file).stat().st_size
        assert differences[right] < 4
        assert differences[right] == min(differences.values())


@pytest.mark.parametrize("ending", ["mkv", "ts", "mov"])
def test_frames_do_not_depend_on_the_container(ending, portrait, tmp_path) -> None:
    path = tools.remux(portrait, tmp_path / f"clip.{ending}")
    for name, source in (("a", portrait), ("b", path)):
        (tmp_path / name).mkdir()
        frames.extract(source, tmp_path / name, every_seconds=0.4, max_size=64)
    a, b = ([p.read_bytes() for p in sorted((tmp_path / n).iterdir())] for n in "ab")
    assert a == b
    assert len(a) == 31


@pytest.mark.parametrize("rate", [24, 30, 60])
def test_rounding_of_times_moves_no_frame(rate, tmp_path) -> None:
    clip = tools.clip(tmp_path / "clip.mp4", rate=rate, frames=120)
    path = tools.remux(clip, tmp_path / "clip.mkv")
    for name, source in (("a", clip), ("b", path)):
        (tmp_path / name).mkdir()
        frames.extract(source, tmp_path / name, every_seconds=1 / 6)
    a, b = ([p.read_bytes() for p in sorted((tmp_path / n).iterdir())] for n in "ab")
    assert a == b


@pytest.mark.parametrize(
    ("max_size", "size"),
    [(None, (1280, 720)), (320, (320, 180)), (333, (333, 187)), (5000, (1280, 720))],
)
def test_max_size_bounds_the_longer_edge_and_never_enlarges(max_size, size, bunny, tmp_path):
    found = frames.extract(bunny, tmp_path, every_seconds=3, max_size=max_size)
    assert [(f.width, f.height) for f in found] == [size, size]
    small = tools.Image.fromarray(shown(tools.decoded(bunny), 3.0)).resize(
        size, tools.Image.Resampling.BOX
    )
    assert difference(tools.jpeg(tmp_path / found[1].file), np.asarray(small)) < 6


def test_quality(bunny, tmp_path) -> None:
    good, poor = (
        frames.extract(bunny, tmp_path, every_seconds=9, quality=quality)[0].size
        for quality in (95, 30)
    )
    assert good > 2 * poor


@pytest.mark.parametrize(
    ("degrees", "corner"),
    [(0, "top left"), (90, "bottom left"), (180, "bottom right"), (-90, "top right")],
)
def test_rotated_pictures_come_out_upright(degrees, corner, tmp_path) -> None:
    clip = tools.clip(tmp_path / "clip.mp4", frames=5)
    turned = tools.with_rotation(clip, tmp_path / "turned.mp4", degrees)
    (frame,) = frames.extract(turned, tmp_path)
    assert (frame.width, frame.height) == ((160, 96) if degrees in (0, 180) else (96, 160))
    pixels = tools.jpeg(tmp_path / frame.file).astype(int)
    corners = {
        "top left": pixels[:20, :20],
        "top right": pixels[:20, -20:],
        "bottom left": pixels[-20:, :20],
        "bottom right": pixels[-20:, -20:],
    }
    # The one corner that is bright as it was drawn.
    assert max(corners, key=lambda c: corners[c].min()) == corner
    assert corners[corner].min() > 200


def test_pixels_that_are_not_square(tmp_path) -> None:
    clip = tools.clip(tmp_path / "wide.mp4", frames=3, aspect=Fraction(4, 3))
    (frame,) = frames.extract(clip, tmp_path)
    assert (frame.width, frame.height) == (213, 96)
    (frame,) = frames.extract(clip, tmp_path, max_size=100)
    assert (frame.width, frame.height) == (100, 45)


def test_one_frame(tmp_path) -> None:
    clip = tools.clip(tmp_path / "one.mp4", frames=1)
    assert len(frames.extract(clip, tmp_path)) == 1


def test_damage_in_the_middle_is_refused_with_its_time(portrait, tmp_path) -> None:
    bad = tools.damage(portrait, tmp_path / "bad.mp4", 0.3)
    message = (
        r"picture at (3\.\d\d|4\.[01]\d) s can't be decoded: Invalid data found .* \(h264: .+\)"
    )
    with pytest.raises(MediaError, match=message):
        frames.extract(bad, tmp_path)


def test_a_recording_may_begin_in_the_middle_of_a_packet(tmp_path) -> None:
    whole = tools.clip(tmp_path / "whole.mp4", options={"g": "5", "bf": "0"})
    first = (whole.read_bytes().index(b"mdat") + 5) / whole.stat().st_size
    cut = tools.damage(whole, tmp_path / "cut.mp4", first, size=60)
    with av.open(str(cut)) as file, pytest.raises(av.error.InvalidDataError):
        next(file.decode(video=0))
    assert len(frames.extract(cut, tmp_path, every_seconds=0.5)) == 4


def test_no_picture(dub, portrait, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"^no picture stream$"):
        frames.extract(dub, tmp_path)
    spoken = tools.remux(portrait, tmp_path / "spoken.m4a", video=False)
    album = tools.with_cover(spoken, tmp_path / "album.mkv")
    with pytest.raises(MediaError, match=r"^no decodable picture"):
        frames.extract(album, tmp_path)
    with pytest.raises(MediaError, match=r"^No such file or directory$"):
        frames.extract(tmp_path / "missing.mp4", tmp_path)
    assert not list(tmp_path.glob("*.jpg"))


def test_a_directory_that_cannot_be_written_is_no_fault_of_the_media(portrait, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        frames.extract(portrait, tmp_path / "missing")


@pytest.mark.parametrize("every", [0, -1.0])
def test_every_seconds_is_above_zero(every, portrait: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every_seconds must be above 0"):
        frames.extract(portrait, tmp_path, every_seconds=every)


def test_phone_clip(phone, tmp_path) -> None:
    found = frames.extract(phone, tmp_path, every_seconds=0.5)
    pictures = tools.decoded(phone)
    assert len(found) == 13
    for frame in found:
        assert difference(tools.jpeg(tmp_path / frame.file), shown(pictures, frame.time)) < 4


@pytest.mark.parametrize(
    ("clip", "sampling", "numbers", "times"),
    [
        ("bunny", {"every_nth": 50}, [0, 50, 100], [0.0, 2.0, 4.0]),
        ("bunny", {"count": 4}, [16, 49, 82, 115], [0.66, 1.98, 3.3, 4.62]),
        ("portrait", {"keyframes": True}, range(0, 301, 50), [0.0, 2, 4, 6, 8, 10, 12]),
        # Times of its own: i * i / 200.
        ("vfr", {"every_nth": 13}, [0, 13, 26, 39], [0.0, 0.845, 3.38, 7.605]),
        ("slides", {"count": 3}, [0, 1, 2], [5.0, 15.0, 25.0]),
    ],
)
def test_ways_of_sampling(clip, sampling, numbers, times, request, made, tmp_path) -> None:
    path = request.getfixturevalue(clip) if clip in ("portrait", "bunny") else made(clip)
    found = frames.extract(path, tmp_path, **sampling, quality=95)
    assert [f.index for f in found] == list(range(len(numbers)))
    assert [f.time for f in found] == pytest.approx(times, abs=0.04 if clip == "slides" else 1e-3)
    pictures = tools.decoded(path)
    for frame, number in zip(found, numbers, strict=True):
        pixels = tools.jpeg(tmp_path / frame.file)
        near = range(max(0, number - 2), min(len(pictures), number + 3))
        differences = {i: difference(pixels, pictures[i][1]) for i in near}
        assert differences[number] == min(differences.values()) < 4


def test_as_many_as_were_asked_for_whatever_the_video_has(tmp_path) -> None:
    clip = tools.clip(tmp_path / "short.mp4", frames=2)
    found = frames.extract(clip, tmp_path, count=5)
    assert [f.time for f in found] == pytest.approx([0.008, 0.024, 0.04, 0.056, 0.072])
    # A header that lies about the end.
    long = tools.declare(tools.remux(clip, tmp_path / "long.mkv"), 60.0)
    assert len(frames.extract(long, tmp_path, count=5)) == 5


@pytest.mark.parametrize(
    ("format", "magic"), [("png", b"\x89PNG"), ("webp", b"RIFF"), ("jpeg", b"\xff\xd8\xff")]
)
def test_formats(format, magic, bunny, tmp_path) -> None:
    (frame,) = frames.extract(bunny, tmp_path, count=1, format=format, quality=95, max_size=640)
    file = tmp_path / frame.file
    assert file.suffix == {"jpeg": ".jpg"}.get(format, f".{format}")
    assert file.read_bytes().startswith(magic)
    assert tools.jpeg(file).shape == (360, 640, 3)
    (frames_poor,) = frames.extract(
        bunny, tmp_path, count=1, format=format, quality=20, max_size=640
    )
    assert (frames_poor.size == frame.size) == (format == "png")


def test_one_way_of_sampling(bunny, tmp_path) -> None:
    with pytest.raises(ValueError, match="give one of every_seconds, every_nth"):
        frames.extract(bunny, tmp_path, every_nth=2, keyframes=True)
