"""Many components beside each other: Dagster loads all of their definitions, as `dg dev` does."""

from __future__ import annotations

from projects import Project


def test_collections_and_jobs_beside_each_other(project: Project) -> None:
    project.add_clips(names=("bikes",))
    for name in ("clips", "more"):
        project.write(
            f"{name}/defs.yaml",
            f"""
            type: dagster_metaxy.PartitionedVideoComponent
            attributes:
              source: videos
              feature_prefix: {name}
              partitions: dynamic
              remove_deleted_keys: true
              steps: [audio]
            """,
        )
    for prefix in ("metaxy", "other"):
        project.write(
            f"{prefix}/defs.yaml",
            f"""
            type: dagster_metaxy.MetaxyJobsComponent
            attributes: {{prefix: {prefix}}}
            """,
        )
    repository = project.load().get_repository_def()
    repository.load_all_definitions()
    ops = ["update_clips__videos", "update_clips__audio", "remove_deleted_keys", "report_failures"]
    assert set(repository.get_job("clips").graph.node_dict) == set(ops)
    assert project.run_job("metaxy_update").success
    assert project.green("clips/videos") == project.green("more/videos") == {"bikes"}
