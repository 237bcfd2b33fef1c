"""The steps that look at pictures, through the component."""

from __future__ import annotations

import pytest
from projects import Project, load_error

YAML = """
type: dagster_metaxy.PartitionedVideoComponent
attributes:
  source: videos
  feature_prefix: clips
  steps:
"""


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (
            "{type: frames, every_seconds: 1, count: 3}",
            "every_seconds and count both say which frames are taken: write one of"
            " every_seconds, every_nth, count, keyframes",
        ),
        (
            "{type: frames, every_nth: 2, keyframes: true}",
            "every_nth and keyframes both say which frames are taken",
        ),
        ("{type: frames, format: png, quality: 9}", "PNG loses nothing and has no quality"),
    ],
)
def test_parameters_that_do_not_go_together(project: Project, step: str, sentence: str) -> None:
    project.add_clips(names=("bikes",))
    project.write("clips/defs.yaml", f"{YAML}    - {step}\n")
    error = load_error(project)
    assert "defs.yaml:6:7: steps.0: " in error
    assert sentence in error
