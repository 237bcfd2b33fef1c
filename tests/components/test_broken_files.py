"""Hundreds of broken files: each is processed, or named with a sentence, and no run fails for it.

`MUTATIONS=5000 pytest tests/components/test_broken_files.py` tries as many.
"""

from __future__ import annotations

import os
from pathlib import Path

import mutations
from projects import Project

from dagster_metaxy import engines

COUNT = int(os.environ.get("MUTATIONS", "300"))
STEPS = ("frames", "audio", "clips", "scenes")
LIMIT = 20


def write(folder: Path, seeds: range) -> dict[str, str]:
    """Writes broken files, and gives what was done to each by its path."""
    good = folder.parent / "good"
    good.mkdir()
    names = {}
    for made in mutations.mutations(good, seeds):
        file = folder / f"{made.name.split()[0]}{made.ending}"
        file.write_bytes(made.data)
        names[str(file)] = made.name
    return names


def test_functions_tell_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    names = write(folder, range(COUNT))
    trials = [
        mutations.Trial(name, path, function)
        for path, name in names.items()
        for function in mutations.functions(path, "")
    ]
    results = engines.run(
        "processes", trials, mutations.Try(), workers=2, time_limit=lambda _: LIMIT
    )
    wrong, sentences = [], 0
    for trial, told in (result for result in results if result is not None):
        if isinstance(told, Exception) or told.wrong:
            wrong.append(f"{trial.function} of {trial.name}: {getattr(told, 'wrong', told)}")
        sentences += bool(getattr(told, "sentence", ""))
    assert wrong == []
    # some are broken for good, and some only a little
    assert 0.2 < sentences / len(trials) < 0.8


def test_no_run_fails(project: Project) -> None:
    folder = project.root / "videos"
    folder.mkdir()
    names = write(folder, range(10_000, 10_000 + COUNT * 40 // 300))
    project.add_clips(names=("bikes",))
    project.write(
        "clips/defs.yaml",
        f"""
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: {{path: videos, glob: "**/*", settle_seconds: 0}}
          feature_prefix: clips
          engine: processes
          time_limit: {LIMIT}
          steps:
            - {{type: frames, max_size: 64}}
            - {{type: clips, preset: ultrafast}}
            - audio
            - scenes
        """,
    )
    result = project.run_job(raise_on_error=False)
    failed = {event.step_key for event in result.get_step_failure_events()}
    assert failed <= {"report_failures"}  # which names what failed, at the end
    known = set(project.rows("clips/videos")["video_id"])
    told: dict[str, dict[str, str]] = {}
    for step in ("videos", *STEPS):
        table = project.metadata(f"clips/{step}").get("failed samples")
        told[step] = {
            str(r.data["sample"]).removeprefix(
                "video_id="
            ): f"{r.data['error']}: {r.data['message']}"
            for r in (table.records if table else ())
        }
    for path in names:
        assert (Path(path).stem in known) != (Path(path).stem in told["videos"])
    assert "bikes" in known
    videos = {row["video_id"]: row for row in project.rows("clips/videos").to_dicts()}
    for step in STEPS:
        streams = {"audio": ["audio_codec"], "clips": ["audio_codec", "video_codec"]}
        wanted = {
            v
            for v, row in videos.items()
            if any(row[stream] for stream in streams.get(step, ["video_codec"]))
        }
        assert wanted <= set(project.rows(f"clips/{step}")["video_id"]) | {*told[step]}
    for step, errors in told.items():
        for video, error in errors.items():
            assert error.startswith(("MediaError: ", "TimeLimitExceeded: ")), (step, video, error)
    assert sum(map(len, told.values())) > COUNT // 60
