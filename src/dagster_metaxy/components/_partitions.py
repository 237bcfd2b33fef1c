"""The columns that a feature's partitions are found by, and its partitions beside its upstream's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import dagster as dg

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.components._base import FeatureComponent
from dagster_metaxy.declare.columns import UNCHECKED, Column
from dagster_metaxy.declare.errors import did_you_mean
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import Partitioning, key_types, refusal


def partitioned(
    asset: FeatureAsset,
    upstream: Mapping[str, FeatureAsset],
    features: Mapping[str, Feature],
    owner: FeatureComponent,
) -> FeatureAsset:
    """`asset` with the columns that its partitions are found by, which are columns of it, too.

    Args:
        asset: A feature, its id columns typed.
        upstream: The assets of the project that come before it.
        features: Their features, and those of Python classes.
        owner: The component that declares it.

    Raises:
        ResolutionException: No such columns are there, or Dagster refuses the partitions beside
            those of an upstream; located in the YAML.
    """
    feature = asset.feature
    _check_mappings(asset, upstream, owner)
    if asset.partitioning is None:
        return asset
    seen, unknown = _seen(feature, features)
    given = bool(asset.partitioning.columns)
    found = asset.partitioning if given else _default(asset.partitioning, feature, upstream, seen)
    if found is None:
        names = list(asset.partitioning.dimensions)
        raise owner.error(
            f"of multi partitions, partition_by names a column for each of {' and '.join(names)};"
            f" columns are: {', '.join(seen)}",
            "partitions_def",
        )
    columns = dict(feature.columns)
    where = "partition_by" if given else "partitions_def"
    definitions = found.dimensions.values() or [found.definition]
    for name, definition in zip(found.columns, definitions, strict=True):
        column = seen.get(name) or (columns.get(name) if unknown else None)
        if column is None:
            raise owner.error(_no_column(feature, name, seen, unknown), where)
        if name in columns and columns[name].type != column.type:
            raise owner.error(
                f"column {name!r}, by which partitions are found, is {column.type} upstream, but"
                f" declared as {columns[name].type}",
                "columns",
                name,
            )
        types = key_types(definition)
        if column.type not in (*types, UNCHECKED):
            raise owner.error(
                f"partitions are found by a column of type {', '.join(types)}; {name!r} is"
                f" {column.type}." + ("" if given else " Name another one in partition_by."),
                where,
            )
        if name not in columns and not feature.declared:
            raise owner.error(
                f"the Python class of {feature.key!r} has no column {name!r}, by which partitions are"
                " found: give it one",
                where,
            )
        # Rows from before have none.
        columns.setdefault(name, replace(column, nullable=True) if feature.deps else column)
    runner = asset.runner.of(replace(feature, columns=columns))
    return replace(asset, runner=runner, partitioning=found)


def _seen(feature: Feature, features: Mapping[str, Feature]) -> tuple[dict[str, Column], list[str]]:
    """The columns that the compute sees, and the upstream features whose columns are not known.

    Of a feature without upstream, these are its own.
    """
    if not feature.deps:
        return dict(feature.columns), []
    seen: dict[str, Column] = {}
    unknown = []
    for dep in feature.deps:
        above = features.get(dep["feature"])
        if above is None or not above.columns_known:
            unknown.append(dep["feature"])
            continue
        for name, column in above.columns.items():
            renamed = dict(dep.get("rename") or {}).get(name, name)
            is_id = name in above.id_columns
            if is_id or dep.get("select") is None or renamed in dep["select"]:
                nullable = column.nullable or bool(dep.get("optional"))
                seen.setdefault(renamed, replace(column, nullable=nullable))
    return seen, unknown


def _default(
    partitioning: Partitioning,
    feature: Feature,
    upstream: Mapping[str, FeatureAsset],
    seen: Mapping[str, Column],
) -> Partitioning | None:
    """How samples find their partitions where `partition_by` is left out; None if it cannot be."""
    for dep in feature.deps:
        above = upstream[dep["feature"]].partitioning if dep["feature"] in upstream else None
        if above is not None and above.definition == partitioning.definition:
            rename = dict(dep.get("rename") or {})
            columns = tuple(rename.get(column, column) for column in above.columns)
            if set(columns) <= set(seen):
                return replace(above, columns=columns)
    if names := tuple(partitioning.dimensions):
        known = {**feature.columns, **seen}
        return replace(partitioning, columns=names) if set(names) <= set(known) else None
    return replace(partitioning, columns=(feature.parent_columns[0],))


def _no_column(feature: Feature, name: str, seen: Mapping[str, Column], unknown: list[str]) -> str:
    if unknown:
        return (
            f"the columns of {unknown[0]!r} are not known here: declare {name!r}, by which partitions"
            " are found, in columns, too"
        )
    columns = ", ".join(seen)
    if not feature.deps:
        return f"{feature.key!r} has no column {name!r}; it has: {columns}." + did_you_mean(
            name, seen
        )
    hint = did_you_mean(name, seen)
    return f"the compute sees no column {name!r} of an upstream; it sees: {columns}.{hint}"


def _check_mappings(
    asset: FeatureAsset, upstream: Mapping[str, FeatureAsset], owner: FeatureComponent
) -> None:
    """Refuse what Dagster would refuse when it loads all definitions, without saying where."""
    own = asset.partitioning.definition if asset.partitioning else None
    written = [dep.feature for dep in getattr(owner, "deps", None) or ()]
    for key in asset.feature.upstream:
        if key not in upstream:
            continue
        # Of a Python class, YAML need not repeat what it depends on.
        where = ("deps", written.index(key)) if key in written else ("feature",)
        mapping = asset.partition_mappings.get(key)
        above = upstream[key].partitioning
        if above is None:
            if mapping is not None:
                raise owner.error(
                    f"{key!r} has no partitions that could be mapped: leave partition_mapping out",
                    *where,
                    "partition_mapping",
                )
            continue
        if mapping is None and (own is None or own == above.definition):
            continue  # all, or the same
        why = refusal(own, above.definition, mapping) or _no_dimension(
            mapping, own, above.definition
        )
        if why and mapping is not None:
            raise owner.error(
                f"partitions of {key!r} cannot be mapped so: {why}",
                *where,
                "partition_mapping",
            )
        if why:
            raise owner.error(
                f"the partitions of {key!r} are others than those of {asset.feature.key!r} ({why}):"
                " say in the dep which of them they depend on, such as `partition_mapping: all`",
                *where,
            )


def _no_dimension(
    mapping: dg.PartitionMapping | None, *definitions: dg.PartitionsDefinition | None
) -> str | None:
    """What Dagster notices only in the UI: a dimension that is not there."""
    if not isinstance(mapping, dg.MultiToSingleDimensionPartitionMapping):
        return None
    name = mapping.partition_dimension_name
    names = [
        dimension.name
        for definition in definitions
        if isinstance(definition, dg.MultiPartitionsDefinition)
        for dimension in definition.partitions_defs
    ]
    if name is None or name in names:
        return None
    return f"there is no dimension {name!r}; dimensions are: {', '.join(names)}"
