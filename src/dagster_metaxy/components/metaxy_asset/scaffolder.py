"""What `dg scaffold defs MetaxyAssetComponent` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import click
import dagster as dg
from pydantic import BaseModel, Field

from dagster_metaxy.components._scaffold import (
    clean_on_failure,
    ensure_metaxy_config,
    project_root,
)


class MetaxyAssetParams(BaseModel):
    """Flags of the scaffold."""

    feature: str | None = Field(
        default=None, description="Key of the feature; the name of the folder if left out."
    )
    depends_on: list[str] = Field(
        default_factory=list,
        description="Key of an upstream feature; may be repeated. Without any, a root feature, whose"
        " compute lists all samples there are.",
    )
    id_columns: list[str] = Field(
        default_factory=list,
        description="Columns that name a sample; those of the upstream feature if left out.",
    )


_YAML = """\
# One Metaxy feature, computed by a Python function, as a Dagster asset.
# Try it:  dg check defs  and then  dg launch --assets '{feature}'
type: dagster_metaxy.MetaxyAssetComponent

attributes:
  feature: {feature}

  # The features whose samples this one is computed from. All their columns reach the compute;
  # name fewer with   - feature: {first_dep}
  #                     columns: [path]
  deps:
{deps}

  # What names a sample: the same as upstream, since one sample is computed from one.
  id_columns: [{id_columns}]

  # What the compute returns. Types: str, int, float, bool, bytes, date, datetime, list[float] ...
  columns:
    example:
      type: str
      description: Replace this by columns of your own, with their units.

  # The function that computes a sample: {function} in compute.py beside this file.
  compute: .compute.{function}

  # A new code_version recomputes every sample.
  fields:
    - key: default
      code_version: "1"

  # group_name: media
  # owners: ["team:media"]
  # automation_condition: "{{{{ dg.AutomationCondition.eager() }}}}"
"""

_COMPUTE = '''\
"""The compute of the feature `{feature}`."""

from collections.abc import Mapping
from typing import Any


def {function}(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Compute one sample.

    Called for new and stale samples only. An exception marks this sample as failed, by name,
    and stops no other.

    Args:
        sample: The columns of the upstream sample{known}.

    Returns:
        A value for each column that {declared} declares; id columns need not be returned.
    """
    return {{"example": f"computed from {shown}"}}
'''

_PYTHON = '''\
"""The feature `{feature}`, as a Dagster asset."""

import dagster as dg

from dagster_metaxy import MetaxyAssetComponent

from .compute import {function}


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> MetaxyAssetComponent:
    return MetaxyAssetComponent(
        feature="{feature}",
        # The features whose samples this one is computed from.
        deps={deps},
        # What names a sample: the same as upstream, since one sample is computed from one.
        id_columns={id_columns},
        # What the compute returns.
        columns={{"example": "str"}},
        compute={function},
        # A new code_version recomputes every sample.
        fields=[{{"key": "default", "code_version": "1"}}],
    )
'''


_ROOT_YAML = """\
# A root feature: a Python function lists all samples there are, from a table, an API, a folder ...
# Try it:  dg check defs  and then  dg launch --assets '{feature}'
type: dagster_metaxy.MetaxyAssetComponent

attributes:
  feature: {feature}

  # What names a sample.
  id_columns: [{id_columns}]

  # What is known of each. Types: str, int, float, bool, bytes, date, datetime, list[float] ...
  columns:
    example:
      type: str
      description: Replace this by columns of your own, with their units.

  # The function that lists the samples: {function} in compute.py beside this file.
  compute: .compute.{function}

  # The column that says when a sample is another one: an ETag, a checksum, a time of change.
  version_columns: version

  # group_name: media
  # owners: ["team:media"]
  # automation_condition: "{{{{ dg.AutomationCondition.on_cron('@hourly') }}}}"
"""

_ROOT_COMPUTE = '''\
"""The compute of the root feature `{feature}`."""

