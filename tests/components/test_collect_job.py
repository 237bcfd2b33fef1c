"""metaxy_collect: the job that removes files that no row names."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from projects import Project

OLD = time.time() - 100_000


@pytest.fixture
def jobs(videos: Project) -> Project:
    videos.write("maintenance/defs.yaml", "type: dagster_metaxy.MetaxyJobsComponent\n")
    videos.run_job()
    _leave(videos, "clips__frames/bikes/former")
    _leave(videos, "clips__frames/.work/dead")
    _leave(videos, "clips__audio/gone/former")
    return videos


def _leave(project: Project, path: str) -> Path:
    """Garbage that looks as old as it can be made to."""
    folder = project.root / "data/artifacts" / path
    folder.mkdir(parents=True)
    (folder / "x.jpg").write_bytes(b"12345")
    for changed in (folder / "x.jpg", folder, folder.parent):
        os.utime(changed, (OLD, OLD))
    return folder


def _collect(project: Project, **config: Any) -> dg.ExecuteInProcessResult:
    return project.run_job(
        "metaxy_collect",
        run_config={"ops": {"collect": {"config": {"older_than_hours": 0, **config}}}},
        raise_on_error=False,
    )


def _told(result: dg.ExecuteInProcessResult) -> tuple[dict[str, dict[str, Any]], str]:
    """The table, by feature, and the notes."""
    event: Any
    for event in result.all_events:
        if event.event_type_value == "STEP_OUTPUT":
            metadata = event.step_output_data.metadata
        elif event.event_type_value == "STEP_FAILURE":
            metadata = event.step_failure_data.user_failure_data.metadata
        else:
            continue
        records = metadata["features"].value.records
        return {r.data["feature"]: dict(r.data) for r in records}, metadata["notes"].value
    raise AssertionError("nothing told")


def _failure(result: dg.ExecuteInProcessResult) -> str:
    event: Any
    (event,) = (e for e in result.all_events if e.event_type_value == "STEP_FAILURE")
    return event.step_failure_data.user_failure_data.description


def _files(project: Project) -> set[str]:
    root = project.root / "data/artifacts"
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


def test_a_dry_run_and_then_a_real_one(jobs: Project) -> None:
    before = _files(jobs)
    table, notes = _told(_collect(jobs))
    assert {key: (row["folders"], row["files"], row["bytes"]) for key, row in table.items()} == {
        "clips/frames": (2, 2, 10),
        "clips/audio": (1, 1, 5),
    }
    assert table["clips/audio"]["first ones"].endswith("data/artifacts/clips__audio/gone/former")
    assert "3 folders with 3 files of 15 bytes would go; set dry_run to false" in notes
    assert _files(jobs) == before

    result = _collect(jobs, dry_run=False)
    assert result.success
    assert "3 folders with 3 files of 15 bytes removed" in _told(result)[1]
    named = {*jobs.rows("clips/frames")["path"], *jobs.rows("clips/audio")["path"]}
    assert {str(jobs.root / "data/artifacts" / file) for file in _files(jobs)} == named
    assert not (jobs.root / "data/artifacts/clips__audio/gone").exists()

    jobs.run_job()
    assert [jobs.counts(key) for key in ("clips/frames", "clips/audio")] == [(0, 0, 0, 0)] * 2
    assert "0 folders" in _told(_collect(jobs))[1]


def test_what_is_younger_than_a_day_stays(jobs: Project) -> None:
    before = _files(jobs)
    result = jobs.run_job(
        "metaxy_collect", run_config={"ops": {"collect": {"config": {"dry_run": False}}}}
    )
    assert "clips/frames: 2 folders without a row may be of a run that goes on" in _told(result)[1]
    assert _files(jobs) == before


def test_some_features(jobs: Project) -> None:
    _collect(jobs, dry_run=False, features=["clips/audio"])
    assert "clips__audio/gone/former/x.jpg" not in _files(jobs)
    assert "clips__frames/bikes/former/x.jpg" in _files(jobs)
    result = _collect(jobs, features=["clips/frame"])
    assert "there is no computed feature 'clips/frame'" in _failure(result)
    assert "Did you mean 'clips/frames'?" in _failure(result)


def test_folders_of_no_feature_stay(jobs: Project) -> None:
    _leave(jobs, "clips__faces/bikes/former")
    result = _collect(jobs, dry_run=False)
    assert "of no computed feature of this project, and left alone: " in _told(result)[1]
    assert "clips__faces/bikes/former/x.jpg" in _files(jobs)


def test_a_store_that_knows_nothing_loses_nothing(jobs: Project) -> None:
    """The wrong store: all files look like garbage."""
    shutil.rmtree(jobs.root / "data/metaxy")
    before = _files(jobs)
    result = _collect(jobs, dry_run=False)
    assert (
        "clips/frames was never written to dev: all its files are garbage, unless"
        in (_told(result)[1])
    )
    assert _files(jobs) == before
    _collect(jobs, dry_run=False, features=["clips/frames"])
    assert _files(jobs) == {file for file in before if file.startswith("clips__audio")}


def test_stores_that_share_the_folder(jobs: Project) -> None:
    """One that is the default now, and the one whose rows name the files."""
    file = jobs.root / "metaxy.toml"
    text = file.read_text().replace('store = "dev"', 'store = "prod"')
    prod = text[text.index("[stores.dev]") :].replace("dev", "prod").replace("/metaxy", "/prod")
    file.write_text(f"{text}\n{prod}")
    named = set(jobs.rows("clips/frames")["path"])
    result = _collect(jobs, dry_run=False)
    assert result.success
    assert named
    assert all(Path(path).is_file() for path in named)
    table, _ = _told(_collect(jobs, stores=["prod"]))
    assert table["clips/frames"]["files"] == len(named)
    assert "metaxy.toml has no store 'pord'; it has: dev, prod" in (
        _failure(_collect(jobs, stores=["pord"]))
    )
    # One that cannot be opened may name files.
    _leave(jobs, "clips__audio/again/former")
    file.write_text(file.read_text() + '[stores.old]\ntype = "no.such.Store"\n')
    message = _failure(_collect(jobs, dry_run=False))
    assert message.startswith("the store 'old' cannot be opened (")
    assert "clips__audio/again/former/x.jpg" in _files(jobs)
    _collect(jobs, dry_run=False, stores=["dev", "prod"])
    assert "clips__audio/again/former/x.jpg" not in _files(jobs)


def test_what_cannot_be_removed_is_named_at_the_end(jobs: Project) -> None:
    shutil.rmtree(jobs.root / "data/artifacts/clips__frames/.work")
    (jobs.root / "data/artifacts/clips__frames/.work").write_text("in the way")
    result = _collect(jobs, dry_run=False)
    assert not result.success
    assert _failure(result).startswith("1 folder could not be looked at or removed")
    assert "clips__frames/bikes/former: " in _failure(result)
    assert "1 folder with 1 file of 5 bytes removed" in _told(result)[1]
    assert "clips__audio/gone/former/x.jpg" not in _files(jobs)


def test_what_the_launchpad_shows(jobs: Project) -> None:
    op: Any = jobs.load().resolve_job_def("metaxy_collect").graph.nodes[0].definition
    fields = op.config_schema.config_type.fields
    assert all(f.description for f in fields.values())
    assert not any(f.is_required for f in fields.values())
    assert fields["dry_run"].default_value is True
    with pytest.raises(dg.DagsterInvalidConfigError):
        jobs.run_job(
            "metaxy_collect",
            run_config={"ops": {"collect": {"config": {"older_than_hours": "x"}}}},
        )
    assert not _collect(jobs, older_than_hours=-1).success
