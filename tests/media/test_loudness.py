"""Loudness against ffmpeg's own meter, and against the signals of EBU Tech 3341."""

from __future__ import annotations

import shutil
import subprocess
import wave
from pathlib import Path

import av
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media.errors import MediaError
from dagster_metaxy.media.loudness import FLOOR, measure

RATE = 48000


def by_ffmpeg(file: Path) -> tuple[dict[str, float], list[float]]:
    """The last values of the command's meter at 48 kHz, and all of the short-term loudness."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    filters = "aresample=48000,ebur128=metadata=1:peak=true,ametadata=print:file=-"
    command = ["ffmpeg", "-v", "error", "-i", str(file), "-vn", "-af", filters, "-f", "null", "-"]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    values: dict[str, float] = {}
    curve: list[float] = []
    for line in told.splitlines():
        name, _, value = line.removeprefix("lavfi.r128.").partition("=")
        if value:
            values[name] = float(value)
        if name == "S":
            curve.append(float(value))
    return values, curve


@pytest.mark.parametrize("clip", ["portrait", "bunny", "dub", "phone"])
def test_as_ffmpeg_measures_it(clip, request) -> None:
    file = request.getfixturevalue(clip)
    found = measure(file)
    values, curve = by_ffmpeg(file)
    assert found.integrated == pytest.approx(values["I"], abs=0.02)
    assert found.loudness_range == pytest.approx(values["LRA"], abs=0.1)
    assert found.true_peak == pytest.approx(20 * np.log10(values["true_peak"]), abs=0.05)
    assert found.short_term == pytest.approx(curve[29::10], abs=0.02)
    assert found.start == pytest.approx(2.43 if clip == "phone" else 0, abs=0.01)


def test_the_summary_that_ffmpeg_prints(bunny) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(bunny), "-vn"]
    command += ["-af", "ebur128=peak=true", "-f", "null", "-"]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stderr
    summary = told[told.rindex("Summary:") :].split()
    found = measure(bunny)
    assert found.integrated == pytest.approx(float(summary[summary.index("I:") + 1]), abs=0.1)
    assert found.loudness_range == pytest.approx(float(summary[summary.index("LRA:") + 1]), abs=0.1)
    assert found.true_peak == pytest.approx(float(summary[summary.index("Peak:") + 1]), abs=0.1)


def sine(seconds: float, level: float, hertz: float = 1000, phase: float = 0) -> np.ndarray:
    """Float samples, whose peak is `level` dBFS."""
    time = np.arange(round(seconds * RATE)) / RATE
    return 10 ** (level / 20) * np.sin(2 * np.pi * hertz * time + phase)


def write(file: Path, samples: np.ndarray, channels: int) -> Path:
    """The same 16-bit samples in each channel."""
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        data = np.round(samples * 32767).astype("<i2")
        sound.writeframes(np.repeat(data, channels).tobytes())
    return file


def test_tones_of_known_loudness(tmp_path) -> None:
    # EBU Tech 3341, case 1: 1 kHz at -23 dBFS in both channels is -23 LUFS.
    found = measure(write(tmp_path / "1.wav", sine(20, -23), 2))
    assert found.integrated == pytest.approx(-23, abs=0.1)
    assert found.true_peak == pytest.approx(-23, abs=0.1)
    assert found.loudness_range == pytest.approx(0, abs=0.1)
    assert found.short_term == pytest.approx([-23] * 18, abs=0.1)
    # In one channel it is half as much.
    mono = measure(write(tmp_path / "mono.wav", sine(5, -23), 1))
    assert mono.integrated == pytest.approx(-26, abs=0.1)
    # Case 3: what is quieter by more than 10 LU does not count.
    gated = np.concatenate([sine(10, -36), sine(60, -23), sine(10, -36)])
    found = measure(write(tmp_path / "3.wav", gated, 2))
    assert found.integrated == pytest.approx(-23, abs=0.1)
    # EBU Tech 3342, case 1: 20 s at -20 and 20 s at -30 are a range of 10 LU.
    steps = np.concatenate([sine(20, -20), sine(20, -30)])
    assert measure(write(tmp_path / "4.wav", steps, 2)).loudness_range == pytest.approx(10, abs=1)
    # Case 17: at a quarter of the rate and 45 degrees the samples miss the peak by 3 dB.
    between = sine(2, -6, RATE / 4, np.pi / 4) * np.minimum(1, np.arange(2 * RATE) / RATE)
    assert np.abs(between).max() < 0.36  # -9 dBFS
    found = measure(write(tmp_path / "17.wav", between, 2))
    assert found.true_peak == pytest.approx(-6, abs=0.3)


def test_silence_and_what_is_too_short(tmp_path) -> None:
    found = measure(write(tmp_path / "silent.wav", np.zeros(4 * RATE), 2))
    assert (found.integrated, found.loudness_range, found.true_peak) == (FLOOR, 0, None)
    assert found.short_term == [FLOOR, FLOOR]
    found = measure(write(tmp_path / "click.wav", sine(0.3, -6), 2))
    assert (found.integrated, found.loudness_range, found.short_term) == (None, None, [])
    # Louder at the end, in what is no whole step of the meter.
    loud = np.concatenate([sine(1, -30), sine(0.05, -3)])
    assert measure(write(tmp_path / "end.wav", loud, 2)).true_peak == pytest.approx(-3, abs=0.2)


def test_no_sound_and_no_numbers(bikes, portrait, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"^no audio stream$"):
        measure(bikes)
    with pytest.raises(MediaError, match=r"^no audio track 1: it has 1"):
        measure(portrait, track=1)
    file = tmp_path / "nan.wav"
    with av.open(str(file), "w") as sound:
        stream = sound.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, RATE), np.nan, np.float32), "flt", "mono")
        frame.rate = RATE
        sound.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(MediaError, match=r"^the sound has samples that are no finite numbers$"):
        measure(file)


def test_any_track(portrait, dub, tmp_path) -> None:
    dubbed = tools.replace_audio(portrait, dub, tmp_path / "dubbed.mp4")
    both = tools.add_audio(portrait, dubbed, tmp_path / "both.mp4")
    assert measure(both).integrated == pytest.approx(measure(portrait).integrated, abs=0.01)
    second = measure(both, track=1)
    assert second.integrated == pytest.approx(measure(dub).integrated, abs=0.3)
    assert len(second.short_term) == 4
