"""When somebody speaks in a media file, as a voice activity model hears it.

The model is Silero's, which lies inside the package `faster-whisper` (the `speech` extra); nothing is
downloaded. It is run here, and not through `faster-whisper`, which would need the whole sound in
memory: its state goes from one minute to the next, so that the cut does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._sound import SPEECH_RATE, Clock, speech_samples

_WINDOW = 512
_CONTEXT = 64
_WINDOWS_AT_ONCE = 1_875
"""A minute, which the model takes 40 MB for."""

_HYSTERESIS = 0.15
"""How far below the threshold a probability is before speech may be over."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech."""

    start: float
    """Seconds from the start of the file."""
    end: float
    probability: float
    """Mean of the model's probabilities of speech, 0 to 1."""


def model_file() -> Path:
    """Where the model lies; its name has its version.

    Raises:
        ModuleNotFoundError: faster-whisper is not installed, or has no such model any more.
    """
    package = find_spec("faster_whisper")
    folders = (package.submodule_search_locations if package else None) or ()
    for folder in folders:
        for file in sorted(Path(folder, "assets").glob("silero_vad*.onnx"), reverse=True):
            return file
    raise ModuleNotFoundError("no Silero model: install faster-whisper 1.2")


def detect(
    media: Media,
    *,
    threshold: float = 0.5,
    min_speech_seconds: float = 0.25,
    min_silence_seconds: float = 0.5,
    pad_seconds: float = 0.1,
    track: int = 0,
) -> list[Segment]:
    """The stretches of the file `media` in which somebody speaks, in order.

    Speech begins where its probability reaches `threshold`, and ends where it stays below for
    `min_silence_seconds`; `min_speech_seconds` or less of it are left out. `pad_seconds` are added on
    both sides, or half of the silence between two. `track` counts the audio tracks from 0.

    Takes a few MB for an hour. Raises `MediaError` if there is no such track, or a part of it can't
    be decoded.
    """
    clock = Clock(SPEECH_RATE)
    with closing(speech_samples(media, clock, track)) as pieces:
        probabilities, samples = _probabilities(pieces)
    found = _segments(
        probabilities,
        samples,
        threshold,
        min_speech_seconds * SPEECH_RATE,
        min_silence_seconds * SPEECH_RATE,
    )
    return [
        Segment(
            round(clock.time(start), 3),
            round(clock.time(end), 3),
            round(probability, 4),
        )
        for start, end, probability in _padded(found, samples, pad_seconds * SPEECH_RATE)
    ]


@lru_cache(maxsize=1)
def _model() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The caller has several videos in hand.
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        str(model_file()), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _probabilities(pieces: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """The probability of speech in each window, and the number of samples."""
    model = _model()
    state = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
    before = np.zeros(_CONTEXT, np.float32)
    found: list[np.ndarray] = []
    count = 0
    for block in _blocks(pieces):
        count += len(block)
        # The last window is filled up; where it is full, one of silence follows, as in Silero's own.
        last = len(block) < _WINDOWS_AT_ONCE * _WINDOW
        sound = np.concatenate([block, np.zeros(_WINDOW - len(block) % _WINDOW)]) if last else block
        windows = sound.astype(np.float32).reshape(-1, _WINDOW)
        contexts = np.vstack([before, windows[:-1, -_CONTEXT:]])
        output, state["h"], state["c"] = model.run(
            None, {"input": np.hstack([contexts, windows]), **state}
        )
        before = windows[-1, -_CONTEXT:]
        found.append(output.reshape(-1))
    return np.concatenate(found), count


def _blocks(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks of `_WINDOWS_AT_ONCE`, and one that is shorter, maybe empty, at the end."""
    size = _WINDOWS_AT_ONCE * _WINDOW
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        while count >= size:
            whole = np.concatenate(held)
            yield whole[:size]
            held, count = [whole[size:]], count - size
    yield np.concatenate(held)


def _segments(
    probabilities: np.ndarray, samples: int, threshold: float, min_speech: float, min_silence: float
) -> list[tuple[int, int, float]]:
    """First sample, last, and mean probability of each stretch, by Silero's rules."""
    low = max(threshold - _HYSTERESIS, 0.01)
    found: list[tuple[int, int]] = []
    start: int | None = None
    silent_since: int | None = None
    for window, probability in enumerate(probabilities.tolist()):
        position = window * _WINDOW
        if probability >= threshold:
            silent_since = None
            start = position if start is None else start
        elif probability < low and start is not None:
            silent_since = position if silent_since is None else silent_since
            if position - silent_since >= min_silence:
                found.append((start, silent_since))
                start = silent_since = None
    if start is not None:
        found.append((start, samples))
    return [
        (start, end, float(probabilities[start // _WINDOW : -(-end // _WINDOW)].mean()))
        for start, end in found
        if end - start > min_speech
    ]


def _padded(
    found: list[tuple[int, int, float]], samples: int, pad: float
) -> Iterator[tuple[float, float, float]]:
    """The same with `pad` samples more on both sides, as far as there are some."""
    for index, (start, end, probability) in enumerate(found):
        before = (start - found[index - 1][1]) / 2 if index else start
        following = index + 1 < len(found)
        after = (found[index + 1][0] - end) / 2 if following else samples - end
        yield start - min(pad, before), end + min(pad, after), probability
