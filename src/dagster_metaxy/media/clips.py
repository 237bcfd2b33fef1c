"""Pieces of a video as MP4 files: copied where they lie between keyframes, encoded anew elsewhere.

The file is read twice: once for where its keyframes are, without decoding, and once for all clips,
of which only those are decoded that must be encoded.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dagster_metaxy.media._container import (
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
from dagster_metaxy.media._mp4 import Copied, EncodedPicture, EncodedSound, Output
from dagster_metaxy.media._payload import unit_types
from dagster_metaxy.media._sound import Decoder
from dagster_metaxy.media.errors import MediaError, Words, reading

_ROUNDING = 0.0006
"""Seconds by which Matroska moves times."""

_NEAR = 0.1
"""A cut within so many seconds of the start of a frame is made there, so that no frame is halved."""

_COPIED_PICTURE = {"h264", "hevc", "av1", "vp9"}
_COPIED_SOUND = {"aac", "ac3", "eac3"}
"""Codecs that MP4 players know, and whose packets can begin a file. The sound of others becomes AAC."""

_SOUND_BEFORE = 2
"""Packets of sound that are copied before a clip begins, since the first ones sound wrong alone; the
file says that they are not to be heard."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE}


@dataclass(frozen=True, slots=True)
class Clip:
    """One piece of a video."""

    index: int
    """From 0."""
    start: float
    """Seconds from the start of the picture; of the sound, where there is no picture."""
    end: float
    file: str
    """Name inside the directory."""
    size: int
    """Bytes of the file."""
    copied: bool
    """Whether the picture is as it was coded, not encoded anew; without one, the sound."""


Bounds = Callable[[float], Sequence[float]]
"""Gives, by the seconds of a video, where its first clip begins, where each next one does, and where
the last one ends."""


