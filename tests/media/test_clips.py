"""Clips: what is seen and heard in each, beside what the source shows at that time."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import av
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import clips, frames
from dagster_metaxy.media.clips import Clip, cut, evenly
from dagster_metaxy.media.errors import MediaError

CLOSED = {"g": "25", "keyint_min": "25", "sc_threshold": "0"}


def every(seconds: float, min_seconds: float = 0.1) -> Any:
    return partial(evenly, seconds=seconds, min_seconds=min_seconds)


def at(*bounds: float) -> Any:
    return lambda duration: [0, *bounds, duration]


def shown(location: Path) -> list[tuple[float, np.ndarray]]:
    """Every picture that is shown, with its time as the file has it."""
    with av.open(str(location)) as file:
        return [
            (float(f.pts * f.time_base), f.to_ndarray(format="rgb24"))  # type: ignore[operator]
            for f in file.decode(video=0)
            if f.pts is not None
        ]


def check_picture(source: Path, directory: Path, made: list[Clip]) -> None:
    """Each frame of the source is in one clip, at its time, and looks as it did."""
    expected = tools.decoded(source)
    count = 0
    for clip in made:
        for time, pixels in shown(directory / clip.file):
            own, there = expected[count]
            assert clip.start + time == pytest.approx(own, abs=0.002)
            assert np.abs(pixels.astype(int) - there).mean() < 5
            count += 1
    assert count == len(expected)
    assert [clip.index for clip in made] == [*range(len(made))]
    assert [clip.start for clip in made[1:]] == [clip.end for clip in made[:-1]]


def beats(location: Path, track: int = 0) -> list[float]:
    """Seconds at which a click begins in an audio track, as a player plays it."""
    with av.open(str(location)) as file:
        pieces = []
        resampler = av.AudioResampler("fltp", "mono", 48000)
        start = None
        for frame in [*file.decode(audio=track), None]:
            start = (frame.time or 0.0) if start is None and frame is not None else start
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    loud = np.flatnonzero(np.abs(np.concatenate(pieces)) > 0.15) / 48000
    first = loud[np.diff(loud, prepend=-1) > 0.1]
    return [float(time) + (start or 0.0) for time in first]


def clicks(target: Path, times: list[float], seconds: float = 6, rate: int = 48000) -> Path:
    """20 ms of noise at each of some times, in silence."""
    samples = np.zeros(round(seconds * rate), np.int16)
    noise = np.random.default_rng(2).integers(-20000, 20000, rate // 50)
    for time in times:
        samples[round(time * rate) :][: len(noise)] = noise
    return tools.write_wav(target, samples, rate)


BEATS = [0.5, 1.5, 2.25, 3.75, 4.25, 5.5]


@pytest.fixture(scope="session")
def beaten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s with clicks, a keyframe a second, B frames."""
    directory = tmp_path_factory.mktemp("beaten")
    picture = tools.clip(directory / "picture.mp4", frames=150, options=CLOSED)
    sound = clicks(directory / "sound.wav", BEATS)
    return tools.replace_audio(picture, sound, directory / "beaten.mp4")


@pytest.mark.parametrize(
    ("duration", "seconds", "least", "expected"),
    [
        (25, 10, 1, [0, 10, 20, 25]),
        (20, 10, 1, [0, 10, 20]),
        (20.5, 10, 1, [0, 10, 20.5]),
        (21, 10, 1, [0, 10, 20, 21]),
        (20.000001, 10, 0, [0, 10, 20.000001]),
        (3, 10, 5, [0, 3]),
    ],
)
def test_evenly(duration: float, seconds: float, least: float, expected: list[float]) -> None:
    assert evenly(duration, seconds, least) == expected


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("copied", [True, False])
def test_in_step(beaten: Path, tmp_path: Path, ending: str, copied: bool) -> None:
    source = tools.remux(beaten, tmp_path / f"source.{ending}")
    made = cut(source, tmp_path, at(2, 4) if copied else at(1.52, 3.36))
    check_picture(source, tmp_path, made)
    assert [clip.copied for clip in made] == ([True] * 3 if copied else [False] * 3)
    late = beats(source)[0] - BEATS[0] - tools_start(source)  # encoder's delay, where not told
    heard = [clip.start + t for clip in made for t in beats(tmp_path / clip.file)]
    assert heard == pytest.approx([beat + late for beat in BEATS], abs=0.006)
    assert abs(late) < 0.05


def tools_start(location: Path) -> float:
    """Where the picture begins, as the file counts time."""
    return shown(location)[0][0]


