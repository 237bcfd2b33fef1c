"""What a tick of the sensor costs that finds nothing changed, beside listing the files alone.

    uv run python benchmarks/sensor.py [files [s3]]

The files are empty, and on a local disk; with `s3`, objects of the server that tests/servers.py has
started, where the requests of a tick are counted, too. Machines differ, ratios less so.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import metaxy as mx
import obstore

from dagster_metaxy import locations
from dagster_metaxy.declare.project import load_project, starter_config
from dagster_metaxy.discovery.sensor import build_sensor
from dagster_metaxy.discovery.sources import Files
from dagster_metaxy.discovery.videos import Videos, videos_feature

ROUNDS = 5


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time(), time.monotonic()
        work()
        taken.append((time.process_time() - start[0], time.monotonic() - start[1]))
    return statistics.median(c for c, _ in taken), statistics.median(w for _, w in taken)


def name_of(number: int) -> str:
    return f"{number // 1000:03}/video_{number:06}.mp4"


@contextmanager
def on_disk(root: Path, files: int) -> Iterator[tuple[Path, Callable[[], object]]]:
    """A folder, and the bare walk, with the size and time of each file."""
    folder = root / "videos"
    for number in range(files):
        file = folder / name_of(number)
        if number % 1000 == 0:
            file.parent.mkdir(parents=True)
        file.touch()
    yield folder, lambda: sum(file.stat().st_mtime_ns for file in folder.rglob("*.mp4"))


@contextmanager
def on_s3(files: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """A URL, and its bare listing. The objects stay until the server stops."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from objects import Bucket, environment

    given = (os.environ[f"DAGSTER_METAXY_TEST_S3{name}"] for name in ("", "_KEY", "_SECRET"))
    endpoint, key, secret = given
    os.environ |= environment(endpoint, key, secret)
    bucket = Bucket(endpoint, f"bench-{uuid.uuid4().hex}", key, secret)
    store = locations.object_store(f"s3://{bucket.name}")
    paths = [f"videos/{name_of(number)}" for number in range(files)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: obstore.put(store, path, b""), paths))
    yield (
        f"s3://{bucket.name}/videos",
        lambda: sum(len(page) for page in obstore.list(store, "videos", chunk_size=1000)),
    )


def requests(work: Callable[[], object]) -> int:
    """How many requests reach the object store."""
    from objects import Proxy

    direct = os.environ["AWS_ENDPOINT_URL"]
    with closing(Proxy(direct)) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        work()
        os.environ["AWS_ENDPOINT_URL"] = direct
        return len(proxy.requests)


def main(files: int, *where: str) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        on_s3(files) if where == ("s3",) else on_disk(Path(name), files) as (place, walk),
        mx.FeatureGraph().use(),
        dg.DagsterInstance.ephemeral() as instance,
    ):
        root = Path(name)
        (root / "metaxy.toml").write_text(starter_config("bench"))
        feature = videos_feature("bench")
        feature.register("bench")
        videos = Videos(feature, Files(place))

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

        bare = seconds(walk)
        print(f"{files} files, none changed: seconds of CPU, of the clock (times the bare listing)")
        for what, taken in (
            ("bare listing", bare),
            ("listing", seconds(videos.listing)),
            ("tick", seconds(tick)),
        ):
            shown = (f"{t:8.3f} ({t / b:5.2f})" for t, b in zip(taken, bare, strict=True))
            print(f"  {what:<12} {' '.join(shown)}")
        if where:
            print(f"  {'requests':<12} {requests(tick):8}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, *sys.argv[2:])
