"""Artifacts in an object store: what is finished is uploaded, under names that nobody else takes."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_metaxy import locations
from dagster_metaxy.increment.artifacts.base import (
    Artifacts,
    Contents,
    Telling,
    files_in,
    key_folder,
    safe_url_name,
)
from dagster_metaxy.increment.artifacts.disk import remove_leftovers
from dagster_metaxy.increment.outcome import ArtifactFile
from dagster_metaxy.increment.store import StoreError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore, RetryConfig

# Requests that fail with 5xx, or whose connection breaks, are repeated: as obstore does if told
# nothing, ten times or for three minutes.
_RETRY: RetryConfig | None = None

_AT_ONCE = 8
"""How many requests of one call are under way. Each may take 30 seconds, which on a slow line is
not enough for many at once."""

_PARTS_AT_ONCE = 2
"""How many parts of one large file are uploaded at once."""

_WORK = "dagster-metaxy-artifacts-"
_NAMED = 3


@dataclass(frozen=True)
class Url:
    """A folder or an object in an object store; what `Path` is on disk.

    Attributes:
        text: Such as `s3://bucket/prefix/name`, without a slash at its end.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text}/{name}")

    @property
    def parts(self) -> tuple[str, ...]:
        scheme, _, path = self.text.partition("://")
        return scheme, *path.split("/")

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def parent(self) -> Url:
        return Url(self.text.rpartition("/")[0])

    @property
    def parents(self) -> list[Url]:
        """All folders that it is in, below the bucket."""
        scheme, bucket, *path = self.parts
        top = f"{scheme}://{bucket}"
        return [Url("/".join((top, *path[:depth]))) for depth in reversed(range(1, len(path)))]


