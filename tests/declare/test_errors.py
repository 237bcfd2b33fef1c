"""Located errors, and the private API of Dagster that they and the checks rest on."""

from __future__ import annotations

from typing import Annotated, Any

import dagster as dg
import pytest
from projects import Project

from dagster_metaxy.declare._dagster import (
    ResolutionException,
    definitions_in_python,
    source_of,
)
from dagster_metaxy.declare.errors import LocatedError, did_you_mean, located, position


class Probe(dg.Component, dg.Model, dg.Resolvable):
    """Keeps the context of an attribute."""

    thing: Annotated[Any, dg.Resolver(lambda context, value: SEEN.append(context) or value)]

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return dg.Definitions()


SEEN: list[dg.ResolutionContext] = []


@pytest.fixture
def context(project: Project) -> dg.ResolutionContext:
    SEEN.clear()
    project.write(
        "probe/defs.yaml",
        """
        type: test_errors.Probe

        attributes:
          thing:
            - a: 1
            - b: 2
        """,
    )
    project.load()
    return SEEN[-1]


def test_file_line_column_and_snippet(context: dg.ResolutionContext) -> None:
    error = located(context, "what and how to mend it", 1, "b")
    assert isinstance(error, ResolutionException)
    first, *snippet = str(error).splitlines()
    assert first.endswith("probe/defs.yaml:6:10: what and how to mend it")
    assert first == error.sentence
    assert snippet == [
        "    4 |   thing:",
        "    5 |     - a: 1",
        "    6 |     - b: 2",
        "      |          ^",
    ]


@pytest.mark.parametrize(
    ("path", "key", "line", "column"),
    [
        ((), False, 4, 3),  # a value that begins below its key
        ((0,), False, 5, 7),  # an item
        ((0, "a"), False, 5, 10),  # a value beside its key
        ((0, "a"), True, 5, 7),
        ((1, "c", "d"), False, 6, 7),  # not there: what is nearest above
    ],
)
def test_what_a_position_points_to(
    context: dg.ResolutionContext, path: tuple[str | int, ...], key: bool, line: int, column: int
) -> None:
    found = position(context, *path, key=key)
    assert found is not None
    assert found.file.endswith("probe/defs.yaml")
    assert (found.line, found.column) == (line, column)


def test_it_is_raised_when_definitions_are_built(project: Project) -> None:
    project.write(
        "own/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: a/b
          deps: [c/d]
          id_columns: [x]
          columns: {y: int}
          compute: nowhere
        """,
    )
    with pytest.raises(Exception, match="Error while building definitions for own") as caught:
        project.load()
    cause = caught.value.__cause__
    assert type(cause) is LocatedError
    assert "own/defs.yaml:7:12: 'nowhere' names no function" in str(cause)
    assert cause.__cause__ is None
    assert cause.__suppress_context__


def test_definitions_in_python_files(project: Project) -> None:
    project.write("hand.py", "import dagster as dg\n\n\n@dg.asset\ndef by_hand(): ...\n")
    project.write(
        "own/component.py",
        """
        import dagster as dg


        class Own(dg.Component):
            def build_defs(self, context):
                return dg.Definitions(assets=[dg.AssetSpec("of_a_component")])


        @dg.component_instance
        def load(context):
            return Own()
        """,
    )
    project.load()
    tree = dg.ComponentTree.for_project(project.root)
    specs = [s for d in definitions_in_python(tree) for s in d.resolve_all_asset_specs()]
    assert [spec.key.to_user_string() for spec in specs] == ["by_hand"]


def test_in_python_there_is_no_place() -> None:
    assert str(located(None, "wrong", "a")) == "wrong"
    assert position(None) is None
    assert source_of(dg.ResolutionContext.default()) is None


def test_hints() -> None:
    assert did_you_mean("clips/vidoes", ["clips/videos", "x"]) == " Did you mean 'clips/videos'?"
    assert did_you_mean("media/videos", ["clips/frames"]) == ""