def evenly(duration: float, seconds: float = 10.0, min_seconds: float = 1.0) -> list[float]:
    """Bounds of clips of the same length.

    Args:
        duration: Seconds of the video.
        seconds: Of each clip.
        min_seconds: A last clip that would be shorter joins the one before.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds}")
    # A millionth less: 20.000001 s are two clips of 10 s.
    bounds = [index * seconds for index in range(max(1, ceil(duration / seconds - 1e-6)))]
    if len(bounds) > 1 and duration - bounds[-1] < min_seconds:
        bounds.pop()
    return [*bounds, duration]


def cut(
    media: Media,
    directory: Path | str,
    bounds: Bounds = evenly,
    *,
    tolerance_seconds: float = 0.0,
    crf: int = 20,
    preset: str = "veryfast",
) -> list[Clip]:
    """Cut `media` into MP4 files of H.264 (or what the picture was) and AAC (or what the sound was).

    A clip is copied if it begins and ends at keyframes on which no earlier picture depends; others are
    encoded as H.264, exactly from `bounds` to `bounds`: where a frame begins within a tenth of a
    second of a bound, there, else within the frame, which both clips then show. All audio tracks are
    kept, copied or, where MP4 players do not know the codec, as AAC; copied sound may last a packet
    longer. Picture and sound begin at 0 and stay in step, and what is noted of rotation, pixel shape
    and colours is kept. What sounds before the first picture, subtitles and cover art are left out.

    Args:
        media: A file with picture or sound.
        directory: It must exist; the files in it are `clip_000000.mp4`, `clip_000001.mp4`, ...
        bounds: Where to cut.
        tolerance_seconds: How far a cut may be moved to a keyframe, so that nothing need be encoded.
        crf: Of what is encoded: 0 (as it was) to 51 (worst).
        preset: Of x264: slower ones make smaller files.

    Raises `MediaError` if there is neither picture nor sound, or a part that is to be encoded can't be
    decoded; files written until then stay.
    """
    survey = _survey(media)
    clips = _planned(survey, bounds(survey.duration), tolerance_seconds)
    if not isinstance(media, str) and hasattr(media, "seek"):
        media.seek(0)  # type: ignore[union-attr]
    writers: dict[int, _Writer] = {}
    made: list[Clip] = []
    with closing(_pieces(media, survey, clips)) as pieces:
        try:
            for piece in pieces:
                if piece.stream is None:
                    for index in [i for i in writers if clips[i].end <= piece.time]:
                        made += writers.pop(index).finish()
                    continue
                if piece.clip not in writers:
                    path = Path(directory, f"clip_{piece.clip:06d}.mp4")
                    writers[piece.clip] = _Writer(
                        clips[piece.clip], path, survey, piece.streams, crf, preset
                    )
                writers[piece.clip].add(piece)
            for index in [*writers]:
                made += writers.pop(index).finish()
        finally:
            for writer in writers.values():
                writer.close()
    if not made:
        raise MediaError("neither picture nor sound can be decoded")
    return sorted(made, key=lambda clip: clip.index)


@dataclass
class _Survey:
    """What is known of a file after its packets were seen once.

    Times are in seconds from the start of the picture, or of the sound where there is no picture.
    """

    origin: float
    """That start, as the file counts time."""
    duration: float
    """Until the end of picture and sound."""
    picture: int | None
    """The index of its stream."""
    picture_end: float
    frames: np.ndarray
    """When each frame begins, increasing."""
    keyframes: dict[int, float]
    """Times of those keyframes with which a file can begin and before which one can end, by the
    number of their packet."""
    packets: int
    """Of the picture."""
    has_times: bool
    """Whether packets say when their frames are shown; otherwise frames are counted."""
    look: VideoFrame | None
    """The first frame."""


def _survey(media: Media) -> _Survey:
    with reading() as words, open_media(media) as container:
        picture = next(iter(pictures(container)), None)
        seen = None if picture is None else _Seen(picture)
        sounds = [*container.streams.audio]
        first: float | None = None
        end = 0.0
        streams = [*([picture] if picture else []), *sounds]
        if not streams:
            raise MediaError(words.after("neither picture nor sound"))
        for packet in demux(container, *streams):
            ticks = packet.pts if packet.pts is not None else packet.dts
            if not packet.size:
                continue
            if seen is not None and packet.stream_index == seen.stream.index:
                seen.add(packet)
                continue
            if ticks is None:
                continue
            stream = packet.stream
            time = seconds(stream, ticks)
            if first is not None:
                check_gap(end, time + seconds(stream, packet.duration or 0))
            first = time if first is None else min(first, time)
            end = max(end, time + seconds(stream, packet.duration or 0))
        if seen is not None and (seen.is_cover or not seen.times):
            seen = None
        if seen is None and first is None:
            raise MediaError(words.after("neither picture nor sound"))
        if seen is None:
            # What encoders put before the sound, and nobody hears, is before 0.
            origin = max(0.0, first or 0.0)
            return _Survey(origin, end - origin, None, 0.0, np.empty(0), {}, 0, True, None)
        stream = seen.stream
        if seen.look is None:
            raise MediaError(words.after("no decodable picture"))
        start = seen.start
        origin = seconds(stream, start)
        shown = np.unique(np.array(seen.times, np.int64))
        frames = (shown[shown >= start] - start) * float(stream.time_base or 1)
        if first is not None:
            check_gap(seconds(stream, seen.end), first)
        picture_end = max(float(frames[-1]) + 1e-3, seconds(stream, seen.end - start))
        return _Survey(
            origin,
            max(picture_end, end - origin),
            stream.index,
            picture_end,
            frames,
            {n: seconds(stream, t - start) for n, t in seen.entries.items()},
            len(seen.times),
            seen.has_times,
            seen.look,
        )


class _Seen:
    """What the packets of the picture tell."""

    PATIENCE = 100
    """Packets to decode at most in search of a first frame."""

    def __init__(self, stream: VideoStream) -> None:
        self.stream = stream
        self.times = array("q")
        self.end = 0
        # AVI keeps no times of showing.
        self.has_times = stream.container.format.name != "avi"
        self.look: VideoFrame | None = None
        self._codec = codec_name(stream)
        self._keyframes: dict[int, int] = {}
        self._first_key: int | None = None
        self._latest: int | None = None
        decoder(stream)

    def add(self, packet: Packet) -> None:
        number = len(self.times)
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            ticks = self.end
        self.times.append(ticks)
        length = packet.duration if self.has_times and packet.duration else 0
        if not length and (rate := self.stream.guessed_rate):
            length = round(1 / (rate * (self.stream.time_base or 1)))
        if number:
            check_gap(seconds(self.stream, self.end), seconds(self.stream, ticks + length))
            self.end = max(self.end, ticks + length)
        else:
            self.end = ticks + length
        if packet.pts is None:
            self.has_times = False
        if packet.is_keyframe:
            self._first_key = ticks if self._first_key is None else self._first_key
            if self._is_entry(packet) and (self._latest is None or ticks > self._latest):
                self._keyframes[number] = ticks
        elif self._keyframes:
            # A frame that is shown before the keyframe it comes after depends on earlier ones, too.
            last = next(reversed(self._keyframes))
            if ticks < self._keyframes[last]:
                del self._keyframes[last]
        self._latest = ticks if self._latest is None else max(self._latest, ticks)
        if self.look is None and number < self.PATIENCE:
            with suppress(av.error.FFmpegError):
                self.look = next(iter(packet.decode()), None)

    def _is_entry(self, packet: Packet) -> bool:
        """Whether decoders can begin there. FFmpeg also calls those keyframes from which on, after a
        while, the picture is right."""
        if self._codec not in ("h264", "hevc"):
            return True
        types = unit_types(
            self._codec, self.stream.codec_context.extradata or b"", memoryview(packet)
        )
        return bool(types & {5} if self._codec == "h264" else types & {*range(16, 22)})

    @property
    def start(self) -> int:
        """When the first frame is shown that can be decoded."""
        return min(self.times) if self._first_key is None else self._first_key

    @property
    def is_cover(self) -> bool:
        return self._codec in STILLS and len(self.times) == 1

    @property
    def entries(self) -> dict[int, int]:
        """The keyframes at which packets can be divided: none where these can't be copied."""
        return self._keyframes if self.has_times and self._codec in _COPIED_PICTURE else {}


