"""The sound of a media file, in a file of its own."""

from __future__ import annotations

import wave
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._sound import packed, resampled
from dagster_metaxy.media.errors import MediaError

Format = Literal["wav", "flac", "mp3"]

_LAYOUTS = {1: "mono", 2: "stereo", None: None}
_MOST_CHANNELS = {"mp3": 2, "flac": 8}
_WAV_BYTES = (1 << 32) - 100
"""What the 32 bits for the size in a WAV file's header can say, without the header."""


@dataclass(frozen=True, slots=True)
class Sound:
    """An extracted sound."""

    start: float
    """Seconds from the start of the file at which the sound begins, 0 for most files."""
    duration: float
    """Seconds."""
    rate: int
    """Samples per second."""
    channels: int
    samples: int
    """In each channel."""
    size: int
    """Bytes of the written file."""


def extract(
    media: Media,
    target: Path | str,
    *,
    rate: int = 16000,
    channels: Literal[1, 2] | None = 1,
    format: Format = "wav",
    track: int = 0,
) -> Sound:
    """Write the sound of an audio track of the file `media` to `target`.

    `rate` is in samples a second. `channels` mixes all channels to one or two; None keeps those the
    sound begins with. WAV and FLAC have 16-bit samples; MP3 has 128 kbit/s, two channels at most,
    and the rates 8000, 11025, 12000 and their double and fourfold. `track` counts the audio tracks
    from 0.

    Raises `MediaError` if there is no such track, a part of it can't be decoded, or `format` can't
    hold it; what was written until then stays.
    """
    pieces = resampled(media, format="s16", layout=_LAYOUTS[channels], rate=rate, track=track)
    with closing(pieces):
        # Not opened before there is sound: a file without any leaves none behind.
        start, first = next(pieces, (0.0, None))
        if first is None:
            raise MediaError("no decodable sound")
        count = first.layout.nb_channels
        if count > _MOST_CHANNELS.get(format, count):
            raise MediaError(
                f"{format.upper()} holds {_MOST_CHANNELS[format]} channels, and the sound has {count}"
            )
        writer = _wav if format == "wav" else _encoder
        samples = 0
        with writer(Path(target), format, first) as write:
            for frame in _with(first, pieces):
                write(frame)
                samples += frame.samples
    return Sound(start, samples / rate, rate, count, samples, Path(target).stat().st_size)


def _with(first: AudioFrame, pieces: Generator[tuple[float, AudioFrame]]) -> Iterator[AudioFrame]:
    yield first
    for _, frame in pieces:
        yield frame


@contextmanager
def _wav(target: Path, _: str, like: AudioFrame) -> Iterator[Callable[[AudioFrame], None]]:
    with target.open("wb") as raw, wave.open(raw, "wb") as file:
        file.setnchannels(like.layout.nb_channels)
        file.setsampwidth(2)
        file.setframerate(like.sample_rate)

        def write(frame: AudioFrame) -> None:
            file.writeframesraw(packed(frame))
            if raw.tell() > _WAV_BYTES:
                hours = raw.tell() / (2 * like.layout.nb_channels * like.sample_rate) / 3600
                raise MediaError(f"the sound is longer than a WAV file holds ({hours:.1f} h)")

        yield write


@contextmanager
def _encoder(target: Path, format: str, like: AudioFrame) -> Iterator[Callable[[AudioFrame], None]]:
    with target.open("wb") as raw, av.open(raw, "w", format=format) as file:
        codec = "libmp3lame" if format == "mp3" else format
        stream: AudioStream = file.add_stream(codec, rate=like.sample_rate, layout=like.layout.name)
        stream.codec_context.thread_count = 1
        if format == "mp3":
            stream.bit_rate = 128_000
        else:
            stream.codec_context.format = "s16"
        stream.codec_context.open()
        size = stream.codec_context.frame_size
        fifo = AudioFifo()

        def write(frame: AudioFrame | None) -> None:
            if frame is not None:
                frame.pts = None  # samples follow each other, whatever the file said
                fifo.write(frame)
            last = frame is None
            while (part := fifo.read(size, partial=last)) is not None:
                file.mux(stream.encode(part))

        yield write
        write(None)
        file.mux(stream.encode(None))
