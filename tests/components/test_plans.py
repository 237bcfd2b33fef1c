"""Plans, and what a run is asked to do, as users meet them: in YAML, run config and Dagster's tables."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from projects import Project

DOCS = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: t/docs
      id_columns: [doc]
      columns: {doc: str, size: int}
      version_columns: size
      compute: .compute.docs
    """

WORDS = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: t/words
      deps: [t/docs]
      id_columns: [doc]
      columns: {words: int}
      compute: .compute.words
    """


@pytest.fixture
def docs(project: Project) -> Project:
    project.write("docs/defs.yaml", DOCS)
    _hold(project, a=1, b=2)
    project.write("words/defs.yaml", WORDS)
    project.write(
        "words/compute.py",
        "def words(sample):\n  assert sample['doc'] != 'bad'\n  return {'words': sample['size']}",
    )
    project.write("jobs/defs.yaml", "type: dagster_metaxy.MetaxyJobsComponent\nattributes: {}\n")
    return project


def _hold(project: Project, **sizes: int) -> None:
    rows = [{"doc": doc, "size": size} for doc, size in sizes.items()]
    file = project.write("docs/compute.py", f"def docs(): return {rows!r}")
    for cached in file.parent.glob("__pycache__/*"):
        cached.unlink()


def _table(value: Any) -> list[dict[str, Any]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def _why(project: Project) -> dict[str, str]:
    event = project.instance.get_latest_materialization_event(dg.AssetKey(["t", "words"]))
    assert event is not None
    assert event.asset_materialization is not None
    found = event.asset_materialization.metadata.get("why")
    return {} if found is None else {r["sample"]: r["why"] for r in _table(found)}


def _run(project: Project, **config: Any) -> bool:
    return project.run_job(
        "metaxy_update",
        run_config={"ops": {"update_t__words": {"config": config}}},
        raise_on_error=False,
    ).success


def test_a_materialization_says_why(docs: Project) -> None:
    docs.materialize("t/docs", "t/words")
    assert _why(docs) == {}  # all are new, which the counts say
    _hold(docs, b=3)
    docs.materialize("t/docs", "t/words")
    assert _why(docs) == {"doc=a": "orphaned", "doc=b": "input changed"}
    docs.materialize("t/docs", "t/words")
    assert _why(docs) == {}
    docs.materialize("t/docs")
    metadata = docs.metadata("t/docs")
    assert "costliest samples" not in metadata
    _hold(docs, **{f"d{index:02}": 1 for index in range(12)})
    docs.materialize("t/docs", "t/words")
    rows = _table(docs.metadata("t/words")["why"])
    assert [(row["samples"], row["why"]) for row in rows] == [(12, "new"), (1, "orphaned")]
    assert rows[0]["first samples"] == "doc=d00; doc=d01; doc=d02; ..."


def test_cost_is_shown(docs: Project) -> None:
    docs.materialize("t/docs", "t/words")
    metadata = docs.metadata("t/words")
    assert metadata["compute seconds"] >= 0
    event = docs.instance.get_latest_materialization_event(dg.AssetKey(["t", "words"]))
    costliest = _table(event.asset_materialization.metadata["costliest samples"])  # type: ignore[union-attr]
    assert {row["sample"] for row in costliest} == {"doc=a", "doc=b"}


def test_the_plan_job(docs: Project) -> None:
    docs.materialize("t/docs")

    def planned(**config: Any) -> dict[str, Any]:
        result = docs.run_job("metaxy_plan", run_config={"ops": {"plan": {"config": config}}})
        (event,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
        return dict(event.event_specific_data.metadata)  # type: ignore[union-attr]

    found = planned()
    (total,) = [row for row in _table(found["plan"]) if row["feature"] == "t/words"]
    assert (total["samples"], total["why"], total["expected seconds"]) == (2, "2 new", "")
    assert [row["sample"] for row in _table(found["t/words"])] == ["doc=a", "doc=b"]
    docs.materialize("t/words")
    found = planned(assets='key:"t/words"')
    assert list(found) == ["plan"]
    (total,) = _table(found["plan"])
    assert total["samples"] == 0
    root, words = _table(planned(assets='key:"t/docs"+')["plan"])
    assert (root["feature"], words["feature"]) == ("t/docs", "t/words")
    assert "only its run can tell" in root["notes"]
    # What a run would be asked for is planned, too.
    assert _table(planned(force_where="size > 1")["t/words"]) == [
        {"sample": "doc=b", "why": "forced", "detail": ""}
    ]
    for wrong in ('key:"t/word"', "group:nothing"):
        with pytest.raises(
            dg.Failure, match="names no feature that is computed here; there are: t/docs"
        ):
            planned(assets=wrong)
    with pytest.raises(dg.Failure, match="cannot be read"):
        planned(assets="key:(")


def test_a_plan_names_the_files_that_go_and_what_waits(docs: Project) -> None:
    docs.write(
        "words/compute.py",
        "def words(sample, context):\n  context.artifact('w.txt').write_text('x')\n"
        "  return {'words': sample['size']}",
    )
    docs.write(
        "twice/defs.yaml",
        WORDS.replace("t/words", "t/twice")
        .replace("t/docs", "t/words")
        .replace(".words", ".twice"),
    )
    docs.write("twice/compute.py", "def twice(sample): return {'words': 2 * sample['words']}")
    assert docs.run_job("metaxy_update").success
    _hold(docs, a=9)
    docs.materialize("t/docs")
    result = docs.run_job("metaxy_plan")
    (event,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    found = dict(event.event_specific_data.metadata)  # type: ignore[union-attr]
    folders = [row["folder"] for row in _table(found["t/words: files that go"])]
    assert "t__words/a/" in folders[0]
    assert "t__words/b/" in folders[1]
    (twice,) = [row for row in _table(found["plan"]) if row["feature"] == "t/twice"]
    assert "t/words may change first" in twice["notes"]


def test_childless_parents_beside_a_failed_one(docs: Project) -> None:
    docs.write(
        "words/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: t/words
          deps: [{feature: t/docs, lineage: {type: expansion, on: [doc]}}]
          id_columns: [doc, n]
          columns: {n: int}
          compute: .compute.words
        """,
    )
    docs.write(
        "words/compute.py",
        "def words(sample): return [{'n': n} for n in range(1 // (sample['size'] - 2))]",
    )
    _hold(docs, a=9, b=2)
    for quarantined in (0, 1):
        assert _run(docs)
        assert docs.metadata("t/words")["quarantined"] == quarantined
    # It is known, though it has no rows.
    _hold(docs, a=8, b=2)
    assert _run(docs)
    assert docs.counts("t/words")[:2] == (0, 1)


