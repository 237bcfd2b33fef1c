from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from objects import Bucket, Proxy

from dagster_metaxy import locations
from dagster_metaxy.discovery.files import (
    File,
    SourceError,
    glob_pattern,
    list_files,
    list_objects,
    unique_ids,
)

ROOT = os.geteuid() == 0


def _touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def _paths(folder: Path, glob: str | None = None) -> list[str]:
    return [file.relative_path for file in list_files(folder, glob).files]


def test_videos_by_their_ending_hidden_files_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "b.MP4", "a/c.mkv", "a/._c.mkv", ".trash/d.mp4", "e.txt", "mp4")
    assert _paths(tmp_path) == ["a/c.mkv", "b.MP4"]


@pytest.mark.parametrize(
    ("glob", "matches", "others"),
    [
        ("*.mp4", ["a.mp4"], ["b/a.mp4", "a.mkv", "amp4"]),
        ("**/*.mp4", ["a.mp4", "b/a.mp4", "b/c/a.mp4"], ["b/a.mkv"]),
        ("cam_?/*.{mp4,mkv}", ["cam_a/x.mp4", "cam_b/x.mkv"], ["cam_ab/x.mp4", "cam_a/x.mov"]),
        ("cam_[ab]/*", ["cam_a/x"], ["cam_c/x", "cam_a/x/y"]),
        ("cam_[!ab]/*", ["cam_c/x"], ["cam_a/x"]),
        ("**", ["a", "b/c/d"], []),
        ("a+b (1).mp4", ["a+b (1).mp4"], ["aab (1).mp4"]),
    ],
)
def test_globs(glob: str, matches: list[str], others: list[str]) -> None:
    pattern = glob_pattern(glob)
    assert [m for m in matches if not pattern.fullmatch(m)] == []
    assert [o for o in others if pattern.fullmatch(o)] == []


def test_awkward_names(tmp_path: Path) -> None:
    names = ["a b.mp4", "代码.mp4", "a..b.mp4", "x" * 200 + ".mp4", "a'\"b.mp4", "new\nline.mp4"]
    _touch(tmp_path, *names)
    assert _paths(tmp_path) == sorted(names)


def test_a_loop_of_links_is_entered_once(tmp_path: Path) -> None:
    _touch(tmp_path, "a/x.mp4")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    assert _paths(tmp_path) == ["a/x.mp4"]


def test_a_link_is_followed_and_a_broken_one_named(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/x.mp4", "source/y.mp4")
    (tmp_path / "source/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source/gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    listing = list_files(tmp_path / "source")
    assert [f.relative_path for f in listing.files] == ["far/x.mp4", "y.mp4"]
    assert listing.unreadable == {"gone.mp4": "No such file or directory"}


def test_names_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/bad\xff.mp4", "wb"):  # noqa: PTH123 - a name in bytes
        pass
    assert list(list_files(tmp_path).unreadable) == ["bad\\udcff.mp4"]


def test_a_source_that_is_not_there_is_no_empty_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        list_files(tmp_path / "nowhere")
    _touch(tmp_path, "file")
    with pytest.raises(SourceError, match="not a folder"):
        list_files(tmp_path / "file")


@pytest.mark.skipif(ROOT, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "a/x.mp4")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(SourceError, match="Permission denied"):
            list_files(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_the_digest_tells_changes(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    seen = {list_files(tmp_path).digest}
    assert list_files(tmp_path).digest in seen
    for change in (
        lambda: os.utime(tmp_path / "a.mp4", (1, 1)),
        lambda: (tmp_path / "a.mp4").write_bytes(b"xx"),
        lambda: (tmp_path / "b.mp4").rename(tmp_path / "c.mp4"),
        lambda: (tmp_path / "c.mp4").unlink(),
    ):
        change()
        seen.add(list_files(tmp_path).digest)
    assert len(seen) == 5


def test_ids_are_unique_and_do_not_depend_on_who_comes_later(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "a.mkv", "b/a.mp4", "a.b.mp4")
    files: list[File] = list_files(tmp_path).files
    assert unique_ids(files, set()) == {
        "a.b.mp4": "a.b", "a.mkv": "a", "a.mp4": "a.mp4", "b/a.mp4": "b/a",
    }  # fmt: skip
    assert unique_ids(files[:1], {"a.b", "a.b.mp4"}) == {"a.b.mp4": "a.b.mp4~2"}


@pytest.mark.parametrize("key", ["a//b.mp4", "a/../b.mp4", "./b.mp4"])
def test_a_key_that_obstore_cannot_read(bucket: Bucket, proxy: Proxy, key: str) -> None:
    """It hides others, so that nothing may be taken as deleted."""
    bucket.put(f"{bucket.url}/c.mp4")
    bucket.put(f"{bucket.url}/{key}")
    said = rf"^cannot list .*{re.escape(key)}.*: rename or remove the object"
    with pytest.raises(SourceError, match=said):
        list_objects(bucket.url)
    assert len(proxy.requests) == 1  # asking again would not help


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("videos", ("videos", None)),
        ("s3://bucket/raw/**/*.mp4", ("s3://bucket/raw", "**/*.mp4")),
        ("s3://bucket/*/a.mp4", ("s3://bucket", "*/a.mp4")),
        ("*.mp4", (".", "*.mp4")),
        ("/data/cam_*/x", ("/data", "cam_*/x")),
        ("what?/a[1]", ("what?/a[1]", None)),
    ],
)
def test_a_glob_at_the_end_of_a_location(location: str, parts: tuple[str, str | None]) -> None:
    assert locations.split_glob(location) == parts
