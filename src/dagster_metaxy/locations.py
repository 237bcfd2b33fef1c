"""Files on disks and in object stores, by path or URL: opening them, and noticing their changes.

`s3://`, `gs://`, `az://` and the like are read with obstore, whose settings and credentials come
from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`,
`AZURE_STORAGE_ACCOUNT_NAME` ...); `http://` and `https://` need none. Nothing is downloaded: what is
read is asked for, part by part, and asked for again where the connection breaks.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

_T = TypeVar("_T")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ATTEMPTS = 3
_BLOCK = 4 << 20
"""Bytes that are asked for at a time."""

_PAGE = 1_000
"""Objects that are taken from a list at a time, as many as a request gives."""

_BREAKS = 5
"""How often in a row a connection may break."""

_PAUSE_SECONDS = 0.2

# What obstore says, of which its readers give no class.
_DENIED = (
    "The operation lacked the necessary privileges",
    "The operation lacked valid authentication",
)
_PERMANENT = {
    "Range request not supported": "the server does not answer range requests, by which files are read"
    " part by part",
    "Invalid last modified": "the server sends a Last-Modified that is no date, and obstore refuses it",
}

_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")
_RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_STALE_AFTER_SECONDS = 24 * 3600


class ChangedError(OSError):
    """A file was written while it was read, again and again."""


@dataclass(frozen=True)
class Status:
    """What tells whether a file has changed.

    Attributes:
        size: In bytes.
        modified_at: When it was written, to the microsecond, UTC.
        etag: What an object store or a web server names this content by; None on disks.
    """

    size: int
    modified_at: datetime
    etag: str | None = None

    def is_same(self, other: Status) -> bool:
        """Whether it is the same content, as far as this tells."""
        if self.etag and other.etag:
            return (self.size, self.etag) == (other.size, other.etag)
        return (self.size, self.modified_at) == (other.size, other.modified_at)


def is_url(location: Path | str) -> bool:
    """Whether a location is no path of this machine."""
    return "://" in os.fspath(location)


def split(url: str) -> tuple[str, str]:
    """The root of a URL, which is a bucket, container or host, and the path below it."""
    scheme, _, rest = url.partition("://")
    root, _, path = rest.partition("/")
    return f"{scheme}://{root}", path


def split_glob(location: str) -> tuple[str, str | None]:
    """A path or URL, and the glob that it ends in, if any: what begins with the first part with a `*`."""
    parts = location.split("/")
    at = next((i for i, part in enumerate(parts) if "*" in part), None)
    return (location, None) if at is None else ("/".join(parts[:at]) or ".", "/".join(parts[at:]))


def object_store(root: str) -> ObjectStore:
    """The object store at a root as `split` gives it.

    Raises:
        ValueError: Nothing is known of such URLs, or their settings are wrong.
    """
    settings = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_SETTINGS)))
    return _object_store(root, settings)


@lru_cache
def _object_store(root: str, settings: tuple[tuple[str, str], ...]) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    # Who writes http:// means it.
    plain = root.startswith("http://") or any(
        "ENDPOINT" in name and value.startswith("http://") for name, value in settings
    )
    try:
        return from_url(
            root,
            client_options={"allow_http": plain, "timeout": "30s", "connect_timeout": "5s"},
            retry_config=_RETRY,
        )
    except (BaseError, ValueError) as error:
        raise ValueError(f"{root} cannot be reached: {sentence(error)}") from None


def objects(root: str, prefix: str) -> Iterator[ObjectMeta]:
    """All objects of a store below a prefix; no more requests than there are pages, unless the
    connection breaks, after which the list goes on where it was.

    Args:
        root: As `split` gives it.
        prefix: Ends where a part of a path does; empty for all.

    Raises:
        OSError: They could not be listed to the end.
        ValueError: Nothing is known of such URLs, or their settings are wrong.
    """
    import obstore

    store = object_store(root)
    last: str | None = None
    broken = 0
    while True:
        try:
            with _told(f"{root}/{prefix}"):
                for page in obstore.list(store, prefix or None, offset=last, chunk_size=_PAGE):
                    for found in page:
                        yield found
                        last, broken = found["path"], 0
            return
        except ConnectionError:
            broken += 1
            if broken == _BREAKS:
                raise
            time.sleep(_PAUSE_SECONDS * broken)


def status(location: Path | str) -> Status:
    """What tells whether a file has changed.

    Raises:
        OSError: It is not there, may not be read, or is out of reach; with the location.
        ModuleNotFoundError: It is at a URL, and obstore is not installed.
    """
    location = os.fspath(location)
    if not is_url(location):
        return status_of(os.stat(location))
    root, path = split(location)
    if root.startswith("http") and "?" in path:
        raise OSError(
            f"{location.partition('?')[0]}: a URL with a query, as signed ones are, cannot be read, and"
            " would keep what it is signed with: give that of the object, such as s3://bucket/key, and"
            " credentials in the environment"
        )
    try:
        import obstore
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"a file at {root.partition('://')[0]}:// needs obstore, which is not installed:"
            " pip install 'dagster-metaxy[object-store]'",
            name="obstore",
        ) from None

    with _told(location):
        found = obstore.head(object_store(root), path)
    return Status(found["size"], found["last_modified"], found["e_tag"])


def status_of(found: os.stat_result) -> Status:
    """The status of a file on a disk."""
    # From whole nanoseconds: as a float, the time would be rounded.
    return Status(found.st_size, _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000))


@contextlib.contextmanager
def _told(location: str) -> Iterator[None]:
    """Make an error of an object store one that names the location."""
    from obstore.exceptions import (
        BaseError,
        InvalidPathError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{location}: there is no such object") from None
    except InvalidPathError as error:
        # Of the page of the list that it is on, obstore gives nothing.
        raise OSError(
            f"{location}: {sentence(error)}: rename or remove the object, since it hides others; no"
            " part of its key may be empty, '.' or '..'"
        ) from None
    except (PermissionError, PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(f"{location}: {sentence(error)}") from None
    except (BaseError, OSError) as error:  # its readers raise OSError
        said = sentence(error)
        if any(known in said for known in _DENIED):
            raise PermissionError(f"{location}: {said}") from None
        for known, told in _PERMANENT.items():
            if known in said:
                raise OSError(f"{location}: {told}") from None
        raise ConnectionError(f"{location}: {said}") from None
    except ValueError as error:
        raise OSError(f"{location}: {sentence(error)}") from None


def sentence(error: Exception) -> str:
    """What an error of obstore says, without what may be secret: the queries of signed URLs, and
    what a server repeats of the request."""
    text = str(error).partition("\n\nDebug source")[0]
    text, *answers = re.split(r"<\?xml|<Error", text, maxsplit=1)
    answer = "".join(answers)
    told = [found[1] for n in ("Code", "Message") if (found := re.search(f"<{n}>([^<]*)", answer))]
    text = re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)
    text = re.sub(
        r" in \S+, after (\d+ retries), max_retries: \d+, retry_timeout: \S+ -", r" (\1):", text
    )
    return " ".join(f"{text}{': '.join(told)}".split())


@dataclass(frozen=True)
class Cache:
    """Files of object stores, kept on a local disk.

    A file is kept by its URL and ETag; those that were not used for longest go first. Processes
    may share a folder.

    Attributes:
        folder: Where they lie.
        max_bytes: How much they may take; files that are in use stay.
    """

    folder: Path
    max_bytes: int

    @contextlib.contextmanager
    def file(self, location: str, found: Status) -> Iterator[Path]:
        """The file at a URL, which stays while it is in use.

        Args:
            location: The URL.
            found: Its status.

        Raises:
            ChangedError: It is not what was found any more.
            OSError: It cannot be read; with the location.
        """
        told = f"{location}\n{found.size}\n{found.etag or found.modified_at}"
        name = hashlib.sha256(told.encode()).hexdigest()[:32]
        path = self.folder / f"{name}{PurePosixPath(location).suffix}"
        while (used := _in_use(path)) is None:
            self._fetch(location, found, path)
        with used:
            yield path

    def _fetch(self, location: str, found: Status, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(found.size)
        part = self.folder / f".{uuid.uuid4().hex}.part"
        try:
            _download(location, found, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove files until another of this size has a place."""
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                files.append((path.stat(), path))
        files.sort(key=lambda file: file[0].st_mtime)
        now = datetime.now().timestamp()
        total = size + sum(found.st_size for found, _ in files)
        for found, path in files:
            # What is being fetched counts; a killed process leaves it for ever.
            fetched = path.suffix != ".part" or now - found.st_mtime > _STALE_AFTER_SECONDS
            if total > self.max_bytes and fetched and _remove_unused(path):
                total -= found.st_size