def test_quarantine(docs: Project) -> None:
    _hold(docs, a=1, bad=2)
    assert _run(docs)
    assert docs.counts("t/words") == (2, 0, 0, 1)
    assert _run(docs)
    metadata = docs.metadata("t/words")
    assert metadata["quarantined"] == 1
    assert "retry_quarantined" in str(metadata["notes"])
    assert "doc=bad: AssertionError" in str(metadata["notes"])
    event = docs.instance.get_latest_materialization_event(dg.AssetKey(["t", "words"]))
    (held,) = _table(event.asset_materialization.metadata["quarantined samples"])  # type: ignore[union-attr]
    assert (held["sample"], held["error"], held["attempts"]) == ("doc=bad", "AssertionError", 1)
    assert held["where"].endswith("compute.py:2")
    # The check names it, after a run and by itself.
    for run in ("metaxy_update", "metaxy_check"):
        result = docs.run_job(run)
        (check,) = [
            e
            for e in result.get_asset_check_evaluations()
            if e.check_name == "no_failed_samples" and e.asset_key.path[-1] == "words"
        ]
        assert not check.passed
        assert "doc=bad: AssertionError" in str(check.description)
    # An asset shows the tables of all features.
    docs.materialize("metaxy/quarantine")
    event = docs.instance.get_latest_materialization_event(dg.AssetKey(["metaxy", "quarantine"]))
    shown = event.asset_materialization.metadata  # type: ignore[union-attr]
    assert shown["samples"].value == 1
    assert [row["sample"] for row in _table(shown["t/words"])] == ["doc=bad"]
    assert [(row["feature"], row["samples"]) for row in _table(shown["features"])] == [
        ("t/docs", 0),
        ("t/words", 1),
    ]
    assert _run(docs, retry_quarantined=True)
    assert docs.counts("t/words") == (1, 0, 0, 1)
    file = docs.sandbox.defs_folder_path / "words/defs.yaml"
    file.write_text(file.read_text() + "  transient_errors: [AssertionError]\n  max_attempts: 3\n")
    for failed in (1, 0):
        assert _run(docs)
        assert docs.metadata("t/words")["failed"] == failed
    # Once it is gone upstream, nothing speaks of it.
    _hold(docs, a=1)
    assert _run(docs)
    assert docs.metadata("t/words")["quarantined"] == 0


