"""The step `transcript`: what is said in each video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.media.models import ModelError
from dagster_metaxy.report.previews import Timeline, Transcript
from dagster_metaxy.steps._step import Step, of_videos, versioned

if TYPE_CHECKING:
    from dagster_metaxy.media.transcript import Model


class TranscriptStep(Step):
    """What is said, by a model of speech recognition; one sample per segment."""

    previews = (Transcript("text"), Timeline())

    extra: ClassVar[str] = "transcript"
    modules: ClassVar[tuple[str, ...]] = ("faster_whisper",)
    # Models take all processors by themselves, and many are not made for two callers at once.
    workers: ClassVar[int | None] = 1

    type: Literal["transcript"] = Field(
        description="What is said, by a model of speech recognition; one sample per segment.",
        examples=["transcript"],
    )
    model: str = Field(
        description="For faster-whisper: a folder, absolute or below the project's root, or the name"
        " of a model that was downloaded before (`small`, or `owner/name`). Or `package.module.name` of a function or class of one's own,"
        " called with mono sound (numpy, float32, 16 kHz, at most two minutes) and the language; it"
        " gives (start, end, text), with times in seconds. A class is made once per process.",
        examples=["small", "/models/whisper-small", "my_project.models.Recognizer"],
    )
    language: str | None = Field(
        default=None,
        pattern="^[a-z]{2,3}$",
        description="ISO 639 code of the language; the model finds out if left out.",
        examples=["en"],
    )
    beam_size: int = Field(
        default=5,
        ge=1,
        description="How many guesses faster-whisper follows at a time; 1 is fastest.",
        examples=[1],
    )
    vad_filter: bool = Field(
        default=True,
        description="Whether faster-whisper leaves out what is no speech beforehand, which prevents"
        " invented text.",
        examples=[False],
    )
    words: bool = Field(
        default=False,
        description="Whether faster-whisper tells the times of words, which takes longer.",
        examples=[True],
    )
    track: int = Field(
        default=0,
        ge=0,
        description="Index of the audio track, 0 for the first. A video with fewer is a failed sample.",
        examples=[1],
    )

    def below(self, project_root: Path) -> Self:
        """The same step, whose model is found wherever the process runs."""
        folder = project_root / Path(self.model).expanduser()
        return self.model_copy(update={"model": str(folder)}) if folder.is_dir() else self

    def check_installed(self) -> None:
        """Refuse to go on without the model, or what runs it.

        Raises:
            MissingExtra: With the command that installs what runs it.
            ModelError: The model is not there; with what to do.
        """
        try:
            if _is_own(self.model):
                _own(self.model)
            else:
                from dagster_metaxy.media.transcript import find_whisper

                super().check_installed()
                find_whisper(self.model)
        except FileNotFoundError as error:
            raise ModelError(str(error)) from None

    def feature(self, prefix: str) -> Feature:
        """The sound is what it depends on, and the model."""
        named = self.model_copy(update={"model": self._model_version()})
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id", "segment_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "segment_index": Column("int", description="0 for the first segment."),
                "start": Column("float", description="Seconds from the start of the video."),
                "end": Column("float", description="Seconds from the start of the video."),
                "text": Column("str", description="What is said."),
                "probability": Column(
                    "float",
                    nullable=True,
                    description="How sure the model is, 0 to 1; null where it does not tell.",
                ),
                "words": Column(
                    "list[str]", nullable=True, description="The words, if the model gives them."
                ),
                "word_starts": Column(
                    "list[float]", nullable=True, description="When each word starts, as `start`."
                ),
                "word_ends": Column(
                    "list[float]", nullable=True, description="When each word ends, as `end`."
                ),
            },
            fields=(versioned("audio", named.code_version("1"), prefix, "audio"),),
            deps=(of_videos(prefix, "audio", lineage=expansion(["video_id"])),),
            description=f"What is said in each video, by {Path(self.model).name}.",
        )

    def _model_version(self) -> str:
        """The model, wherever it lies on this machine."""
        weights = Path(self.model).expanduser() / "model.bin"
        if weights.is_file():
            return f"{weights.parent.resolve().name},{weights.stat().st_size}"
        return self.model

    def compute(self, sample: Sample, context: ComputeContext) -> Iterator[Mapping[str, Any]]:
        """The rows of a video: none where nothing is said."""
        from dagster_metaxy.media import transcript

        model = _loaded(self.model, self.beam_size, self.vad_filter, self.words)
        transcribe = partial(
            transcript.transcribe, model=model, language=self.language, track=self.track
        )
        found, _ = locations.read(sample["path"], transcribe, self._cache)
        for index, segment in enumerate(found):
            words = segment.words
            yield {
                "segment_index": index,
                "start": segment.start,
                "end": segment.end,
                "text": segment.text,
                "probability": segment.probability,
                "words": words and [word.text for word in words],
                "word_starts": words and [word.start for word in words],
                "word_ends": words and [word.end for word in words],
            }


def _is_own(model: str) -> bool:
    """Whether it is a Python name; those of Whisper's models have no dot but in `.en`."""
    name = r"[A-Za-z_]\w*"
    return not model.endswith(".en") and bool(re.fullmatch(rf"{name}(\.{name})+", model))


def _own(model: str) -> Any:
    """What a Python name says.

    Raises:
        FileNotFoundError: There is none.
    """
    module, _, name = model.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise FileNotFoundError(f"the model {model!r} cannot be imported: {error}") from error
    if not callable(found):
        raise FileNotFoundError(f"{module} has no function or class {name!r}")
    return found


@lru_cache(maxsize=1)
def _loaded(model: str, beam_size: int, vad_filter: bool, words: bool) -> Model:
    """The model, once per process."""
    if _is_own(model):
        own = _own(model)
        return own() if isinstance(own, type) else own
    from dagster_metaxy.media.transcript import find_whisper, whisper

    return whisper(find_whisper(model), beam_size=beam_size, vad_filter=vad_filter, words=words)