def _lock(file: IO[bytes], exclusive: bool = False) -> bool:
    """Say that a file is in use, or, exclusively, find out whether it is."""
    try:
        import fcntl
    except ImportError:  # Windows, which removes no open file
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX | fcntl.LOCK_NB) if exclusive else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    return True


def _in_use(path: Path) -> IO[bytes] | None:
    """A file, open and not to be removed; None where it is not there."""
    with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
        used = stack.enter_context(path.open("rb"))
        _lock(used)
        # Another process may have removed it just before.
        if os.fstat(used.fileno()).st_nlink:
            os.utime(path)
            stack.pop_all()
            return used
    return None


def _remove_unused(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if not _lock(file, exclusive=True):
                return False
            path.unlink()
    except OSError:
        return False
    return True


def _download(location: str, found: Status, target: Path) -> None:
    """Copy an object to a file.

    Raises:
        ChangedError: It is not what was found any more.
        OSError: It cannot be read.
    """
    with _Reader(location, found.size) as reader, target.open("wb") as file:
        shutil.copyfileobj(reader, file, _BLOCK)
        if reader.error is not None:
            raise reader.error
    _check_same(location, found)


@contextlib.contextmanager
def local_file(location: Path | str, cache: Cache | None = None) -> Iterator[Path]:
    """A file on a local disk, for what reads nothing else: the file itself, or a copy for a time.

    Args:
        location: A path or URL.
        cache: Where copies are kept; in a temporary file, until the end, if left out.

    Raises:
        ChangedError: It was written while it was copied.
        OSError: It cannot be read; with the location.
    """
    location = os.fspath(location)
    if not is_url(location):
        yield Path(location)
    elif cache is not None:
        with cache.file(location, status(location)) as path:
            yield path
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"copy{PurePosixPath(location).suffix}")
            _download(location, status(location), path)
            yield path


