from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import metaxy as mx
import polars as pl

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.declare.project import load_project, starter_config
from dagster_metaxy.increment.compute import Compute, Runtime
from dagster_metaxy.increment.update import Update

LOG = logging.getLogger("test")
RUNTIME = Runtime(LOG)


def update(world: World, feature: Feature, compute: Any, **options: Any) -> Update:
    """The update of a feature in a world."""
    return Update(feature, Compute(compute), world.root / "artifacts", **options)


class World:
    """A store, and a root feature `t/docs` with the fields `text` and `title`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "metaxy.toml").write_text(starter_config("t"))
        self.project = load_project(root, "t")
        self.docs = Feature(
            "t/docs",
            ("doc",),
            {"doc": Column("str"), "pages": Column("int")},
            fields=({"key": "text"}, {"key": "title"}),
        )
        self.docs.register("t")

    @property
    def store(self) -> mx.MetadataStore:
        return self.project.store()

    def put(self, **versions: tuple[str, str, int]) -> None:
        """Write samples of the root: text version, title version, pages."""
        with self.store.open("w") as store:
            store.write(
                "t/docs",
                pl.DataFrame(
                    [
                        {
                            "doc": doc,
                            "pages": pages,
                            "metaxy_provenance_by_field": {"text": text, "title": title},
                        }
                        for doc, (text, title, pages) in versions.items()
                    ]
                ),
            )

    def drop(self, *docs: str) -> None:
        import narwhals as nw

        with self.store.open("w") as store:
            store.delete("t/docs", nw.col("doc").is_in(list(docs)))

    def rows(self, key: str) -> list[dict[str, object]]:
        with self.store.open("r") as store:
            return store.read(key).collect().to_native().to_dicts()

    def define(self, feature: Feature) -> Feature:
        feature = feature.with_id_types({"t/docs": self.docs})
        feature.register("t")
        return feature

    def words(self, **more: object) -> Feature:
        """1:1 from the root, on its field `text`."""
        return self.define(
            Feature(
                "t/words",
                ("doc",),
                {"words": Column("int")},
                fields=({"key": "words", "deps": [{"feature": "t/docs", "fields": ["text"]}]},),
                deps=({"feature": "t/docs"},),
                **more,  # type: ignore[arg-type]
            )
        )

    def pages(self, artifact: bool = False) -> Feature:
        """1:N from the root: a sample per page."""
        columns = {"page": Column("int")}
        if artifact:
            columns["file"] = Column("str")
        return self.define(
            Feature(
                "t/pages",
                ("doc", "page"),
                columns,
                deps=({"feature": "t/docs", "lineage": expansion(["doc"])},),
            )
        )
