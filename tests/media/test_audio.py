"""The extracted sound: how long, how loud, which pitch, and when it begins."""

from __future__ import annotations

import shutil
import subprocess
import wave
from pathlib import Path

import av
import av.error
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import audio
from dagster_metaxy.media.errors import MediaError


def read(path: Path) -> tuple[int, np.ndarray]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        data = file.readframes(file.getnframes())
        assert len(data) == 2 * file.getnframes()
        return file.getframerate(), np.frombuffer(data, np.int16)


def pitch(samples: np.ndarray, rate: int) -> float:
    """The loudest frequency, in hertz."""
    strength = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[strength.argmax()])


@pytest.mark.parametrize(("clip", "seconds"), [("portrait", 12.4), ("bunny", 5.312), ("dub", 6.05)])
def test_sound_of_real_clips(clip, seconds, request, tmp_path) -> None:
    sound = audio.extract(request.getfixturevalue(clip), tmp_path / "sound.wav")
    rate, samples = read(tmp_path / "sound.wav")
    assert (sound.rate, sound.samples, sound.start) == (rate, len(samples), 0)
    assert rate == 16000
    assert sound.duration == len(samples) / rate == pytest.approx(seconds, abs=0.07)
    assert sound.size == (tmp_path / "sound.wav").stat().st_size
    assert np.sqrt((samples.astype(float) ** 2).mean()) > 100


def test_plain_samples_come_out_as_they_went_in(dub, tmp_path) -> None:
    audio.extract(dub, tmp_path / "sound.wav")
    assert np.array_equal(read(tmp_path / "sound.wav")[1], read(dub)[1])


