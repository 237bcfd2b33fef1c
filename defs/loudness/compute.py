"""The compute of the feature `clips/loudness`."""

import wave
from collections.abc import Mapping
from math import log10
from typing import Any

import numpy as np


def loudness(sample: Mapping[str, Any]) -> dict[str, float | None]:
    """Root mean square of a soundtrack in dBFS; None for silence."""
    with wave.open(sample["path"], "rb") as sound:
        pcm = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
    power = float(np.mean(np.square(pcm / 32768.0))) if pcm.size else 0.0
    return {"loudness": 10 * log10(power) if power else None}
