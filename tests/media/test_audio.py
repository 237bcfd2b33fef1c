"""The extracted sound: how long, how loud, which pitch, and when it begins."""

from __future__ import annotations

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