@dataclass(frozen=True)
class _Planned:
    """What one clip is made of."""

    index: int
    start: float
    end: float
    copied: range | None
    """The numbers of the packets of the picture that are copied; None if it is encoded."""
    decoded: range
    """The numbers of those that are decoded."""


def _planned(survey: _Survey, bounds: Sequence[float], tolerance: float) -> list[_Planned]:
    bounds = _moved(survey, bounds, tolerance)
    numbers = np.array([*survey.keyframes], np.int64)
    times = np.array([*survey.keyframes.values()])
    clips = []
    for index, (start, end) in enumerate(pairwise(bounds)):
        if start >= survey.picture_end - _ROUNDING:
            clips.append(_Planned(index, start, end, range(0), range(0)))
            continue
        before = int(np.searchsorted(times, start + _ROUNDING, "right")) - 1
        after = int(np.searchsorted(times, end - _ROUNDING))
        first = int(numbers[before]) if before >= 0 else 0
        stop = int(numbers[after]) if after < len(numbers) else survey.packets
        begins = before >= 0 and abs(times[before] - start) <= _ROUNDING
        ends = (
            abs(times[after] - end) <= _ROUNDING
            if after < len(numbers)
            else end >= survey.picture_end - _ROUNDING
        )
        whole = range(first, stop)
        if begins and ends:
            clips.append(_Planned(index, start, end, whole, range(0)))
        else:
            clips.append(_Planned(index, start, end, None, whole))
    return clips


def _moved(survey: _Survey, bounds: Sequence[float], tolerance: float) -> list[float]:
    """Bounds at the start of a keyframe or frame where one is near, in their order."""
    keyframes = np.array([*survey.keyframes.values()])
    moved: list[float] = []
    for index, bound in enumerate(bounds):
        candidates = [bound]
        if index < len(bounds) - 1 or bound < survey.picture_end:
            candidates = [
                *_nearest(keyframes, bound, max(tolerance, _ROUNDING)),
                *_nearest(survey.frames, bound, _NEAR),
                bound,
            ]
        following = bounds[index + 1] if index + 1 < len(bounds) else float("inf")
        for candidate in candidates:
            if (not moved or candidate > moved[-1] + _ROUNDING) and candidate < following:
                moved.append(candidate)
                break
    return moved


def _nearest(times: np.ndarray, time: float, within: float) -> list[float]:
    if not len(times):
        return []
    at = int(np.searchsorted(times, time))
    near = min(times[max(0, at - 1) : at + 1], key=lambda t: abs(t - time))
    return [float(near)] if abs(near - time) <= within else []


@dataclass(frozen=True)
class _Piece:
    """What one clip gets: a packet to copy, or a decoded frame; or, with no stream, that all before a
    time has been given."""

    time: float
    """Seconds from the start of the picture."""
    clip: int = 0
    stream: int | None = None
    what: Any = None
    streams: Sequence[Any] = ()
    """The streams that are read."""


