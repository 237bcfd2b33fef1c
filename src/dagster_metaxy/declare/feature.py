"""A feature as data, and its registration with Metaxy."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dagster_metaxy.declare.columns import UNCHECKED, Column

if TYPE_CHECKING:
    import metaxy as mx


UNDECLARED = "declared by no component"
"""The source of the stand-in for an upstream feature that nothing in the project declares."""

EXTERNAL = "declared as external"
"""The source of a feature that a component declares as produced elsewhere."""

IDENTITY, AGGREGATION, EXPANSION = "1:1", "N:1", "1:N"


def identity() -> dict[str, Any]:
    """The lineage of a sample that is computed from one upstream sample, in Metaxy's shape."""
    return {"relationship": {"type": IDENTITY}}


def aggregation(on: Sequence[str] | None = None) -> dict[str, Any]:
    """The lineage of a sample that is computed from all upstream samples of a group.

    Args:
        on: The columns that name the group; all id columns if left out.
    """
    return {"relationship": {"type": AGGREGATION, "on": list(on) if on else None}}


def expansion(on: Sequence[str]) -> dict[str, Any]:
    """The lineage of samples many of which are computed from one upstream sample.

    Args:
        on: The columns that name the upstream sample.
    """
    return {"relationship": {"type": EXPANSION, "on": list(on)}}


def registered_keys() -> set[str]:
    """The keys of all features in Metaxy's active graph."""
    import metaxy as mx

    return {key.to_string() for key in mx.current_graph().feature_definitions_by_key}


@dataclass(frozen=True)
class Feature:
    """What Metaxy needs to know of a feature, and what we need beyond it.

    Attributes:
        key: The feature key, parts joined by slashes.
        id_columns: The columns that name a sample.
        columns: All columns that a row holds, id columns included, and those that name the parent.
            Of these, one that is not listed takes its type from the upstream feature.
        fields: Fields in the plain shape of Metaxy's `FieldSpec`.
        deps: Dependencies in the plain shape of Metaxy's `FeatureDep`.
        description: What a sample of this feature is.
        metadata: Metaxy's metadata of the feature.
        declared: Whether it is declared here, not by a Python class or another project.
    """

    key: str
    id_columns: tuple[str, ...]
    columns: Mapping[str, Column]
    fields: tuple[Mapping[str, Any], ...] = ({"key": "default"},)
    deps: tuple[Mapping[str, Any], ...] = ()
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    declared: bool = True

    @classmethod
    def known(cls, key: str) -> Feature | None:
        """The feature that Metaxy's active graph has under a key, if any."""
        import metaxy as mx

        definition = mx.current_graph().feature_definitions_by_key.get(
            mx.coerce_to_feature_key(key)
        )
        if definition is None:
            return None
        spec = definition.spec.model_dump(mode="json")
        schema = definition.feature_schema
        required = schema.get("required", ())
        return cls(
            key=key,
            id_columns=tuple(spec["id_columns"]),
            columns={
                name: Column.of_schema(column, schema.get("$defs", {}), required=name in required)
                for name, column in schema.get("properties", {}).items()
                if not name.startswith("metaxy_")
            },
            fields=tuple(spec["fields"]),
            deps=tuple(spec["deps"]),
            description=spec["description"],
            metadata=spec["metadata"],
            declared=False,
        )

    @property
    def upstream(self) -> tuple[str, ...]:
        """Keys of the features this one depends on."""
        return tuple(dep["feature"] for dep in self.deps)

    @property
    def code_versions(self) -> dict[str, str]:
        """The code version of each field."""
        return {field["key"]: str(field.get("code_version", "")) for field in self.fields}

    @property
    def columns_known(self) -> bool:
        """Whether all columns are: of a feature that is produced elsewhere they may not be."""
        return bool(self.columns)

    @cached_property
    def expansion(self) -> tuple[str, ...] | None:
        """The id columns of the parent where one parent gives many samples (1:N), else None."""
        return next((on for kind, on in self._lineages if kind == EXPANSION and on), None)

    @cached_property
    def aggregates(self) -> bool:
        """Whether a sample is computed from a group of upstream samples (N:1)."""
        return any(kind == AGGREGATION for kind, _ in self._lineages)

    @cached_property
    def _lineages(self) -> list[tuple[str, tuple[str, ...]]]:
        relationships = [dep.get("lineage", identity())["relationship"] for dep in self.deps]
        return [(r["type"], tuple(r.get("on") or ())) for r in relationships]

    @cached_property
    def parent_columns(self) -> tuple[str, ...]:
        """The id columns that name what a row was computed from, in one call of the compute."""
        return self.expansion or self.id_columns

    def named(self, ids: Sequence[Any]) -> dict[str, Any]:
        """The ids of what a row is computed from, by column."""
        return dict(zip(self.parent_columns, ids, strict=True))

    def with_id_types(self, known: Mapping[str, Feature]) -> Feature:
        """This feature with all id columns, and those that name the parent, typed: as declared, else
        as upstream; where that is not known, unchecked; of a root, `str`."""
        elsewhere = self.deps or isinstance(self, ExternalFeature)
        default = Column(UNCHECKED if elsewhere else "str")
        columns = dict(self.columns)
        named = dict.fromkeys((*self.id_columns, *self.parent_columns))
        for name in named:
            if name not in columns:
                upstream = (
                    {dep.get("rename", {}).get(c, c): t for c, t in known[key].columns.items()}
                    for dep in self.deps
                    if (key := dep["feature"]) in known
                )
                columns[name] = next((c[name] for c in upstream if name in c), default)
        ids = {name: columns.pop(name) for name in named}
        return replace(self, columns={**ids, **columns})

    def spec(self) -> mx.FeatureSpec:
        """The Metaxy specification, equal to one written in Python."""
        import metaxy as mx

        return mx.FeatureSpec.model_validate(
            {
                "key": self.key,
                "id_columns": list(self.id_columns),
                "fields": [dict(f) for f in self.fields],
                "deps": [dict(dep) for dep in self.deps],
                "description": self.description,
                "metadata": dict(self.metadata),
            }
        )

    def register(self, project: str) -> None:
        """Declare the feature in Metaxy's active graph.

        Registering the same key again replaces it: code locations are reloaded. A feature that is
        known to the graph already, by a Python class, is left as it is.

        Args:
            project: The Metaxy project that the feature belongs to.

        Raises:
            ValueError: A feature class written in Python already has this key.
        """
        import metaxy as mx

        def fill(namespace: dict[str, Any]) -> None:
            # One module for all generated classes: Metaxy tells a reload from a conflict by path.
            namespace["__module__"] = __name__
            namespace["__doc__"] = self.description
            namespace["__metaxy_project__"] = project
            namespace["__annotations__"] = {n: c.annotation for n, c in self.columns.items()}
            for name, column in self.columns.items():
                options: dict[str, Any] = {"default": None} if column.nullable else {}
                namespace[name] = Field(description=column.description, **options)

        if not self.declared:
            return
        name = "".join(part.title() for part in self.key.replace("_", "/").split("/"))
        types.new_class(name, (mx.BaseFeature,), {"spec": self.spec()}, fill)


