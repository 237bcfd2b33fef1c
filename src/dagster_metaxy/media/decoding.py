"""One decode of a video for all who look at it.

What looks at a video is a `Viewer`: it says which frames it wants to see, sees them, and gives a
result at the end. `look` decodes the video once for any number of them, and no more of it than they
want: where all want frames at certain times, groups of pictures in which there are none are skipped,
as are frames that no other depends on; where all want keyframes, nothing else is decoded. What a
viewer sees does not depend on who else looks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dagster_metaxy.media._container import (
    LONGEST_GAP,
    STILLS,
    Media,
    check_gap,
    codec_name,
    decoder,
    demux,
    open_media,
    pictures,
    seconds,
)
from dagster_metaxy.media._picture import Picture
from dagster_metaxy.media.errors import MediaError, Words, reading

# Matroska rounds times to 1 ms: a frame it moved past a wanted time by that is still taken for it.
_ROUNDING = 0.0006

_LARGEST_GROUP = 64 << 20
"""Bytes of a group of pictures that is kept to see what is wanted of it."""


class Which(Enum):
    """Frames that are wanted for what they are, not for their time."""

    EVERY = "every frame"
    KEYFRAMES = "frames that are decoded without any other"


@dataclass(frozen=True)
class Times:
    """Frames that are on screen at certain times.

    Attributes:
        seconds: From the start of the picture, increasing; may have no end.
        past_end: Whether the last frame is taken for times after its end. Otherwise these are
            left out.
    """

    seconds: Iterable[float]
    past_end: bool = False


@dataclass(frozen=True, slots=True)
class Video:
    """What is known of a video before it is decoded."""

    width: int
    """Pixels as stored."""
    height: int
    frame_rate: float | None
    """Frames per second, as the file says."""
    measure: Callable[[], float]
    """The seconds of the picture; they may have to be counted."""


def midpoints(video: Video, count: int) -> Times:
    """The middles of `count` parts of equal length of a video, wherever it ends."""
    duration = video.measure()
    return Times([(i + 0.5) * duration / count for i in range(count)], past_end=True)


R = TypeVar("R")


class Viewer(ABC, Generic[R]):
    """Looks at the frames of one video. Errors that it raises are its own, and stop no other."""

    @abstractmethod
    def wants(self, video: Video) -> Which | Times:
        """Which frames it wants to see."""

    @abstractmethod
    def see(self, picture: Picture, time: float) -> None:
        """Look at a frame.

        Args:
            picture: The frame.
            time: For which it was wanted, or that of the frame; seconds from the start of the picture.
        """

    @abstractmethod
    def result(self, duration: float) -> R:
        """What it has found, after the last frame.

        Args:
            duration: Seconds of the picture; of what was decoded, if no one wanted more.
        """


def look(media: Media, viewer: Callable[[], Viewer[R]]) -> R:
    """Have one viewer look at the video `media`.

    Raises `MediaError` as `look_together` does, and what the viewer raises.
    """
    (result,) = look_together(media, [viewer])
    if isinstance(result, Exception):
        raise result
    return result


def look_together(media: Media, viewers: Sequence[Callable[[], Viewer[Any]]]) -> list[Any]:
    """Have viewers look at the video `media`, which is decoded once.

    Each of `viewers` makes one; it may be called again, when the video turns out to be one that must be
    decoded as a whole. The results are in their order, with the exception in its place where a viewer
    raised one.

    Raises `MediaError` if there is no picture, or a part that is wanted can't be decoded.
    """
    try:
        return _look(media, [make() for make in viewers], _sampled)
    except _DecodeAll:
        if not isinstance(media, str) and hasattr(media, "seek"):
            media.seek(0)  # type: ignore[union-attr]
        return _look(media, [make() for make in viewers], _decoded)


class _DecodeAll(Exception):
    """Parts of the video can't be left out, or nobody wants that."""


def _look(media: Media, viewers: Sequence[Viewer[Any]], decode: Callable[..., Any]) -> list[Any]:
    results: list[Any] = [None] * len(viewers)
    orders: list[_Order] = []
    with closing(_opened(media, viewers, orders, results, decode)) as seen:
        duration = 0.0
        for order, picture, time in seen:
            if picture is None:
                duration = time
            elif not order.failed:
                try:
                    viewers[order.viewer].see(picture, time)
                except Exception as error:
                    results[order.viewer] = error
                    order.failed = True
    for order in orders:
        if not order.failed:
            try:
                results[order.viewer] = viewers[order.viewer].result(duration)
            except Exception as error:
                results[order.viewer] = error
    return results