class ObjectArtifacts(Artifacts[Url]):
    """The artifacts of one feature in an object store.

    There is no renaming, and nothing else that two writers could agree by: every folder of a version
    of a sample is `<version>-<random>`, its files are all there before a row names it, and are never
    written again. What a run that was killed, or failed, has uploaded is garbage.

    Args:
        root: The URL of the place for the artifacts of all features. How to get there is found in the
            environment, as obstore does: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...
        key: The feature key.
    """

    def __init__(self, root: str, key: str) -> None:
        self.folder = Url(root.rstrip("/")) / key_folder(key)
        self._work = Path(tempfile.gettempdir()) / f"{_WORK}{uuid.uuid4().hex}"

    def __getstate__(self) -> dict[str, Any]:
        # In another process, credentials come from its environment.
        return {name: value for name, value in vars(self).items() if name != "_store"}

    @cached_property
    def _bucket(self) -> str:
        scheme, bucket, *_ = self.folder.parts
        return f"{scheme}://{bucket}"

    @cached_property
    def _store(self) -> ObjectStore:
        """The bucket."""
        from obstore.store import from_url

        with _failing("cannot be opened", self._bucket):
            return from_url(self._bucket, retry_config=_RETRY)

    def _key(self, url: Url) -> str:
        return url.text.removeprefix(f"{self._bucket}/")

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        items = list(items)
        if len(items) < 2:
            return [*map(function, items)]
        with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
            return [*pool.map(function, items)]

    def _objects(self, folder: Url) -> Iterator[ObjectMeta]:
        """The objects below a folder; a page at a time.

        Raises:
            StoreError: The store cannot be reached, or refuses.
        """
        with _failing("cannot be listed", folder):
            for page in self._store.list(self._key(folder)):
                yield from page

    def _folders_in(self, folder: Url) -> list[Url]:
        """The folders in a folder."""
        with _failing("cannot be listed", folder):
            found = self._store.list_with_delimiter(self._key(folder))["common_prefixes"]
        return [Url(f"{self._bucket}/{prefix}") for prefix in found]

    @property
    def any(self) -> bool:
        return self.is_there(self.folder)

    def sample_name(self, ids: Sequence[Any]) -> str:
        return safe_url_name(ids)

    def at(self, sample: str, version: str) -> Url:
        return self.folder / sample / version

    def versions(self, sample: str) -> list[Url]:
        return self._folders_in(self.folder / sample)

    def is_there(self, folder: Url) -> bool:
        return any(True for _ in self._objects(folder))

    def unfinished(self) -> Path:
        try:
            if not self._work.is_dir():
                self._work.mkdir(mode=0o700, exist_ok=True)
                remove_leftovers(self._work.parent.glob(f"{_WORK}*"))
            return Path(tempfile.mkdtemp(dir=self._work)).resolve()
        except OSError as error:
            raise StoreError(f"no place for artifacts before they are uploaded: {error}") from error

    @property
    def handed(self) -> Path:
        digest = hashlib.sha256(self.folder.text.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"{_WORK}handed-{digest}"

    def close(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def publish(self, unfinished: Path, ids: Sequence[Any], version: str) -> Url:
        target = self.at(self.sample_name(ids), f"{version}-{uuid.uuid4().hex[:8]}")

        def upload(file: ArtifactFile) -> None:
            self._upload(unfinished, file, target)

        self.each(upload, files_in(unfinished))
        shutil.rmtree(unfinished, ignore_errors=True)
        return target

    def _upload(self, unfinished: Path, file: ArtifactFile, target: Url) -> None:
        url = self.file(target, Path(file.name))
        with _failing("cannot be written", url):
            self._store.put(
                self._key(Url(url)),
                unfinished / file.name,
                attributes={"Content-Type": file.content_type},
                max_concurrency=_PARTS_AT_ONCE,
            )

    def file(self, folder: Url, path: Path) -> str:
        return "/".join((folder.text, *map(_quoted, path.parts)))

    def retire(self, folders: Iterable[Url]) -> None:
        found = self.each(self._paths, folders)
        self._delete([path for paths in found for path in paths])

    def _paths(self, folder: Url) -> list[str]:
        return [found["path"] for found in self._objects(folder)]

    def _delete(self, paths: Sequence[str]) -> None:
        if paths:
            with _failing("cannot be removed", f"{self._bucket}/{paths[0]}", len(paths) - 1):
                try:
                    self._store.delete(paths)
                except FileNotFoundError:  # one is gone already, which S3 alone does not mind
                    for path in paths:
                        with contextlib.suppress(FileNotFoundError):
                            self._store.delete(path)

    def files_of(self, texts: Iterable[str]) -> list[Url]:
        prefix = f"{self.folder}/"
        return sorted((Url(t) for t in texts if t.startswith(prefix)), key=lambda url: url.parts)

    def unlink(self, files: Sequence[Url]) -> None:
        self._delete([self._key(file) for file in files])

    def listed(self, notes: list[str], telling: Telling) -> list[Contents[Url]]:
        """Versions of samples; what no update makes stays."""
        found: dict[tuple[str, str], Contents[Url]] = {}
        strange: list[str] = []
        above = f"{self._key(self.folder)}/"
        with telling(self.folder):
            for one in self._objects(self.folder):
                sample, _, rest = one["path"].removeprefix(above).partition("/")
                version, is_in_folder, _ = rest.partition("/")
                if not is_in_folder:
                    strange.append(f"{self._bucket}/{one['path']}")
                    continue
                known = found.get((sample, version))
                if known is None:
                    known = Contents(self.at(sample, version), 0, 0, 0.0)
                found[sample, version] = _with(known, one)
        if strange:
            some = ", ".join(sorted(strange)[:_NAMED]) + (", ..." if len(strange) > _NAMED else "")
            notes.append(f"objects that no update has put there are left alone: {some}")
        return [*found.values()]

    def remove(self, garbage: Contents[Url], before: float) -> bool:
        """Beside a running update it is safe as long as that writes each row before its files are
        as old as those looked for: no folder is published twice, and one that is still being
        uploaded is young, and is looked at again here.
        """
        objects = [*self._objects(garbage.folder)]
        if any(one["last_modified"].timestamp() >= before for one in objects):
            return False
        self._delete([one["path"] for one in objects])
        return True

    def beside(self) -> list[Url]:
        return self._folders_in(self.folder.parent)


def _with(known: Contents[Url], one: ObjectMeta) -> Contents[Url]:
    """What a folder holds, with one object more."""
    changed = max(known.changed, one["last_modified"].timestamp())
    return Contents(known.folder, known.files + 1, known.size + one["size"], changed)


def _quoted(name: str) -> str:
    """A name that all who read URLs take for the same one."""
    return re.sub(
        r"[^A-Za-z0-9._,=-]",
        lambda m: "".join(f"~{byte:02x}" for byte in m.group().encode("utf-8", "surrogateescape")),
        name,
    )


@contextlib.contextmanager
def _failing(how: str, url: Any, more: int = 0) -> Iterator[None]:
    """Tell what object, or folder, an error is about.

    Raises:
        StoreError: There was one.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        others = f", or one of {more} others," if more else ""
        raise StoreError(f"{url}{others} {how}: {locations.sentence(error)}") from None
