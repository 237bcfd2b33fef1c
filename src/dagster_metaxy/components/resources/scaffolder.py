"""What `dg scaffold defs ResourcesComponent` writes."""

from __future__ import annotations

from typing import Any

import dagster as dg

from dagster_metaxy.components._scaffold import clean_on_failure, project_root

_YAML = """\
# Dagster resources and IO managers: by name, a class and its fields.
# Try it:  dg check defs  and then  dg list defs
type: dagster_metaxy.ResourcesComponent

attributes:
  resources:
    # What an asset with `io_manager_key="json_files"` returns is kept as data/json/<its key>.json, or
    # where its metadata says: {"path": "s3://bucket/data/asset.json"}.
    json_files:
      type: dagster_metaxy.resources.JsonIOManager
      base_path: "{{ context.project_root }}/data/json"

    # Polars frames as Parquet files, here in an object store:
    #   pip install 'dagster-metaxy[parquet,s3]'
    # parquet_files:
    #   type: dagster_metaxy.resources.ParquetIOManager
    #   base_path: s3://bucket/data

    # An asset with a parameter `database: DatabaseResource` gets a SQL database. A variable from the
    # environment is read when a run starts, and is no part of the definitions:
    #   pip install 'dagster-metaxy[database]'
    # database:
    #   type: dagster_metaxy.resources.DatabaseResource
    #   host: localhost
    #   port: 5432
    #   database: media
    #   user: dagster
    #   password: "{{ env.DATABASE_PASSWORD }}"

    # An HTTP API that answers in JSON:
    #   pip install 'dagster-metaxy[api]'
    # api:
    #   type: dagster_metaxy.resources.ApiResource
    #   base_url: https://api.example.com/v1
    #   api_key: "{{ env.API_KEY }}"

    # A store of metaxy.toml, and Metaxy's own IO manager:
    # metaxy:
    #   type: dagster_metaxy.resources.MetaxyStoreResource
    # metaxy_io:
    #   type: dagster_metaxy.resources.MetaxyIOManager

    # A class of your own, in resources.py beside this file:
    # mine:
    #   type: .resources.Mine
"""

_PYTHON = '''\
"""Dagster resources and IO managers."""

import dagster as dg

from dagster_metaxy import ResourcesComponent
from dagster_metaxy.resources import JsonIOManager


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> ResourcesComponent:
    return ResourcesComponent(
        resources={
            # What an asset with `io_manager_key="json_files"` returns is a file below data/json.
            "json_files": JsonIOManager(base_path=f"{context.project_root}/data/json"),
            # A secret is read when a run starts:
            # "database": DatabaseResource(url=dg.EnvVar("DATABASE_URL")),
        }
    )
'''


class ResourcesScaffolder(dg.Scaffolder):
    """Writes a component that loads and runs as it stands."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        project_root(request)
        with clean_on_failure(request) as folder:
            if request.scaffold_format == "python":
                (folder / "component.py").write_text(_PYTHON)
            else:
                (folder / "defs.yaml").write_text(_YAML)
