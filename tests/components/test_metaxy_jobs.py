"""MetaxyJobsComponent: jobs over all features of a project, on real stores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner
from dagster_dg_cli.cli import create_dg_cli
from projects import NAMES, Project

from dagster_metaxy.components.metaxy_jobs.reconcile import same_version

JOBS = "type: dagster_metaxy.MetaxyJobsComponent\n"
FEATURES = ("clips/videos", "clips/frames", "clips/audio")


@pytest.fixture
def jobs(videos: Project) -> Project:
    videos.write("maintenance/defs.yaml", JOBS)
    videos.run_job()
    return videos


def _table(result: dg.ExecuteInProcessResult, op: str) -> dict[str, dict[str, Any]]:
    """The result table of a job, by feature."""
    event: Any
    for event in result.all_events:
        if event.event_type_value == "STEP_OUTPUT" and event.node_name == op:
            records = event.step_output_data.metadata["features"].value.records
            return {r.data["feature"]: dict(r.data) for r in records}
    raise AssertionError("no table")


def _notes(result: dg.ExecuteInProcessResult) -> str:
    event: Any
    (event,) = (e for e in result.all_events if e.event_type_value == "STEP_OUTPUT")
    return event.step_output_data.metadata["notes"].value


def _reconcile(project: Project) -> dict[str, str]:
    """What was reported, by feature."""
    result = project.run_job("metaxy_reconcile")
    return {key: row["reported"] for key, row in _table(result, "reconcile").items()}


def _delete(project: Project, **config: Any) -> dg.ExecuteInProcessResult:
    return project.run_job("metaxy_delete", run_config={"ops": {"delete": {"config": config}}})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1795365437813113.5", "1795365437813113.8", True),  # two readings of one table
        ("1795365437813113.5", "1795365437813150.5", False),
        ("empty", "empty", True),
        ("empty", "1795365437813113.5", False),
        (None, "1795365437813113.5", False),
        ("a4e1", "a4e2", False),
    ],
)
def test_data_versions(one: str | None, other: str, same: bool) -> None:
    assert same_version(one, other) is same


class TestReconcile:
    def test_what_dagster_knows_is_observed_and_not_reported(self, jobs: Project) -> None:
        result = jobs.run_job("metaxy_reconcile")
        table = _table(result, "reconcile")
        assert set(table) == set(FEATURES)
        assert [table[key]["rows"] for key in FEATURES] == [3, 29, 2]
        assert {row["reported"] for row in table.values()} == {""}
        events: Any = result.all_events
        observed = {
            e.event_specific_data.asset_observation.asset_key.to_user_string()
            for e in events
            if e.event_type_value == "ASSET_OBSERVATION"
        }
        assert observed == set(FEATURES)
        logs = jobs.instance.all_logs(result.run_id)
        printed = [e.user_message for e in logs if "data version" in (e.user_message or "")]
        assert "clips/frames" in printed[0]

    def test_an_instance_that_knows_nothing(self, jobs: Project) -> None:
        with dg.DagsterInstance.ephemeral() as fresh:
            jobs.instance = fresh
            assert _reconcile(jobs) == {
                "clips/videos": "materialized; 3 partitions",
                "clips/frames": "materialized; 3 partitions",
                "clips/audio": "materialized; 2 partitions",  # bikes has no sound, and no row
            }
            assert jobs.green("clips/frames") == set(NAMES)
            assert set(_reconcile(jobs).values()) == {""}
            # and what a run then reports is what it reports
            jobs.run_job()
            assert set(_reconcile(jobs).values()) == {""}

    def test_partitions_in_which_something_is_left_to_do(self, jobs: Project) -> None:
        jobs.add_clips(names=("bikes",))
        (jobs.root / "videos/bikes.mp4").write_bytes(b"other content")
        jobs.sandbox.defs_folder_path.joinpath("clips/defs.yaml").write_text(
            jobs.sandbox.defs_folder_path.joinpath("clips/defs.yaml")
            .read_text()
            .replace("every_seconds: 1", "every_seconds: 2")
        )
        with dg.DagsterInstance.ephemeral() as fresh:
            jobs.instance = fresh
            reported = _reconcile(jobs)
            assert jobs.green("clips/videos") == {"bigbuckbunny", "portrait"}
            assert jobs.green("clips/frames") == set()
            assert jobs.green("clips/audio") == {"bigbuckbunny", "portrait"}
            assert reported["clips/frames"] == ""  # no row of the code that is declared

    def test_rows_written_by_hand(self, jobs: Project) -> None:
        import narwhals as nw

        with jobs.store().open("w") as store:
            store.delete("clips/frames", nw.col("frame_index") == 3)
        assert _reconcile(jobs) == {
            "clips/videos": "", "clips/frames": "materialized", "clips/audio": "",
        }  # fmt: skip
        assert jobs.metadata("clips/frames") == {"dagster/row_count": 26}
        assert set(_reconcile(jobs).values()) == {""}

    def test_a_source_that_is_not_there(self, jobs: Project) -> None:
        (jobs.root / "videos").rename(jobs.root / "elsewhere")
        assert "partitions cannot be told: " in _reconcile(jobs)["clips/videos"]

    def test_features_never_written_and_without_components(self, project: Project) -> None:
        project.write("maintenance/defs.yaml", JOBS)
        assert _reconcile(project) == {}
        project.write(
            "clips/defs.yaml",
            """
            type: dagster_metaxy.PartitionedVideoComponent
            attributes: {source: videos, feature_prefix: clips}
            """,
        )
        assert _reconcile(project) == {"clips/videos": ""}
        assert project.instance.get_latest_materialization_event(
            dg.AssetKey(["clips", "videos"])
        ) is None  # fmt: skip


class TestDelete:
    def test_a_dry_run_says_what_would_go_and_touches_nothing(self, jobs: Project) -> None:
        before = {key: jobs.rows(key).height for key in FEATURES}
        result = _delete(jobs, feature="clips/videos", filter="video_id = 'bikes'")
        table = _table(result, "delete")
        assert {key: table[key]["samples"] for key in FEATURES} == {
            "clips/videos": 1, "clips/frames": 10, "clips/audio": 0,
        }  # fmt: skip
        assert "data/artifacts/clips__frames/bikes/" in table["clips/frames"]["artifacts"]
        assert table["clips/videos"]["first samples"] == "video_id=bikes"
        assert "11 samples would go; set dry_run to false" in _notes(result)
        assert {key: jobs.rows(key).height for key in FEATURES} == before

    @pytest.mark.parametrize("hard", [False, True])
    def test_it_goes_all_the_way_down(self, jobs: Project, hard: bool) -> None:
        files = jobs.rows("clips/frames").filter(video_id="bikes")["path"].to_list()
        (jobs.root / "videos/bikes.mp4").unlink()
        result = _delete(
            jobs, feature="clips/videos", filter="video_id = 'bikes'", dry_run=False, hard=hard
        )
        assert "come back" not in _notes(result)
        assert "11 samples deleted" in _notes(result)
        for key in FEATURES[:2]:
            assert set(jobs.rows(key)["video_id"]) == {"bigbuckbunny", "portrait"}
        assert files
        assert not any(Path(file).exists() for file in files)
        jobs.run_job()
        assert [jobs.counts(key) for key in FEATURES] == [(0, 0, 0, 0)] * 3

    def test_what_the_source_lists_comes_back(self, jobs: Project) -> None:
        result = _delete(jobs, feature="clips/videos", filter="duration > 0", dry_run=False)
        assert "3 of them will come back with the next run" in _notes(result)
        assert "bigbuckbunny, " in _notes(result)
        assert jobs.rows("clips/videos").is_empty()
        jobs.run_job()
        assert jobs.rows("clips/frames").height == 29

    def test_what_has_its_upstream_comes_back(self, jobs: Project) -> None:
        result = _delete(jobs, feature="clips/frames", filter="video_id = 'bikes'", dry_run=False)
        assert "delete them from clips/videos" in _notes(result)
        jobs.run_job()
        assert jobs.counts("clips/frames") == (0, 1, 0, 0) or jobs.counts("clips/frames") == (
            1, 0, 0, 0,
        )  # fmt: skip
        assert jobs.rows("clips/frames").height == 29

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"feature": "clips/vidoes", "filter": "size > 1"}, "Did you mean 'clips/videos'"),
            ({"feature": "clips/videos", "filter": "size >"}, "is no condition that Metaxy reads"),
            ({"feature": "clips/videos", "filter": "sise > 1"}, "a column that clips/videos does"),
        ],
    )
    def test_errors(self, jobs: Project, config: dict[str, Any], message: str) -> None:
        with pytest.raises(dg.Failure, match=message):
            _delete(jobs, **config, dry_run=False)
        assert jobs.rows("clips/videos").height == 3

    def test_what_the_launchpad_shows(self, jobs: Project) -> None:
        op: Any = jobs.load().resolve_job_def("metaxy_delete").graph.nodes[0].definition
        fields = op.config_schema.config_type.fields
        assert all(f.description for f in fields.values())
        assert {name for name, f in fields.items() if f.is_required} == {"feature", "filter"}
        assert fields["dry_run"].default_value is True


def test_the_checks_of_all_features_without_computing(jobs: Project) -> None:
    jobs.add_clips("more", names=("bikes",))
    jobs.write(
        "more/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: more
          feature_prefix: more
          partitions: {type: static, partition_keys: [bikes], pattern: '(bikes)'}
          checks: [nothing_missing]
        """,
    )
    result = jobs.run_job("metaxy_check")
    events: Any = result.all_events
    found = {
        (e.event_specific_data.asset_key.to_user_string(), e.event_specific_data.check_name): (
            e.event_specific_data.passed
        )
        for e in events
        if e.event_type_value == "ASSET_CHECK_EVALUATION"
    }
    assert len(found) == 3 * 5 + 1
    assert [key for key, passed in found.items() if not passed] == [
        ("more/videos", "nothing_missing")
    ]
    assert not [e for e in events if e.event_type_value == "ASSET_MATERIALIZATION"]


