"""Several features of one sample computed at once, where that is cheaper than one by one.

A video is decoded once for all steps that look at it. The update that comes first computes what its
companions are about to compute in this run, too, and hands it over on disk; they take it, and compute
only what is not there. What is handed over is named by sample and version, so that it is what they
would have computed; where anything goes wrong, they do it themselves, and meet it themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dagster_metaxy.increment.compute import ComputeContext, JointCall, Runtime
from dagster_metaxy.increment.outcome import Cost, Meter
from dagster_metaxy.increment.plan import FORCED, Task
from dagster_metaxy.increment.selection import Ids

_LOCKS = 256


@dataclass(frozen=True)
class Handover:
    """What others have computed for a feature, and it has not taken yet.

    Attributes:
        folder: Where it lies, on a disk of this machine.
    """

    folder: Path

    def new_folder(self) -> Path:
        """An empty folder for the files of a sample."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Path(tempfile.mkdtemp(dir=self.folder)).resolve()

    def _note(self, ids: Ids, version: str) -> Path:
        digest = hashlib.sha256(json.dumps([*map(str, ids), version]).encode()).hexdigest()
        return self.folder / f"{digest}.json"

    def has(self, ids: Ids, version: str) -> bool:
        """Whether a version of a sample is there."""
        return self._note(ids, version).is_file()

    def give(
        self, ids: Ids, version: str, returned: Any, files: Path | None, run_id: str, cost: Cost
    ) -> None:
        """Leave a version of a sample there.

        Args:
            ids: The sample.
            version: Its provenance.
            returned: What the function of the compute returned.
            files: The folder of its files, in `folder`.
            run_id: The run that computed it.
            cost: What it took.

        Raises:
            OSError: It cannot be written.
            TypeError: It cannot be written down.
        """

        def named(value: Any) -> Any:
            if files is not None and isinstance(value, Path):
                return {"file": value.relative_to(files).as_posix()}
            raise TypeError(f"{type(value).__name__} cannot be handed over")

        is_row = isinstance(returned, Mapping)
        content = {
            "run": run_id,
            "cost": asdict(cost),
            "folder": files.name if files else None,
            "is_row": is_row,
            "rows": [dict(returned)] if is_row else [dict(row) for row in returned],
        }
        note = self._note(ids, version)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = note.with_name(f"{note.stem}.{uuid.uuid4().hex}")
        written.write_text(json.dumps(content, default=named))
        os.replace(written, note)

    def take(self, task: Task, run_id: str) -> tuple[Any, Path | None, Cost] | None:
        """What was left for a task, and is not there any more; None if there is nothing.

        Args:
            task: The task. A forced one takes only what was computed in its own run.
            run_id: The run that takes it.
        """
        note = self._note(task.ids, task.provenance)
        mine = note.with_name(f"{note.stem}.{uuid.uuid4().hex}")
        try:
            if task.why == FORCED and json.loads(note.read_text())["run"] != run_id:
                return None
            os.rename(note, mine)  # of several, one gets it
            content = json.loads(mine.read_text())
            mine.unlink()
        except (OSError, ValueError):
            return None
        files = None if content["folder"] is None else self.folder / content["folder"]
        if files is not None and not files.is_dir():
            return None
        rows = [{name: _value(v, files) for name, v in row.items()} for row in content["rows"]]
        return rows[0] if content["is_row"] else rows, files, Cost(**content["cost"])


def _value(value: Any, files: Path | None) -> Any:
    return files / value["file"] if files is not None and isinstance(value, dict) else value


@dataclass(frozen=True)
class Companion:
    """A feature for which another one's update computes, too.

    Attributes:
        key: The feature.
        function: Of its compute.
        versions: What it is about to compute: the provenance of each sample.
        handover: Where it finds what was computed for it.
    """

    key: str
    function: Callable[..., Any]
    versions: Mapping[Ids, str]
    handover: Handover


@dataclass(frozen=True)
class Together:
    """Calls a compute, and those of its companions, for one sample.

    Attributes:
        call: How they are called together.
        name: Of what they are all computed from.
        handover: What others have computed for this one.
        companions: The others.
    """

    call: JointCall
    name: str
    handover: Handover
    companions: Sequence[Companion] = ()

    def __call__(
        self,
        task: Task,
        function: Callable[..., Any],
        runtime: Runtime,
        alone: Callable[[], tuple[Any, Path | None]],
        context: ComputeContext,
    ) -> tuple[Any, Path | None, Cost]:
        """What the compute returns for a task, the folder of its files, and what was spent on it by
        others, or, if it is less than nothing, by it on others.

        Args:
            task: The task, of one sample.
            function: Of the compute.
            runtime: What the run gives to computes.
            alone: Calls it, and no other.
            context: For calling it with others.
        """
        if not self.companions:
            return self.handover.take(task, runtime.run_id) or (*alone(), Cost())
        with _locked(self.name, task.ids):
            if taken := self.handover.take(task, runtime.run_id):
                return taken
            waiting = [
                companion
                for companion in self.companions
                if (version := companion.versions.get(task.ids)) is not None
                and not companion.handover.has(task.ids, version)
            ]
            if waiting:
                with contextlib.suppress(Exception):
                    return self._shared(task, function, runtime, context, waiting)
        # What is wrong for all may not be wrong for this one, which needs less of the sample.
        return *alone(), Cost()

    def _shared(
        self,
        task: Task,
        function: Callable[..., Any],
        runtime: Runtime,
        context: ComputeContext,
        waiting: Sequence[Companion],
    ) -> tuple[Any, Path | None, Cost]:
        meter = Meter()
        contexts = [ComputeContext(runtime, other.handover.new_folder) for other in waiting]
        calls = [
            (function, context),
            *zip((other.function for other in waiting), contexts, strict=True),
        ]
        own, *others = self.call(task.samples[0], calls)
        cost = meter.cost(len(calls))
        given = 0
        for companion, returned, theirs in zip(waiting, others, contexts, strict=True):
            try:
                if isinstance(returned, Exception):
                    raise returned
                version, rows = companion.versions[task.ids], called(returned)
                companion.handover.give(
                    task.ids, version, rows, theirs.used_folder, runtime.run_id, cost
                )
                given += 1
            except Exception:
                # It will try by itself, and say what is wrong.
                if theirs.used_folder is not None:
                    shutil.rmtree(theirs.used_folder, ignore_errors=True)
        if isinstance(own, Exception):
            raise own
        own = called(own)
        return own, context.used_folder, Cost(-cost.seconds * given, -cost.cpu_seconds * given)


def called(returned: Any) -> Any:
    """What a function returned; of a generator all, since only then it has run."""
    return [*returned] if isinstance(returned, Iterator) else returned


@contextlib.contextmanager
def _locked(name: str, ids: Ids) -> Iterator[None]:
    """One at a time for a sample, on this machine: who waits finds what it waits for handed over."""
    try:
        import fcntl
    except ImportError:  # Windows: at worst, something is computed twice
        yield
        return
    digest = hashlib.sha256(json.dumps([name, *map(str, ids)]).encode()).digest()
    folder = Path(tempfile.gettempdir()) / f"dagster-metaxy-locks-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        file = (folder / f"{digest[0] % _LOCKS:02x}").open("wb")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
