"""Versions survive what cannot be seen or heard, change with what can; cut files are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av.logging
import media_tools as tools
import pytest

from dagster_metaxy.media import _container, _payload
from dagster_metaxy.media.errors import MediaError, reading
from dagster_metaxy.media.identify import NONE, _pace, identify


def versions(location: Path) -> tuple[str, str]:
    identity = identify(location)
    return identity.video, identity.audio


# --- properties


def test_properties(portrait: Path, bunny: Path, bikes: Path, dub: Path) -> None:
    found = identify(portrait)
    assert (found.container, found.duration) == ("mp4", 12.4)
    assert (found.width, found.height, found.rotation, found.frame_rate) == (640, 360, 0, 25)
    assert (found.video_codec, found.audio_codec) == ("h264", "aac")
    assert (found.audio_rate, found.audio_channels) == (16000, 1)
    assert len(found.video) == len(found.audio) == 32

    assert identify(bunny).audio_channels == 6
    silent = identify(bikes)
    assert silent.audio == NONE
    assert silent.audio_codec is silent.audio_rate is silent.audio_channels is None
    sound = identify(dub)
    assert (sound.container, sound.duration, sound.video) == ("wav", 6.05, NONE)
    assert sound.width is sound.height is sound.rotation is sound.frame_rate is None
    assert sound.video_codec is None


@pytest.mark.parametrize(
    ("name", "container", "video", "audio", "rate"),
    [
        ("h265", "mp4", "hevc", "aac", 25),
        ("vp9", "matroska", "vp9", "opus", 25),
        ("av1", "mp4", "av1", "opus", 25),
        ("mpeg4", "avi", "mpeg4", "mp3", 25),
        ("vfr", "mp4", "h264", "aac", 5.128),
        ("slides", "mp4", "h264", None, 0.1),
    ],
)
def test_properties_of_other_formats(made, name, container, video, audio, rate) -> None:
    found = identify(made(name))
    assert (found.container, found.video_codec, found.audio_codec) == (container, video, audio)
    assert found.frame_rate == pytest.approx(rate, abs=0.001)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
@pytest.mark.parametrize("name", ["portrait", "bunny", "bikes", "h265", "vp9", "mpeg4"])
def test_properties_are_those_of_ffprobe(name, made, request) -> None:
    path = request.getfixturevalue(name) if name in ("portrait", "bunny", "bikes") else made(name)
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_format", str(path)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    video = next(s for s in told["streams"] if s["codec_type"] == "video")
    audio = next((s for s in told["streams"] if s["codec_type"] == "audio"), {})
    found = identify(path)
    assert (found.width, found.height) == (video["width"], video["height"])
    assert found.video_codec == video["codec_name"]
    assert found.frame_rate == float(Fraction(video["r_frame_rate"]))
    assert found.audio_codec == audio.get("codec_name")
    assert str(found.audio_rate) == audio.get("sample_rate", "None")
    assert found.audio_channels == audio.get("channels")
    assert found.duration == pytest.approx(float(told["format"]["duration"]), abs=0.05)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("portrait", "mp4"),
        ("bunny", "mov"),
        ("h265", "mp4"),
        ("vp9", "mp4"),
        ("av1", "mp4"),
        ("mpeg4", "mov"),  # with MP3
        ("vfr", "mp4"),
        ("slides", "mov"),
    ],
)
def test_mp4_is_the_same_with_parsers(name, ending, made, request, tmp_path, monkeypatch) -> None:
    path = request.getfixturevalue(name) if name in ("portrait", "bunny") else made(name)
    path = tools.remux(path, tmp_path / f"f.{ending}")
    with path.open("rb") as file:
        found = [identify(path), identify(file)]
    monkeypatch.setattr(_container, "_is_mp4", lambda media: False)
    assert [identify(path)] * 2 == found


# --- versions that stay


@pytest.mark.parametrize("ending", ["mov", "mkv", "ts", "flv", "avi"])
@pytest.mark.parametrize("clip", ["portrait", "bunny"])
def test_remuxing_there_and_back_keeps_versions(clip, ending, request, tmp_path) -> None:
    source = request.getfixturevalue(clip)
    there = tools.remux(source, tmp_path / f"there.{ending}")
    assert versions(there) == versions(source)
    for back in ("mp4", "mkv"):
        assert versions(tools.remux(there, tmp_path / f"back.{back}")) == versions(source)


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("h265", ["mov", "mkv", "ts"]),
        ("vp9", ["mkv", "mp4"]),
        ("av1", ["mkv", "webm"]),
        ("mpeg4", ["mkv", "mp4"]),
        ("vfr", ["mkv", "ts"]),
        ("slides", ["mkv", "ts"]),
    ],
)
def test_remuxing_other_formats_keeps_versions(made, name, endings, tmp_path) -> None:
    for ending in endings:
        there = tools.remux(made(name), tmp_path / f"there.{ending}")
        assert versions(there) == versions(made(name)), ending
        if name != "av1":
            back = tools.remux(there, tmp_path / f"back_{ending}.mp4")
            assert versions(back) == versions(made(name)), ending


@pytest.mark.parametrize(
    "change",
    [
        tools.faststart,
        tools.fragmented,
        tools.with_tags,
        tools.with_cover,
        lambda source, target: tools.remux(source, target, audio_first=True),
        shutil.copyfile,
    ],
    ids=["faststart", "fragmented", "tags", "cover", "order", "copy"],
)
def test_what_is_not_seen_or_heard_keeps_versions(change, portrait, tmp_path) -> None:
    target = tmp_path / "changed.mp4"
    change(portrait, target)
    assert versions(target) == versions(portrait)


def test_cover_art_in_matroska_is_no_picture(portrait, dub, tmp_path) -> None:
    covered = tools.with_cover(portrait, tmp_path / "covered.mkv")
    assert versions(covered) == versions(portrait)
    spoken = tools.remux(portrait, tmp_path / "spoken.m4a", video=False)
    album = identify(tools.with_cover(spoken, tmp_path / "album.mkv"))
    assert (album.video, album.video_codec) == (NONE, None)
    assert album.audio == identify(portrait).audio


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), 50, 60, 120])
@pytest.mark.parametrize("frames", [2, 3, 5, 12, 40])
def test_short_clips_keep_their_pace_in_matroska(rate, frames, tmp_path) -> None:
    clip = tools.clip(tmp_path / "clip.mp4", rate=rate, frames=frames, options={"bf": "0"})
    assert versions(tools.remux(clip, tmp_path / "clip.mkv")) == versions(clip)
    if frames > 10:  # With fewer FFmpeg finds too little of MPEG-TS to know it.
        assert versions(tools.remux(clip, tmp_path / "clip.ts")) == versions(clip)


@pytest.mark.parametrize(
    "rate", [7.5, 10, 12, 12.5, 15, 23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 120]
)
def test_pace_of_usual_rates_stands_off_the_edges(rate) -> None:
    for packets in (10, 100, 10_000):
        span = (packets - 1) / rate
        near = [(packets - 1) / (span + error) for error in (-0.001, 0, 0.001)]
        assert len({_pace(value, packets) for value in near}) == 1


# --- versions that change


def test_replaced_audio_changes_audio_alone(portrait, dub, tmp_path) -> None:
    dubbed = identify(tools.replace_audio(portrait, dub, tmp_path / "dubbed.mp4"))
    original = identify(portrait)
    assert dubbed.video == original.video
    assert dubbed.audio not in (original.audio, NONE)


def test_removed_streams(portrait, tmp_path) -> None:
    video, audio = versions(portrait)
    assert versions(tools.remux(portrait, tmp_path / "v.mp4", audio=False)) == (video, NONE)
    assert versions(tools.remux(portrait, tmp_path / "a.mp4", video=False)) == (NONE, audio)


def test_all_audio_tracks_count_in_any_order(portrait, dub, tmp_path) -> None:
    dubbed = tools.replace_audio(portrait, dub, tmp_path / "dubbed.mp4")
    two = versions(tools.add_audio(portrait, dubbed, tmp_path / "two.mp4"))
    assert two == versions(tools.add_audio(portrait, dubbed, tmp_path / "order.mkv", first=True))
    assert two[0] == identify(portrait).video
    assert two[1] not in (identify(portrait).audio, identify(dubbed).audio)


def test_reencoded_picture_changes_video_alone(tmp_path) -> None:
    good = tools.clip(tmp_path / "good.mp4", audio="aac", options={"crf": "20"})
    poor = tools.clip(tmp_path / "poor.mp4", audio="aac", options={"crf": "40"})
    assert identify(good).video != identify(poor).video
    assert identify(good).audio == identify(poor).audio


@pytest.mark.parametrize("name", ["portrait", "h265", "vp9"])
def test_retiming_changes_video_alone(name, made, request, tmp_path) -> None:
    source = request.getfixturevalue(name) if name == "portrait" else made(name)
    slow = identify(tools.remux(source, tmp_path / f"slow{source.suffix}", slower=2))
    assert slow.video != identify(source).video
    assert slow.audio == identify(source).audio


def test_rotation_changes_video_and_survives_remuxing(portrait, tmp_path) -> None:
    turned = tools.with_rotation(portrait, tmp_path / "turned.mp4", 90)
    found = identify(turned)
    assert (found.rotation, found.width, found.height) == (90, 640, 360)
    assert found.video != identify(portrait).video
    assert found.audio == identify(portrait).audio
    for ending in ("mov", "mkv"):
        again = tools.with_rotation(portrait, tmp_path / f"turned.{ending}", 90)
        assert identify(again).video == found.video
    other = identify(tools.with_rotation(portrait, tmp_path / "other.mp4", -90))
    assert other.rotation == 270
    assert other.video != found.video


def test_bare_samples_count_with_their_rate(tmp_path) -> None:
    slow = tools.write_wav(tmp_path / "slow.wav", tools.tone(1), rate=24000)
    fast = tools.write_wav(tmp_path / "fast.wav", tools.tone(1), rate=48000)
    assert identify(slow).audio != identify(fast).audio


def test_parameter_sets_count() -> None:
    def version(sps: bytes) -> str:
        payload = _payload.NalPayload("h264", b"")
        payload.update(memoryview(b"\0\0\0\1" + sps + b"\0\0\1\x68\x01" + b"\0\0\1\x65\x88\x84"))
        return payload.hexdigest()

    assert version(b"\x67\x42") != version(b"\x67\x43")


def test_h264_is_the_same_with_lengths_and_with_start_codes() -> None:
    sps, pps, key, sei, more = b"\x67\x42\1", b"\x68\x11", b"\x65\x88\3", b"\x06\5\1", b"\x41\x9a"
    sets = b"\xff\xe1" + b"\0\3" + sps + b"\1\0\2" + pps
    stored = _payload.NalPayload("h264", b"\1\x42\0\x1e" + sets)
    for unit in (key, more):
        stored.update(memoryview(len(unit).to_bytes(4, "big") + unit))
    streamed = _payload.NalPayload("h264", b"")
    streamed.update(
        memoryview(b"\0\0\0\1\x09\xf0" + b"".join(b"\0\0\1" + u for u in (sps, pps, sei, key)))
    )
    # Zeros after a unit are padding, and a repeated parameter set is the same one.
    streamed.update(memoryview(b"\0\0\0\1" + sps + b"\0\0\0\0\1" + more + b"\0\0"))
    assert streamed.hexdigest() == stored.hexdigest()

    short = _payload.NalPayload("h264", b"\1\x42\0\x1e\xfd" + sets[1:])
    for unit in (key, more):
        short.update(memoryview(len(unit).to_bytes(2, "big") + unit))
    assert short.hexdigest() == stored.hexdigest()

    other = _payload.NalPayload("h264", b"\1\x42\0\x1e" + sets)
    other.update(memoryview(b"\0\0\0\3" + key))
    assert other.hexdigest() != stored.hexdigest()


@pytest.mark.parametrize("protected", [False, True])
def test_aac_is_the_same_with_headers_and_without(protected) -> None:
    def framed(data: bytes) -> bytes:
        size = len(data) + (9 if protected else 7)
        second = 0xF0 if protected else 0xF1
        header = [0xFF, second, 0x50, 0x80 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5, 0xFC]
        return bytes(header) + (b"\1\2" if protected else b"") + data

    bare, streamed = _payload.AacPayload(), _payload.AacPayload()
    for data in (b"\x21\x10" * 40, b"\x21\x1b" * 300):
        bare.update(memoryview(data))
    streamed.update(memoryview(framed(b"\x21\x10" * 40) + framed(b"\x21\x1b" * 300)))
    assert streamed.hexdigest() == bare.hexdigest()


# --- files that can't be used


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("clip", ["portrait", "bunny", "bikes"])
def test_cut_mp4_with_its_header_in_front_is_refused(clip, share, request, tmp_path) -> None:
    whole = tools.faststart(request.getfixturevalue(clip), tmp_path / "whole.mp4")
    with pytest.raises(MediaError, match=r"^truncated: .*\(mov,.*: stream \d, .*partial file\)$"):
        identify(tools.truncate(whole, tmp_path / "cut.mp4", share))


@pytest.mark.parametrize("clip", ["portrait", "bunny", "bikes"])
def test_mp4_that_lacks_its_last_bytes_is_refused(clip, request, tmp_path) -> None:
    whole = tools.faststart(request.getfixturevalue(clip), tmp_path / "whole.mp4")
    with pytest.raises(MediaError, match=r"^truncated: incomplete packet at [\d.]+ s"):
        identify(tools.truncate(whole, tmp_path / "cut.mp4", 0.9999))


def test_cut_file_says_how_much_is_there(portrait, tmp_path) -> None:
    whole = tools.faststart(portrait, tmp_path / "whole.mp4")
    cut = tools.truncate(whole, tmp_path / "cut.mp4", 0.5)
    message = r"truncated: packets end at 6\.\d\d s of the 12\.40 s declared \("
    with pytest.raises(MediaError, match=message):
        identify(cut)


@pytest.mark.parametrize(
    ("make", "file", "share"),
    [
        (tools.remux, "whole.mkv", 0.5),
        (tools.remux, "whole.mkv", 0.9),
        # An AVI file cut between two packets does not show it.
        (tools.remux, "whole.avi", 0.5),
        (tools.remux, "whole.flv", 0.5),
        (tools.remux, "whole.flv", 0.9),
        (tools.fragmented, "whole.mp4", 0.5),
        (tools.fragmented, "whole.mp4", 0.9),
    ],
)
def test_cut_files_of_other_formats_are_refused(make, file, share, portrait, tmp_path) -> None:
    whole = make(portrait, tmp_path / file)
    with pytest.raises(MediaError, match=r"^truncated: "):
        identify(tools.truncate(whole, tmp_path / f"cut_{file}", share))


def test_cut_webm_is_refused(made, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"truncated: packets end at 0\.\d\d s of the 2\.01 s"):
        identify(tools.truncate(made("vp9"), tmp_path / "cut.webm", 0.4))


def test_cut_mp4_with_its_header_at_the_end_is_refused_in_ffmpegs_words(portrait, tmp_path) -> None:
    with pytest.raises(MediaError) as caught:
        identify(tools.truncate(portrait, tmp_path / "cut.mp4", 0.5))
    assert str(caught.value) == (
        "Invalid data found when processing input (mov,mp4,m4a,3gp,3g2,mj2: moov atom not found)"
    )


def test_what_is_no_media_file_is_refused(tmp_path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "folder.mp4").mkdir()
    tools.Image.new("RGB", (64, 64)).save(tmp_path / "still.png")
    for name, message in {
        "empty.mp4": "Invalid data found",
        "text.mp4": "Invalid data found",
        "folder.mp4": "Is a directory",
        "missing.mp4": "No such file or directory",
        "still.png": "neither picture nor sound",
    }.items():
        with pytest.raises(MediaError, match=message):
            identify(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(bikes, tmp_path) -> None:
    path = Path(shutil.copy(bikes, tmp_path / "locked.mp4"))
    path.chmod(0)
    with pytest.raises(MediaError, match="Permission denied"):
        identify(path)


def test_whole_files_are_not_refused(portrait, bikes, dub, made, tmp_path) -> None:
    """Each of these once looked or might look as if it was cut."""
    sound = made("vfr")
    files = [
        tools.clip(tmp_path / "long_sound.mp4", frames=20, audio="aac", audio_seconds=8),
        tools.clip(tmp_path / "short_sound.mp4", frames=200, audio="aac", audio_seconds=1),
        tools.clip(tmp_path / "sparse.mp4", times=[0, 1, 61]),
        tools.clip(tmp_path / "late_end.mp4", times=[0, 0.04, 30]),
        tools.clip(tmp_path / "one.mp4", frames=1),
        tools.clip(tmp_path / "sound.mp3", video=None, audio="libmp3lame", frames=100),
        tools.clip(tmp_path / "sound.ogg", video=None, audio="libopus", frames=100),
        tools.clip(tmp_path / "sound.flac", video=None, audio="flac", frames=100),
        tools.remux(sound, tmp_path / "vfr.mkv"),
        dub,
    ]
    # Little noise, then much: the bit rate tells nothing about the duration.
    draw = lambda i, w, h: tools.picture(0 if i < 80 else i * 131, w, h)  # noqa: E731
    files.append(tools.clip(tmp_path / "uneven.mp4", frames=100, draw=draw, audio="aac"))
    for index, source in enumerate(list(files)):
        if source.suffix == ".mp4":
            files.append(tools.remux(source, tmp_path / f"{index}.mkv"))
            files.append(tools.remux(source, tmp_path / f"{index}.ts"))
            files.append(tools.fragmented(source, tmp_path / f"{index}_f.mp4"))
            files.append(tools.faststart(source, tmp_path / f"{index}_s.mp4"))
    for file in files:
        identify(file)
    # A pipe: no header is ever completed, and the last packet is short.
    piped = tools.truncate(dub, tmp_path / "piped.wav", 1)
    data = bytearray(piped.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    piped.write_bytes(data)
    assert identify(piped).audio == identify(dub).audio


@pytest.mark.parametrize(
    ("clip", "more", "refused"),
    [
        ("portrait", 0.4, False),
        ("portrait", 0.6, True),
        # A slide may well last as long as the longest before it.
        ("slides", 9.0, False),
        ("slides", 11.0, True),
    ],
)
def test_how_much_may_be_missing(clip, more, refused, request, made, tmp_path) -> None:
    source = request.getfixturevalue(clip) if clip == "portrait" else made(clip)
    path = tools.remux(source, tmp_path / "clip.mkv")
    declared = tools.declare(path, identify(path).duration + more)
    if refused:
        with pytest.raises(MediaError, match=r"^truncated: packets end at [\d.]+ s of the"):
            identify(declared)
    else:
        assert versions(declared) == versions(source)


def test_tags_that_are_not_utf8_do_no_harm(portrait, tmp_path) -> None:
    tagged = tools.with_tags(portrait, tmp_path / "tagged.mp4", title="Zeichen")
    data = tagged.read_bytes()
    assert data.count(b"Zeichen") == 1
    tagged.write_bytes(data.replace(b"Zeichen", b"Zei\xe9hen"))
    assert versions(tagged) == versions(portrait)


# --- FFmpeg's words


def test_words_go_to_the_file_that_caused_them(portrait, made, tmp_path) -> None:
    whole = tools.faststart(portrait, tmp_path / "whole.mp4")
    expected = {
        tools.truncate(portrait, tmp_path / "tail.mp4", 0.5): "mj2: moov atom not found",
        tools.truncate(portrait, tmp_path / "tail2.mp4", 0.6): "mj2: moov atom not found",
        tools.truncate(whole, tmp_path / "head.mp4", 0.5): "partial file",
        tools.truncate(made("vp9"), tmp_path / "cut.webm", 0.4): "matroska,webm: ",
        tmp_path / "missing.mp4": "No such file or directory",
        portrait: "",
    }

    def message(path: Path) -> str:
        try:
            identify(path)
        except MediaError as error:
            return str(error)
        return ""

    before = av.logging.get_level(), av.logging.get_skip_repeated()
    with ThreadPoolExecutor(8) as pool:
        jobs = list(expected) * 25
        for path, said in zip(jobs, pool.map(message, jobs), strict=True):
            assert expected[path] in said
            assert bool(said) == (path != portrait)
            if path.name == "missing.mp4":
                assert said == expected[path]
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before


def test_reading_turns_errors_into_media_errors() -> None:
    for error in (OSError(5, "Input/output error"), ValueError("Input/output error")):
        with pytest.raises(MediaError, match=r"^Input/output error$") as caught, reading():
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(KeyError), reading():
        raise KeyError("a bug is no property of the file")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, dagster_metaxy.media; print({'av', 'PIL', 'numpy', 'xxhash'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_phone_clip(phone, tmp_path) -> None:
    found = identify(phone)
    assert (found.container, found.video_codec, found.width, found.height) == (
        "mov",
        "hevc",
        960,
        540,
    )
    for ending in ("mp4", "mkv", "ts"):
        assert versions(tools.remux(phone, tmp_path / f"phone.{ending}")) == versions(phone)
