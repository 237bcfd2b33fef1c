"""All features that the components of a project declare, registered together.

A feature's asset takes its dependencies and versions from its upstream's, which another component
may declare: whichever is built first, all are registered.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.components._base import FeatureComponent
from dagster_metaxy.declare._dagster import ResolutionException
from dagster_metaxy.declare.errors import did_you_mean
from dagster_metaxy.declare.feature import (
    AGGREGATION,
    EXPANSION,
    Feature,
    identity,
    register_external,
)
from dagster_metaxy.declare.project import ConfigurationMissing, MetaxyProject, load_project


class UndeclaredUpstream(UserWarning):
    """A feature depends on one that no component declares; it is taken as produced elsewhere."""


@dataclass(frozen=True)
class ProjectFeatures:
    """The features of a project.

    Attributes:
        project: Metaxy's configuration and the graph they are registered in.
        assets: By feature key, upstream first.
        owners: The component that declares each.
    """

    project: MetaxyProject
    assets: Mapping[str, FeatureAsset]
    owners: Mapping[str, FeatureComponent]

    def of(self, component: FeatureComponent) -> list[FeatureAsset]:
        """The features that one component declares, upstream first."""
        return [a for key, a in self.assets.items() if self.owners[key] is component]

    def downstream(self, key: str) -> list[FeatureAsset]:
        """A feature and all that depend on it, upstream first."""
        found = {key}
        for other, asset in self.assets.items():
            if found & set(asset.feature.upstream):
                found.add(other)
        return [asset for other, asset in self.assets.items() if other in found]


def project_features(
    context: dg.ComponentLoadContext, component: FeatureComponent | None = None
) -> ProjectFeatures:
    """The features of all components of the project, registered with Metaxy.

    Args:
        context: Where `component` is built.
        component: The component being built, if it declares features; one built in Python may not
            be in the tree.

    Raises:
        ResolutionException: Two components declare one feature, features depend on each other in
            a circle, or an upstream feature seems misspelt; located in the YAML.
    """
    if component is not None and component._error is not None:
        raise component._error
    if component is not None and component._features is not None:
        return component._features
    components = list(context.component_tree.get_all_components(of_type=FeatureComponent))
    if component is None:
        found = next((c._features for c in components if c._features is not None), None)
        if found is not None:
            return found
    elif not any(c is component for c in components):
        components.append(component)
    root, name = Path(context.project_root), context.defs_module_name.split(".")[0]
    features = _register_sound(root, name, component, components)
    for c in components:
        c._features = features
    return features


class _Blamed(Exception):
    """An error, and the component that is to blame for it."""

    def __init__(self, owner: FeatureComponent, error: ResolutionException) -> None:
        super().__init__(str(error))
        self.owner = owner
        self.error = error


def _register_sound(
    root: Path, name: str, component: FeatureComponent | None, components: list[FeatureComponent]
) -> ProjectFeatures:
    """Register the features of all components but those that are wrong, which say so themselves.

    Dagster shows an error under the component that it builds: raised while another one is built,
    it would be shown there.
    """
    sound = list(components)
    broken: set[str] = set()
    while True:
        try:
            return _register(root, name, sound, broken)
        except _Blamed as blamed:
            if blamed.owner is component:
                raise blamed.error from None
            blamed.owner._error = blamed.error
            sound = [c for c in sound if c is not blamed.owner]
            broken |= blamed.owner.feature_keys


_loading: ContextVar[bool] = ContextVar("loading the features of a Dagster project", default=False)


def load_features(root: Path) -> None:
    """Register the features of a Dagster project with Metaxy, without building definitions.

    Does nothing while Dagster loads them itself, which initializes Metaxy, too, and none outside a
    project.

    Args:
        root: The project's folder; its `src` need not be on Python's path.
    """
    folders = (root, *root.parents)
    in_project = any(
        (f / name).is_file() for f in folders for name in ("dg.toml", "pyproject.toml")
    )
    if _loading.get() or not in_project:
        return
    with importable(root):
        tree = dg.ComponentTree.for_project(root)
        components = list(tree.get_all_components(of_type=FeatureComponent))
        if components:
            try:
                _register(root, tree.defs_module_name.split(".")[0], components, set())
            except _Blamed as blamed:
                raise blamed.error from None


@contextmanager
def importable(root: Path) -> Iterator[None]:
    """Put a project on Python's path, where neither `dg` nor `mx` has put it."""
    path = list(sys.path)
    sys.path[:0] = [str(root / "src"), str(root)]
    try:
        yield
    finally:
        sys.path[:] = path


