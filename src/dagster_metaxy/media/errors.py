"""The one error of this package, and how FFmpeg's errors and log lines become it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import av
import av.error
import av.logging


class MediaError(Exception):
    """A media file that can't be used; the message is one sentence that says why.

    It carries the demuxer's or decoder's own words where there are some, and never the location:
    the caller knows which sample it was.
    """


class Words:
    """What FFmpeg has logged as errors in this thread while `reading()` is open."""

    def __init__(self, logs: list[tuple[int, str, str]]) -> None:
        self._logs = logs

    def after(self, sentence: str, component: str | None = None) -> str:
        """`sentence`, followed by FFmpeg's own words in brackets if it had any.

        The last words count; with `component` (such as `mov,mp4,m4a,3gp,3g2,mj2`) only its words.
        """
        for level, name, message in reversed(self._logs):
            message = message.strip()
            if level > av.logging.ERROR or not message or component not in (None, name):
                continue
            return f"{sentence} ({name}: {message})" if name else f"{sentence} ({message})"
        return sentence


@contextmanager
def reading(*, listen: bool = True) -> Iterator[Words]:
    """Turn what goes wrong while one file is read into `MediaError`, without FFmpeg's own words unless
    one does `listen` to its log.

    Wrap only code that reads: a full disk while writing is no property of the media file.
    """
    with _logged() if listen else nullcontext(Words([])) as words:
        try:
            yield words
        except av.error.FFmpegError as error:
            raise MediaError(words.after(error.strerror or str(error))) from error
        except OSError as error:
            raise MediaError(error.strerror or str(error)) from error
        except ValueError as error:
            raise MediaError(str(error)) from error


# FFmpeg only logs some reasons ("moov atom not found"), and PyAV drops log lines unless a level is
# set, which is a setting of the whole process: it is set while any thread reads, then put back.
# Lines go to the thread that caused them; that takes two things: no decoder threads (a decoder here
# runs with thread_count = 1), and no skipping of repeated lines, as PyAV would hold a line back
# when another file has just caused the same one, and hand it to whoever logs next.
_lock = threading.Lock()
_readers = 0
_before: tuple[int | None, bool] = (None, True)


@contextmanager
def _logged() -> Iterator[Words]:
    global _readers, _before
    with _lock:
        if _readers == 0:
            _before = (av.logging.get_level(), av.logging.get_skip_repeated())
            if _before[0] is None or _before[0] < av.logging.ERROR:
                av.logging.set_level(av.logging.ERROR)
            av.logging.set_skip_repeated(False)
        _readers += 1
    try:
        with av.logging.Capture() as logs:
            yield Words(logs)
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                av.logging.set_level(_before[0])
                av.logging.set_skip_repeated(_before[1])
