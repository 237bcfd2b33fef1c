"""The features that Metaxy's documentation declares: in Python, in our YAML, with computes and samples.

What is declared is what stands in its examples and guides; samples and computes are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import metaxy as mx
from pydantic import Field

Sample = Mapping[str, Any]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Example:
    """A feature graph, declared twice.

    Attributes:
        declare: Declares all features in Python; takes the code version that is bumped.
        yaml: Declares all but the roots, `VERSION` being that code version; computes are those of
            this module.
        samples: Rows of the roots, by feature key, with their provenance by field.
        changed: Those of them that change.
    """

    declare: Callable[[str], None]
    yaml: str
    samples: dict[str, Rows]
    changed: dict[str, Rows]


def _row(provenance: dict[str, str], **columns: Any) -> dict[str, Any]:
    return {**columns, "metaxy_provenance_by_field": provenance}


def nothing(sample):  # type: ignore[no-untyped-def]
    """A feature without columns of its own."""
    return {}


# The quickstart


def _quickstart(version: str) -> None:
    class Video(mx.BaseFeature, spec=mx.FeatureSpec(key="video", id_columns=["id"])):
        id: str = Field(description="Names the video")
        raw_video_path: str
        path: str

    class Audio(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="audio",
            deps=[Video],
            id_columns=["id"],
            fields=[mx.FieldSpec(key="default", code_version=version)],
        ),
    ):
        id: str = Field(description="Names the soundtrack")
        path: str


def soundtrack(sample: Sample) -> dict[str, Any]:
    return {"path": sample["path"].replace(".mp4", ".wav")}


QUICKSTART = Example(
    _quickstart,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: audio
      deps: [video]
      id_columns: [id]
      fields: [{key: default, code_version: VERSION}]
      columns: {path: str}
      compute: metaxy_examples.soundtrack
    """,
    {
        "video": [
            _row({"default": f"v{n}"}, id=n, raw_video_path=f"raw/{n}", path=f"{n}.mp4")
            for n in "ab"
        ]
    },
    {"video": [_row({"default": "other"}, id="a", raw_video_path="raw/a", path="a2.mp4")]},
)


# The introduction


def _intro(version: str) -> None:
    class Video(mx.BaseFeature, spec=mx.FeatureSpec(key="video", id_columns=["video_id"])):
        video_id: str
        path: str

    def computed(key: str, dep: type[mx.BaseFeature], field: str, version: str) -> mx.FeatureSpec:
        return mx.FeatureSpec(
            key=key,
            deps=[dep],
            id_columns=["video_id"],
            fields=[mx.FieldSpec(key=field, code_version=version)],
        )

    class FaceDetection(mx.BaseFeature, spec=computed("video/faces", Video, "faces", "1")):
        video_id: str
        num_faces: int
        face_embeddings_path: str

    class AudioTranscription(
        mx.BaseFeature, spec=computed("video/transcription", Video, "transcript", version)
    ):
        video_id: str
        transcript: str
        language: str

    class Summary(
        mx.BaseFeature, spec=computed("video/summary", AudioTranscription, "summary", "1")
    ):
        video_id: str
        summary_text: str


def faces(sample: Sample) -> dict[str, Any]:
    return {"num_faces": len(sample["path"]), "face_embeddings_path": f"{sample['path']}.npy"}


def transcription(sample: Sample) -> dict[str, Any]:
    return {"transcript": f"{sample['path']} says", "language": "en"}


def summary(sample: Sample) -> dict[str, Any]:
    return {"summary_text": sample["transcript"][:4]}