def _pieces(media: Media, survey: _Survey, clips: Sequence[_Planned]) -> Generator[_Piece]:
    """All pieces of all clips, in about their order in the file."""
    with reading() as words, open_media(media) as container:
        tracks: dict[int, _PictureTrack | _SoundTrack] = {}
        streams: list[Any] = []
        if survey.picture is not None:
            picture = container.streams[survey.picture]
            assert isinstance(picture, VideoStream)
            tracks[picture.index] = _PictureTrack(picture, survey, clips, words)
            streams.append(picture)
        for sound in container.streams.audio:
            tracks[sound.index] = _SoundTrack(sound, survey, clips, words)
            streams.append(sound)
        told = 0
        for packet in demux(container, *streams):
            if not packet.size:
                continue
            track = tracks[packet.stream_index]
            for clip, time, what in track.take(packet):
                yield _Piece(time, clip, packet.stream_index, what, streams)
            done = min(track.done for track in tracks.values())
            if told < len(clips) and done >= clips[told].end:
                told = next((i for i in range(told, len(clips)) if clips[i].end > done), len(clips))
                yield _Piece(done)
        for index, track in tracks.items():
            for clip, time, what in track.rest():
                yield _Piece(time, clip, index, what, streams)


_Given = tuple[int, float, Any]


