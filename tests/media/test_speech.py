"""Stretches of speech against faster-whisper's own use of the model, and against known sound."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import speech
from dagster_metaxy.media._sound import SPEECH_RATE, Clock, speech_samples
from dagster_metaxy.media.errors import MediaError

pytest.importorskip("onnxruntime")
vad = pytest.importorskip("faster_whisper.vad")


def samples(path: Path) -> np.ndarray:
    return np.concatenate(list(speech_samples(path, Clock(SPEECH_RATE))))


def write(file: Path, sound: np.ndarray) -> Path:
    return tools.write_wav(file, np.round(sound * 32767).astype(np.int16), SPEECH_RATE)


@pytest.fixture(scope="module")
def talk(portrait, dub, bunny, tmp_path_factory) -> Path:
    """Two and a half minutes of speech, loud and low, music, noise and silence."""
    random = np.random.default_rng(3)
    parts = []
    for level in (1, 0.2, 0.5, 1):
        parts += [samples(portrait) * level, np.zeros(random.integers(8_000, 60_000))]
        parts += [samples(bunny), samples(dub) * level, random.normal(0, 0.01, 50_000)]
        parts += [samples(dub), samples(portrait)[:70_000]]
    return write(tmp_path_factory.mktemp("talk") / "talk.wav", np.concatenate(parts))


@pytest.mark.parametrize(
    ("threshold", "min_speech", "min_silence", "pad"),
    [(0.5, 0.25, 0.5, 0.1), (0.8, 0, 0.1, 0.03), (0.3, 1, 2, 0.4)],
)
def test_as_faster_whisper_hears_it(talk, threshold, min_speech, min_silence, pad) -> None:
    found = speech.detect(
        talk,
        threshold=threshold,
        min_speech_seconds=min_speech,
        min_silence_seconds=min_silence,
        pad_seconds=pad,
    )
    options = vad.VadOptions(
        threshold=threshold,
        min_speech_duration_ms=round(min_speech * 1000),
        min_silence_duration_ms=round(min_silence * 1000),
        speech_pad_ms=round(pad * 1000),
    )
    expected = vad.get_speech_timestamps(samples(talk), options)
    assert len(expected) > 5
    for times in ("start", "end"):
        assert [getattr(segment, times) for segment in found] == pytest.approx(
            [segment[times] / SPEECH_RATE for segment in expected], abs=0.001
        )
    # Most is well above the threshold, and none of it is certain.
    assert all(threshold - 0.3 < segment.probability < 1 for segment in found)


def test_two_sentences_with_a_pause(portrait) -> None:
    found = speech.detect(portrait)
    assert [round(s.start, 1) for s in found] == [0.2, 7.3]
    assert found[0].end == pytest.approx(6.9, abs=0.1)
    assert [s.probability > 0.85 for s in found] == [True, True]


def test_music_is_no_speech(phone) -> None:
    assert speech.detect(phone) == []


def test_no_speech(tmp_path) -> None:
    assert speech.detect(write(tmp_path / "silence.wav", np.zeros(90 * SPEECH_RATE))) == []
    assert speech.detect(tools.write_wav(tmp_path / "tone.wav", tools.tone(3))) == []
    assert speech.detect(write(tmp_path / "short.wav", np.zeros(10))) == []


def test_no_sound(bikes, portrait, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"^no audio stream$"):
        speech.detect(bikes)
    with pytest.raises(MediaError, match=r"^no audio track 3: it has 1"):
        speech.detect(portrait, track=3)
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setparams((1, 2, SPEECH_RATE, 0, "NONE", ""))
    with pytest.raises(MediaError, match=r"^no decodable sound$"):
        speech.detect(tmp_path / "empty.wav")


def test_times_hold_where_the_sound_begins_late_and_stops_for_a_while(dub, tmp_path) -> None:
    file = tmp_path / "late.mkv"
    with av.open(str(file), "w") as target:
        picture = target.add_stream("libx264", rate=1)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        voice = target.add_stream("pcm_s16le", rate=SPEECH_RATE, layout="mono")
        for second in range(40):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            frame.pts = second
            target.mux(picture.encode(frame.reformat(format="yuv420p")))
        target.mux(picture.encode(None))
        sound = (samples(dub) * 32767).astype(np.int16)
        for start in (3, 20):
            for index in range(0, len(sound), 1600):
                frame = av.AudioFrame.from_ndarray(
                    sound[None, index : index + 1600].copy(), "s16", "mono"
                )
                frame.rate = SPEECH_RATE
                frame.pts = start * SPEECH_RATE + index
                target.mux(voice.encode(frame))
        target.mux(voice.encode(None))
    begins = speech.detect(dub)[0].start
    found = speech.detect(file, min_silence_seconds=0.1)
    starts = [segment.start for segment in found]
    assert starts[0] == pytest.approx(3 + begins, abs=0.1)
    assert min(starts, key=lambda s: abs(s - 20)) == pytest.approx(20 + begins, abs=0.1)
    assert not [segment for segment in found if 10 < segment.start < 19.9]
    assert found[-1].end < 26.1