INTRO = Example(
    _intro,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: video/faces
      deps: [video]
      id_columns: [video_id]
      fields: [{key: faces, code_version: 1}]
      columns: {num_faces: int, face_embeddings_path: str}
      compute: metaxy_examples.faces
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: video/transcription
      deps: [video]
      id_columns: [video_id]
      fields: [{key: transcript, code_version: VERSION}]
      columns: {transcript: str, language: str}
      compute: metaxy_examples.transcription
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: video/summary
      deps: [video/transcription]
      id_columns: [video_id]
      fields: [{key: summary, code_version: 1}]
      columns: {summary_text: str}
      compute: metaxy_examples.summary
    """,
    {"video": [_row({"default": f"v{n}"}, video_id=n, path=f"{n}.mp4") for n in "abc"]},
    {"video": [_row({"default": "other"}, video_id="b", path="b.mp4")]},
)


# The overview: field dependencies in full


def _overview(version: str) -> None:
    ids = ["sample_uid"]

    class Video(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/video",
            id_columns=ids,
            fields=[
                mx.FieldSpec(key="audio", code_version=version),
                mx.FieldSpec(key="frames", code_version="1"),
            ],
        ),
    ):
        sample_uid: str
        frames: int
        duration: float
        size: int

    class Crop(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/crop",
            deps=[mx.FeatureDep(feature=Video)],
            id_columns=ids,
            fields=[
                mx.FieldSpec(
                    key=name, code_version="1", deps=[mx.FieldDep(feature=Video, fields=[name])]
                )
                for name in ("audio", "frames")
            ],
        ),
    ):
        sample_uid: str

    class FaceDetection(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/face_detection",
            deps=[mx.FeatureDep(feature=Crop)],
            id_columns=ids,
            fields=[
                mx.FieldSpec(
                    key="faces",
                    code_version="1",
                    deps=[mx.FieldDep(feature=Crop, fields=["frames"])],
                )
            ],
        ),
    ):
        sample_uid: str

    class SpeechToText(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/stt",
            deps=[mx.FeatureDep(feature=Video)],
            id_columns=ids,
            fields=[
                mx.FieldSpec(
                    key="transcription",
                    code_version="1",
                    deps=[mx.FieldDep(feature=Video, fields=["audio"])],
                )
            ],
        ),
    ):
        sample_uid: str


OVERVIEW = Example(
    _overview,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: example/crop
      deps: [example/video]
      id_columns: [sample_uid]
      fields:
        - {key: audio, code_version: 1, deps: [{feature: example/video, fields: [audio]}]}
        - {key: frames, code_version: 1, deps: [{feature: example/video, fields: [frames]}]}
      columns: {}
      compute: metaxy_examples.nothing
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: example/face_detection
      deps: [example/crop]
      id_columns: [sample_uid]
      fields:
        - {key: faces, code_version: 1, deps: [{feature: example/crop, fields: [frames]}]}
      columns: {}
      compute: metaxy_examples.nothing
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: example/stt
      deps: [example/video]
      id_columns: [sample_uid]
      fields:
        - {key: transcription, code_version: 1, deps: [{feature: example/video, fields: [audio]}]}
      columns: {}
      compute: metaxy_examples.nothing
    """,
    {
        "example/video": [
            _row(
                {"audio": f"a{n}", "frames": f"f{n}"},
                sample_uid=n,
                frames=1,
                duration=2.5,
                size=3,
            )
            for n in "abc"
        ]
    },
    {
        "example/video": [
            _row({"audio": "aa", "frames": "new"}, sample_uid="a", frames=1, duration=2.5, size=4),
            _row({"audio": "new", "frames": "fb"}, sample_uid="b", frames=1, duration=2.5, size=5),
        ]
    },
)


# The guide to versioning: field dependencies by name


def _versioning(version: str) -> None:
    ids = ["video_id"]

    class Video(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/video",
            id_columns=ids,
            fields=[
                mx.FieldSpec(key="audio", code_version="1"),
                mx.FieldSpec(key="frames", code_version="1"),
            ],
        ),
    ):
        video_id: str
        size: int

    class Crop(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/crop",
            id_columns=ids,
            deps=[Video],
            fields=[mx.FieldSpec(key="audio", code_version=version), "frames"],
        ),
    ):
        video_id: str

    class FaceDetection(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="example/face_detection",
            id_columns=ids,
            deps=[Crop],
            fields=[
                mx.FieldSpec(
                    key="faces",
                    code_version="1",
                    deps=[mx.FieldDep(feature=Crop, fields=["frames"])],
                )
            ],
        ),
    ):
        video_id: str


VERSIONING = Example(
    _versioning,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: example/crop
      deps: [example/video]
      id_columns: [video_id]
      fields: [{key: audio, code_version: VERSION}, frames]
      columns: {}
      compute: metaxy_examples.nothing
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: example/face_detection
      deps: [example/crop]
      id_columns: [video_id]
      fields:
        - {key: faces, code_version: 1, deps: [{feature: example/crop, fields: [frames]}]}
      columns: {}
      compute: metaxy_examples.nothing
    """,
    {
        "example/video": [
            _row({"audio": f"a{n}", "frames": f"f{n}"}, video_id=n, size=3) for n in "ab"
        ]
    },
    {"example/video": [_row({"audio": "new", "frames": "fa"}, video_id="a", size=3)]},
)


# Basic: a child of a parent whose code changes


def _basic(version: str) -> None:
    ids = ["sample_uid"]

    class Parent(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="examples/parent",
            fields=[mx.FieldSpec(key="embeddings", code_version=version)],
            id_columns=ids,
        ),
    ):
        sample_uid: str

    class Child(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="examples/child", deps=[Parent], fields=["predictions"], id_columns=ids
        ),
    ):
        sample_uid: str


BASIC = Example(
    _basic,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: examples/child
      deps: [examples/parent]
      id_columns: [sample_uid]
      fields: [predictions]
      columns: {}
      compute: metaxy_examples.nothing
    """,
    {"examples/parent": [_row({"embeddings": n}, sample_uid=n) for n in "abc"]},
    {"examples/parent": [_row({"embeddings": "other"}, sample_uid="c")]},
)


