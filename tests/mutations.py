"""Broken media files, made from good ones; what is broken is always the same for one seed."""

from __future__ import annotations

import random
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import media_tools as tools

CLIPS = Path(__file__).parent.parent / "clips"
ENDINGS = (".mp4", ".mkv", ".avi", ".ts", ".mov", ".webm")

_MP4_FIELDS = (b"tkhd", b"mvhd", b"mdhd", b"stsd", b"stts", b"stsz", b"stco", b"stsc", b"ctts")
_MP4_FIELDS += (b"elst", b"avc1", b"hvc1", b"avcC", b"hvcC", b"mp4a", b"esds", b"mdat", b"moov")
_EBML_FIELDS = (
    b"\xb0\x82",
    b"\xba\x82",
    b"\x44\x89",
    b"\x2a\xd7\xb1",
    b"\xe7",
    b"\xa3",
    b"\x1f\x43",
)
_AVI_FIELDS = (b"avih", b"strh", b"strf", b"idx1", b"movi", b"00dc", b"01wb")
_LIES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x40\0\0\0", b"\0\0\xff\xff")
_LIES += (b"\x3f\xff\x3f\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0")


def good_files(folder: Path) -> list[Path]:
    """Small clips of many kinds, and those of the repository."""
    size: dict[str, Any] = {"width": 64, "height": 48, "frames": 40}
    closed = {"g": "10", "keyint_min": "10"}
    clip = partial(tools.clip, **size)
    quiet = {"x265-params": "log-level=0"}
    h264 = clip(folder / "h264.mp4", audio="aac", options=closed)
    made = [
        h264,
        clip(folder / "h265.mp4", video="libx265", audio="aac", options=quiet),
        clip(folder / "vp9.webm", video="libvpx-vp9", audio="libopus"),
        clip(folder / "av1.mp4", video="libsvtav1", audio="libopus"),
        clip(folder / "mpeg4.avi", video="mpeg4", audio="libmp3lame"),
        clip(folder / "sound.mp4", video=None, audio="aac"),
        clip(folder / "ac3.mkv", video="mpeg4", audio="ac3"),
        tools.write_wav(folder / "sound.wav", tools.tone(1)),
        tools.remux(h264, folder / "h264.ts"),
        tools.remux(h264, folder / "h264.mkv"),
        tools.fragmented(h264, folder / "fragmented.mp4"),
        tools.with_rotation(h264, folder / "turned.mov", 90),
    ]
    return [*made, CLIPS / "portrait.mp4", CLIPS / "bikes.mp4"]


@dataclass(frozen=True)
class Mutation:
    """A broken file.

    Attributes:
        name: What was done, to which file.
        data: Its bytes.
        ending: Of its name.
    """

    name: str
    data: bytes
    ending: str


def mutation(sources: list[tuple[str, bytes]], seed: int) -> Mutation:
    """A broken file, of a kind that the seed says."""
    dice = random.Random(seed)
    name, good = dice.choice(sources)
    kind = dice.choice([*_KINDS])
    ending = Path(name).suffix
    if kind == "renamed":
        ending = dice.choice([e for e in ENDINGS if e != ending])
        data = bytearray(good)
    else:
        data = _KINDS[kind](bytearray(good), dice, sources)
    return Mutation(f"{seed} {name} {kind}", bytes(data), ending)


_Sources = list[tuple[str, bytes]]


