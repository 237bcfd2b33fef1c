"""The compute of the feature `clips/brightness`."""

from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageStat


def brightness(sample: Mapping[str, Any]) -> dict[str, float]:
    """Mean luma of a frame, 0 (black) to 255 (white)."""
    with Image.open(sample["path"]) as picture:
        return {"brightness": ImageStat.Stat(picture.convert("L")).mean[0]}
