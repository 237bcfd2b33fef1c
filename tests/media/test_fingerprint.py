"""Copies of a clip are found, and other clips are not."""

from __future__ import annotations

from pathlib import Path

import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import fingerprint
from dagster_metaxy.media._picture import Pixels


@pytest.fixture(scope="module")
def shots(bikes: Path, portrait: Path, bunny: Path, tmp_path_factory) -> dict[str, list[str]]:
    """Fingerprints of three clips, and of copies of each."""
    folder = tmp_path_factory.mktemp("copies")
    found = {}
    for clip in (bikes, portrait, bunny):
        copies = {
            "original": clip,
            "remuxed": tools.remux(clip, folder / f"{clip.stem}.mkv", audio=False),
            "small": tools.encoded_again(clip, folder / f"{clip.stem}_small.mp4", 320, 180),
            "trimmed": tools.encoded_again(
                clip, folder / f"{clip.stem}_trim.mp4", 320, 180, skip=0.2
            ),
            "other codec": tools.encoded_again(
                clip, folder / f"{clip.stem}.avi", 160, 96, video="mpeg4", options={"b": "300k"}
            ),
        }
        for name, copy in copies.items():
            found[f"{clip.stem}/{name}"] = fingerprint.take(copy).hashes
    return found


def test_copies_are_found_and_other_clips_are_not(shots: dict[str, list[str]]) -> None:
    names = list(shots)
    found = {
        (names[pair.first], names[pair.second]): pair.distance
        for pair in fingerprint.near(list(shots.values()), 12)
    }
    expected = {
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if a.split("/")[0] == b.split("/")[0]
    }
    assert {*found} == expected
    assert found["bikes/original", "bikes/remuxed"] == 0
    assert found["bikes/original", "bikes/small"] < 3
    # Far enough from being found.
    assert len([*fingerprint.near(list(shots.values()), 18)]) == len(expected)


def test_turned_by_a_note_or_by_its_pixels(bikes: Path, tmp_path: Path) -> None:
    noted = tools.with_rotation(bikes, tmp_path / "noted.mp4", 90)
    pictures = [np.ascontiguousarray(np.rot90(pixels)) for _, pixels in tools.decoded(bikes)]
    turned = tools.clip(
        tmp_path / "turned.mp4",
        width=272,
        height=640,
        frames=len(pictures),
        draw=lambda index, width, height: pictures[index],
        options={"preset": "ultrafast"},
    )
    a, b, plain = (fingerprint.take(path).hashes for path in (noted, turned, bikes))
    assert [*fingerprint.near([a, b], 12)]
    assert not [*fingerprint.near([a, plain], 18)]


def naive(gray: Pixels) -> int:
    """By the definition of the transform."""
    values = [
        sum(
            gray[y, x] * np.cos(np.pi * v * (2 * y + 1) / 64) * np.cos(np.pi * u * (2 * x + 1) / 64)
            for y in range(32)
            for x in range(32)
        )
        for v in range(8)
        for u in range(8)
    ]
    middle = sorted(values)[31:33]
    return int("".join("1" if value > sum(middle) / 2 else "0" for value in values), 2)


def test_the_hash_is_that_of_its_definition() -> None:
    gray = np.random.default_rng(2).integers(0, 255, (32, 32)).astype(np.uint8)
    assert fingerprint.perceptual_hash(gray) == naive(gray.astype(float))  # type: ignore[arg-type]
    flat = [np.full((32, 32), value, np.uint8) for value in (0, 16, 200)]
    assert [fingerprint.perceptual_hash(each) for each in flat] == [0, 1 << 63, 1 << 63]


@pytest.mark.parametrize("old_numpy", [False, True])
def test_all_pairs_in_blocks(old_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if old_numpy:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    random = np.random.default_rng(3)
    texts = [[f"{h:016x}" for h in row] for row in random.integers(0, 1 << 63, (150, 8)).tolist()]
    texts[140] = [*texts[3][:7], texts[9][7]]
    texts[77] = texts[76]

    def distance(a: list[str], b: list[str]) -> float:
        return sum((int(x, 16) ^ int(y, 16)).bit_count() for x, y in zip(a, b, strict=True)) / 8

    expected = [
        (i, j, distance(texts[i], texts[j]))
        for i in range(150)
        for j in range(i + 1, 150)
        if distance(texts[i], texts[j]) <= 27
    ]
    assert {(3, 140), (76, 77)} < {(i, j) for i, j, _ in expected}
    for block in (1, 1000, 1 << 20):
        monkeypatch.setattr(fingerprint, "_BLOCK", block)
        found = [(p.first, p.second, p.distance) for p in fingerprint.near(texts, 27)]
        assert found == [(i, j, round(d, 3)) for i, j, d in expected]
    assert [*fingerprint.near([], 64)] == [*fingerprint.near(texts[:1], 64)] == []
