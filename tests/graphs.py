"""Random graphs of features over documents, what their computes give, and runs of them that are
killed.

Documents have two fields; every other feature has two, too, each of which reads some fields of what is
upstream. What a compute gives depends on these, on the code version and on the sample alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import metaxy as mx

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation, expansion, identity
from dagster_metaxy.declare.project import load_project, starter_config
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute, Runtime
from dagster_metaxy.increment.outcome import Outcome
from dagster_metaxy.increment.root import Root
from dagster_metaxy.increment.selection import Scope, Selection
from dagster_metaxy.increment.update import Update

CHUNK = 2
DOCS = "docs"
Ids = tuple[Any, ...]
Row = dict[str, Any]
Codes = Mapping[str, Mapping[str, int]]
"""By feature and field: the code version. Of two that follow each other, the outputs may be equal."""


@dataclass(frozen=True)
class Node:
    """A feature of the graph.

    Attributes:
        name: The last part of its key.
        kind: How its samples come from those upstream.
        ups: The features upstream: two where they are joined.
        reads: By its own field: the upstream fields that it reads, with their features.
        paged: Whether its samples are pages, not documents.
        files: Whether it writes an artifact for each row.
        hard: Whether it deletes rows for good.
    """

    name: str
    kind: Literal["root", "map", "expand", "collect"]
    ups: tuple[str, ...] = ()
    reads: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    paged: bool = False
    files: bool = False
    hard: bool = False

    @property
    def fields(self) -> tuple[str, str]:
        return ("text", "title") if self.kind == "root" else ("x", "y")

    @property
    def key(self) -> str:
        return f"t/{self.name}"

    @property
    def ids(self) -> tuple[str, ...]:
        return ("doc", "page") if self.paged else ("doc",)

    @property
    def parents(self) -> tuple[str, ...]:
        return ("doc",) if self.kind == "expand" else self.ids

    def column(self, name: str) -> str:
        return f"{self.name}_{name}"

    def outputs(self, codes: Mapping[str, int], samples: Sequence[Row]) -> list[Row]:
        """The rows of one sample, or of a group: its ids and a value for each field."""
        samples = sorted(samples, key=lambda s: s.get("page", 0))

        def value(name: str, *ids: Any) -> int:
            read = [[sample[f"{up}_{f}"] for up, f in self.reads[name]] for sample in samples]
            told = repr((self.name, name, codes[name] // 2, ids, read))
            return zlib.crc32(told.encode()) % 1000

        ids = {c: samples[0][c] for c in self.parents}
        found = [ids]
        if self.kind == "expand":
            found = [{**ids, "page": page} for page in range(value("x", *ids.values()) % 3)]
        return [
            {**row, **{self.column(f): value(f, *row.values()) for f in self.fields}}
            for row in found
        ]

    def feature(self, codes: Mapping[str, int]) -> Feature:
        columns = {self.column(f): Column("int") for f in self.fields}
        if self.kind == "root":
            columns["doc"] = Column("str")
        if self.kind == "expand":
            columns["page"] = Column("int")
        if self.files:
            columns[self.column("file")] = Column("str")
        lineage = {"expand": expansion(["doc"]), "collect": aggregation(["doc"])}
        return Feature(
            self.key,
            self.ids,
            columns,
            fields=tuple(
                {
                    "key": name,
                    "code_version": str(codes[name]),
                    "deps": [
                        {
                            "feature": f"t/{up}",
                            "fields": [f for u, f in self.reads[name] if u == up],
                        }
                        for up in self.ups
                        if any(u == up for u, _ in self.reads[name])
                    ],
                }
                if self.reads
                else {"key": name, "code_version": str(codes[name])}
                for name in self.fields
            ),
            deps=tuple(
                {"feature": f"t/{up}", "lineage": lineage.get(self.kind, identity())}
                for up in self.ups
            ),
        )


class Killed(BaseException):
    """A run ends here, as an interrupt would have it."""


@dataclass
class Project:
    """A graph in a folder, with a real store, and what its computes do now.

    Attributes:
        root: The folder.
        nodes: The features, what is upstream first.
        codes: Their code versions.
        docs: What the root's compute lists: title and text of each document.
        bad: The samples that fail, by feature.
    """

    root: Path
    nodes: Mapping[str, Node]
    codes: dict[str, dict[str, int]]
    docs: dict[str, tuple[int, int]]
    bad: set[tuple[str, Ids]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.calls: list[Ids] = []
        self.before: Callable[[str], None] = lambda _: None
        """Called before each `compute` and each `write`."""
        if not (self.root / "metaxy.toml").exists():
            (self.root / "metaxy.toml").write_text(starter_config("t"))
        self.project = load_project(self.root, "t")
        self.define()

    def define(self) -> None:
        """Declare the features with their code versions of now."""
        self.features: dict[str, Feature] = {}
        for node in self.nodes.values():
            feature = node.feature(self.codes[node.name]).with_id_types(self.features)
            feature.register("t")
            self.features[node.key] = feature

    @property
    def store(self) -> mx.MetadataStore:
        return self.project.store()

    def rows(self, name: str) -> dict[Ids, Row]:
        """The live rows in the store, without Metaxy's columns."""
        node = self.nodes[name]
        with self.store.open("r") as store:
            frame = stores.read(store, node.key)
        columns = self.features[node.key].columns
        rows = [] if frame is None else frame.select(list(columns)).to_dicts()
        assert len(rows) == len({tuple(row[c] for c in node.ids) for row in rows})
        return {tuple(row[c] for c in node.ids): row for row in rows}

    def update(self, name: str) -> Update:
        node = self.nodes[name]

        def outputs(samples: Sequence[Row]) -> list[Row]:
            ids = tuple(samples[0][c] for c in node.parents)
            self.before("compute")
            self.calls.append(ids)
            if (name, ids) in self.bad:
                raise ValueError(f"{ids} is bad")
            return node.outputs(self.codes[name], samples)

        def one(sample: Row, context: Any) -> Any:
            rows = outputs(sample if isinstance(sample, list) else [sample])
            for row in rows if node.files else ():
                file = context.artifact(f"{row.get('page', 0)}.txt")
                file.write_text(content(node, row))
                row[node.column("file")] = str(file)
            return rows if node.kind == "expand" else rows[0]

        return Update(
            self.features[node.key],
            Compute(one),
            self.root / "artifacts",
            hard_delete=node.hard,
            chunk_samples=CHUNK,
            chunk_seconds=1e9,
        )

    def lister(self) -> Root:
        """What brings the root up to date."""

        def listed() -> list[Row]:
            return [
                {
                    "doc": doc,
                    "docs_text": text,
                    "docs_title": title,
                    stores.PROVENANCE_BY_FIELD: {"text": str(text), "title": str(title)},
                }
                for doc, (text, title) in self.docs.items()
            ]

        return Root(self.features["t/docs"], Compute(listed, lists=True))

    def run(self, name: str, **selection: Any) -> Outcome:
        """Bring a feature up to date; its calls are in `calls` then."""
        self.calls.clear()
        log = logging.getLogger("graphs")
        log.disabled = True  # of failures that are meant
        runtime = Runtime(log, selection=Selection(**selection))
        updating = self.lister() if name == DOCS else self.update(name)
        return updating.run(self.store, Scope(), runtime)