def test_run_config(docs: Project) -> None:
    assert _run(docs, limit=1)
    assert docs.rows("t/words")["doc"].to_list() == ["a"]
    assert _run(docs, only=["b"])
    assert sorted(docs.rows("t/words")["doc"]) == ["a", "b"]
    assert _run(docs)
    assert docs.counts("t/words") == (0, 0, 0, 0)
    assert _run(docs, force_where="size > 1")
    assert _why(docs) == {"doc=b": "forced"}
    assert _run(docs, force=True)
    assert _why(docs) == {"doc=a": "forced", "doc=b": "forced"}
    assert not _run(docs, force_where="sise > 1")


def test_run_config_of_an_asset(docs: Project) -> None:
    docs.materialize("t/docs", "t/words")
    defs = docs.load()
    key = dg.AssetKey(["t", "words"])
    job = defs.get_repository_def().get_implicit_job_def_for_assets([key])
    assert job is not None
    job.execute_in_process(
        instance=docs.instance,
        asset_selection=[key],
        run_config={"ops": {"t__words": {"config": {"force": True}}}},
    )
    assert set(_why(docs).values()) == {"forced"}


def test_a_partition_with_samples_left_is_not_green(docs: Project) -> None:
    static = "  partitions_def: {type: static, partition_keys: [a, b]}\n"
    for name in ("docs", "words"):
        file = docs.sandbox.defs_folder_path / f"{name}/defs.yaml"
        file.write_text(file.read_text() + static)
    assert _run(docs, only=["b"])
    assert docs.green("t/words") == {"b"}
    assert _run(docs)
    assert docs.green("t/words") == {"a", "b"}


def test_on_error_fail(docs: Project) -> None:
    _hold(docs, a=1, bad=2)
    file = docs.sandbox.defs_folder_path / "words/defs.yaml"
    file.write_text(file.read_text() + "  on_error: fail\n")
    assert not _run(docs)
    assert docs.rows("t/words")["doc"].to_list() == ["a"]
    file.write_text(file.read_text().replace("on_error: fail", "on_error: quarantine"))
    assert _run(docs)
    assert docs.counts("t/words") == (0, 0, 0, 0)
    assert _why(docs) == {"doc=bad": "quarantined"}


def test_a_root_has_nothing_to_be_asked(docs: Project) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        docs.run_job(
            "metaxy_update", run_config={"ops": {"update_t__docs": {"config": {"force": True}}}}
        )


def test_run_config_that_cannot_be(docs: Project) -> None:
    assert docs.materialize("t/docs").success
    config = {"ops": {"t__words": {"config": {"limit": 0}}}}
    result = docs.materialize("t/words", raise_on_error=False, run_config=config)
    (failure,) = result.get_step_failure_events()
    said = str(failure.step_failure_data.error)
    assert "t/words: the run's config, limit: input should be greater than or equal to 1" in said
    assert "pydantic" not in said
