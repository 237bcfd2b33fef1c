"""Located errors, and the private API of Dagster that they and the checks rest on."""

from __future__ import annotations

from typing import Annotated, Any

import dagster as dg
import pytest
from projects import Project

from dagster_metaxy.declare._dagster import ResolutionException, latest_evaluation, source_of
from dagster_metaxy.declare.errors import did_you_mean, located, position


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


def test_file_line_and_snippet(context: dg.ResolutionContext) -> None:
    error = located(context, "what and how to mend it", 1, "b")
    assert isinstance(error, ResolutionException)
    first, *snippet = str(error).splitlines()
    assert first.endswith("probe/defs.yaml:6: what and how to mend it")
    assert any("- b: 2" in line for line in snippet)
    assert position(context, 0).endswith("probe/defs.yaml:5")


def test_a_resolver_passes_it_through_untouched(project: Project) -> None:
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
    with pytest.raises(Exception, match="Error while loading component") as caught:
        project.load()
    cause = caught.value.__cause__
    assert type(cause) is ResolutionException
    assert "own/defs.yaml:7: 'nowhere' names no function" in str(cause)


def test_in_python_there_is_no_place() -> None:
    assert str(located(None, "wrong", "a")) == "wrong"
    assert position(None) == "Python"
    assert source_of(dg.ResolutionContext.default(), "wrong") is None


def test_hints() -> None:
    assert did_you_mean("clips/vidoes", ["clips/videos", "x"]) == " Did you mean 'clips/videos'?"
    assert did_you_mean("media/videos", ["clips/frames"]) == ""


def test_the_latest_evaluation_has_a_result() -> None:
    key = dg.AssetCheckKey(dg.AssetKey("a"), "c")
    seen = []

    @dg.asset(check_specs=[dg.AssetCheckSpec("c", asset="a")])
    def a(context):
        seen.append(latest_evaluation(context.instance, key))
        yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False)])

    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            assert dg.materialize([a], instance=instance).success
    assert seen[0] is None
    assert seen[1] is not None
    assert not seen[1].passed
