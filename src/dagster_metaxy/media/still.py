"""A picture file as pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from dagster_metaxy.media._picture import Pixels
from dagster_metaxy.media.errors import MediaError


def at_once(file: Path | str | IO[bytes]) -> Path | str | IO[bytes]:
    """A picture file that is read as a whole: decoders ask for a few bytes at a time, each of which
    would be a request where the file lies in an object store."""
    return file if isinstance(file, Path | str) else io.BytesIO(file.read())


def rgb(file: Path | str | IO[bytes]) -> Pixels:
    """The pixels of a picture, height x width x 3, upright.

    Raises `MediaError` if it is no picture, or a part of it can't be decoded.
    """
    try:
        with Image.open(at_once(file)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"the picture can't be read: {error}") from error
