"""How loud the sound of a media file is, as EBU R 128 measures it."""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.filter import Graph
from av.filter.context import FilterContext

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._sound import resampled
from dagster_metaxy.media.errors import MediaError

FLOOR = -70.0
"""LUFS of silence: EBU R 128 takes what is below for silence."""

_RATE = 48_000
_OVERSAMPLED = 4 * _RATE
_STEPS_PER_SECOND = 10
"""How often the filter tells what it has measured."""
_BLOCK_STEPS = 4
_SHORT_TERM_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Loudness:
    """The loudness of a sound."""

    integrated: float | None
    """LUFS of the whole, `FLOOR` for silence; None for less than 0.4 s, the shortest block that is
    measured."""
    loudness_range: float | None
    """LU between the quiet and the loud parts (LRA); None where `integrated` is."""
    true_peak: float | None
    """dBTP, oversampled 4 times; None where all samples are 0."""
    short_term: list[float]
    """LUFS of the 3 seconds that begin with second 0, 1, 2 ... of the sound, at least `FLOOR`;
    empty where there are no 3 seconds."""
    start: float
    """Seconds from the start of the file at which the sound begins, 0 for most files."""


def measure(media: Media, *, track: int = 0) -> Loudness:
    """Measure the loudness of an audio track of the file `media`; `track` counts from 0.

    All channels count, weighted as ITU-R BS.1770 has it, also those of surround sound; mono is one
    channel, 3 LU quieter than the same in two. Where the layout changes on the way, the sound is
    measured in the one that it begins with.

    Raises `MediaError` if there is no such track, a part of it can't be decoded, or its samples are
    no numbers.
    """
    pieces = resampled(media, format="dbl", layout=None, rate=_RATE, track=track)
    with closing(pieces), tempfile.TemporaryDirectory() as folder:
        start, first = next(pieces, (0.0, None))
        if first is None:
            raise MediaError("no decodable sound")
        told = Path(folder, "told")
        meter = _Meter(first, told)
        meter.push(first)
        for _, frame in pieces:
            meter.push(frame)
        meter.push(None)
        integrated, loudness_range, short_term = _read(told)
        peak = meter.peak
    return Loudness(
        integrated,
        loudness_range,
        round(20 * math.log10(peak), 3) if peak else None,
        short_term,
        start,
    )


class _Meter:
    """FFmpeg's filter, which writes what it measures to a file, and the peak beside it.

    PyAV before 18 gives no metadata of frames, and the filter tells peaks in steps of 0.001 only.
    """

    def __init__(self, like: AudioFrame, told: Path) -> None:
        self.peak = 0.0
        layout = like.layout.name
        self._resampler = AudioResampler("dbl", layout, _OVERSAMPLED)
        graph = Graph()
        self._source = graph.add_abuffer(
            format=like.format.name, layout=layout, sample_rate=like.sample_rate
        )
        self._sink = graph.add("abuffersink")
        chain: list[FilterContext] = [
            self._source,
            graph.add("ebur128", metadata="1"),
            graph.add("ametadata", mode="print", file=str(told), direct="1"),
            self._sink,
        ]
        graph.link_nodes(*chain).configure()
        self._graph = graph

    def push(self, frame: AudioFrame | None) -> None:
        """Measure a frame; None at the end."""
        self._source.push(frame)
        while True:
            try:
                self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
        for piece in self._resampler.resample(frame):
            peak = float(np.abs(piece.to_ndarray()).max(initial=0.0))
            if not math.isfinite(peak):
                raise MediaError("the sound has samples that are no finite numbers")
            self.peak = max(self.peak, peak)


def _read(told: Path) -> tuple[float | None, float | None, list[float]]:
    """What the filter told: integrated, range, and the short-term loudness second by second."""
    integrated = loudness_range = None
    short_term: list[float] = []
    steps = 0
    with told.open() as lines:
        for line in lines:
            name, _, value = line.partition("=")
            if name == "lavfi.r128.I":
                integrated = max(FLOOR, float(value))
            elif name == "lavfi.r128.LRA":
                loudness_range = float(value)
            elif name == "lavfi.r128.S":
                steps += 1
                second, rest = divmod(steps, _STEPS_PER_SECOND)
                if not rest and second >= _SHORT_TERM_SECONDS:
                    short_term.append(max(FLOOR, float(value)))
    if steps < _BLOCK_STEPS:
        return None, None, []
    return integrated, loudness_range, short_term
