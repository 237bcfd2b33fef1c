"""The steps that look at frames with a model, in runs over real clips."""

from __future__ import annotations

from pathlib import Path

import media_tools
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from projects import Project, load_error

from dagster_metaxy import extras
from dagster_metaxy.media import faces

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: uv sync --group models")

NOTHING = (0, 0, 0, 0)


def steps(project: Project, *lines: str) -> None:
    project.write(
        "clips/defs.yaml",
        """\
type: dagster_metaxy.PartitionedVideoComponent
attributes:
  source: videos
  feature_prefix: clips
  partitions: dynamic
  steps:
    - {type: frames, name: pictures, every_seconds: 5}
"""
        + "".join(f"    - {line}\n" for line in lines),
    )


def test_faces(project: Project) -> None:
    project.add_clips(names=("bikes", "portrait"))
    steps(project, "{type: faces, frames: pictures}")
    project.run_job()
    assert project.counts("clips/faces") == (5, 0, 0, 0)
    rows = project.rows("clips/faces").sort("video_id", "frame_index")
    # Of the frames of bikes at 0 and 5 s, the second shows a face.
    assert [(r["video_id"], r["frame_index"], r["face_index"]) for r in rows.to_dicts()] == [
        ("bikes", 1, 0),
        *[("portrait", i, 0) for i in range(3)],
    ]
    assert rows["left"].to_list() == pytest.approx([417, 271, 211, 300], abs=20)
    assert all(len(points) == 10 for points in rows["landmarks"])
    assert project.green("clips/faces") == {"bikes", "portrait"}
    # The same model elsewhere is the same; another one is not, whatever it is called.
    folder = project.root / "models"
    folder.mkdir()
    model = folder / "own.onnx"
    model.write_bytes(faces.CENTERFACE.read_bytes())
    steps(project, "{type: faces, frames: pictures, model: models/own.onnx}")
    project.run_job()
    assert project.counts("clips/faces") == NOTHING
    project.write(
        "clips/detector.py",
        "def corner(picture):\n    return [(0, 0, picture.shape[1], 50, 0.9)]\n",
    )
    module = f"{project.sandbox.project_name}.defs.clips.detector"
    steps(project, f"{{type: faces, frames: pictures, model: {module}.corner, min_size: 50}}")
    project.run_job()
    assert project.counts("clips/faces") == (0, 5, 0, 0)  # one of them had none, and no row
    assert set(project.rows("clips/faces")["right"]) == {640}
    assert project.rows("clips/faces")["landmarks"].null_count() == 5
    # A model that fails is one sentence, not one of each frame.
    project.write("clips/detector.py", "def corner(picture):\n    return [1]\n")
    steps(project, f"{{type: faces, frames: pictures, model: {module}.corner}}")
    with pytest.raises(Exception, match=r"the step 'faces': the model .*corner gives no faces"):
        project.run_job()


def test_embeddings(project: Project) -> None:
    project.add_clips(names=("bikes", "portrait"))
    media_tools.pooling_model(project.root / "pooling.onnx")
    model = (
        "{type: embeddings, frames: pictures, model: pooling.onnx, output: 'Reshape:0',"
        " layout: nhwc, channels: bgr, dimension: 1024}"
    )
    steps(project, model)
    project.run_job()
    assert project.counts("clips/embeddings") == (5, 0, 0, 0)
    vectors = project.rows("clips/embeddings")["embedding"].to_list()
    assert [np.linalg.norm(vector) for vector in vectors] == pytest.approx([1] * 5)
    assert len(vectors[0]) == 1024
    assert "the nearest of 5 by" in project.metadata("clips/embeddings")["nearest neighbours"]
    # A picture that cannot be read is one failure; what is in a batch with it is computed.
    pictures = project.rows("clips/pictures").sort("frame_index")["path"]
    Path(pictures[1]).write_bytes(b"")
    steps(project, model.replace("dimension", "normalize: false, dimension"))
    project.run_job(raise_on_error=False)
    assert project.counts("clips/embeddings") == (0, 5, 0, 1)
    table = project.metadata("clips/embeddings")["failed samples"]
    assert "the picture can't be read" in table.records[0].data["message"]
    steps(project, model.replace("1024", "512"))
    with pytest.raises(
        Exception, match=r"gives 1024 values .* but the dimension is declared as 512"
    ):
        project.run_job()


def test_ocr(project: Project) -> None:
    pytest.importorskip("rapidocr", reason="rapidocr is not installed: uv sync --group models")
    videos = project.root / "videos"
    videos.mkdir()

    def draw(index: int, width: int, height: int) -> np.ndarray:
        image = Image.new("RGB", (width, height), (90, 20, 20))
        if index >= 5:  # at a frame a second, from the second picture on
            ImageDraw.Draw(image).text((30, 20), "Finale", "white", ImageFont.load_default(40))
        return np.asarray(image)

    media_tools.clip(videos / "titles.mp4", rate=1, frames=8, width=240, height=96, draw=draw)
    steps(project, "{type: ocr, frames: pictures}")
    project.run_job()
    (row,) = project.rows("clips/ocr").to_dicts()
    assert (row["frame_index"], row["text_index"], row["text"]) == (1, 0, "Finale")
    assert (row["left"], row["right"]) == pytest.approx((30, 165), abs=20)
    assert len(row["polygon"]) == 8
    assert project.counts("clips/ocr") == (2, 0, 0, 0)
    steps(project, "{type: ocr, frames: pictures, model: models/reader.onnx}")
    assert "'models/reader.onnx' is no dotted path of a reader" in load_error(project)


def test_what_is_not_there_is_told_at_load(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add_clips(names=("bikes",))
    steps(project, "{type: faces, frames: pictures, model: models/mine.onnx}")
    error = load_error(project)
    assert "there is no model" in error
    assert str(Path(project.root, "models/mine.onnx")) in error
    steps(project, "{type: faces, frames: pictures, model: nowhere.Detector}")
    assert "the model nowhere.Detector can't be imported: ModuleNotFoundError" in load_error(
        project
    )
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxruntime" else name)
    steps(project, "{type: faces, frames: pictures}")
    assert (
        "the step 'faces' needs onnxruntime, which is not installed:"
        " pip install 'dagster-metaxy[faces]'"
    ) in load_error(project)