def content(node: Node, row: Row) -> str:
    """What the file of a row holds."""
    return f"{row[node.column('x')]} {row[node.column('y')]}"


@contextmanager
def watched(project: Project, kind: str, number: int, end: Callable[[], None]) -> Iterator[Path]:
    """Log what is called and written, and end the run before a compute or a write, by its number.

    A line of the log is `compute`, or `append` or `delete` with the key, columns and their values.
    """
    log = project.root / "log"
    log.unlink(missing_ok=True)
    append, delete = stores.append, stores.delete
    left = number

    def told(*what: Any) -> None:
        with log.open("ab") as file:
            pickle.dump(what, file)

    def before(what: str) -> None:
        nonlocal left
        if what == kind:
            left -= 1
            if left == 0:
                end()
        if what == "compute":
            told("compute")

    def appended(store: mx.MetadataStore, key: str, rows: Any) -> None:
        before("write")
        append(store, key, rows)
        told("append", key, tuple(rows.columns), rows.rows())

    def deleted(store: Any, key: str, columns: Any, ids: Any, **options: Any) -> None:
        before("write")
        delete(store, key, columns, ids, **options)
        told("delete", key, (*columns,), {*ids})

    stores.append, stores.delete, project.before = appended, deleted, before
    try:
        yield log
    finally:
        stores.append, stores.delete, project.before = append, delete, lambda _: None


def logged(log: Path) -> list[tuple[Any, ...]]:
    """What a watched run did, also one that was killed."""
    found = []
    with log.open("rb") as file:
        while True:
            try:
                found.append(pickle.load(file))
            except EOFError:
                return found


def interrupted(project: Project, name: str, kind: str, number: int) -> list[tuple[Any, ...]]:
    """Run a feature, which is interrupted; gives what was done."""

    def end() -> None:
        raise Killed

    with watched(project, kind, number, end) as log, suppress(Killed):
        project.run(name)
    return logged(log) if log.exists() else []


def _run_killed(
    root: Path,
    nodes: Any,
    codes: Any,
    docs: Any,
    bad: Collection[Any],
    name: str,
    kind: str,
    n: int,
) -> None:
    with mx.FeatureGraph().use():
        project = Project(root, nodes, codes, docs, set(bad))
        with watched(project, kind, n, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            project.run(name)


def killed(project: Project, name: str, kind: str, number: int) -> list[tuple[Any, ...]]:
    """Run a feature in another process, which is killed; gives what was done.

    The process is forked from one that has imported what runs need, and has no threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "deltalake",
            "polars_hash",
            "dagster_metaxy.increment.root",
            "metaxy.ext.polars.handlers.delta",
        ]
    )
    log = project.root / "log"
    log.unlink(missing_ok=True)
    work = (
        *(project.root, project.nodes, project.codes, project.docs, project.bad),
        *(name, kind, number),
    )
    process = context.Process(target=_run_killed, args=work)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return logged(log) if log.exists() else []
