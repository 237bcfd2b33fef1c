"""What is said in a media file, as a model of speech recognition writes it down.

Any model will do that is a `Model`: it takes sound, and gives times and text. That of the package
`faster-whisper` (the `transcript` extra) is `whisper`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._sound import SPEECH_RATE, Clock, speech_samples

_PIECE_SECONDS = 120
"""What a model gets at a time: the more, the more memory its spectrum takes."""
_SEARCH_SECONDS = 30
_QUIET_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a segment."""

    start: float
    """Seconds."""
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Something that is said."""

    start: float
    """Seconds from the start of the file; of the sound, where a model gives it."""
    end: float
    text: str
    probability: float | None = None
    """How sure the model is, 0 to 1, if it tells."""
    words: tuple[Word, ...] | None = None
    """If the model gives them."""


Model: TypeAlias = Callable[
    [np.ndarray, str | None], Iterable["Segment | tuple[float, float, str]"]
]
"""Called with one channel of float32 samples, 16,000 a second, at most two minutes of them, and with
the language as an ISO 639-1 code, or None if it is to find out. Gives `Segment`s, or tuples of start,
end and text, with times in seconds from the first sample."""


def transcribe(
    media: Media, model: Model, *, language: str | None = None, track: int = 0
) -> list[Segment]:
    """What is said in the file `media`, in order.

    Sound of more than two minutes is given to the model in pieces, cut where it is quietest in the
    last half minute. `language` is an ISO 639-1 code, None to have the model find out, piece by
    piece. `track` counts the audio tracks from 0.

    Raises `MediaError` if there is no such track, or a part of it can't be decoded.
    """
    clock = Clock(SPEECH_RATE)
    found: list[Segment] = []
    with closing(speech_samples(media, clock, track)) as samples:
        for position, piece in _pieces(samples):
            for said in model(piece, language):
                segment = said if isinstance(said, Segment) else Segment(*said)
                found.append(_placed(segment, position, clock))
    return found


def _placed(segment: Segment, position: int, clock: Clock) -> Segment:
    """The segment with times from the start of the file."""

    def time(seconds: float) -> float:
        return round(clock.time(position + float(seconds) * SPEECH_RATE), 3)

    words = segment.words and tuple(
        Word(time(word.start), time(word.end), word.text) for word in segment.words
    )
    return Segment(
        time(segment.start), time(segment.end), segment.text.strip(), segment.probability, words
    )


def _pieces(samples: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces for the model, each with the position of its first sample."""
    size = _PIECE_SECONDS * SPEECH_RATE
    held: list[np.ndarray] = []
    position = count = 0
    for part in samples:
        held.append(part)
        count += len(part)
        while count > size:
            sound = np.concatenate(held)
            cut = _quietest(sound[:size])
            yield position, sound[:cut]
            position += cut
            held, count = [sound[cut:]], len(sound) - cut
    if count:
        yield position, np.concatenate(held)


def _quietest(sound: np.ndarray) -> int:
    """The middle of the quietest moment in the last half minute."""
    length = int(_QUIET_SECONDS * SPEECH_RATE)
    begin = max(0, len(sound) - _SEARCH_SECONDS * SPEECH_RATE)
    moments = (len(sound) - begin) // length
    energy = np.square(sound[begin : begin + moments * length].reshape(moments, length)).sum(axis=1)
    return begin + int(energy.argmin()) * length + length // 2


def find_whisper(name: str) -> Path:
    """The folder of a model for faster-whisper, on this machine.

    Args:
        name: A folder; or a name that faster-whisper knows (`small`, `tiny.en`), or the
            `owner/name` of a model on the Hugging Face Hub, which was downloaded before.

    Raises:
        FileNotFoundError: It is not there, with what to do.
    """
    if (folder := Path(name).expanduser()).is_dir():
        # Without its tokenizer, faster-whisper would download one.
        for file in ("model.bin", "tokenizer.json"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} holds no model for faster-whisper: no {file}")
        return folder
    from faster_whisper import download_model

    try:
        return Path(download_model(name, local_files_only=True))
    except ValueError as error:  # of a name that it does not know
        raise FileNotFoundError(
            f"there is no folder {name!r}, and no such model: {error}"
        ) from None
    except Exception:
        raise FileNotFoundError(
            f"the model {name!r} is not on this machine: download it with"
            f" `python -c \"from faster_whisper import download_model; download_model('{name}')\"`,"
            " or give the folder where it lies"
        ) from None


def whisper(
    folder: Path | str, *, beam_size: int = 5, vad_filter: bool = True, words: bool = False
) -> Model:
    """A Whisper model, run by faster-whisper on the processor with weights of 8 bits.

    Args:
        folder: Of the model, as `find_whisper` gives it.
        beam_size: How many guesses are followed at a time; 1 is fastest.
        vad_filter: Whether what is no speech is left out beforehand, which prevents invented text.
        words: Whether the words' times are wanted; it takes longer.
    """
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)

    def run(sound: np.ndarray, language: str | None) -> Iterator[Segment]:
        segments, _ = model.transcribe(
            sound,
            language=language,
            beam_size=beam_size,
            vad_filter=vad_filter,
            word_timestamps=words,
        )
        return map(_of_whisper, segments)

    return run


def _of_whisper(said: Any) -> Segment:
    words = said.words and tuple(
        Word(word.start, word.end, word.word.strip()) for word in said.words
    )
    return Segment(said.start, said.end, said.text, round(math.exp(said.avg_logprob), 4), words)