from collections.abc import Iterator
from typing import Any


def {function}() -> Iterator[dict[str, Any]]:
    """All samples there are.

    Those that are new, or have another version, are written; those that are no longer among them
    are deleted. An exception leaves everything as it is.

    Yields:
        Of each sample the id columns, its version, and a value for each column that {declared}
        declares.
    """
    yield {{{ids}, "version": "1", "example": "a sample"}}
'''

_ROOT_PYTHON = '''\
"""The root feature `{feature}`, as a Dagster asset."""

import dagster as dg

from dagster_metaxy import MetaxyAssetComponent

from .compute import {function}


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> MetaxyAssetComponent:
    return MetaxyAssetComponent(
        feature="{feature}",
        # What names a sample.
        id_columns={id_columns},
        # What is known of each.
        columns={{"example": "str"}},
        compute={function},
        # The column that says when a sample is another one: an ETag, a checksum, a time of change.
        version_columns="version",
    )
'''


class MetaxyAssetScaffolder(dg.Scaffolder[MetaxyAssetParams]):
    """Writes a component that loads, checks and materializes as it stands."""

    @classmethod
    def get_scaffold_params(cls) -> type[MetaxyAssetParams]:
        return MetaxyAssetParams

    def scaffold(self, request: dg.ScaffoldRequest[MetaxyAssetParams]) -> None:
        with clean_on_failure(request) as folder:
            root = project_root(request)
            params = request.params
            feature = params.feature or folder.name
            if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", feature) or "__" in feature:
                raise click.UsageError(
                    f"--feature {feature!r}: a key is words joined by slashes, such as media/faces."
                )
            ensure_metaxy_config(root)
            upstream = _upstream_columns(root, params.depends_on)
            default = ["video_id"] if params.depends_on else ["sample_id"]
            ids = params.id_columns or (upstream[0] if upstream else default)
            words = {
                "feature": feature,
                "function": re.sub(r"\W", "_", feature.rpartition("/")[2]),
                "first_dep": next(iter(params.depends_on), ""),
                "ids": ", ".join(f'"{c}": "a"' for c in ids),
                "known": f": {', '.join(upstream[1])}" if upstream else "",
                "shown": f"{{sample[{ids[0]!r}]}}",
            }
            if re.match(r"\d", words["function"]):
                words["function"] = f"compute_{words['function']}"
            declared = "component.py" if request.scaffold_format == "python" else "defs.yaml"
            compute, python, yaml = (
                (_COMPUTE, _PYTHON, _YAML)
                if params.depends_on
                else (_ROOT_COMPUTE, _ROOT_PYTHON, _ROOT_YAML)
            )
            (folder / "compute.py").write_text(compute.format(**words, declared=declared))
            if request.scaffold_format == "python":
                (folder / "component.py").write_text(
                    python.format(
                        **words, deps=json.dumps(params.depends_on), id_columns=json.dumps(ids)
                    )
                )
            else:
                deps = "\n".join(f"    - {key}" for key in params.depends_on)
                (folder / "defs.yaml").write_text(
                    yaml.format(**words, deps=deps, id_columns=", ".join(ids))
                )
            click.echo(f"Next: edit {folder.name}/compute.py, then dg launch --assets '{feature}'")


def _upstream_columns(root: Path, keys: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Id columns and all columns of the first upstream that the project declares, if any does."""
    from dagster_metaxy.components._graph import load_features
    from dagster_metaxy.declare.feature import Feature

    try:
        features = load_features(root)
        declared = {k: a.feature for k, a in features.assets.items()} if features else {}
        for key in keys:
            if feature := declared.get(key) or Feature.known(key):
                return list(feature.id_columns), list(feature.columns)
    except Exception as error:
        # A project that does not load may still be added to.
        click.echo(f"Could not look up the upstream features: {error}", err=True)
    return None