@dataclass
class _Order:
    """What a viewer waits for."""

    viewer: int
    which: Which | None
    times: Iterator[float] = field(default_factory=lambda: iter(()))
    past_end: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        self.next = next(self.times, None)

    @property
    def is_open(self) -> bool:
        """Whether it wants more."""
        return not self.failed and (self.which is not None or self.next is not None)

    def due(self, until: float) -> Iterator[float]:
        """The times before another one at which a frame is wanted; they are not given again."""
        while self.next is not None and self.next + _ROUNDING < until:
            yield self.next
            self.next = next(self.times, None)


_Seen = tuple[_Order, "Picture | None", float]


def _opened(
    media: Media,
    viewers: Sequence[Viewer[Any]],
    orders: list[_Order],
    results: list[Any],
    decode: Callable[..., Iterator[_Seen]],
) -> Generator[_Seen]:
    """What is seen by whom; last, without a picture, how long it was."""
    with reading() as words, open_media(media) as container:
        stream = next(iter(pictures(container)), None)
        if stream is None:
            raise MediaError("no picture stream")
        context = decoder(stream)
        video = Video(
            context.width,
            context.height,
            float(stream.guessed_rate or 0) or None,
            lambda: _measured(media, container, stream),
        )
        for index, viewer in enumerate(viewers):
            try:
                wanted = viewer.wants(video)
            except MediaError:
                raise
            except Exception as error:
                results[index] = error
                continue
            if isinstance(wanted, Which):
                orders.append(_Order(index, wanted))
            else:
                orders.append(_Order(index, None, iter(wanted.seconds), wanted.past_end))
        if orders:
            yield from decode(container, stream, orders, words)


def _measured(media: Media, container: InputContainer, stream: VideoStream) -> float:
    """Seconds of the picture, by its header, or by its packets where that does not say."""
    if stream.duration:
        return seconds(stream, stream.duration)
    if container.duration and "matroska" in container.format.name:
        return container.duration / 1_000_000
    position = media.tell() if not isinstance(media, str) and hasattr(media, "tell") else None  # type: ignore[union-attr]
    start = end = None
    with open_media(media) as again:
        same = again.streams[stream.index]
        for packet in demux(again, same):
            ticks = packet.pts if packet.pts is not None else packet.dts
            if ticks is not None:
                start = ticks if start is None else min(start, ticks)
                end = max(end or 0, ticks + (packet.duration or 0))
    if position is not None:
        media.seek(position)  # type: ignore[union-attr]
    return 0.0 if start is None or end is None else seconds(stream, end - start)


