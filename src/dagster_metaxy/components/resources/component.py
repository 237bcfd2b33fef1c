"""ResourcesComponent: Dagster resources and IO managers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import dagster as dg

from dagster_metaxy.components._base import LocatedComponent
from dagster_metaxy.components._graph import project_features, python_definitions
from dagster_metaxy.components.resources.declared import INSTANCES, Mistakes, resolve_resources
from dagster_metaxy.components.resources.scaffolder import ResourcesScaffolder
from dagster_metaxy.declare._dagster import ResolutionException
from dagster_metaxy.declare.errors import with_others
from dagster_metaxy.resources import MetaxyIOManager, MetaxyStoreResource


@dg.scaffold_with(ResourcesScaffolder)
class ResourcesComponent(LocatedComponent):
    """Dagster resources and IO managers, each by its class and its fields.

    Any `dg.ConfigurableResource` or `dg.ConfigurableIOManager` will do, of a library, of the project,
    or of `dagster_metaxy.resources`: `DatabaseResource`, `ApiResource`, `MetaxyStoreResource`,
    `JsonIOManager`, `ParquetIOManager`, `MetaxyIOManager`. `{{ env.X }}` is read when a run starts, and
    is no part of the definitions.

    Scaffold it with

        dg scaffold defs ResourcesComponent resources
    """

    late: ClassVar[frozenset[str]] = frozenset({"resources"})

    resources: Annotated[
        dict[str, Any],
        dg.Resolver(
            resolve_resources,
            model_field_type=object,
            description="By name: `type`, the dotted path of a class (`.module.Class` of a module beside"
            " this file), and its fields. A secret is `{{ env.X }}`, read when a run starts;"
            " `{resource: name}` is another resource of this file. Assets ask for a resource by a"
            " parameter of its name, and for an IO manager by their `io_manager_key`; the one named"
            " `io_manager` is that of all assets which name none.",
            examples=[
                {
                    "files": {
                        "type": "dagster_metaxy.resources.ParquetIOManager",
                        "base_path": "s3://bucket/data",
                    },
                    "database": {
                        "type": "dagster_metaxy.resources.DatabaseResource",
                        "url": "{{ env.DATABASE_URL }}",
                    },
                }
            ],
            json_schema_extra={
                "type": "object",
                "propertyNames": {"pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": {
                    "type": "object",
                    "required": ["type"],
                    "properties": {
                        "type": {
                            "type": "string",
                            "description": "The dotted path of the class, or of a resource.",
                            "examples": ["dagster_metaxy.resources.JsonIOManager"],
                        }
                    },
                },
            },
        ),
    ]

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The resources."""
        if self._error is not None:
            raise self._error
        # Those of a resource that others need are told once.
        if wrong := [*dict.fromkeys(self._mistakes(context))]:
            raise with_others(wrong[0], wrong[1:]) from wrong[0].__cause__
        return dg.Definitions(resources=self.resources)

    def _mistakes(self, context: dg.ComponentLoadContext) -> Iterator[ResolutionException]:
        """All that is wrong with the resources."""
        taken = self._taken(context.component_tree)
        for name, resource in self.resources.items():
            if name in taken:
                yield self.error(
                    f"the resource {name!r} is defined twice: here and {taken[name]}",
                    "resources",
                    name,
                )
            if isinstance(resource, Mistakes):
                yield from resource.errors
            elif not isinstance(resource, INSTANCES):
                yield self.error(f"{name}: {resource!r} is no Dagster resource", "resources", name)
            elif isinstance(resource, MetaxyStoreResource):
                yield from self._wrong_store(context, name, "name", resource.name)
            elif isinstance(resource, MetaxyIOManager):
                yield from self._wrong_store(context, name, "store", resource.store)

    def _taken(self, tree: dg.ComponentTree) -> dict[str, str]:
        """The names that other files define, and where: Dagster would say by which definitions, as
        numbers."""
        taken = {}
        for other in tree.get_all_components(of_type=ResourcesComponent):
            if other._error is None and other is not self:
                there = {n: other.position("resources", n) for n in other.resources}
                taken.update({n: f"at {at}" if at else "in Python" for n, at in there.items()})
        for definitions in python_definitions(tree):
            taken.update(dict.fromkeys(definitions.resources or (), "in Python"))
        return taken

    def _wrong_store(
        self, context: dg.ComponentLoadContext, name: str, field: str, store: str | None
    ) -> Iterator[ResolutionException]:
        """That metaxy.toml does not have a store, if so."""
        # Also, so that Metaxy is set up in a project without features of components.
        project = project_features(context).project
        if not isinstance(store, dg.EnvVar) and (missing := project.missing_store(store)):
            yield self.error(f"{name}.{field}: {missing}", "resources", name, field)