@pytest.mark.parametrize("kind", ["flac", "opus", "mp3", "pcm"])
def test_sound_that_players_of_mp4_do_not_know(tmp_path: Path, kind: str) -> None:
    codec = {"flac": "flac", "opus": "libopus", "mp3": "libmp3lame", "pcm": "pcm_s16le"}[kind]
    source = tmp_path / "source.mkv"
    with (
        av.open(str(clicks(tmp_path / "sound.wav", BEATS))) as sound,
        av.open(str(source), "w") as file,
    ):
        stream = file.add_stream(codec, rate=48000, layout="mono")
        stream.metadata["language"] = "deu"
        resampler = av.AudioResampler(
            stream.format.name, "mono", 48000, frame_size=stream.frame_size or 1024
        )
        for frame in [*sound.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    made = cut(source, tmp_path, at(1.7, 4.1))
    assert [(clip.start, clip.copied) for clip in made] == [(0, False), (1.7, False), (4.1, False)]
    heard = [clip.start + t for clip in made for t in beats(tmp_path / clip.file)]
    assert heard == pytest.approx(beats(source), abs=0.003)
    for clip in made:
        with av.open(str(tmp_path / clip.file)) as file:
            assert file.streams.audio[0].codec_context.name == "aac"
            assert file.streams.audio[0].metadata["language"] == "deu"
            assert (file.duration or 0) / 1e6 == pytest.approx(clip.end - clip.start, abs=0.025)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("portrait", 5), ("h265", 0.7), ("vp9", 0.7), ("av1", 0.7), ("mpeg4", 0.7), ("vfr", 0.9)],
)
def test_every_frame_is_in_one_clip(
    name: str, seconds: float, request: pytest.FixtureRequest, made: Any, tmp_path: Path
) -> None:
    source = request.getfixturevalue(name) if name == "portrait" else made(name)
    found = cut(source, tmp_path, every(seconds), preset="ultrafast", crf=10)
    assert len(found) > 1
    if name != "vfr":
        check_picture(source, tmp_path, found)
    else:  # a frame that is on screen where a cut is made is shown by both
        expected = tools.decoded(source)
        for clip in found:
            for time, pixels in shown(tmp_path / clip.file):
                now = [there for t, there in expected if t <= clip.start + time + 0.002][-1]
                assert np.abs(pixels.astype(int) - now).mean() < 5


def test_slides_are_shown_by_both_clips_they_are_cut_into(made: Any, tmp_path: Path) -> None:
    source = made("slides")  # a picture each 10 s
    found = cut(source, tmp_path, every(6))
    times = [[round(t, 2) for t, _ in shown(tmp_path / clip.file)] for clip in found]
    assert times == [[0], [0, 4], [0], [0, 2], [0, 6]]
    before = shown(tmp_path / found[0].file)[0][1].astype(int)
    after = shown(tmp_path / found[1].file)[0][1]
    assert np.abs(before - after).mean() < 2


def test_open_groups_of_pictures_are_not_cut_by_copying(tmp_path: Path) -> None:
    params = "log-level=0:keyint=25:min-keyint=25:scenecut=0:bframes=3:open-gop={}"
    for opened in (1, 0):
        source = tools.clip(
            tmp_path / f"{opened}.mp4",
            video="libx265",
            frames=100,
            options={"x265-params": params.format(opened)},
        )
        found = cut(source, tmp_path, at(1, 3))
        check_picture(source, tmp_path, found)
        assert any(clip.copied for clip in found) == (not opened)


def test_refreshed_pictures_are_no_keyframes(tmp_path: Path) -> None:
    """With x264's intra-refresh FFmpeg calls frames keyframes that are none."""
    options = {"x264-params": "intra-refresh=1:keyint=25:bframes=0"}
    source = tools.clip(tmp_path / "source.mp4", frames=100, options=options)
    found = cut(source, tmp_path, at(1, 3))
    check_picture(source, tmp_path, found)


def test_tolerance_moves_cuts_to_keyframes(beaten: Path, tmp_path: Path) -> None:
    found = cut(beaten, tmp_path, at(1.52, 3.36), tolerance_seconds=0.5)
    assert [clip.start for clip in found] == [0, 2, 3]
    assert all(clip.copied for clip in found)
    check_picture(beaten, tmp_path, found)
    found = cut(beaten, tmp_path, at(1.52, 3.36), tolerance_seconds=0.4)
    assert [(clip.start, clip.copied) for clip in found] == [(0, False), (1.52, False), (3, True)]
    check_picture(beaten, tmp_path, found)


