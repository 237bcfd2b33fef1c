"""The components that `dg` finds: each in a folder of its own.

Dagster imports this module at every load of definitions, in every run worker and step: it brings
in dagster, pydantic and the standard library only.
"""

from dagster_metaxy.components.metaxy_asset.component import MetaxyAssetComponent
from dagster_metaxy.components.metaxy_jobs.component import MetaxyJobsComponent
from dagster_metaxy.components.partitioned_video.component import PartitionedVideoComponent
from dagster_metaxy.components.resources.component import ResourcesComponent

__all__ = [
    "MetaxyAssetComponent",
    "MetaxyJobsComponent",
    "PartitionedVideoComponent",
    "ResourcesComponent",
]
