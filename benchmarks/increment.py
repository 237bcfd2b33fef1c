"""What an update costs beside the same work written by hand with Metaxy.

    uv run python benchmarks/increment.py [samples]

Prints CPU seconds and ratios of one run of this process; machines differ, ratios less so.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import metaxy as mx
import polars as pl

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.project import load_project, starter_config
from dagster_metaxy.increment.compute import Compute, Runtime
from dagster_metaxy.increment.update import Scope, Update

warnings.filterwarnings("ignore")
SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000


def root_rows(version: str, share: float = 1.0) -> pl.DataFrame:
    count = int(SAMPLES * share)
    return pl.DataFrame(
        {
            "doc": [f"doc-{n}" for n in range(count)],
            "pages": list(range(count)),
            "metaxy_provenance_by_field": [{"text": f"{version}-{n}"} for n in range(count)],
        }
    )


def compute(sample: dict[str, int]) -> dict[str, int]:
    return {"words": sample["pages"] * 100}


def compute_batch(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.select("doc", words=pl.col("pages") * 100)


def by_hand(store: mx.MetadataStore, key: str) -> None:
    """The asset that the component replaces, as one writes it."""
    with store.open("w"):
        increment = store.resolve_update(key).to_polars()
        todo = pl.concat([increment.new, increment.stale], how="diagonal")
        if todo.is_empty():
            return
        rows = [
            {
                "doc": sample["doc"],
                **compute(sample),
                "metaxy_provenance": sample["metaxy_provenance"],
                "metaxy_provenance_by_field": sample["metaxy_provenance_by_field"],
            }
            for sample in todo.iter_rows(named=True)
        ]
        store.write(key, pl.DataFrame(rows))


def cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, mx.FeatureGraph().use():
        root = Path(folder)
        (root / "metaxy.toml").write_text(starter_config("bench").replace("entrypoints", "#"))
        project = load_project(root, "bench")
        docs = Feature(
            "b/docs",
            ("doc",),
            {"doc": Column("str"), "pages": Column("int")},
            fields=({"key": "text"},),
        )
        docs.register("bench")
        keys = ("b/hand", "b/ours", "b/batch")
        features = {}
        for key in keys:
            features[key] = Feature(
                key,
                ("doc",),
                {"doc": Column("str"), "words": Column("int")},
                deps=({"feature": "b/docs"},),
            )
            features[key].register("bench")
        runtime = Runtime(logging.getLogger("bench"))

        def ours(key: str, function: Callable[..., object]) -> None:
            update = Update(features[key], Compute(function), root / "artifacts", batch_size=5000)
            update.run(project.store(), Scope(), runtime)

        def everything(title: str) -> None:
            hand = cpu(lambda: by_hand(project.store(), "b/hand"))
            one = cpu(lambda: ours("b/ours", compute))
            batch = cpu(lambda: ours("b/batch", compute_batch))
            print(
                f"{title:<24} by hand {hand:6.2f} s   component {one:6.2f} s"
                f" ({one / hand:4.2f})   in batches {batch:6.2f} s ({batch / hand:4.2f})"
            )

        print(f"{SAMPLES} samples, a compute that does nothing, CPU seconds")
        with project.store().open("w") as store:
            store.write("b/docs", root_rows("1"))
        everything("all new")
        everything("nothing changed")
        with project.store().open("w") as store:
            store.write("b/docs", root_rows("2", 0.1))
        everything("a tenth stale")


if __name__ == "__main__":
    main()
