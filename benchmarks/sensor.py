"""What a tick of the sensor costs that finds nothing changed, beside listing the files alone.

    uv run python benchmarks/sensor.py [files]

The files are empty and on a local disk. Machines differ, ratios less so.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import metaxy as mx

from dagster_metaxy.declare.project import load_project, starter_config
from dagster_metaxy.discovery.sensor import build_sensor
from dagster_metaxy.discovery.sources import Files
from dagster_metaxy.discovery.videos import Videos, videos_feature

ROUNDS = 5


def cpu(work: Callable[[], object]) -> float:
    """Seconds of the processor."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def walked(folder: Path) -> int:
    """The bare walk, with the size and time of each file."""
    return sum(file.stat().st_mtime_ns for file in folder.rglob("*.mp4"))


def main(files: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        mx.FeatureGraph().use(),
        dg.DagsterInstance.ephemeral() as instance,
    ):
        root = Path(name)
        (root / "metaxy.toml").write_text(starter_config("bench"))
        folder = root / "videos"
        for number in range(files):
            file = folder / f"{number // 1000:03}" / f"video_{number:06}.mp4"
            if number % 1000 == 0:
                file.parent.mkdir(parents=True)
            file.touch()
        feature = videos_feature("bench")
        feature.register("bench")
        videos = Videos(feature, Files(folder))

        @dg.job
        def bench() -> None: ...

        sensor = build_sensor(
            name="bench_sensor",
            job_name="bench",
            report_op="none",
            videos=videos,
            partitioning=None,
            project=load_project(root, "bench"),
            store=None,
        )
        cursor = json.dumps({"digest": videos.listing().digest, "runs": 0})

        def tick() -> None:
            with dg.build_sensor_context(
                instance, cursor=cursor, definitions=dg.Definitions(jobs=[bench])
            ) as context:
                said = sensor.evaluate_tick(context).skip_message or ""
            if "none new, changed or gone" not in said:
                sys.exit(f"the tick found something: {said}")

        bare = cpu(lambda: walked(folder))
        listed = cpu(videos.listing)
        ticked = cpu(tick)
        print(f"{files} files, none changed: seconds of CPU (times the bare walk)")
        for what, seconds in (("bare walk", bare), ("listing", listed), ("tick", ticked)):
            print(f"  {what:<12} {seconds:7.3f} ({seconds / bare:5.2f})")
        print(f"  {'beyond it':<12} {ticked - listed:7.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
