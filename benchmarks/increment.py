"""What an update, and its asset in Dagster, cost beside Metaxy's bare `resolve_update`.

    uv run python benchmarks/increment.py [samples]

The compute does nothing, on the default store. Times are medians of this process; measurements of
one round run one after the other. Machines differ, ratios less so. The asset is materialized in this
process, with its default checks, on an instance in memory; what Dagster takes for an asset that does
nothing is printed beside it. Peak memory is that of a process for each measurement, less what it had
when the modules were imported, the project was loaded and the store was open.
"""

from __future__ import annotations

import logging
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import metaxy as mx
import polars as pl

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.declare.project import load_project, starter_config
from dagster_metaxy.increment.compute import Compute, Runtime
from dagster_metaxy.increment.update import Scope, Update

warnings.filterwarnings("ignore")
ROUNDS = 5
FEATURES = ("hand", "update", "asset")
QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def compute(sample: dict[str, int]) -> dict[str, int]:
    return {"words": sample["pages"] * 100}


def odd_pages(sample: dict[str, int]) -> list[dict[str, int]]:
    return [{"page": 1}] * (sample["pages"] % 2)


def compute_batch(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.select("doc", words=pl.col("pages") * 100)


@dg.asset
def nothing() -> None:
    """What Dagster takes for any asset."""


class Bench:
    """A project in a folder: a root `b/docs`, and features from it, one for each way to update."""

    def __init__(self, root: Path) -> None:
        self.root = root
        config = starter_config("bench").replace("entrypoints", "#")
        (root / "metaxy.toml").write_text(config)
        self.project = load_project(root, "bench")
        columns = {"doc": Column("str"), "pages": Column("int")}
        Feature("b/docs", ("doc",), columns, fields=({"key": "text"},)).register("bench")
        self.features = {
            name: Feature(
                f"b/{name}",
                ("doc",),
                {"doc": Column("str"), "words": Column("int")},
                deps=({"feature": "b/docs"},),
            )
            for name in FEATURES
        }
        for feature in self.features.values():
            feature.register("bench")
        self.instance = dg.DagsterInstance.ephemeral()
        asset = FeatureAsset(self._update("asset", compute))
        self._asset = asset.assets_def(self.project)

    def put(self, version: str, samples: Iterable[int]) -> None:
        """Write samples of the root, in one commit."""
        numbers = list(samples)
        rows = {
            "doc": [f"doc-{n}" for n in numbers],
            "pages": numbers,
            "metaxy_provenance_by_field": [{"text": f"{version}-{n}"} for n in numbers],
        }
        with self.project.store().open("w") as store:
            store.write("b/docs", pl.DataFrame(rows))

    def hand(self) -> int:
        """The asset that the component replaces, as one writes it; gives the number of rows."""
        with self.project.store().open("w") as store:
            increment = store.resolve_update("b/hand").to_polars()
            todo = pl.concat([increment.new, increment.stale], how="diagonal")
            if todo.is_empty():
                return 0
            rows = [
                {
                    "doc": sample["doc"],
                    **compute(sample),
                    "metaxy_provenance": sample["metaxy_provenance"],
                    "metaxy_provenance_by_field": sample["metaxy_provenance_by_field"],
                }
                for sample in todo.iter_rows(named=True)
            ]
            store.write("b/hand", pl.DataFrame(rows))
            return len(rows)

    def _update(self, name: str, function: Callable[..., object], **options: Any) -> Update:
        folder = self.root / "artifacts"
        return Update(self.features[name], Compute(function), folder, batch_size=5000, **options)

    def update(
        self,
        name: str = "update",
        function: Callable[..., object] = compute,
        scope: Scope | None = None,
        **options: Any,
    ) -> int:
        """Run an update; gives the number of rows that were written."""
        update = self._update(name, function, **options)
        runtime = Runtime(logging.getLogger("bench"))
        return update.run(self.project.store(), scope or Scope(), runtime).written

    def asset(self) -> int:
        """Materialize the asset; gives the number of rows that were written."""
        result = dg.materialize([self._asset], instance=self.instance, run_config=QUIET)
        (event,) = result.get_asset_materialization_events()
        return int(event.materialization.metadata["rows written"].value)  # type: ignore[arg-type]

    def plain(self) -> None:
        dg.materialize([nothing], instance=self.instance, run_config=QUIET)


@dataclass(frozen=True)
class Taken:
    """Seconds of one piece of work."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def median(times: Iterable[Taken]) -> Taken:
    times = list(times)
    return Taken(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times))


def compare(
    title: str,
    bench: Bench,
    written: int,
    before: Callable[[int], object] = lambda _: None,
) -> None:
    """Print what ways to update cost.

    Args:
        title: Of what is printed.
        bench: The project.
        written: How many rows every way has to write.
        before: Called with a number before each round.
    """
    rounds: dict[str, list[Taken]] = {}
    for number in range(-1, ROUNDS):  # one round warms up
        before(number)
        with bench.project.store().open("r") as store:
            taken = {"resolve_update": timed(lambda: store.resolve_update("b/update").to_polars())}
        for name, work in (
            ("by hand", bench.hand),
            ("Update.run", bench.update),
            ("asset", bench.asset),
            ("asset that does nothing", bench.plain),
        ):
            taken[name] = timed(partial(wrote, written, work))
        if number >= 0:
            for name, one in taken.items():
                rounds.setdefault(name, []).append(one)
    medians = {name: median(times) for name, times in rounds.items()}
    bare = medians["resolve_update"]
    print(f"\n{title}: median of {ROUNDS}, seconds (times resolve_update)")
    for name, taken in medians.items():
        show(name, taken, bare)
    asset, plain = medians["asset"], medians["asset that does nothing"]
    show("asset less that", Taken(asset.wall - plain.wall, asset.cpu - plain.cpu), bare)


def wrote(rows: int, work: Callable[[], int | None]) -> None:
    """Do what says how many rows it wrote, and see that it did; None says nothing."""
    if (found := work()) not in (rows, None):
        sys.exit(f"{found} rows were written, not {rows}: the benchmark is wrong")


def show(name: str, taken: Taken, bare: Taken) -> None:
    print(
        f"  {name:<24} wall {taken.wall:7.3f} ({taken.wall / bare.wall:5.2f})"
        f"   CPU {taken.cpu:7.3f} ({taken.cpu / bare.cpu:5.2f})"
    )


def everything(title: str, bench: Bench, samples: int) -> None:
    """Print what computing many samples costs."""
    times = {
        "by hand": timed(bench.hand),
        "Update.run": timed(bench.update),
        "Update.run in batches": timed(lambda: bench.update("asset", compute_batch)),
    }
    print(f"\n{title}: seconds (times by hand), ms per sample")
    for name, taken in times.items():
        print(
            f"  {name:<24} wall {taken.wall:7.3f} ({taken.wall / times['by hand'].wall:5.2f})"
            f"   CPU {taken.cpu:7.3f} ({taken.cpu / times['by hand'].cpu:5.2f})"
            f"   {1000 * taken.wall / samples:.3f} ms"
        )


def resolved(store: mx.MetadataStore, key: str) -> None:
    store.resolve_update(key).to_polars()


def unchanged(samples: int) -> None:
    """Print what updates cost that find nothing to do: of samples in a partition each, and of
    parents half of which have no children."""
    with tempfile.TemporaryDirectory() as folder, mx.FeatureGraph().use():
        bench = Bench(Path(folder))
        bench.put("1", range(samples))
        children = Feature(
            "b/children",
            ("doc", "page"),
            {"doc": Column("str"), "page": Column("int")},
            deps=({"feature": "b/docs", "lineage": expansion(["doc"])},),
        )
        children.register("bench")
        bench.features["children"] = children
        by_doc = Scope(lambda sample: sample["doc"], columns=("doc",))
        cases = (
            ("partitioned by sample", "update", compute, by_doc),
            ("half without children", "children", odd_pages, Scope()),
        )
        print(f"\nnothing changed of {samples}: seconds (times resolve_update)")
        for title, name, function, scope in cases:
            bench.update(name, function, scope)
            with bench.project.store().open("r") as store:
                resolve = partial(resolved, store, f"b/{name}")
                bare = median(timed(resolve) for _ in range(ROUNDS))
            again = partial(bench.update, name, function, scope)
            show(title, median(timed(partial(wrote, 0, again)) for _ in range(ROUNDS)), bare)
    mx.MetaxyConfig.reset()


def chunks(samples: int) -> None:
    """Print what a computed sample costs in chunks of 500, in a project of its own."""
    with tempfile.TemporaryDirectory() as folder, mx.FeatureGraph().use():
        bench = Bench(Path(folder))
        bench.put("1", range(samples))
        first = timed(lambda: bench.update(chunk_rows=500))
        bench.put("2", range(samples))
        again = timed(lambda: bench.update(chunk_rows=500))
    mx.MetaxyConfig.reset()
    print(f"\n{samples} samples computed in chunks of 500: ms per sample")
    for name, taken in (("new", first), ("stale", again)):
        wall, cpu = (1000 * seconds / samples for seconds in (taken.wall, taken.cpu))
        print(f"  {name:<24} wall {wall:7.3f}           CPU {cpu:7.3f}")


def peak() -> float:
    """The most memory that this process had, in MiB; NaN where the system does not say (not Linux)."""
    status = Path("/proc/self/status")
    # Not ru_maxrss: a process inherits that of the one that started it.
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


def measure_memory(what: str, root: Path) -> None:
    """Do one thing in this process, and print by how much its peak grew."""
    bench = Bench(root)
    with bench.project.store().open("r") as store:
        idle = peak()
        if what == "resolve_update":
            store.resolve_update("b/update").to_polars()
    if what == "Update.run":
        bench.update()
    elif what == "asset":
        bench.asset()
    print(peak() - idle)


def memory(roots: Mapping[int, Path]) -> None:
    """Print peak memory of updates that find nothing to do, by the number of unchanged samples."""
    print("\nnothing changed: peak memory, MiB")
    print(
        f"  {'unchanged samples':<24}" + "".join(f"{samples:>10}" for samples in roots) + "  growth"
    )
    for what in ("resolve_update", "Update.run", "asset"):
        found = []
        for root in roots.values():
            command = [sys.executable, __file__, "--memory", what, str(root)]
            found.append(float(subprocess.check_output(command, text=True)))
        growth = found[-1] - found[0]
        print(f"  {what:<24}" + "".join(f"{f:10.1f}" for f in found) + f"{growth:8.1f}")


def main(samples: int) -> None:
    print(f"{samples} samples, a compute that does nothing")
    few = samples // 10
    chunks(few)
    unchanged(samples)
    with tempfile.TemporaryDirectory() as folder:
        roots = {few: Path(folder) / "few", samples: Path(folder) / "all"}
        for count, root in roots.items():
            root.mkdir()
            with mx.FeatureGraph().use():
                bench = Bench(root)
                bench.put("1", range(count))
                if count == samples:
                    everything("all new", bench, samples)
                    compare("nothing changed", bench, 0)
                else:
                    bench.update()
                    bench.update("asset")
            mx.MetaxyConfig.reset()
        memory(roots)
        with mx.FeatureGraph().use():
            bench = Bench(roots[samples])
            changed = f"1 of {samples} changed"
            compare(changed, bench, 1, lambda n: bench.put(f"round {n}", [1000 + n]))
            bench.put("2", range(few))
            everything("a tenth stale", bench, few)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        with mx.FeatureGraph().use():
            measure_memory(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
