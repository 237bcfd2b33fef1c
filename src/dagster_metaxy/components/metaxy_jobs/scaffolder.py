"""What `dg scaffold defs MetaxyJobsComponent` writes."""

from __future__ import annotations

from typing import Any

import dagster as dg

from dagster_metaxy.components._scaffold import (
    clean_on_failure,
    ensure_metaxy_config,
    project_root,
)

_YAML = """\
# Jobs over all features of the project.
type: dagster_metaxy.MetaxyJobsComponent

attributes:
  # metaxy_update brings all features up to date in one run:
  #   dg launch --job metaxy_update
  #
  # metaxy_plan says what that would compute, sample by sample, and why:
  #   dg launch --job metaxy_plan
  #
  # metaxy_check evaluates the checks of all features, and computes nothing:
  #   dg launch --job metaxy_check
  #
  # metaxy_reconcile tells Dagster what is in the store: it observes every feature, and reports as
  # materialized what was computed outside of Dagster:
  #   dg launch --job metaxy_reconcile
  #
  # metaxy_delete deletes samples, all that was computed from them, and their files. What it is asked
  # goes into the launchpad of the UI, or into a file, delete.yaml:
  #   ops:
  #     delete:
  #       config:
  #         feature: clips/videos
  #         filter: "video_id = 'bikes'"
  # A dry run says what would go; with `dry_run: false` below the filter it goes:
  #   dg launch --job metaxy_delete --config delete.yaml
  #
  # metaxy_collect removes the files of computed features that no row names, which runs that were
  # killed have left. A dry run, until a file, collect.yaml, says `dry_run: false`:
  #   ops:
  #     collect:
  #       config:
  #         dry_run: false
  #   dg launch --job metaxy_collect --config collect.yaml
  prefix: metaxy
"""

_PYTHON = '''\
"""Jobs over all features of the project: metaxy_update, metaxy_plan, metaxy_check, metaxy_reconcile,
metaxy_delete and metaxy_collect."""

import dagster as dg

from dagster_metaxy import MetaxyJobsComponent


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> MetaxyJobsComponent:
    return MetaxyJobsComponent(prefix="metaxy")
'''


class MetaxyJobsScaffolder(dg.Scaffolder):
    """Writes a component that loads and runs as it stands."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        with clean_on_failure(request) as folder:
            ensure_metaxy_config(project_root(request))
            if request.scaffold_format == "python":
                (folder / "component.py").write_text(_PYTHON)
            else:
                (folder / "defs.yaml").write_text(_YAML)
