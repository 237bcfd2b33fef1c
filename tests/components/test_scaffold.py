"""What is scaffolded loads and materializes untouched, and a failed scaffold leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dagster_dg_cli.cli import create_dg_cli
from projects import Project


@pytest.fixture
def bare(project: Project) -> Iterator[Project]:
    """A project without metaxy.toml, in which `dg` runs."""
    (project.root / "metaxy.toml").unlink()
    before = Path.cwd()
    os.chdir(project.root)
    yield project
    os.chdir(before)


def _scaffold(project: Project, *arguments: str) -> Result:
    return CliRunner().invoke(create_dg_cli(), ["scaffold", "defs", *arguments])


def _ok(project: Project, *arguments: str) -> str:
    result = _scaffold(project, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("style", ["yaml", "python"])
def test_a_folder_of_videos(bare: Project, style: str) -> None:
    bare.add_clips("videos")
    (bare.root / ".gitignore").write_text("__pycache__/\n")
    _ok(bare, "PartitionedVideoComponent", "clips", "--source", "./videos", "--format", style)
    assert (bare.root / "metaxy.toml").is_file()
    assert "data/" in (bare.root / ".gitignore").read_text().split()
    assert bare.run_job().success
    assert bare.counts("clips/frames") == (3, 0, 0, 0)
    assert bare.counts("clips/audio") == (2, 0, 0, 0)
    assert bare.materialize("clips/videos", "clips/frames", "clips/audio").success


def test_dynamic_partitions(bare: Project) -> None:
    bare.add_clips("my videos", names=("bikes",))
    _ok(
        bare, "PartitionedVideoComponent", "a-b", "--source", "my videos",
        "--partitions", "dynamic", "--feature-prefix", "media/bikes",
    )  # fmt: skip
    assert bare.run_job("media_bikes").success
    assert bare.green("media/bikes/frames") == {"bikes"}


def test_a_remote_source(bare: Project) -> None:
    output = _ok(
        bare, "PartitionedVideoComponent", "clips", "--source", "s3://bucket/videos"
    )  # fmt: skip
    assert "Made" not in output
    text = (bare.sandbox.defs_folder_path / "clips/defs.yaml").read_text()
    assert 'source: "s3://bucket/videos"' in text
    assert not (bare.root / "s3:").exists()
    bare.load()


def test_a_source_that_is_not_there_yet(bare: Project) -> None:
    output = _ok(bare, "PartitionedVideoComponent", "clips", "--source", "./new/videos")
    assert "Made ./new/videos" in output
    assert bare.run_job().success
    assert bare.counts("clips/videos") == (0, 0, 0, 0)


@pytest.mark.parametrize("style", ["yaml", "python"])
@pytest.mark.parametrize("upstream", ["videos", "frames"])
def test_a_feature(bare: Project, style: str, upstream: str) -> None:
    bare.add_clips("videos")
    _ok(bare, "PartitionedVideoComponent", "clips", "--source", "./videos")
    _ok(
        bare, "MetaxyAssetComponent", "faces", "--feature", "media/faces",
        "--depends-on", f"clips/{upstream}", "--format", style,
    )  # fmt: skip
    folder = bare.sandbox.defs_folder_path / "faces"
    assert "relative_path" in (folder / "compute.py").read_text() or upstream == "frames"
    assert bare.run_job().success
    assert bare.counts("media/faces") == ({"videos": 3, "frames": 29}[upstream], 0, 0, 0)
    assert set(bare.rows("media/faces")["example"][0].split()) >= {"computed", "from"}


def test_a_feature_of_something_that_is_not_declared_yet(bare: Project) -> None:
    _ok(bare, "MetaxyAssetComponent", "faces", "--feature", "media/faces",
        "--depends-on", "media/videos")  # fmt: skip
    with pytest.warns(UserWarning, match="'media/videos'"):
        assert bare.materialize("media/faces").success
    assert bare.counts("media/faces") == (0, 0, 0, 0)
    # and then it is
    bare.add_clips("videos")
    _ok(bare, "PartitionedVideoComponent", "media", "--source", "videos")
    assert bare.run_job("media").success
    assert bare.counts("media/faces") == (3, 0, 0, 0)


@pytest.mark.parametrize("style", ["yaml", "python"])
def test_a_root_feature(bare: Project, style: str) -> None:
    _ok(bare, "MetaxyAssetComponent", "books", "--feature", "library/books", "--format", style)
    _ok(bare, "MetaxyAssetComponent", "words", "--feature", "library/words",
        "--depends-on", "library/books")  # fmt: skip
    bare.materialize("library/books", "library/words")
    assert bare.counts("library/books") == (1, 0, 0, 0)
    assert bare.counts("library/words") == (1, 0, 0, 0)
    bare.materialize("library/books", "library/words")
    assert bare.counts("library/words") == (0, 0, 0, 0)


def test_several_upstreams_and_an_existing_metaxy_toml(bare: Project) -> None:
    bare.add_clips("videos")
    _ok(bare, "PartitionedVideoComponent", "clips", "--source", "videos")
    config = bare.root / "metaxy.toml"
    config.write_text(config.read_text() + "\n# mine\n")
    _ok(bare, "MetaxyAssetComponent", "both", "--feature", "clips/both",
        "--depends-on", "clips/videos", "--depends-on", "clips/audio")  # fmt: skip
    assert config.read_text().endswith("# mine\n")
    yaml = bare.sandbox.defs_folder_path / "both/defs.yaml"
    text = yaml.read_text().replace(
        "    - clips/audio", "    - {feature: clips/audio, columns: [rate]}"
    )
    yaml.write_text(
        text.replace("    - clips/videos", "    - {feature: clips/videos, columns: [size]}")
    )
    assert bare.run_job().success
    assert bare.counts("clips/both") == (2, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MetaxyAssetComponent", "x", "--feature", "a b", "--depends-on", "y"], "words joined by"),
        (["PartitionedVideoComponent", "x", "--partitions", "weekly"], "none or dynamic"),
    ],
)
def test_a_failed_scaffold_leaves_no_folder(
    bare: Project, arguments: list[str], message: str
) -> None:
    result = _scaffold(bare, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (bare.sandbox.defs_folder_path / "x").exists()
    assert not (bare.root / "metaxy.toml").exists()


def test_scaffolded_python_is_formatted(bare: Project) -> None:
    _ok(bare, "PartitionedVideoComponent", "clips", "--format", "python")
    _ok(bare, "MetaxyAssetComponent", "faces", "--depends-on", "clips/videos", "--format", "python")
    _ok(bare, "MetaxyAssetComponent", "books", "--format", "python")
    files = [str(p) for p in bare.sandbox.defs_folder_path.rglob("*.py")]
    subprocess.run([Path(sys.executable).parent / "ruff", "format", "--check", "--isolated", "--line-length", "100", *files],
                   check=True)  # fmt: skip