def forget_declared(project: str) -> None:
    """Take from Metaxy's active graph what was declared here before: a reload may declare less.

    Features written in Python stay.

    Args:
        project: The Metaxy project whose features go.
    """
    import metaxy as mx

    graph = mx.current_graph()
    for key, definition in list(graph.feature_definitions_by_key.items()):
        path = definition.feature_class_path or ""
        ours = path.startswith(f"{__name__}.") and definition.project == project
        if ours or definition.source in (UNDECLARED, EXTERNAL):
            graph.remove_feature(key)


@dataclass(frozen=True)
class ExternalFeature(Feature):
    """A feature that another project produces.

    Metaxy replaces this stand-in by the definition that the feature's own project pushed to the
    store, as soon as there is one.

    Attributes:
        project: The Metaxy project that produces it; this one if None.
        field_versions: The versions of its fields where its own upstream is not declared here.
        source: Where it is declared, for Metaxy's messages.
    """

    project: str | None = None
    field_versions: Mapping[str, str] = field(default_factory=dict)
    source: str = EXTERNAL

    @property
    def columns_known(self) -> bool:
        """Whether more than the id columns are declared."""
        return not set(self.columns) <= set(self.id_columns)

    def register(self, project: str) -> None:
        """Declare the stand-in in Metaxy's active graph; a definition that is known stays."""
        import metaxy as mx
        from pydantic import create_model

        if not self.declared:
            return
        columns: dict[str, Any] = {
            name: (
                c.annotation,
                Field(default=None if c.nullable else ..., description=c.description),
            )
            for name, c in self.columns.items()
        }
        mx.current_graph().add_feature_definition(
            mx.FeatureDefinition.external(
                spec=self.spec(),
                project=self.project or project,
                feature_schema=create_model("External", **columns).model_json_schema(),
                provenance_by_field={**self.field_versions} or None,
                source=self.source,
            )
        )
