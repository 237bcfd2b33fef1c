"""Every use of Dagster API that is not exported from `dagster`, in one place.

- `ResolutionException`: the only exception that passes through Dagster's resolvers untouched, so
  that the message we wrote (with file and line) is the message that the user sees.
- `source_position_tree`: where a YAML value stands; public on `ResolutionContext`, but its
  `lookup_closest_and_path` is undocumented.
- `path` of the context: the keys from the top of the YAML document to the value being resolved.
- `PythonFileComponent` and the declarations of the component tree: there is no public list of the
  Python files that Dagster takes definitions from, beside components.
- `repository_def` of an op's context: raises an error that is not exported where a job runs in a
  process that has loaded no repository.

Tested in `tests/declare/test_errors.py`, the last in `tests/components/test_metaxy_jobs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg
from dagster.components.core.defs_module import PythonFileComponent
from dagster.components.resolved.errors import ResolutionException
from dagster_shared.check import CheckError

__all__ = [
    "ResolutionException",
    "definitions_in_python",
    "repository_assets",
    "source_of",
]


def source_of(
    context: dg.ResolutionContext, *path: str | int
) -> tuple[str, tuple[int, int], tuple[int, int]] | None:
    """File, and line and column of both ends, of what stands at `path` below `context`: the key of
    a mapping's value, an item of a list, or what is nearest above; None in Python."""
    tree = context.source_position_tree
    if tree is None:
        return None
    file, start, end = tree.lookup_closest_and_path([*context.path, *path], None)[0]
    return file, (start.line, start.col), (end.line, end.col)


def definitions_in_python(tree: dg.ComponentTree) -> Iterator[dg.Definitions]:
    """What the Python files of a project define that hold no components, as Dagster builds it.

    Dagster keeps what it builds, so that this costs nothing.
    """
    for location, declaration in tree._component_decl_tree().items():
        if declaration.component_type is PythonFileComponent and not any(
            declaration.iterate_child_component_decls()
        ):
            yield tree.build_defs_at_path(location)


def repository_assets(context: dg.OpExecutionContext) -> Sequence[dg.AssetSpec]:
    """All assets of the code location in which an op runs; none where only its job was loaded."""
    try:
        repository = context.repository_def
    except CheckError:
        return ()
    found = {id(assets): assets for assets in repository.assets_defs_by_key.values()}
    return [spec for assets in found.values() for spec in assets.specs]