def _register(
    root: Path, name: str, components: list[FeatureComponent], broken: set[str]
) -> ProjectFeatures:
    """Register the features of components; `broken` are keys of those that others declare wrongly."""
    token = _loading.set(True)
    try:
        project = load_project(root, name)
    except ConfigurationMissing as error:
        raise ResolutionException(str(error)) from None
    finally:
        _loading.reset(token)

    assets: dict[str, FeatureAsset] = {}
    owners: dict[str, FeatureComponent] = {}
    for component in components:
        try:
            declared = component.feature_assets(root)
        except ResolutionException as error:
            raise _Blamed(component, error) from None
        for asset in declared:
            key = asset.feature.key
            if key in assets:
                here, there = (c.position(c.key_attribute) for c in (component, owners[key]))
                message = f"feature {key!r} is declared twice: at {there} and at {here}"
                raise _Blamed(component, component.error(message, component.key_attribute))
            if asset.store is not None and asset.store not in project.config.stores:
                message = (
                    f"metaxy.toml has no store {asset.store!r}; it has:"
                    f" {', '.join(project.config.stores) or 'none'}"
                )
                raise _Blamed(component, component.error(message, "store"))
            assets[key] = asset
            owners[key] = component

    ordered: dict[str, FeatureAsset] = {}
    for key in _upstream_first(assets, owners):
        ordered[key] = _completed(assets[key], ordered)
    typed = {key: asset.feature for key, asset in ordered.items()}
    with project.use():
        for key, asset in ordered.items():
            owner = owners[key]
            try:
                _check_upstream(asset.feature, typed, owner, project, broken)
                asset.feature.register(project.name)
            except ResolutionException as error:
                raise _Blamed(owner, error) from None
            except ValueError as error:
                message = f"feature {key!r}: {error}"
                raise _Blamed(owner, owner.error(message, owner.key_attribute)) from None
    return ProjectFeatures(project, ordered, owners)


def _completed(asset: FeatureAsset, upstream: Mapping[str, FeatureAsset]) -> FeatureAsset:
    """`asset` with what it takes from its upstream: types of id columns, and partitions."""
    feature = asset.feature.with_id_types({key: a.feature for key, a in upstream.items()})
    partitioning = asset.partitioning
    for key in feature.upstream:
        above = upstream[key].partitioning if key in upstream else None
        if (
            partitioning is not None
            and above is not None
            and above.definition == partitioning.definition
            and above.column in feature.id_columns
        ):
            partitioning = above
    return replace(asset, runner=asset.runner.of(feature), partitioning=partitioning)


def _upstream_first(
    assets: Mapping[str, FeatureAsset], owners: Mapping[str, FeatureComponent]
) -> Iterator[str]:
    sorter = TopologicalSorter(
        {key: [u for u in asset.feature.upstream if u in assets] for key, asset in assets.items()}
    )
    try:
        yield from sorter.static_order()
    except CycleError as error:
        circle = error.args[1]
        owner = owners[circle[0]]
        message = f"features depend on each other in a circle: {' -> '.join(circle)}"
        raise _Blamed(owner, owner.error(message, "deps")) from None


