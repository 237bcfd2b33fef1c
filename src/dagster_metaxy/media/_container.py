"""Opening a file and choosing its streams, the same way in every module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from dagster_metaxy.media.errors import MediaError

# Tags that are not UTF-8 must not make a file unreadable. PyAV 19 escapes by itself.
_TAGS: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)

_READ = 1 << 20
"""Bytes that an open file is asked for at a time."""

STILLS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp"}
"""Codecs of cover art, when there is one packet of it."""


Media = Path | str | IO[bytes]
"""A file by its path, or open for reading."""


def open_media(media: Media, *, parse: bool = True) -> InputContainer:
    """Open `media` for demuxing.

    Without `parse`, packets of an MP4 file are not looked into, which is up to a third faster: whole
    packets with times are in the file. Of other formats, packets are what FFmpeg's parsers make; and
    of open files, which may be remote, where one more look at the start would cost more.
    """
    if not isinstance(media, Path | str):
        return av.open(media, buffer_size=_READ, **_TAGS)
    options = None if parse or not _is_mp4(media) else {"fflags": "noparse"}
    return av.open(os.fspath(media), options=options, **_TAGS)


def _is_mp4(path: Path | str) -> bool:
    """Whether it begins as MP4 and MOV files do, but for those from before there were brands."""
    with Path(path).open("rb") as file:
        return file.read(8)[4:] == b"ftyp"


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet]:
    """The packets of some streams, or of all, in the order of the file.

    Raises:
        MediaError: Another stream begins in the middle of the file, as in some broadcasts.
    """
    with known_streams():
        yield from container.demux(*streams)


@contextmanager
def known_streams() -> Iterator[None]:
    """What `demux` raises, without a call for each packet.

    Raises:
        MediaError: Another stream begins in the middle of the file, as in some broadcasts.
    """
    try:
        yield
    except IndexError as error:  # PyAV knows the streams that it saw at the beginning
        raise MediaError(
            "a stream begins in the middle of the file, which cannot be read"
        ) from error


def codec_name(stream: Stream) -> str:
    """The format's name (`av1`), not the decoder's (`libdav1d`)."""
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else "unknown"


def decoder(stream: Any) -> Any:
    """The codec context of a stream, with one thread: more cost CPU per frame, and the caller has several
    files in hand.

    Raises:
        MediaError: FFmpeg does not know the codec.
    """
    if stream.codec_context is None:
        kind = {"video": "picture", "audio": "sound"}.get(stream.type, stream.type)
        raise MediaError(f"there is no decoder for the {kind}")
    stream.codec_context.thread_count = 1
    return stream.codec_context


LONGEST_GAP = 24 * 3600.0
"""Seconds for which a picture may be on screen, or silence be."""


def check_gap(before: float, after: float) -> None:
    """Refuse times that no recording has; to show what is on screen all the while would have no end.

    Raises:
        MediaError: There is more than a day between these seconds.
    """
    if after - before > LONGEST_GAP:
        raise MediaError(f"its times jump from {before:.2f} s to {after:.2f} s")


def pictures(container: InputContainer) -> list[VideoStream]:
    """The picture streams, marked cover art left out.

    Unmarked cover art (Matroska, one packet of a still codec) can only be told by its packets.
    """
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def seconds(stream: Stream, ticks: int) -> float:
    """A time or duration in the stream's own unit, as seconds."""
    return float(ticks * (stream.time_base or 1))