def _sampled(
    container: InputContainer, stream: VideoStream, orders: Sequence[_Order], words: Words
) -> Iterator[_Seen]:
    """Decodes only what is wanted, a group of pictures at a time.

    Raises:
        _DecodeAll: Something is as it can't be done with.
    """
    if all(order.which is Which.KEYFRAMES for order in orders):
        stream.codec_context.skip_frame = "NONKEY"
        yield from _decoded(container, stream, orders, words)
        return
    if any(order.which for order in orders) or codec_name(stream) in STILLS:
        raise _DecodeAll
    start: int | None = None
    end = 0.0
    group: list[Packet] = []
    size = 0
    for packet in demux(container, stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_corrupt or packet.is_discard:
            raise _DecodeAll
        start = packet.pts if start is None else start
        until = _end(packet, stream, start)
        if until - end > LONGEST_GAP:
            raise _DecodeAll
        if packet.is_keyframe:
            time = seconds(stream, packet.pts - start)
            if group:
                yield from _wanted_of(group, stream, start, orders, time)
                if not any(order.is_open for order in orders):
                    yield orders[0], None, time
                    return
            group, size = [], 0
        elif not group or packet.pts < (group[0].pts or 0) or size > _LARGEST_GROUP:
            # Frames that are shown before the keyframe they come after depend on another one, too.
            raise _DecodeAll
        group.append(packet)
        size += packet.size
        end = max(end, until)
    if start is None:
        raise _DecodeAll
    yield from _wanted_of(group, stream, start, orders, end, last=True)
    yield orders[0], None, end


def _end(packet: Packet, stream: VideoStream, start: int) -> float:
    length = seconds(stream, packet.duration or 0) or 1 / (float(stream.guessed_rate or 0) or 25)
    return seconds(stream, (packet.pts or 0) - start) + length


def _wanted_of(
    group: Sequence[Packet],
    stream: VideoStream,
    start: int,
    orders: Sequence[_Order],
    until: float,
    *,
    last: bool = False,
) -> Iterator[_Seen]:
    """What is wanted of a group of pictures, until the next one begins."""
    due = [(t, i) for i, order in enumerate(orders) for t in order.due(until)]
    if last:
        due += [
            (t, i) for i, order in enumerate(orders) if order.past_end for t in order.due(1e300)
        ]
    if not due:
        return
    due.sort()
    shown = sorted((seconds(stream, (p.pts or 0) - start), p.pts) for p in group)
    wanted: dict[int, list[tuple[float, int]]] = {}
    position = 0
    for time, order in due:
        while position + 1 < len(shown) and shown[position + 1][0] <= time + _ROUNDING:
            position += 1
        wanted.setdefault(shown[position][1] or 0, []).append((time, order))
    try:
        for frame in _frames_of(group, stream, wanted):
            at = wanted.pop(frame.pts or 0, None)
            if at:
                own = seconds(stream, (frame.pts or 0) - start)
                picture = Picture(frame, own, float(stream.sample_aspect_ratio or 1))
                for time, order in at:
                    yield orders[order], picture, time
            if not wanted:
                break
    except av.error.FFmpegError:
        # Whatever is wrong, it is told as it is found when all is decoded.
        raise _DecodeAll from None
    stream.codec_context.flush_buffers()
    if wanted:
        raise _DecodeAll


def _frames_of(
    group: Sequence[Packet], stream: VideoStream, wanted: dict[int, Any]
) -> Iterator[VideoFrame]:
    """Frames of a group in their order, up to the last one that is wanted."""
    needed = {*wanted}
    last = max(i for i, packet in enumerate(group) if packet.pts in needed)
    for packet in group[: last + 1]:
        if not packet.is_disposable or packet.pts in needed:
            yield from packet.decode()
    yield from stream.codec_context.decode(None)


def _decoded(
    container: InputContainer, stream: VideoStream, orders: Sequence[_Order], words: Words
) -> Iterator[_Seen]:
    """Decodes all."""
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    shown: Picture | None = None
    count, end = 0, 0.0
    is_still = codec_name(stream) in STILLS
    for time, until, frame in _timed(container, stream, words):
        check_gap(end, until)
        if shown is not None:
            yield from _due(orders, time, shown)
        shown, end = Picture(frame, time, pixel_aspect), max(end, until)
        count += 1
        for order in orders:
            if order.which is Which.EVERY or (order.which and frame.key_frame):
                yield order, shown, time
        if not is_still and not any(order.is_open for order in orders):
            break
    if shown is None or (count == 1 and is_still):
        # The one frame is cover art.
        raise MediaError(words.after("no decodable picture"))
    yield from _due(orders, end, shown)
    yield from _due([order for order in orders if order.past_end], 1e300, shown)
    yield orders[0], None, end


def _due(orders: Sequence[_Order], until: float, shown: Picture) -> Iterator[_Seen]:
    for order in orders:
        for time in order.due(until):
            yield order, shown, time


def _timed(
    container: InputContainer, stream: VideoStream, words: Words
) -> Iterator[tuple[float, float, VideoFrame]]:
    """Each frame with its start and end in seconds from the start of the first one."""
    interval = 1 / (float(stream.guessed_rate or 0) or 25)
    start: float | None = None
    end = 0.0
    for frame in _decode(container, stream, words):
        ticks = frame.pts if frame.pts is not None else frame.dts
        # Where a container gives a frame no time at all, it follows the one before.
        time = end + (start or 0) if ticks is None else seconds(stream, ticks)
        start = time if start is None else start
        duration = seconds(stream, frame.duration or 0) or interval
        end = time - start + duration
        yield max(0.0, time - start), end, frame


def _decode(container: InputContainer, stream: VideoStream, words: Words) -> Iterator[VideoFrame]:
    time = 0.0
    decoded = False
    for packet in demux(container, stream):
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is not None:
            time = seconds(stream, ticks - (stream.start_time or 0))
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            # A recording may begin in the middle of something; what follows must be whole.
            if not decoded:
                continue
            sentence = f"picture at {time:.2f} s can't be decoded: {error.strerror}"
            raise MediaError(words.after(sentence)) from error
        for frame in frames:
            decoded = True
            yield frame
