"""Clips for the tests of `dagster_metaxy.media`."""

from __future__ import annotations

import os
from pathlib import Path

import media_tools
import pytest

CLIPS = Path(__file__).parents[2] / "clips"


@pytest.fixture(scope="session")
def portrait() -> Path:
    """12.4 s, 640x360, 25 fps, H.264 with B frames, AAC at 16 kHz, mono."""
    return CLIPS / "portrait.mp4"


@pytest.fixture(scope="session")
def bunny() -> Path:
    """5.28 s, 1280x720, 25 fps, H.264, AAC at 48 kHz in 5.1."""
    return CLIPS / "bigbuckbunny.mp4"


@pytest.fixture(scope="session")
def bikes() -> Path:
    """10 s, 640x272, 25 fps, H.264, no sound."""
    return CLIPS / "bikes.mp4"


@pytest.fixture(scope="session")
def dub() -> Path:
    """6.05 s of speech, 16-bit mono at 16 kHz."""
    return Path(__file__).parent / "dub.wav"


@pytest.fixture
def phone() -> Path:
    """6.4 s of HEVC at a varying frame rate in MOV, sound from 2.43 s on; not in the repository."""
    path = Path(os.environ.get("MEDIA_CLIPS", ""), "face_noface.mov")
    if not path.is_file():
        pytest.skip("face_noface.mov is not in the directory that MEDIA_CLIPS names")
    return path


_MADE = {
    "h265": (
        "h265.mp4",
        {"video": "libx265", "audio": "aac", "options": {"x265-params": "log-level=0"}},
    ),
    "vp9": ("vp9.webm", {"video": "libvpx-vp9", "audio": "libopus"}),
    "av1": ("av1.mp4", {"video": "libsvtav1", "audio": "libopus"}),
    "mpeg4": ("mpeg4.avi", {"video": "mpeg4", "audio": "libmp3lame"}),
    "vfr": ("vfr.mp4", {"times": [i * i / 200 for i in range(40)], "audio": "aac"}),
    "slides": ("slides.mp4", {"times": [0, 10, 20, 30], "options": {"bf": "0"}}),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Makes a synthetic clip by its name in `_MADE`, once."""
    directory = tmp_path_factory.mktemp("made")

    def make(name: str) -> Path:
        file, settings = _MADE[name]
        if not (directory / file).exists():
            media_tools.clip(directory / file, **settings)
        return directory / file

    return make
