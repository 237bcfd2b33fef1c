"""All features that the components of a project declare, registered together.

A feature's asset takes its dependencies and versions from its upstream's, which another component
may declare: whichever is built first, all are registered.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_metaxy.components._asset import FeatureAsset, is_of_component
from dagster_metaxy.components._base import FeatureComponent
from dagster_metaxy.components._partitions import partitioned
from dagster_metaxy.declare._dagster import ResolutionException, definitions_in_python
from dagster_metaxy.declare.errors import Position, did_you_mean, with_others
from dagster_metaxy.declare.feature import (
    AGGREGATION,
    EXPANSION,
    UNDECLARED,
    ExternalFeature,
    Feature,
    forget_declared,
    identity,
    registered_keys,
)
from dagster_metaxy.declare.project import ConfigurationError, MetaxyProject, load_project


class UndeclaredUpstream(UserWarning):
    """A feature depends on one that no component declares; it is taken as produced elsewhere."""


@dataclass(frozen=True)
class ProjectFeatures:
    """The features of a project.

    Attributes:
        project: Metaxy's configuration and the graph they are registered in.
        assets: By feature key, upstream first.
        owners: The component that declares each.
        wrong: The components that are left out, which have an error to tell.
    """

    project: MetaxyProject
    assets: Mapping[str, FeatureAsset]
    owners: Mapping[str, FeatureComponent]
    wrong: Sequence[FeatureComponent] = ()

    def of(self, component: FeatureComponent) -> list[FeatureAsset]:
        """The features that one component declares, upstream first."""
        return [a for key, a in self.assets.items() if self.owners[key] is component]

    def downstream(self, key: str) -> list[FeatureAsset]:
        """A feature and all that are computed here and depend on it, upstream first."""
        found = {key}
        for other, asset in self.assets.items():
            if found & set(asset.feature.upstream):
                found.add(other)
        return [a for other, a in self.assets.items() if other in found and not a.is_external]


def project_features(
    context: dg.ComponentLoadContext, component: FeatureComponent | None = None
) -> ProjectFeatures:
    """The features of all components of the project, registered with Metaxy.

    Args:
        context: Where `component` is built.
        component: The component being built, if it declares features; one built in Python may not
            be in the tree.

    Raises:
        ResolutionException: What is wrong with this component, located in the YAML, and then what
            is wrong with others: Dagster shows the first error and builds no more.
    """
    if component is None or component._features is None:
        components = list(context.component_tree.get_all_components(of_type=FeatureComponent))
        if component is not None and not any(c is component for c in components):
            components.append(component)
        found = next((c._features for c in components if c._features is not None), None)
        if component is None and found is not None:
            return found
        root, name = Path(context.project_root), context.defs_module_name.split(".")[0]
        features = _register_sound(root, name, components)
        for c in components:
            c._features = features
        _check_asset_keys(context.component_tree, features)
        if component is None:
            return features
    features = component._features
    assert features is not None
    if component._error is not None:
        others = [c for c in (*features.wrong, *features.owners.values()) if c is not component]
        error = with_others(component._error, [c._error for c in others if c._error is not None])
        # What led here is this package's own affair.
        raise error.with_traceback(None) from error.__cause__
    return features


_looking: ContextVar[bool] = ContextVar("looking at what Python defines", default=False)


def python_definitions(tree: dg.ComponentTree) -> Sequence[dg.Definitions]:
    """What the Python files of a project define; nothing where one of them is building a component to
    find that out."""
    if _looking.get():
        return ()
    token = _looking.set(True)
    try:
        return list(definitions_in_python(tree))
    finally:
        _looking.reset(token)


def _check_asset_keys(tree: dg.ComponentTree, features: ProjectFeatures) -> None:
    """Note where an asset that is written in Python has the key of a feature: Dagster would name the
    key, and no place."""
    declared = {asset.key: key for key, asset in features.assets.items()}
    for definitions in python_definitions(tree):
        for asset in definitions.assets or ():
            # Python may also build a component of the tree.
            if not isinstance(asset, dg.AssetsDefinition) or is_of_component(asset):
                continue
            for key in asset.keys & declared.keys():
                owner = features.owners[declared[key]]
                owner._error = owner.error(
                    f"the asset {key.to_user_string()!r} is defined twice: here and"
                    f" {_source(asset, key)}",
                    owner.key_attribute,
                )


def _source(asset: dg.AssetsDefinition, key: dg.AssetKey) -> str:
    """Where the function of an asset stands."""
    (found,) = dg.with_source_code_references([asset])
    assert isinstance(found, dg.AssetsDefinition)
    references = found.metadata_by_key[key].get("dagster/code_references")
    if not isinstance(references, dg.CodeReferencesMetadataValue):
        return "in Python"
    return "at " + references.code_references[0].source


class _Blamed(Exception):
    """An error, and the component that is to blame for it."""

    def __init__(self, owner: FeatureComponent, error: ResolutionException) -> None:
        super().__init__(str(error))
        self.owner = owner
        self.error = error


def _register_sound(root: Path, name: str, components: list[FeatureComponent]) -> ProjectFeatures:
    """Register the features of all components but those that are wrong, which say so themselves.

    Dagster shows an error under the component that it builds: raised while another one is built,
    it would be shown there.
    """
    wrong = [c for c in components if c._error is not None]
    while True:
        try:
            sound = [c for c in components if not any(c is w for w in wrong)]
            return replace(_register(root, name, sound, wrong), wrong=wrong)
        except _Blamed as blamed:
            blamed.owner._error = blamed.error
            wrong.append(blamed.owner)


_loading: ContextVar[bool] = ContextVar("loading the features of a Dagster project", default=False)


def load_features(root: Path) -> ProjectFeatures | None:
    """Register the features of a Dagster project with Metaxy, without building definitions.

    Does nothing while Dagster loads them itself, which initializes Metaxy, too, and none outside a
    project.

    Args:
        root: The project's folder; its `src` need not be on Python's path.

    Returns:
        The features that its components declare; None where there are none.
    """
    folders = (root, *root.parents)
    in_project = any(
        (f / name).is_file() for f in folders for name in ("dg.toml", "pyproject.toml")
    )
    if _loading.get() or not in_project:
        return None
    with importable(root):
        tree = dg.ComponentTree.for_project(root)
        components = list(tree.get_all_components(of_type=FeatureComponent))
        if not components:
            return None
        try:
            if wrong := [c._error for c in components if c._error is not None]:
                raise with_others(wrong[0], wrong[1:])
            return _register(root, tree.defs_module_name.split(".")[0], components, ())
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
    root: Path,
    name: str,
    components: Sequence[FeatureComponent],
    wrong: Sequence[FeatureComponent],
) -> ProjectFeatures:
    """Register the features of components; those of the `wrong` ones are not known."""
    token = _loading.set(True)
    try:
        project = load_project(root, name)
    except ConfigurationError as error:
        raise ResolutionException(str(error)) from None
    finally:
        _loading.reset(token)

    with project.use():
        forget_declared(project.name)
    assets: dict[str, FeatureAsset] = {}
    owners: dict[str, FeatureComponent] = {}
    checked: set[str | None] = set()
    for component in components:
        try:
            # Some look up what Python classes declare.
            with project.use():
                declared = component.feature_assets(root)
        except ResolutionException as error:
            raise _Blamed(component, error) from None
        for asset in declared:
            key = asset.feature.key
            if key in assets:
                there = owners[key].position(owners[key].key_attribute) or "in Python"
                message = f"the feature {key!r} is declared twice: here and at {there}"
                raise _Blamed(component, component.error(message, component.key_attribute))
            if (missing := project.missing_store(asset.store)) is not None:
                raise _Blamed(component, component.error(missing, "store"))
            if asset.store not in checked:
                checked.add(asset.store)
                try:
                    project.check_store(asset.store)
                except ConfigurationError as error:
                    raise ResolutionException(str(error)) from None
            assets[key] = asset
            owners[key] = component

    with project.use():
        typed = {
            key: feature
            for asset in assets.values()
            for key in asset.feature.upstream
            if key not in assets and (feature := Feature.known(key))
        }
    ordered: dict[str, FeatureAsset] = {}
    for key in _upstream_first(assets, owners):
        feature = assets[key].feature.with_id_types(typed)
        ordered[key] = replace(assets[key], runner=assets[key].runner.of(feature))
        typed[key] = feature
    with project.use():
        for key, asset in ordered.items():
            owner = owners[key]
            try:
                _check_upstream(asset.feature, typed, owner, project, wrong)
                if not any(
                    _may_declare(c, above)
                    for c in wrong
                    for above in asset.feature.upstream
                    if above not in typed
                ):
                    ordered[key] = asset = partitioned(asset, ordered, typed, owner)
                    typed[key] = asset.feature
                asset.feature.register(project.name)
                _check_fields(asset.feature, owner, project)
            except ResolutionException as error:
                raise _Blamed(owner, error) from None
            except ValueError as error:
                message = f"feature {key!r}: {error}"
                raise _Blamed(owner, owner.error(message, owner.key_attribute)) from None
    joint = [asset for asset in ordered.values() if asset.is_joint]
    for asset in joint:
        companions = [other for other in joint if asset.goes_with(other)]
        ordered[asset.feature.key] = replace(asset, companions=companions)
    return ProjectFeatures(project, ordered, owners)


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
    known: Mapping[str, Feature],
    owner: FeatureComponent,
    project: MetaxyProject,
    wrong: Sequence[FeatureComponent],
) -> None:
    if not feature.declared:
        return
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
        upstream = known.get(key)
        if upstream is None:
            unknown = any(_may_declare(c, key) for c in wrong)
            if not unknown:
                # Where another feature depends on it, too, there is a stand-in by now.
                if hint := did_you_mean(key, {*known, *registered_keys()} - {key}):
                    raise owner.error(f"no feature {key!r} is declared.{hint}", *where, "feature")
                _warn_of_undeclared(key, owner.position(*where, "feature"))
                if _type(dep) == AGGREGATION:
                    raise owner.error(
                        f"no component declares {key!r}, so that its id columns are not known: a group"
                        " of its samples cannot be told",
                        *where,
                        "feature",
                    )
            ExternalFeature(key, feature.parent_columns, {}, source=UNDECLARED).register(
                project.name
            )
            continue
        rename = dep.get("rename") or {}
        columns = [rename.get(c, c) for c in upstream.columns]
        for name in rename if upstream.columns_known else ():
            if name not in upstream.columns:
                there = list(upstream.columns)
                raise owner.error(_no_column(key, name, there), *where, "rename", name)
        for number, name in enumerate(dep.get("select") or () if upstream.columns_known else ()):
            if name not in columns:
                raise owner.error(_no_column(key, name, columns), *where, "columns", number)
        _check_lineage(feature, dep, upstream, owner, where)
    for index, item in enumerate(feature.fields):
        for number, dep in enumerate(item["deps"] if isinstance(item.get("deps"), list) else ()):
            upstream = known.get(dep["feature"])
            where = ("fields", index, "deps", number)
            if dep["feature"] not in feature.upstream:
                hint = did_you_mean(dep["feature"], feature.upstream)
                raise owner.error(
                    f"field {item['key']!r} depends on {dep['feature']!r}, which is none of the"
                    f" feature's deps.{hint}",
                    *where,
                    "feature",
                )
            fields = [f["key"] for f in upstream.fields] if upstream else None
            for place, name in enumerate(dep.get("fields") or ()):
                if fields is not None and name not in fields:
                    raise owner.error(
                        f"{dep['feature']!r} has no field {name!r}; it has: {', '.join(fields)}."
                        + did_you_mean(name, fields),
                        *where,
                        "fields",
                        place,
                    )


def _may_declare(component: FeatureComponent, key: str) -> bool:
    """Whether a feature may be one of a component that is wrong."""
    prefix = getattr(component, component.key_attribute, None)
    return prefix is None or f"{key}/".startswith(f"{prefix}/")


def _check_fields(feature: Feature, owner: FeatureComponent, project: MetaxyProject) -> None:
    """Refuse a field that no upstream field is mapped to; Metaxy would, when it computes versions."""
    if not any("fields_mapping" in dep for dep in feature.deps):
        return
    import metaxy as mx

    plan = project.graph.get_feature_plan(mx.FeatureKey(feature.key))
    for index, item in enumerate(feature.fields):
        try:
            plan.get_parent_fields_for_field(mx.FieldKey(item["key"]))
        except RuntimeError:
            raise owner.error(
                f"field {item['key']!r} depends on no upstream field: name some in its `deps`, or let"
                " the `fields_mapping` of a dependency match one",
                "fields",
                index,
            ) from None


def _type(dep: Mapping[str, Any]) -> str:
    return dep.get("lineage", identity())["relationship"]["type"]


def _warn_of_undeclared(key: str, position: Position | None) -> None:
    """Say, once a process and as if the YAML had said it, that an upstream is not declared."""
    column = f" (column {position.column})" if position else ""
    warnings.warn_explicit(
        f"no component declares the upstream feature {key!r}{column}: it is taken as produced"
        " elsewhere, and its rows are read from the store",
        UndeclaredUpstream,
        filename=position.file if position else "Python",
        lineno=position.line if position else 0,
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
    upstream: Feature,
    owner: FeatureComponent,
    where: tuple[str | int, ...],
) -> None:
    """Refuse id columns that do not fit the lineage."""
    rename = dep.get("rename") or {}
    upstream_ids, columns = (
        [rename.get(c, c) for c in names] for names in (upstream.id_columns, upstream.columns)
    )
    relationship = dep.get("lineage", identity())["relationship"]
    ids, parents, above = set(feature.id_columns), set(feature.parent_columns), set(upstream_ids)
    names = f"a sample of {feature.key!r} is named by {', '.join(feature.id_columns)}"
    theirs = f"one of its upstream {dep['feature']!r} by {', '.join(upstream_ids)}"
    if relationship["type"] == AGGREGATION:
        on = set(relationship.get("on") or feature.id_columns)
        if not on <= ids or (upstream.columns_known and not on <= set(columns)):
            raise owner.error(
                f"{names}; {dep['feature']!r} has the columns {', '.join(columns)}: an aggregation"
                f" needs {', '.join(sorted(on))} in both",
                *where,
            )
    elif relationship["type"] == EXPANSION:
        on = set(relationship["on"])
        if on != above or ids <= on:
            raise owner.error(
                f"{names}, {theirs}: an expansion is `on` all id columns of the upstream, and its"
                " samples have further ones, or ones of their own",
                *where,
            )
    elif above != parents:
        raise owner.error(
            f"{names}, {theirs}: they must be the same, since one sample is computed from one."
            " For one from a group, write `lineage: aggregation`; for many from one, `lineage:"
            " {type: expansion, on: [...]}`",
            "id_columns",
        )