class _PictureTrack:
    """Gives packets and frames of the picture to clips."""

    def __init__(
        self, stream: VideoStream, survey: _Survey, clips: Sequence[_Planned], words: Words
    ) -> None:
        self.done = 0.0
        """Seconds before which all is given."""
        self._stream = stream
        self._origin = survey.origin
        self._end = survey.picture_end
        self._counted = None if survey.has_times else iter(survey.frames.tolist())
        self._copied = [clip for clip in clips if clip.copied]
        self._encoded = [clip for clip in clips if clip.copied is None]
        self._ranges = _joined(clip.decoded for clip in self._encoded)
        self._words = words
        self._number = 0
        self._shown: VideoFrame | None = None
        self._begun: set[int] = set()
        self._decoded = False
        decoder(stream)

    def _time(self, ticks: int) -> float:
        return seconds(self._stream, ticks) - self._origin

    def take(self, packet: Packet) -> Iterator[_Given]:
        """What clips get of a packet."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        time = 0.0 if ticks is None else self._time(ticks)
        number = self._number
        self._number += 1
        while self._ranges and number >= self._ranges[0].stop:
            yield from self._drained()
            self._ranges.pop(0)
        if self._ranges and number in self._ranges[0]:
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                # A recording may begin in the middle of something.
                if self._decoded:
                    sentence = f"picture at {time:.2f} s can't be decoded"
                    raise MediaError(self._words.after(f"{sentence}: {error.strerror}")) from error
                frames = []
            for frame in frames:
                yield from self._frame(frame)
        while self._copied and number >= self._copied[0].copied.stop:  # type: ignore[union-attr]
            self.done = max(self.done, self._copied.pop(0).end)
        if self._copied and number in self._copied[0].copied:  # type: ignore[operator]
            yield self._copied[0].index, time, packet

    def rest(self) -> Iterator[_Given]:
        """What they get at the end of the file."""
        if self._ranges:
            yield from self._drained()

    def _drained(self) -> Iterator[_Given]:
        for frame in self._stream.codec_context.decode(None):
            yield from self._frame(frame)
        self._stream.codec_context.flush_buffers()
        if self._shown is not None:
            # On screen until the end, where clips begin later.
            yield from self._held(min(self._end, self._reach))
        self._shown = None

    @property
    def _reach(self) -> float:
        """Until when the frames of this range last."""
        inside = [c.end for c in self._encoded if c.decoded.start < self._ranges[0].stop]
        return max(inside, default=0.0)

    def _held(self, until: float) -> Iterator[_Given]:
        """The frame on screen, for clips that begin while it is there."""
        for clip in self._encoded:
            if clip.start >= until - _ROUNDING:
                break
            if clip.index not in self._begun:
                self._begun.add(clip.index)
                yield clip.index, clip.start, self._shown

    def _frame(self, frame: VideoFrame) -> Iterator[_Given]:
        ticks = frame.pts if frame.pts is not None else frame.dts
        if self._counted is not None:
            time = next(self._counted, self._end)
        elif ticks is not None:
            time = self._time(ticks)
        else:
            return
        if self._shown is not None:
            yield from self._held(time)
        self._shown = frame
        self._decoded = True
        while self._encoded and self._encoded[0].end <= time + _ROUNDING:
            self.done = max(self.done, self._encoded.pop(0).end)
        for clip in self._encoded[:1]:
            if clip.start - _ROUNDING <= time:
                self._begun.add(clip.index)
                yield clip.index, time, frame


def _joined(ranges: Iterator[range]) -> list[range]:
    """Ranges in their order, of which none overlap."""
    joined: list[range] = []
    for one in ranges:
        if joined and one.start < joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, one.stop))
        else:
            joined.append(one)
    return joined


class _SoundTrack:
    """Gives packets or frames of an audio track to clips."""

    def __init__(
        self, stream: AudioStream, survey: _Survey, clips: Sequence[_Planned], words: Words
    ) -> None:
        self.done = 0.0
        self._stream = stream
        self._origin = survey.origin
        self._clips = [*clips]
        self._decoder = None if _is_copied(stream) else Decoder(stream, words)

    def take(self, packet: Packet) -> Iterator[_Given]:
        """What clips get of a packet."""
        if self._decoder is not None:
            for frame in self._decoder.frames(packet):
                yield from self._frame(frame)
            return
        if packet.pts is None:
            return
        time = seconds(self._stream, packet.pts) - self._origin
        length = seconds(self._stream, packet.duration or 0)
        for clip in self._given(time, time + length, _SOUND_BEFORE * length):
            yield clip.index, time, packet

    def rest(self) -> Iterator[_Given]:
        """What they get at the end of the file."""
        return iter(())

    def _frame(self, frame: AudioFrame) -> Iterator[_Given]:
        if frame.time is None:
            return
        time = frame.time - self._origin
        for clip in self._given(time, time + frame.samples / frame.sample_rate, 0.0):
            yield clip.index, time, frame

    def _given(self, start: float, end: float, before: float) -> Iterator[_Planned]:
        """The clips that a piece of sound belongs to."""
        while self._clips and self._clips[0].end <= start:
            self.done = max(self.done, self._clips.pop(0).end)
        for clip in self._clips:
            if end + before <= clip.start:
                break
            yield clip


def _is_copied(stream: Stream) -> bool:
    return codec_name(stream) in _COPIED_SOUND and stream.codec_context.name != "aac_latm"


class _Writer:
    """Writes one clip."""

    def __init__(
        self,
        clip: _Planned,
        path: Path,
        survey: _Survey,
        streams: Sequence[Any],
        crf: int,
        preset: str,
    ) -> None:
        self._clip = clip
        self._path = path
        self._outputs: dict[int, Output] = {}
        self._written = False
        # Its header in front: browsers show it while they load it.
        with _writing(clip):
            self._file = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        try:
            with _writing(clip):
                for stream in streams:
                    output = self._output(stream, survey, crf, preset)
                    if output is not None:
                        self._outputs[stream.index] = output
        except BaseException:
            self.close()
            raise

    def _output(self, stream: Any, survey: _Survey, crf: int, preset: str) -> Output | None:
        clip = self._clip
        if stream.type == "video":
            if clip.start >= survey.picture_end - _ROUNDING:
                return None
            if clip.copied is None and survey.look is not None:
                return EncodedPicture(
                    self._file,
                    stream,
                    survey.look,
                    clip.start,
                    min(clip.end, survey.picture_end),
                    crf=crf,
                    preset=preset,
                )
        elif not _is_copied(stream):
            return EncodedSound(self._file, stream, clip.start, clip.end)
        return Copied(self._file, stream, clip.start + survey.origin)

    def add(self, piece: _Piece) -> None:
        """Write a piece."""
        with _writing(self._clip):
            for packet in self._outputs[piece.stream or 0].add(piece.what, piece.time):
                self._file.mux(packet)
                self._written = True

    def finish(self) -> list[Clip]:
        """Complete the file; none where nothing is seen or heard in it."""
        clip = self._clip
        with _writing(clip):
            try:
                for output in self._outputs.values():
                    for packet in output.rest():
                        self._file.mux(packet)
                        self._written = True
            finally:
                self._file.close()
        if not self._written:
            self._path.unlink(missing_ok=True)
            return []
        picture = next((o for o in self._outputs.values() if o.is_picture), None)
        copied = all(o.is_copy for o in ([picture] if picture else self._outputs.values()))
        return [
            Clip(
                clip.index,
                round(clip.start, 6),
                round(clip.end, 6),
                self._path.name,
                self._path.stat().st_size,
                copied,
            )
        ]

    def close(self) -> None:
        """Leave it, unfinished."""
        with suppress(av.error.FFmpegError):
            self._file.close()


class _writing:
    """Turns what goes wrong in an encoder or muxer into `MediaError`: what it got is no good. A full
    disk is no matter of the file."""

    def __init__(self, clip: _Planned) -> None:
        self._clip = clip

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, av.error.FFmpegError) and error.errno not in _DISK:
            raise MediaError(
                f"the clip from {self._clip.start:.2f} s can't be written:"
                f" {error.strerror or error}"
            ) from error