def _flipped(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    for _ in range(2 ** dice.randrange(9)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return data


def _head_flipped(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    for _ in range(2 ** dice.randrange(6)):
        data[dice.randrange(min(len(data), 2000))] ^= 1 << dice.randrange(8)
    return data


def _tail_flipped(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    for _ in range(2 ** dice.randrange(6)):
        data[-1 - dice.randrange(min(len(data), 3000))] ^= 1 << dice.randrange(8)
    return data


def _truncated(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    return data[: dice.randrange(len(data))]


def _zeroed(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    start, size = dice.randrange(len(data)), 2 ** dice.randrange(4, 14)
    data[start : start + size] = bytes(len(data[start : start + size]))
    return data


def _noise(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    start, size = dice.randrange(len(data)), 2 ** dice.randrange(2, 12)
    data[start : start + size] = dice.randbytes(len(data[start : start + size]))
    return data


def _spliced(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    other = dice.choice(sources)[1]
    return data[: dice.randrange(len(data))] + other[dice.randrange(len(other)) :]


def _cut_out(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    start = dice.randrange(len(data))
    del data[start : start + 2 ** dice.randrange(12)]
    return data


def _repeated(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    start = dice.randrange(len(data))
    return data[:start] + data[start : start + 2 ** dice.randrange(14)] * 2 + data[start:]


def _lying(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    """A number in a header becomes one that is too large, or none."""
    fields = [f for f in (*_MP4_FIELDS, *_EBML_FIELDS, *_AVI_FIELDS) if f in data]
    for _ in range(dice.randrange(1, 4)):
        if not fields:
            break
        place = data.find(dice.choice(fields)) + 4 * dice.randrange(-1, 24)
        place = max(0, min(place, len(data) - 4))
        data[place : place + 4] = dice.choice(_LIES)
    return data


def _sized(data: bytearray, dice: random.Random, sources: _Sources) -> bytearray:
    """Giant or tiny width and height."""
    sizes = [0, 1, 2, 3, 4096, 16384, 16400, 32768, 65535]
    width, height = dice.choice(sizes), dice.choice(sizes)
    for codec in (b"avc1", b"hvc1", b"hev1", b"av01", b"vp09", b"mp4v"):
        if (place := data.find(codec)) >= 0:
            data[place + 28 : place + 32] = struct.pack(">HH", width, height)
    for mark, value in ((b"\xb0\x81", width), (b"\xba\x81", height)):
        if (place := data.find(mark)) >= 0:
            data[place : place + 3] = mark[:1] + b"\x82" + struct.pack(">H", value)
    if (place := data.find(b"avih")) >= 0:
        data[place + 40 : place + 48] = struct.pack("<II", width, height)
    if (place := data.find(b"strf")) >= 0:
        data[place + 12 : place + 20] = struct.pack("<ii", width, height)
    return data


_KINDS: dict[str, Callable[[bytearray, random.Random, _Sources], bytearray]] = {
    "flipped": _flipped,
    "head flipped": _head_flipped,
    "tail flipped": _tail_flipped,
    "truncated": _truncated,
    "zeroed": _zeroed,
    "noise": _noise,
    "spliced": _spliced,
    "cut out": _cut_out,
    "repeated": _repeated,
    "lying": _lying,
    "sized": _sized,
    "renamed": _flipped,
}


def mutations(folder: Path, seeds: range) -> Iterator[Mutation]:
    """Broken files, one for each seed."""
    sources = [(path.name, path.read_bytes()) for path in good_files(folder)]
    for seed in seeds:
        yield mutation(sources, seed)


@dataclass(frozen=True)
class Trial:
    """One function that reads one file."""

    name: str
    path: str
    function: str


@dataclass(frozen=True)
class Told:
    """What came of it: nothing wrong, a sentence, or a traceback that is none."""

    sentence: str = ""
    wrong: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


def functions(path: str, folder: str) -> dict[str, Callable[[], Any]]:
    """What reads a media file, by name."""
    from dagster_metaxy.media import audio, clips, fingerprint, frames, identify, loudness
    from dagster_metaxy.media.decoding import look_together
    from dagster_metaxy.media.quality import QualityMeter
    from dagster_metaxy.media.scenes import SceneDetector

    half = lambda duration: [0, 0.5, 1.1, max(duration, 1.2)]  # noqa: E731
    return {
        "identify": partial(identify.identify, path),
        "frames": partial(frames.extract, path, folder, every_seconds=0.4),
        "audio": partial(audio.extract, path, Path(folder, "audio.wav")),
        "clips": partial(clips.cut, path, folder, half, preset="ultrafast"),
        "looks": partial(
            look_together, path, [QualityMeter, SceneDetector, fingerprint.Fingerprinter]
        ),
        "loudness": partial(loudness.measure, path),
    }


class Try:
    """Has a function read a file, in a process that may take only so much memory."""

    def prepare(self) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def __call__(self, trial: Trial) -> Told:
        import resource

        from dagster_metaxy.media.errors import MediaError

        sentence = wrong = ""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = functions(trial.path, folder)[trial.function]()
                for each in found if trial.function == "looks" else ():
                    if isinstance(each, Exception):
                        raise each
            except MediaError as error:
                sentence = str(error)
            except Exception as error:
                wrong = f"{error!r}\n{traceback.format_exc()}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Told(sentence, wrong, time.monotonic() - started, peak)