# Aggregation: many recordings of one speaker


def _aggregation(version: str) -> None:
    class Audio(
        mx.BaseFeature,
        spec=mx.FeatureSpec(key="audio", id_columns=["audio_id"], fields=["default"]),
    ):
        audio_id: str
        speaker_id: str
        duration_seconds: float
        path: str

    class SpeakerEmbedding(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="speaker/embedding",
            id_columns=["speaker_id"],
            deps=[
                mx.FeatureDep(
                    feature=Audio, lineage=mx.LineageRelationship.aggregation(on=["speaker_id"])
                )
            ],
            fields=[mx.FieldSpec(key="embedding", code_version=version)],
        ),
    ):
        speaker_id: str
        n_dim: int
        path: str


def speaker_embedding(samples: list[Sample]) -> dict[str, Any]:
    return {"n_dim": len(samples), "path": "+".join(sorted(s["path"] for s in samples))}


def _recording(name: str, speaker: str, version: str) -> dict[str, Any]:
    return _row(
        {"default": version},
        audio_id=name,
        speaker_id=speaker,
        duration_seconds=30.5,
        path=f"{name}.wav",
    )


AGGREGATION = Example(
    _aggregation,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: speaker/embedding
      deps: [{feature: audio, lineage: {type: aggregation, on: [speaker_id]}}]
      id_columns: [speaker_id]
      fields: [{key: embedding, code_version: VERSION}]
      columns: {n_dim: int, path: str}
      compute: metaxy_examples.speaker_embedding
    """,
    {
        "audio": [
            _recording("a1", "s1", "a1_v1"),
            _recording("a2", "s1", "a2_v1"),
            _recording("a3", "s2", "a3_v1"),
            _recording("a4", "s2", "a4_v1"),
        ]
    },
    # One recording is done again, and one more comes.
    {"audio": [_recording("a1", "s1", "a1_v2"), _recording("a5", "s1", "a5_v1")]},
)


# Expansion: many chunks of one video, named by themselves


def _expansion(version: str) -> None:
    class Video(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="video/raw",
            id_columns=["video_id"],
            fields=[mx.FieldSpec(key="audio", code_version=version), "frames"],
        ),
    ):
        video_id: str
        path: str

    class VideoChunk(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key=["video", "chunk"],
            id_columns=["video_chunk_id"],
            deps=[
                mx.FeatureDep(
                    feature=Video, lineage=mx.LineageRelationship.expansion(on=["video_id"])
                )
            ],
            fields=["audio", "frames"],
        ),
    ):
        video_id: str
        video_chunk_id: str
        path: str

    class FaceRecognition(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key=["video", "faces"],
            id_columns=["video_chunk_id"],
            deps=[VideoChunk],
            fields=[
                mx.FieldSpec(key="faces", deps=[mx.FieldDep(feature=VideoChunk, fields=["frames"])])
            ],
        ),
    ):
        video_chunk_id: str
        num_faces: int


def chunks(sample: Sample) -> Iterator[dict[str, Any]]:
    for n in range(3):
        yield {"video_chunk_id": f"{sample['video_id']}_{n}", "path": f"{n}/{sample['path']}"}


def tiles(sample: Sample) -> Iterator[dict[str, Any]]:
    for n in range(2):
        yield {"tile": f"{sample['video_chunk_id']}/{n}"}


def chunk_faces(sample: Sample) -> dict[str, Any]:
    return {"num_faces": len(sample["path"])}


EXPANSION = Example(
    _expansion,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: video/chunk
      deps: [{feature: video/raw, lineage: {type: expansion, on: [video_id]}}]
      id_columns: [video_chunk_id]
      fields: [audio, frames]
      columns: {path: str}
      compute: metaxy_examples.chunks
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: video/faces
      deps: [video/chunk]
      id_columns: [video_chunk_id]
      fields: [{key: faces, deps: [{feature: video/chunk, fields: [frames]}]}]
      columns: {num_faces: int}
      compute: metaxy_examples.chunk_faces
    """,
    {
        "video/raw": [
            _row({"audio": f"v{n}", "frames": f"v{n}"}, video_id=str(n), path=f"video{n}.mp4")
            for n in (1, 2, 3)
        ]
    },
    {
        "video/raw": [
            _row({"audio": "other", "frames": "v1"}, video_id="1", path="video1.mp4"),
            _row({"audio": "v2", "frames": "other"}, video_id="2", path="video2.mp4"),
        ]
    },
)