def _load_error(project: Project) -> str:
    with pytest.raises(Exception, match="Error while") as caught:
        project.load()
    return f"{caught.value}\n{caught.value.__cause__}"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            "store: prod",
            r"maintenance/defs.yaml:\d+:\d+: metaxy.toml has no store 'prod'; it has: dev",
        ),
        ("prefix: a b", r"maintenance/defs.yaml:\d+:\d+: prefix: 'a b' is not a word of letters"),
        ("prefx: a", r"prefx"),
    ],
)
def test_errors_in_yaml_have_file_and_line(project: Project, attributes: str, message: str) -> None:
    project.write("maintenance/defs.yaml", f"{JOBS}attributes: {{{attributes}}}\n")
    text = _load_error(project)
    assert re.search(message, text), text


def test_another_prefix_beside_the_first(jobs: Project) -> None:
    jobs.write("more/defs.yaml", f"{JOBS}attributes: {{prefix: other, store: dev}}\n")
    assert set(_table(jobs.run_job("other_reconcile"), "reconcile")) == set(FEATURES)


def test_a_feature_of_another_component_that_is_wrong_is_blamed_there(jobs: Project) -> None:
    jobs.write(
        "sizes/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: clips/sizes
          deps: [clips/vidoes]
          id_columns: [video_id]
          columns: {size: int}
          compute: builtins.dict
        """,
    )
    text = _load_error(jobs)
    assert "Error while building definitions for sizes[0]" in text


@pytest.mark.parametrize("style", ["yaml", "python"])
def test_what_is_scaffolded_runs_as_it_stands(
    project: Project, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "metaxy.toml").unlink()
    monkeypatch.chdir(project.root)
    result = CliRunner().invoke(
        create_dg_cli(),
        ["scaffold", "defs", "MetaxyJobsComponent", "maintenance", "--format", style],
    )
    assert result.exit_code == 0, result.output
    assert (project.root / "metaxy.toml").is_file()
    assert project.run_job("metaxy_reconcile").success
    if style == "python":
        file = project.sandbox.defs_folder_path / "maintenance/component.py"
        ruff = [Path(sys.executable).parent / "ruff", "format", "--check", "--isolated"]
        subprocess.run([*ruff, "--line-length", "100", file], check=True)


@pytest.mark.e2e
def test_a_class_of_metaxy_with_an_asset_of_its_own(project: Project, tmp_path: Path) -> None:
    """Through `dg launch`: in this process, a job does not know the assets beside it."""
    package = project.sandbox.project_name
    project.write("maintenance/defs.yaml", JOBS)
    project.write(
        "notes.py",
        """
        import dagster as dg
        import metaxy as mx
        import metaxy.ext.dagster as mxd


        class Notes(
            mx.BaseFeature, spec=mx.FeatureSpec(key="my/notes", id_columns=["note"], fields=["text"])
        ):
            note: str


        @mxd.metaxify()
        @dg.asset(metadata={"metaxy/feature": "my/notes"})
        def notes(): ...
        """,
    )
    (project.root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{package}"\n'
    )
    (project.root / f"src/{package}/definitions.py").write_text(
        (Path(__file__).parents[2] / "src/dagster_metaxy/definitions.py").read_text()
    )
    project.load()
    with project.store().open("w") as store:
        versions = [{"text": "1"}, {"text": "1"}]
        frame = {"note": ["a", "b"], "metaxy_provenance_by_field": versions}
        store.write("my/notes", pl.DataFrame(frame))
    bin_folder = Path(sys.executable).parent
    env = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path),
        "PYTHONPATH": str(project.root / "src"),
        "VIRTUAL_ENV": str(bin_folder.parent),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }
    printed = []
    for _ in range(2):
        done = subprocess.run(
            [bin_folder / "dg", "launch", "--job", "metaxy_reconcile"],
            cwd=project.root, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        lines = [line.split() for line in (done.stdout + done.stderr).splitlines()]
        printed += [line for line in lines if line[:1] == ["my/notes"]]
    first, second = printed
    assert first[1] == second[1] == "2"
    assert first[2] == second[2]
    assert first[3:] == ["materialized"]
    assert second[3:] == []
