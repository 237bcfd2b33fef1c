"""Code and input that change and change back, with failures, kills and deletions in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import metaxy as mx
import pytest
from graphs import DOCS, Node, Project, content, interrupted

Make = Callable[..., Project]
TEXT, TITLE = (DOCS, "text"), (DOCS, "title")
WORDS = Node("words", "map", (DOCS,), {"x": (TEXT,), "y": (TITLE,)})
# The number of pages is another one for each text: of `a`, 2 for the text 2, 1 for 0, and none for
# 7; with the code version 2, 1 for 2, and 2 for 5.
PAGES = replace(WORDS, name="pages", kind="expand", paged=True)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a project of some features, with two documents, and runs it."""

    def made(*nodes: Node) -> Project:
        named = {node.name: node for node in (Node(DOCS, "root"), *nodes)}
        codes = {name: dict.fromkeys(node.fields, 0) for name, node in named.items()}
        project = Project(tmp_path, named, codes, {"a": (2, 0), "b": (2, 0)})
        run(project)
        return project

    mx.MetaxyConfig.reset()
    with mx.FeatureGraph().use():
        yield made
    mx.MetaxyConfig.reset()


def run(project: Project, *names: str) -> None:
    for name in names or project.nodes:
        project.run(name)


def code(project: Project, name: str, field: str, version: int) -> None:
    project.codes[name][field] = version
    project.define()


def of_a(project: Project, name: str) -> int:
    """How many rows of the document `a` there are."""
    return sum(ids[0] == "a" for ids in project.rows(name))


def test_input_that_changes_back_after_a_kill_between_old_and_new_children(make: Make) -> None:
    project = make(PAGES)
    project.docs["a"] = (0, 0)
    run(project, DOCS)
    writes = interrupted(project, "pages", "write", 2)
    assert [what for what, *_ in writes] == ["compute", "delete"]
    project.docs["a"] = (2, 0)
    run(project)
    assert of_a(project, "pages") == 2


@pytest.mark.parametrize("text", [2, 7])
@pytest.mark.parametrize("kind", ["map", "collect"])
def test_children_that_other_code_does_not_give(make: Make, kind: str, text: int) -> None:
    """Downstream they go, also where only fields of the same code are read."""
    reads = {"x": (("pages", "y"),), "y": (("pages", "y"),)}
    below = Node("below", kind, ("pages",), reads, paged=kind == "map")  # type: ignore[arg-type]
    project = make(PAGES, below)
    code(project, "pages", "x", 2)
    run(project, "below")
    assert of_a(project, "below") == (2 if kind == "map" else 1)  # nobody knows yet
    project.docs["a"] = (0, 0)
    project.docs["b"] = (0, 0)  # none
    run(project)
    for doc in "ab":
        pages = sum(ids[0] == doc for ids in project.rows("pages"))
        below_it = sum(ids[0] == doc for ids in project.rows("below"))
        assert below_it == (pages if kind == "map" else min(pages, 1))


def test_a_sample_that_goes_after_it_failed_with_other_code(make: Make) -> None:
    reads = {"x": (("words", "y"),), "y": (("words", "y"),)}
    project = make(WORDS, Node("below", "map", ("words",), reads))
    code(project, "words", "x", 2)
    project.bad.add(("words", ("a",)))
    run(project)
    assert of_a(project, "below") == 1  # as it was
    del project.docs["a"]
    run(project)
    assert of_a(project, "below") == 0


def test_children_that_were_removed_for_good_from_other_code(make: Make) -> None:
    project = make(replace(PAGES, hard=True))
    code(project, "pages", "x", 2)
    for text in (5, 2):
        project.docs["a"] = (text, 0)
        run(project)
    assert of_a(project, "pages") == 1
    code(project, "pages", "x", 0)
    run(project)
    assert of_a(project, "pages") == 2


@pytest.mark.parametrize("hard", [False, True])
def test_files_of_a_sample_that_comes_back_as_its_code_does(make: Make, hard: bool) -> None:
    project = make(node := replace(WORDS, files=True, hard=hard))
    code(project, "words", "x", 2)
    run(project)
    kept = project.docs.pop("a")
    run(project)
    project.docs["a"] = kept
    code(project, "words", "x", 0)
    run(project)
    for row in project.rows("words").values():
        assert Path(row["words_file"]).read_text() == content(node, row)


def test_a_listed_sample_that_went_under_other_code(make: Make) -> None:
    project = make(WORDS)
    code(project, DOCS, "text", 1)
    run(project)
    del project.docs["a"]
    run(project)
    code(project, DOCS, "text", 0)
    run(project)
    assert {*project.rows(DOCS)} == {*project.rows("words")} == {("b",)}
