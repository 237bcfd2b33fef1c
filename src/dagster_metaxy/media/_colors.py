"""Pictures of high dynamic range, or of wide gamut, as ordinary displays show them (sRGB, BT.709)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_PQ, _HLG = 16, 18  # transfer characteristics, as ITU-T H.273 numbers them
_BT2020, _P3 = 9, 12  # primaries

_WHITE = 203.0
"""Nits of a white page in pictures of high dynamic range (ITU-R BT.2408)."""
_PEAK = 1000.0 / _WHITE
"""How many times as bright as that what is white in the end."""
_KNEE = 0.3
"""What is darker stays as it is."""

_TO_BT709 = {
    _BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    _P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}

_ROWS = 64
"""Rows that are converted at a time, so that large pictures take little memory."""


def is_other(transfer: int, primaries: int) -> bool:
    """Whether a picture would look wrong if its values were taken for those of sRGB."""
    return transfer in (_PQ, _HLG) or primaries in _TO_BT709


def to_srgb(pixels: npt.NDArray[np.uint16], transfer: int, primaries: int) -> npt.NDArray[np.uint8]:
    """A picture as ordinary displays show it; what is brighter than a white page is dimmed, smoothly.

    Args:
        pixels: Height x width x 3, 0 to 65535.
        transfer: How they are coded, as H.273 numbers it.
        primaries: What red, green and blue are, as H.273 numbers it.
    """
    is_high = transfer in (_PQ, _HLG)
    if is_high and primaries not in _TO_BT709:
        primaries = 1 if primaries == 1 else _BT2020
    matrix = np.array(_TO_BT709.get(primaries, np.eye(3)), np.float32).T
    curve, shown = _light(transfer), _srgb()
    result = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), _ROWS):
        light = curve[pixels[start : start + _ROWS]]
        if transfer == _HLG:
            luma = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
            light *= (_PEAK * luma**0.2)[..., None]
        light = np.maximum(light @ matrix, 0)
        if is_high:
            # By the brightest of the three, so that colours keep their hue.
            most = light.max(axis=2, keepdims=True)
            light *= _dimmed(most) / np.maximum(most, 1e-6)
        result[start : start + _ROWS] = shown[
            (np.minimum(light, 1) * 65535 + 0.5).astype(np.uint16)
        ]
    return result


def _dimmed(light: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The curve that FFmpeg calls Mobius: straight below the knee, 1 at the peak."""
    a = -(_KNEE**2) * (_PEAK - 1) / (_KNEE**2 - 2 * _KNEE + _PEAK)
    b = (_KNEE**2 - 2 * _KNEE * _PEAK + _PEAK) / (_PEAK - 1)
    high = (b * b + 2 * b * _KNEE + _KNEE**2) / (b - a) * (light + a) / (light + b)
    return np.where(light <= _KNEE, light, np.minimum(high, 1)).astype(np.float32)


@lru_cache
def _light(transfer: int) -> npt.NDArray[np.float32]:
    """What each value stands for: light as a share of a white page; of HLG, before its system gamma."""
    value = np.arange(65536) / 65535
    if transfer == _PQ:  # SMPTE ST 2084
        root = value ** (32 / 2523)
        light = (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (
            8192 / 1305
        )
        light *= 10_000 / _WHITE
    elif transfer == _HLG:  # ITU-R BT.2100
        light = np.where(
            value <= 0.5,
            value**2 / 3,
            (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12,
        )
    else:
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


@lru_cache
def _srgb() -> npt.NDArray[np.uint8]:
    """The value of each light, 0 to 65535."""
    light = np.arange(65536) / 65535
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(value * 255).astype(np.uint8)
