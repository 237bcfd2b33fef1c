"""The built-in steps: a feature declaration around a pure function of `media/`, one file each.

Adding one is a file here and a line in `STEPS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Union, get_args

from pydantic import Field

from dagster_metaxy.steps._step import Step
from dagster_metaxy.steps.audio import AudioStep
from dagster_metaxy.steps.clips import ClipsStep
from dagster_metaxy.steps.contact_sheet import ContactSheetStep
from dagster_metaxy.steps.embeddings import EmbeddingsStep
from dagster_metaxy.steps.faces import FacesStep
from dagster_metaxy.steps.fingerprint import FingerprintStep
from dagster_metaxy.steps.frames import FramesStep
from dagster_metaxy.steps.loudness import LoudnessStep
from dagster_metaxy.steps.near_duplicates import NearDuplicatesStep
from dagster_metaxy.steps.ocr import OcrStep
from dagster_metaxy.steps.quality import QualityStep
from dagster_metaxy.steps.scenes import ScenesStep
from dagster_metaxy.steps.speech import SpeechStep
from dagster_metaxy.steps.thumbnail import ThumbnailStep
from dagster_metaxy.steps.transcript import TranscriptStep

_ALL: tuple[type[Step], ...] = (
    FramesStep,
    AudioStep,
    LoudnessStep,
    SpeechStep,
    QualityStep,
    ScenesStep,
    TranscriptStep,
    ThumbnailStep,
    ContactSheetStep,
    FingerprintStep,
    NearDuplicatesStep,
    FacesStep,
    EmbeddingsStep,
    OcrStep,
    ClipsStep,
)

STEPS: Mapping[str, type[Step]] = {
    get_args(step.model_fields["type"].annotation)[0]: step for step in _ALL
}

if TYPE_CHECKING:
    AnyStep = Step
else:
    AnyStep = Annotated[Union[_ALL], Field(discriminator="type")]  # noqa: UP007