def read(
    location: Path | str, work: Callable[[Any], _T], cache: Cache | None = None
) -> tuple[_T, Status]:
    """Do something with a file; once more where the file was written meanwhile.

    Args:
        location: A path or URL.
        work: Takes what can be opened with PyAV: a path, or a file that is open for reading.
        cache: Where copies of remote files are kept; they are read part by part if left out.

    Returns:
        What `work` gave, and the status of the file that it was given.

    Raises:
        ChangedError: The file keeps changing.
        OSError: It cannot be read; with the location.
    """
    location = os.fspath(location)
    for attempt in range(_ATTEMPTS):
        found = status(location)
        try:
            with _opened(location, found, cache) as media:
                result = work(media)
            _check_same(location, found)
            return result, found
        except ChangedError:
            if attempt == _ATTEMPTS - 1:
                raise
        except Exception:
            # Half of an old file and half of a new one: that is why.
            if status(location).is_same(found):
                raise
    raise ChangedError(f"{location} was written while it was read, {_ATTEMPTS} times")


@contextlib.contextmanager
def _opened(location: str, found: Status, cache: Cache | None) -> Iterator[Any]:
    if not is_url(location):
        yield location
    elif cache is not None:
        with cache.file(location, found) as path:
            yield path
    else:
        with _Reader(location, found.size) as reader:
            try:
                yield reader
            finally:
                if reader.error is not None:
                    raise reader.error


def _check_same(location: str, found: Status) -> None:
    if not status(location).is_same(found):
        raise ChangedError(f"{location} was written while it was read")


class _Reader(io.RawIOBase):
    """An object, read part by part.

    Where the connection breaks, that part is read again, which obstore does not do by itself. Where
    that fails, too, it seems to end there, and `error` tells why: libraries that read through
    callbacks lose or print what is raised in them.
    """

    def __init__(self, location: str, size: int) -> None:
        self.name = location
        self.error: OSError | None = None
        self._size = size
        self._at = 0
        self._file: Any = None
        self._open()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end, and where they cannot be read."""
        for attempt in range(_BREAKS):
            if self.error is not None and not isinstance(self.error, ConnectionError):
                break
            try:
                if self.error is not None:
                    time.sleep(_PAUSE_SECONDS * attempt)
                    self._open()
                data = self._next(size)
                self.error = None
                return data
            except OSError as error:
                self.error = error
        return b""

    def _open(self) -> None:
        import obstore

        root, path = split(self.name)
        with _told(self.name):
            self._file = obstore.open_reader(
                object_store(root), path, buffer_size=_BLOCK, size=self._size
            )

    def _next(self, size: int) -> bytes:
        with _told(self.name):
            self._file.seek(self._at)
            data = bytes(self._file.read(size))
        if not data and size and self._at < self._size:
            raise ConnectionError(f"{self.name}: ends at byte {self._at} of {self._size}")
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere, at most to the end."""
        start = (0, self._at, self._size)[whence]
        if start + offset < 0:
            raise ValueError("the file is too short")
        self._at = min(start + offset, self._size)
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at