def _check_upstream(
    feature: Feature,
    declared: Mapping[str, Feature],
    owner: FeatureComponent,
    project: MetaxyProject,
    broken: set[str],
) -> None:
    registered = {key.to_string() for key in project.graph.feature_definitions_by_key}
    aggregated = [d["feature"] for d in feature.deps if _type(d) == AGGREGATION]
    if len(aggregated) > 1:
        raise owner.error(
            f"{' and '.join(aggregated)} are both aggregated: the compute would get every sample of"
            " one with every sample of the other. Aggregate them in features of their own.",
            "deps",
        )
    for index, dep in enumerate(feature.deps):
        where = ("deps", index)
        key = dep["feature"]
        upstream = declared.get(key)
        if upstream is None:
            if key in registered:
                continue
            if hint := did_you_mean(key, {*declared, *registered}):
                raise owner.error(f"no feature {key!r} is declared.{hint}", *where)
            if key not in broken:
                _warn_of_undeclared(key, owner.position(*where))
            if _type(dep) == AGGREGATION:
                raise owner.error(
                    f"no component declares {key!r}, so that its id columns are not known: a group of"
                    " its samples cannot be told",
                    *where,
                )
            register_external(key, feature.parent_columns, project.name)
            continue
        rename = dep.get("rename") or {}
        columns = [rename.get(c, c) for c in upstream.columns]
        if unknown := [c for c in rename if c not in upstream.columns]:
            raise owner.error(_no_column(key, unknown[0], list(upstream.columns)), *where)
        if unknown := [c for c in dep.get("select") or () if c not in columns]:
            raise owner.error(_no_column(key, unknown[0], columns), *where)
        _check_lineage(feature, dep, [rename.get(c, c) for c in upstream.id_columns], owner, where)
    for index, item in enumerate(feature.fields):
        for dep in item["deps"] if isinstance(item.get("deps"), list) else ():
            upstream = declared.get(dep["feature"])
            where = ("fields", index)
            if dep["feature"] not in feature.upstream:
                hint = did_you_mean(dep["feature"], feature.upstream)
                raise owner.error(
                    f"field {item['key']!r} depends on {dep['feature']!r}, which is none of the"
                    f" feature's deps.{hint}",
                    *where,
                )
            known = [f["key"] for f in upstream.fields] if upstream else None
            for name in dep.get("fields") or ():
                if known is not None and name not in known:
                    raise owner.error(
                        f"{dep['feature']!r} has no field {name!r}; it has: {', '.join(known)}."
                        + did_you_mean(name, known),
                        *where,
                    )


def _type(dep: Mapping[str, Any]) -> str:
    return dep.get("lineage", identity())["relationship"]["type"]


def _warn_of_undeclared(key: str, position: str) -> None:
    """Say, once a process and as if the YAML had said it, that an upstream is not declared."""
    file, _, line = position.rpartition(":")
    warnings.warn_explicit(
        f"no component declares the upstream feature {key!r}: it is taken as produced elsewhere, and"
        " its rows are read from the store",
        UndeclaredUpstream,
        filename=file or position,
        lineno=int(line) if line.isdigit() else 0,
        registry=_warned,
    )


_warned: dict[Any, Any] = {}


def _no_column(key: str, name: str, columns: list[str]) -> str:
    return f"{key!r} has no column {name!r}; it has: {', '.join(columns)}." + did_you_mean(
        name, columns
    )


def _check_lineage(
    feature: Feature,
    dep: Mapping[str, Any],
    upstream_ids: list[str],
    owner: FeatureComponent,
    where: tuple[str | int, ...],
) -> None:
    """Refuse id columns that do not fit the lineage."""
    relationship = dep.get("lineage", identity())["relationship"]
    ids, parents, above = set(feature.id_columns), set(feature.parent_columns), set(upstream_ids)
    names = f"a sample of {feature.key!r} is named by {', '.join(feature.id_columns)}"
    theirs = f"one of its upstream {dep['feature']!r} by {', '.join(upstream_ids)}"
    if relationship["type"] == AGGREGATION:
        on = set(relationship.get("on") or feature.id_columns)
        if not on <= above or not on <= ids:
            raise owner.error(
                f"{names}, {theirs}: an aggregation needs the columns {', '.join(sorted(on))} in both",
                *where,
            )
    elif relationship["type"] == EXPANSION:
        on = set(relationship["on"])
        if on != above or not on < ids:
            raise owner.error(
                f"{names}, {theirs}: an expansion is `on` all id columns of the upstream, and its"
                " samples have further ones",
                *where,
            )
    elif above != parents:
        raise owner.error(
            f"{names}, {theirs}: they must be the same, since one sample is computed from one."
            " For one from a group, write `lineage: aggregation`; for many from one, `lineage:"
            " {type: expansion, on: [...]}`",
            "id_columns",
        )