def test_all_audio_tracks_are_kept(beaten: Path, tmp_path: Path) -> None:
    other = clicks(tmp_path / "other.wav", [1.0, 5.0])
    dubbed = tools.replace_audio(beaten, other, tmp_path / "dubbed.mp4")
    source = tools.add_audio(beaten, dubbed, tmp_path / "source.mp4")
    found = cut(source, tmp_path, at(3))
    assert [beats(tmp_path / clip.file, 1) for clip in found] == [
        pytest.approx([1.0], abs=0.05),
        pytest.approx([2.0], abs=0.05),
    ]
    assert len(beats(tmp_path / found[1].file, 0)) == 3


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_kept(beaten: Path, tmp_path: Path, copied: bool, degrees: int) -> None:
    source = tools.with_rotation(beaten, tmp_path / "source.mp4", degrees)
    found = cut(source, tmp_path, at(2 if copied else 1.52))
    assert found[1].copied == copied
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    frames.extract(source, tmp_path / "a")
    frames.extract(
        tmp_path / found[1].file, tmp_path / "b", every_seconds=0.48 if not copied else 1
    )
    before = tools.jpeg(tmp_path / "a/frame_000002.jpg").astype(int)
    after = tools.jpeg(tmp_path / f"b/frame_00000{0 if copied else 1}.jpg")
    assert np.abs(before - after).mean() < 3


def test_no_sound_and_no_picture(bikes: Path, dub: Path, tmp_path: Path) -> None:
    (found,) = cut(bikes, tmp_path, every(60))
    assert found.copied
    assert (found.start, found.end) == (0, pytest.approx(10))
    with av.open(str(tmp_path / found.file)) as file:
        assert [s.type for s in file.streams] == ["video"]
    found = cut(dub, tmp_path, every(2))
    assert [clip.end for clip in found] == pytest.approx([2, 4, 6.05], abs=0.01)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(MediaError, match="Invalid data"):
        cut(text, tmp_path)


def test_sound_that_is_longer_than_the_picture(tmp_path: Path) -> None:
    source = tools.clip(tmp_path / "source.mp4", audio="aac", frames=50, audio_seconds=5)
    found = cut(source, tmp_path, every(1.6))
    assert found[-1].end == pytest.approx(5, abs=0.05)
    kinds = []
    for clip in found:
        with av.open(str(tmp_path / clip.file)) as file:
            kinds.append([s.type for s in file.streams])
    assert kinds == [["video", "audio"]] * 2 + [["audio"]] * 2


def test_odd_sizes_ten_bits_and_pixel_shape(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 33, 17, "yuv444p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        stream.codec_context.colorspace = 9
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(tools.picture(index, 33, 17), "rgb24")
            frame = frame.reformat(format="yuv444p10le")
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    (found,) = cut(source, tmp_path)
    with av.open(str(tmp_path / found.file)) as file:
        context = file.streams.video[0].codec_context
        assert (context.width, context.height) == (32, 16)
        assert context.pix_fmt == "yuv420p10le"
        assert (context.color_trc, context.color_primaries, context.colorspace) == (16, 9, 9)
        assert len([*file.decode(video=0)]) == 10


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
def test_range_and_fields_are_kept(tmp_path: Path, full: bool, interlaced: bool) -> None:
    source = tmp_path / "source.mp4"
    params = "interlaced=1:tff=1" if interlaced else "bframes=0"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"qp": "0", "x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.color_range = 2 if full else 1
        for index in range(50):
            frame = av.VideoFrame(160, 96, "yuv420p")
            levels = (2, 128, 128) if full else (40, 128, 128)
            for plane, level in zip(frame.planes, levels, strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    for clip in cut(source, tmp_path, at(0.92), crf=1):
        with av.open(str(tmp_path / clip.file)) as file:
            frame = next(file.decode(video=0))
        assert not clip.copied
        assert (frame.color_range == 2) == full
        assert frame.to_ndarray()[:96].mean() == pytest.approx(2 if full else 40, abs=1)
        assert frame.interlaced_frame == interlaced


def test_damage_is_told_only_where_it_is_decoded(portrait: Path, tmp_path: Path) -> None:
    source = tools.damage(portrait, tmp_path / "source.mp4", 0.5, 20_000)
    with pytest.raises(MediaError, match=r"picture at .* s can't be decoded|Invalid data"):
        cut(source, tmp_path, every(3))


def test_a_full_disk_is_no_matter_of_the_file(beaten: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "clip_000000.mp4").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"[Nn]o space left"):
        cut(beaten, tmp_path)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_other_decoders_find_nothing_wrong(beaten: Path, tmp_path: Path) -> None:
    for clip in cut(beaten, tmp_path, at(1.52, 2, 4)):
        command = ["ffmpeg", "-v", "warning", "-i", tmp_path / clip.file, "-f", "null", "-"]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        assert told.stderr == ""


def test_a_file_that_is_open(beaten: Path, tmp_path: Path) -> None:
    with beaten.open("rb") as file:
        found = clips.cut(file, tmp_path, at(2, 4))
    check_picture(beaten, tmp_path, found)


def test_only_other_streams(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    lines = tmp_path / "lines.srt"
    lines.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    with av.open(str(lines)) as old, av.open(str(source), "w") as new:
        stream = new.add_stream_from_template(old.streams.subtitles[0], opaque=True)
        for packet in old.demux():
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with pytest.raises(MediaError, match="neither picture nor sound"):
        cut(source, tmp_path)