@pytest.mark.parametrize("name", ["h265", "vp9", "mpeg4"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_pitch_and_length_stay_at_every_rate(name, rate, made, tmp_path) -> None:
    sound = audio.extract(made(name), tmp_path / "sound.wav", rate=rate)
    found, samples = read(tmp_path / "sound.wav")
    assert found == sound.rate == rate
    assert sound.duration == pytest.approx(2, abs=0.08)
    assert pitch(samples, rate) == pytest.approx(440, abs=2)


def test_the_first_of_several_tracks(portrait, dub, tmp_path) -> None:
    dubbed = tools.replace_audio(portrait, dub, tmp_path / "dubbed.mp4")
    lengths = []
    for first in (False, True):
        both = tools.add_audio(portrait, dubbed, tmp_path / f"{first}.mp4", first=first)
        lengths.append(audio.extract(both, tmp_path / "sound.wav").duration)
    assert lengths == pytest.approx([12.4, 6.1], abs=0.1)


def test_any_of_several_tracks(portrait, dub, tmp_path) -> None:
    dubbed = tools.replace_audio(portrait, dub, tmp_path / "dubbed.mp4")
    both = tools.add_audio(portrait, dubbed, tmp_path / "both.mp4")
    lengths = [
        audio.extract(both, tmp_path / "sound.wav", track=track).duration for track in (0, 1)
    ]
    assert lengths == pytest.approx([12.4, 6.1], abs=0.1)
    with pytest.raises(MediaError, match=r"^no audio track 2: it has 2, the first of which is"):
        audio.extract(both, tmp_path / "none.wav", track=2)
    assert not (tmp_path / "none.wav").exists()


def ffmpeg(file: Path, channels: int, rate: int, *options: str) -> np.ndarray:
    """What ffmpeg's command decodes, 16-bit, a column per channel."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    command = ["ffmpeg", "-v", "error", "-i", str(file), "-map", "0:a:0", *options]
    command += ["-f", "s16le", "-ar", str(rate), "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.int16).reshape(-1, channels)


@pytest.mark.parametrize("format", ["wav", "flac", "mp3"])
@pytest.mark.parametrize(("channels", "count"), [(1, 1), (2, 2), (None, 6)])
def test_channels_and_formats(bunny, format, channels, count, tmp_path) -> None:
    target = tmp_path / f"sound.{format}"
    settings = {"rate": 48000, "channels": channels, "format": format}
    if (format, channels) == ("mp3", None):
        with pytest.raises(MediaError, match=r"^MP3 holds 2 channels, and the sound has 6$"):
            audio.extract(bunny, target, **settings)
        return
    sound = audio.extract(bunny, target, **settings)
    assert (sound.channels, sound.rate, sound.size) == (count, 48000, target.stat().st_size)
    written = ffmpeg(target, count, 48000)
    mix = ["-ac", str(channels)] if channels else []
    true = ffmpeg(bunny, count, 48000, *mix)
    assert len(true) == sound.samples
    if format == "mp3":
        # The decoder drops the encoder's delay; what it adds at the end is silence.
        assert len(written) == pytest.approx(len(true), abs=1152)
        size = min(len(written), len(true))
        written, true = written[:size], true[:size]
        assert np.corrcoef(written[:, 0], true[:, 0])[0, 1] > 0.99
    else:
        # Of another version of FFmpeg: the last bit may differ.
        assert np.abs(written.astype(int) - true).max() <= 2


def test_channels_without_names(tmp_path) -> None:
    data = np.stack([tools.tone(0.5, hertz=hertz) for hertz in (300, 500, 700)], axis=1)
    with wave.open(str(tmp_path / "three.wav"), "wb") as file:
        file.setnchannels(3)
        file.setsampwidth(2)
        file.setframerate(48000)
        file.writeframes(data.tobytes())
    for format in ("wav", "flac"):
        target = tmp_path / f"sound.{format}"
        sound = audio.extract(
            tmp_path / "three.wav", target, rate=48000, channels=None, format=format
        )
        assert sound.channels == 3
        assert np.array_equal(ffmpeg(target, 3, 48000), data)


def test_sound_that_a_wav_file_cannot_hold(portrait, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(audio, "_WAV_BYTES", 100_000)
    with pytest.raises(MediaError, match="longer than a WAV file holds"):
        audio.extract(portrait, tmp_path / "sound.wav")


def test_channels_may_change_on_the_way(tmp_path) -> None:
    """As on television, between advertisements and film."""
    parts = []
    for index, layout in enumerate(("stereo", "5.1")):
        with av.open(str(tmp_path / f"{index}.ts"), "w") as file:
            stream = file.add_stream("ac3", rate=48000, layout=layout)
            data = np.tile(tools.tone(1), (stream.layout.nb_channels, 1)).T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(data.copy(), "s16", layout)
            frame.rate = 48000
            resampler = av.AudioResampler("fltp", layout, 48000, frame_size=stream.frame_size)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(piece))
            file.mux(stream.encode())
        parts.append((tmp_path / f"{index}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    sound = audio.extract(tmp_path / "both.ts", tmp_path / "sound.wav")
    assert sound.duration == pytest.approx(2, abs=0.1)
    rate, samples = read(tmp_path / "sound.wav")
    for half in np.array_split(samples, 2):
        assert pitch(half, rate) == pytest.approx(440, abs=3)


def test_no_sound(bikes, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"^no audio stream$"):
        audio.extract(bikes, tmp_path / "sound.wav")
    with pytest.raises(MediaError, match=r"^No such file or directory$"):
        audio.extract(tmp_path / "missing.mp4", tmp_path / "sound.wav")
    assert not (tmp_path / "sound.wav").exists()


def test_damage_in_the_middle_is_refused_with_its_time(portrait, tmp_path) -> None:
    bad = tools.damage(portrait, tmp_path / "bad.mp4", 0.3)
    message = (
        r"^sound at (3\.\d\d|4\.[01]\d) s can't be decoded: Invalid data found .* \(aac: .+\)$"
    )
    with pytest.raises(MediaError, match=message):
        audio.extract(bad, tmp_path / "sound.wav")


def test_a_recording_may_begin_in_the_middle_of_a_packet(portrait, tmp_path) -> None:
    whole = tools.remux(portrait, tmp_path / "whole.m4a", video=False)
    first = (whole.read_bytes().index(b"mdat") + 5) / whole.stat().st_size
    cut = tools.damage(whole, tmp_path / "cut.m4a", first, size=60)
    with av.open(str(cut)) as file, pytest.raises(av.error.InvalidDataError):
        next(file.decode(audio=0))
    assert audio.extract(cut, tmp_path / "sound.wav").duration == pytest.approx(12.3, abs=0.15)


def test_rubbish_at_the_end_of_mp3_is_no_damage(tmp_path) -> None:
    clip = tools.clip(tmp_path / "clip.mp3", video=None, audio="libmp3lame", frames=50)
    clean = audio.extract(clip, tmp_path / "sound.wav")
    clip.write_bytes(clip.read_bytes() + b"LYRICSBEGIN" + b"la " * 400 + b"TAG" + bytes(125))
    assert audio.extract(clip, tmp_path / "sound.wav").samples == pytest.approx(
        clean.samples, abs=2400
    )


def test_a_target_that_cannot_be_written_is_no_fault_of_the_media(portrait, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        audio.extract(portrait, tmp_path / "missing" / "sound.wav")


def test_phone_clip_begins_late(phone, tmp_path) -> None:
    sound = audio.extract(phone, tmp_path / "sound.wav")
    assert sound.start == pytest.approx(2.43, abs=0.01)
    assert sound.duration == pytest.approx(3.97, abs=0.05)
