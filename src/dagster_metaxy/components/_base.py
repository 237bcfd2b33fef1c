"""What the components that declare features have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
from pydantic import ConfigDict, PrivateAttr, ValidationError

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.declare._dagster import ResolutionException
from dagster_metaxy.declare.errors import located, located_validation_error, position

if TYPE_CHECKING:
    from dagster_metaxy.components._graph import ProjectFeatures


class FeatureComponent(dg.Component, dg.Model, dg.Resolvable):
    """A component that declares features, each of which becomes an asset."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    group_name: Annotated[
        str | None,
        dg.Resolver.default(
            description="Group of the assets in the Dagster UI.", examples=["clips"]
        ),
    ] = None
    kinds: Annotated[
        list[str] | None,
        dg.Resolver.default(
            description="Kinds shown on the assets, beside `metaxy`.", examples=[["video"]]
        ),
    ] = None
    tags: Annotated[
        dict[str, str] | None,
        dg.Resolver.default(description="Tags of the assets.", examples=[{"domain": "media"}]),
    ] = None
    owners: Annotated[
        list[str] | None,
        dg.Resolver.default(
            description="Owners of the assets: e-mail addresses, or `team:` and a name.",
            examples=[["team:media"]],
        ),
    ] = None
    automation_condition: Annotated[
        dg.AutomationCondition | None,
        dg.Resolver.default(
            model_field_type=str | None,
            description="When Dagster materializes the assets by itself; a template.",
            examples=["{{ dg.AutomationCondition.eager() }}"],
        ),
    ] = None
    store: Annotated[
        str | None,
        dg.Resolver.default(
            description="Name of the store in metaxy.toml; its default store if left out.",
            examples=["dev"],
        ),
    ] = None

    artifacts: Annotated[
        str,
        dg.Resolver.default(
            description="The folder for the files that computes write, absolute or below the project's"
            " root.",
            examples=["data/artifacts"],
        ),
    ] = "data/artifacts"

    _context: dg.ResolutionContext | None = PrivateAttr(default=None)
    # The features of the whole project, once they are registered; see `_graph`.
    _features: ProjectFeatures | None = PrivateAttr(default=None)
    # What is wrong with this component, found while another one was built.
    _error: ResolutionException | None = PrivateAttr(default=None)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: Any) -> Any:
        """The component of a YAML model, which remembers where in the YAML it stands."""
        try:
            component = super().resolve_from_model(context, model)
        except ValidationError as error:
            written = {name: getattr(model, name) for name in model.model_fields_set}
            raise located_validation_error(context, error, written) from None
        component._context = context
        return component

    @abstractmethod
    def feature_assets(self, project_root: Path) -> Sequence[FeatureAsset]:
        """The features that this component declares, upstream first."""

    @property
    @abstractmethod
    def key_attribute(self) -> str:
        """The attribute that the keys of the features come from."""

    @property
    @abstractmethod
    def feature_keys(self) -> set[str]:
        """The keys of the features that it declares, right or wrong."""

    def position(self, *path: str | int) -> str:
        """`file:line` of the attribute at `path`."""
        return position(self._context, *path)

    def error(self, message: str, *path: str | int) -> ResolutionException:
        """An error about the attribute at `path`, with file and line where there are any."""
        return located(self._context, message, *path)

    def asset_attributes(self, **more: Any) -> Mapping[str, Any]:
        """The shared arguments of `dg.AssetSpec`, and `more`; what is None is left out."""
        attributes = {
            "group_name": self.group_name,
            "kinds": set(self.kinds) if self.kinds else None,
            "tags": self.tags,
            "owners": self.owners,
            "automation_condition": self.automation_condition,
            **more,
        }
        return {name: value for name, value in attributes.items() if value is not None}
