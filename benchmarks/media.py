"""What reading videos costs beside bare PyAV, and a collection's job beside a loop written by hand.

    uv run python benchmarks/media.py [clip [repetitions [files]]]

The clip (by default one of `clips/`) is repeated to a longer video by copying its packets. Times are CPU
seconds of this process, the best of a few rounds that alternate; those of the job are wall time, with as
many workers in the loop as the job has. Machines differ, ratios less so. 1.00 is as fast as the bare
loop, 0.50 half as fast.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
from PIL import Image
from xxhash import xxh3_128

from dagster_metaxy.declare.project import starter_config
from dagster_metaxy.media import audio, frames
from dagster_metaxy.media.decoding import look, look_together
from dagster_metaxy.media.identify import identify
from dagster_metaxy.media.quality import QualityMeter
from dagster_metaxy.media.scenes import SceneDetector

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
CLIP = Path(__file__).parent.parent / "clips" / "bigbuckbunny.mp4"
ROUNDS = 3
SIZE = 640


def repeated(clip: Path, target: Path, times: int) -> Path:
    """The clip, `times` one after the other."""
    with av.open(str(target), "w") as out:
        streams: dict[int, Any] = {}
        ends: dict[int, int] = {}
        for _ in range(times):
            with av.open(str(clip)) as container:
                wanted = [*container.streams.video[:1], *container.streams.audio[:1]]
                if not streams:
                    streams = {s.index: out.add_stream_from_template(s) for s in wanted}
                    ends = dict.fromkeys(streams, 0)
                starts: dict[int, int] = {}
                for packet in container.demux(wanted):
                    if packet.dts is None:
                        continue
                    index = packet.stream_index
                    # A clip may begin before 0, to have decoded what it shows then.
                    shift = starts.setdefault(index, ends[index] - packet.dts)
                    packet.dts += shift
                    packet.pts = (packet.pts or 0) + shift
                    ends[index] = max(ends[index], packet.dts + (packet.duration or 0))
                    packet.stream = streams[index]
                    out.mux(packet)
    return target


def compare(title: str, **functions: Callable[[], Any]) -> None:
    """Print what each takes, beside the first."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            begun = time.process_time()
            function()
            best[name] = min(best[name], time.process_time() - begun)
    print(title)
    (bare, *_) = best.values()
    for name, seconds in best.items():
        print(f"  {name.replace('_', ' '):42} {seconds:8.3f} s   {bare / seconds:.2f}")


def demux(path: Path) -> None:
    with av.open(str(path)) as container:
        for packet in container.demux():
            packet.size  # noqa: B018


def demux_and_hash(path: Path) -> None:
    hashed = xxh3_128()
    with av.open(str(path)) as container:
        for packet in container.demux():
            hashed.update(memoryview(packet))


def pick(path: Path, folder: Path, every: float) -> None:
    """Frames as anybody writes it: decode all, keep some."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        index = 0
        for frame in container.decode(stream):
            if frame.time is None or frame.time < index * every:
                continue
            scale = min(1.0, SIZE / max(frame.width, frame.height))
            pixels = frame.reformat(
                width=round(frame.width * scale),
                height=round(frame.height * scale),
                format="rgb24",
                interpolation="AREA",
            ).to_ndarray()
            Image.fromarray(pixels).save(folder / f"{index:06d}.jpg", quality=85)
            index += 1


def viewers(folder: Path) -> list[Any]:
    taker = partial(frames.FrameTaker, folder, every_seconds=1.0, max_size=SIZE)
    return [taker, QualityMeter, SceneDetector]


def one_by_one(path: Path, folder: Path) -> None:
    for viewer in viewers(folder):
        look(path, viewer)


def by_hand(path: Path, folder: Path) -> None:
    """All that the job makes of a video, in one function."""
    made = folder / path.stem
    made.mkdir(exist_ok=True)
    identify(path)
    look_together(path, viewers(made))
    audio.extract(path, made / "audio.wav")


def whole_graph(video: Path, folder: Path, files: int) -> None:
    """The job over copies of a video, and the same by hand."""
    workers = os.cpu_count() or 1
    videos = folder / "videos"
    videos.mkdir()
    copies = [videos / f"video{index:03d}.mp4" for index in range(files)]
    for copy in copies:
        os.link(video, copy)
    write(folder, "frames, quality, scenes, audio")
    (folder / "made").mkdir()
    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(partial(by_hand, folder=folder / "made"), copies))
    hand = time.perf_counter() - begun
    print(f"The whole graph, {files} videos, {workers} workers (wall time)")
    print(f"  {'by hand':42} {hand:8.2f} s   1.00")
    for title in ("job", "job, once more"):
        found = subprocess.run(
            [sys.executable, __file__, "--job", str(folder)],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = float(found.stdout.split()[-1])
        print(f"  {title:42} {seconds:8.2f} s   {hand / seconds:.2f}")


def write(root: Path, steps: str) -> None:
    """A project with one collection."""
    defs = root / "bench" / "defs"
    defs.mkdir(parents=True)
    (root / "bench" / "__init__.py").touch()
    (root / "dg.toml").write_text('directory_type = "project"\n[project]\nroot_module = "bench"\n')
    (root / "metaxy.toml").write_text(starter_config("bench"))
    (defs / "defs.yaml").write_text(
        "type: dagster_metaxy.PartitionedVideoComponent\n"
        "attributes:\n"
        "  source: {path: videos, settle_seconds: 0}\n"
        "  feature_prefix: clips\n"
        f"  steps: [{steps}]\n"
    )


def run_job(root: Path) -> None:
    """Run the job of a project, and print how long it took, without loading it."""
    import dagster as dg

    sys.path.insert(0, str(root))
    os.chdir(root)
    defs = dg.load_from_defs_folder(path_within_project=root)
    job = defs.resolve_job_def("clips")
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        begun = time.perf_counter()
        job.execute_in_process(instance=instance, run_config=quiet)
        print(time.perf_counter() - begun)


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        return run_job(Path(sys.argv[2]))
    clip, times, files = (*sys.argv[1:], *("", "", "")[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        video = repeated(Path(clip or CLIP), folder / "video.mp4", int(times or 12))
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            print(
                f"{stream.codec_context.name} {stream.width}x{stream.height},"
                f" {(container.duration or 0) / 1e6:.0f} s, {video.stat().st_size / 1e6:.0f} MB"
            )
        large = repeated(Path(clip or CLIP), folder / "large.mp4", 10 * int(times or 12))
        compare(
            f"Identifying {large.stat().st_size / 1e6:.0f} MB",
            demuxing=partial(demux, large),
            demuxing_and_hashing_as_it_is=partial(demux_and_hash, large),
            identify=partial(identify, large),
        )
        large.unlink()
        for every in (1.0, 5.0):
            compare(
                f"Frames, one in {every:g} s",
                by_hand=partial(pick, video, folder, every),
                frames=partial(frames.extract, video, folder, every_seconds=every, max_size=SIZE),
            )
        compare(
            "Frames, quality and scenes",
            one_by_one=partial(one_by_one, video, folder),
            one_decode=lambda: look_together(video, viewers(folder)),
        )
        whole_graph(video, folder, int(files or 8))


if __name__ == "__main__":
    main()