# Optional dependencies


def _optional(version: str) -> None:
    class RawVideo(mx.BaseFeature, spec=mx.FeatureSpec(key="raw/video", id_columns=["video_id"])):
        video_id: str
        path: str

    class AudioTranscript(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="audio/transcript",
            id_columns=["video_id"],
            deps=[RawVideo],
            fields=[mx.FieldSpec(key="default", code_version=version)],
        ),
    ):
        video_id: str
        text: str

    class EnrichedVideo(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="enriched/video",
            id_columns=["video_id"],
            deps=[
                mx.FeatureDep(feature=RawVideo),
                mx.FeatureDep(feature=AudioTranscript, optional=True),
            ],
        ),
    ):
        video_id: str
        words: int


def transcript(sample: Sample) -> dict[str, Any]:
    if sample["path"] == "silent.mp4":
        raise ValueError("no sound")
    return {"text": f"{sample['path']} says"}


def enriched(sample: Sample) -> dict[str, Any]:
    return {"words": len((sample["text"] or "").split())}


OPTIONAL = Example(
    _optional,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: audio/transcript
      deps: [raw/video]
      id_columns: [video_id]
      fields: [{key: default, code_version: VERSION}]
      columns: {text: str}
      compute: metaxy_examples.transcript
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: enriched/video
      deps: [raw/video, {feature: audio/transcript, optional: true}]
      id_columns: [video_id]
      columns: {words: int}
      compute: metaxy_examples.enriched
    """,
    {
        "raw/video": [
            _row({"default": n}, video_id=n, path=f"{n}.mp4") for n in ("loud", "silent", "soft")
        ]
    },
    {"raw/video": [_row({"default": "other"}, video_id="loud", path="silent.mp4")]},
)


# The guide to features, and the shorthand of its spelling


def _guide(version: str) -> None:
    class Video(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="raw/video", id_columns=["video_id"], fields=["audio", "frames", "audio/english"]
        ),
    ):
        video_id: str
        path: str

    class Transcript(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="processed/transcript",
            id_columns=["video_id"],
            deps=[Video],
            fields=[
                mx.FieldSpec(
                    key="text",
                    code_version=version,
                    deps=[mx.FieldDep(feature=Video, fields=["audio", "audio/english"])],
                )
            ],
        ),
    ):
        video_id: str
        transcript_path: str
        speakers_json_path: str
        num_speakers: int

    class Words(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="processed/words",
            id_columns=["video_id"],
            deps=[
                mx.FeatureDep(
                    feature=Transcript,
                    fields_mapping=mx.FieldsMapping.specific(
                        mapping={mx.FieldKey("words"): {mx.FieldKey("text")}}
                    ),
                )
            ],
            fields=["words"],
        ),
    ):
        video_id: str


def spoken(sample: Sample) -> dict[str, Any]:
    path = sample["path"]
    return {
        "transcript_path": f"{path}.txt",
        "speakers_json_path": f"{path}.json",
        "num_speakers": 2,
    }


GUIDE = Example(
    _guide,
    """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: processed/transcript
      deps: [raw/video]
      id_columns: [video_id]
      fields:
        - key: text
          code_version: VERSION
          deps: [{feature: raw/video, fields: [audio, audio/english]}]
      columns: {transcript_path: str, speakers_json_path: str, num_speakers: int}
      compute: metaxy_examples.spoken
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: processed/words
      deps:
        - feature: processed/transcript
          fields_mapping: {explicit: {words: [text]}}
      id_columns: [video_id]
      fields: [words]
      columns: {}
      compute: metaxy_examples.nothing
    """,
    {
        "raw/video": [
            _row({"audio": n, "frames": n, "audio_english": n}, video_id=n, path=f"{n}.mp4")
            for n in "abc"
        ]
    },
    {
        "raw/video": [
            _row({"audio": "a", "frames": "x", "audio_english": "a"}, video_id="a", path="a"),
            _row({"audio": "b", "frames": "b", "audio_english": "x"}, video_id="b", path="b"),
        ]
    },
)

EXAMPLES = {
    "quickstart": QUICKSTART,
    "introduction": INTRO,
    "overview": OVERVIEW,
    "versioning": VERSIONING,
    "basic": BASIC,
    "aggregation": AGGREGATION,
    "expansion": EXPANSION,
    "optional dependencies": OPTIONAL,
    "feature definitions": GUIDE,
}
