"""A chain of features over changing documents, for processes that are killed or race each other.

`docs` is the root; `covers` is 1:1 with a file, `pages` an expansion with a file per page, and
`lengths` an aggregation of the pages. Computes append a line to a log for every sample that they
begin, so that a test sees what was computed again.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import metaxy as mx
import polars as pl
from stores import store_config

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation, expansion
from dagster_metaxy.declare.project import MetaxyProject, load_project
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute, Runtime
from dagster_metaxy.increment.outcome import Outcome
from dagster_metaxy.increment.selection import Scope
from dagster_metaxy.increment.update import Update

CHUNK = 4
COMPUTED = ("t/covers", "t/pages", "t/lengths")
RUNTIME = Runtime(logging.getLogger("faults"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
"""Of processes that import this module."""

Docs = Mapping[str, tuple[str, int]]
"""Text and number of pages, by document."""


def docs_at(step: int, count: int = 12) -> Docs:
    """The documents after a number of changes: of some the text, of some the pages; they come and
    go."""
    return {
        f"d{n:02}": (f"text {n} of {(step + n % 3) // 3}", (n + (step + n % 2) // 2) % 5)
        for n in range(count + 4)
        if (n + step) % (count + 4) < count
    }


class Pipeline:
    """The features, their store, and the places of their files, in a folder.

    Args:
        root: The folder.
        kind: The kind of store, by its name in `stores.STORES`.
        **options: Of each update.
    """

    def __init__(self, root: Path, kind: str = "delta", **options: Any) -> None:
        self.root = root
        self.options = {"chunk_rows": CHUNK, **options}
        self.log = root / "calls.log"
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "metaxy.toml").write_text(store_config(kind, str(root / "data")))
        self.project: MetaxyProject = load_project(root, "sandbox")
        docs = Feature(
            "t/docs",
            ("doc",),
            {"doc": Column("str"), "text": Column("str"), "count": Column("int")},
            fields=({"key": "text"},),
        )
        covers = Feature(
            "t/covers",
            ("doc",),
            {"cover": Column("str"), "size": Column("int")},
            deps=({"feature": "t/docs"},),
        )
        pages = Feature(
            "t/pages",
            ("doc", "page"),
            {"page": Column("int"), "file": Column("str"), "letters": Column("int")},
            deps=({"feature": "t/docs", "lineage": expansion(["doc"])},),
        )
        lengths = Feature(
            "t/lengths",
            ("doc",),
            {"letters": Column("int")},
            deps=({"feature": "t/pages", "lineage": aggregation(["doc"])},),
        )
        self.features: dict[str, Feature] = {}
        for feature in (docs, covers, pages, lengths):
            typed = feature.with_id_types(self.features)
            typed.register("sandbox")
            self.features[feature.key] = typed

    @property
    def store(self) -> mx.MetadataStore:
        """The store, closed."""
        return self.project.store()

    def new_features(self) -> list[Feature]:
        """Some roots more, which nobody has written."""
        columns = {"doc": Column("str")}
        features = [Feature(f"t/new{n}", ("doc",), columns) for n in range(8)]
        for feature in features:
            feature.register("sandbox")
            self.features[feature.key] = feature
        return features

    def update(self, key: str, **options: Any) -> Update:
        """The update of one of the computed features."""
        compute = {"t/covers": self.cover, "t/pages": self.pages, "t/lengths": self.lengths}[key]
        feature, folder = self.features[key], self.root / "artifacts"
        return Update(feature, Compute(compute), folder, **{**self.options, **options})

    def run(self, *keys: str) -> dict[str, Outcome]:
        """Bring features up to date, one after the other."""
        return {key: self.update(key).run(self.store, Scope(), RUNTIME) for key in keys or COMPUTED}

    def put(self, docs: Docs) -> None:
        """Make the root hold these documents."""
        with stores.opened(self.store, "w") as store:
            known = stores.read(store, "t/docs")
            before = {}
            if known is not None:
                before = {row["doc"]: (row["text"], row["count"]) for row in known.to_dicts()}
            rows = [
                {
                    "doc": doc,
                    "text": text,
                    "count": count,
                    stores.PROVENANCE_BY_FIELD: {"text": f"{text}, {count}"},
                }
                for doc, (text, count) in docs.items()
                if before.get(doc) != (text, count)
            ]
            if rows:
                stores.append(store, "t/docs", pl.DataFrame(rows))
            if gone := [(doc,) for doc in before if doc not in docs]:
                stores.delete(store, "t/docs", ["doc"], gone)

    def _begun(self, key: str, *what: Any) -> None:
        line = "\t".join(map(str, (key, *what))) + "\n"
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(log, line.encode())
        finally:
            os.close(log)

    def cover(self, sample: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        """A file with the text."""
        self._begun("t/covers", sample["doc"], sample["text"], sample["count"])
        file = context.artifact("cover.txt")
        write_slowly(file, cover_text(sample["doc"], sample["text"]))
        return {"cover": file, "size": file.stat().st_size}

    def pages(self, sample: Mapping[str, Any], context: Any) -> Iterator[Mapping[str, Any]]:
        """A file for each page; some documents have no page."""
        self._begun("t/pages", sample["doc"], sample["text"], sample["count"])
        for page in range(sample["count"]):
            file = context.artifact(f"{page}.txt")
            text = page_text(sample["doc"], sample["text"], page)
            write_slowly(file, text)
            yield {"page": page, "file": file, "letters": len(text)}

    def lengths(self, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The letters of all pages."""
        pages = sorted((s["page"], s["letters"]) for s in samples)
        version = Path(samples[0]["file"]).parent.name.partition("-")[0]
        self._begun("t/lengths", samples[0]["doc"], version, pages)
        return {"letters": sum(letters for _, letters in pages)}

    def calls(self) -> Counter[str]:
        """How often each sample was begun, by feature, sample and input."""
        return Counter(self.log.read_text().splitlines()) if self.log.exists() else Counter()

    def rows(self, key: str, **options: Any) -> list[dict[str, Any]]:
        """The live rows of a feature, in an order of their own; paths are below the folder."""
        with stores.opened(self.store, "r") as store:
            frame = stores.read(store, key, **options)
        rows = [] if frame is None else frame.to_dicts()
        for row in rows:
            for name in ("cover", "file"):
                if name in row:
                    row[name] = row[name].removeprefix(f"{self.root}/")
        columns = self.features[key].id_columns
        return sorted(rows, key=lambda row: [row[c] for c in columns])

    def check_files(self) -> None:
        """Each file that a row names is whole, and each is named once."""
        docs = {row["doc"]: row["text"] for row in self.rows("t/docs")}
        named: Counter[str] = Counter()
        for row in self.rows("t/covers"):
            assert (self.root / row["cover"]).read_text() == cover_text(
                row["doc"], docs[row["doc"]]
            )
            named[row["cover"]] += 1
        for row in self.rows("t/pages"):
            text = page_text(row["doc"], docs[row["doc"]], row["page"])
            assert (self.root / row["file"]).read_text() == text
            named[row["file"]] += 1
        assert set(named.values()) <= {1}

    def check_equals(self, expected: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """The live rows of each feature are those expected, whoever wrote them, and when."""
        for key, rows in expected.items():
            assert [_comparable(r) for r in self.rows(key)] == [_comparable(r) for r in rows], key

    def check_done(self, expected: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """All is as expected, files and all, and another run has nothing to compute."""
        self.check_equals(expected)
        self.check_files()
        before = self.calls()
        self.run()
        assert self.calls() == before


def _comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what is of its run, such as which of several folders its files came to lie in."""
    ours = ("metaxy_created_at", "metaxy_updated_at", "metaxy_materialization_id")
    row = {c: v for c, v in row.items() if c not in ours}
    for name in ("cover", "file"):
        if name in row:
            row[name] = re.sub("-[0-9a-f]{8}/", "/", row[name])
    return row


def cover_text(doc: str, text: str) -> str:
    """What a cover's file holds."""
    return f"{doc}: {text}\n" * 500


def page_text(doc: str, text: str, page: int) -> str:
    """What a page's file holds."""
    return f"{doc}, {page}: {text}\n" * (100 + page)


def write_slowly(file: Path, text: str) -> None:
    """Write a file in several steps, so that a kill finds it half written."""
    with file.open("w") as opened:
        for start in range(0, len(text), 4096):
            opened.write(text[start : start + 4096])
            opened.flush()


@contextmanager
def pipeline(root: Path, kind: str = "delta", **options: Any) -> Iterator[Pipeline]:
    """The pipeline in a folder, with a graph of its own."""
    mx.MetaxyConfig.reset()
    with mx.FeatureGraph().use():
        made = Pipeline(root, kind, **options)
        try:
            with made.project.use():
                yield made
        finally:
            mx.MetaxyConfig.reset()
