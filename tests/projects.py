"""A project in a temporary folder, loaded and run in this process, with a store of its own."""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import metaxy as mx
import polars as pl
import pytest
from dagster.components.testing import DefsFolderSandbox

from dagster_metaxy.declare.project import starter_config

CLIPS = Path(__file__).parent.parent / "clips"
NAMES = ("bigbuckbunny", "bikes", "portrait")


class Project:
    """A Dagster project with metaxy.toml and an ephemeral instance."""

    def __init__(self, sandbox: DefsFolderSandbox, instance: dg.DagsterInstance) -> None:
        self.sandbox = sandbox
        self.root = sandbox.project_root
        self.instance = instance
        self._stack = ExitStack()
        (self.root / "metaxy.toml").write_text(starter_config("sandbox"))

    def write(self, path: str, text: str) -> Path:
        """Write a file below defs/."""
        file = self.sandbox.defs_folder_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"))
        return file

    def add_clips(self, folder: str = "videos", names: tuple[str, ...] = NAMES) -> Path:
        """Copy the clips into a folder of the project."""
        target = self.root / folder
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy2(CLIPS / f"{name}.mp4", target / f"{name}.mp4")
        return target

    def load(self) -> dg.Definitions:
        """The definitions, loaded as a new process would: nothing is registered from before."""
        self.close()
        mx.MetaxyConfig.reset()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(f"{self.root}/"):
                del sys.modules[name]
        self._stack.enter_context(mx.FeatureGraph().use())
        return self._stack.enter_context(self.sandbox.build_all_defs())

    def close(self) -> None:
        self._stack.close()
        self._stack = ExitStack()
        mx.MetaxyConfig.reset()

    def run_job(self, name: str = "clips", **options: Any) -> dg.ExecuteInProcessResult:
        """Load the project and run a job of it."""
        job = self.load().resolve_job_def(name)
        return job.execute_in_process(instance=self.instance, **options)

    def materialize(
        self,
        *keys: str,
        partition: str | None = None,
        tags: Any = None,
        raise_on_error: bool = True,
        run_config: Any = None,
    ) -> dg.ExecuteInProcessResult:
        """Load the project and materialize assets of it, as Dagster's UI does."""
        defs = self.load()
        selected = [dg.AssetKey(key.split("/")) for key in keys]
        job = defs.get_repository_def().get_implicit_job_def_for_assets(selected)
        assert job is not None
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=selected,
            partition_key=partition,
            tags=tags,
            raise_on_error=raise_on_error,
            run_config=run_config,
        )

    def store(self) -> mx.MetadataStore:
        """The default store of the project as it is loaded."""
        config = mx.MetaxyConfig.load(self.root / "metaxy.toml")
        return config.get_store(root_path=str(self.root / "data/metaxy"))

    def rows(self, key: str) -> pl.DataFrame:
        """The live rows of a feature."""
        with self.store().open("r") as store:
            return store.read(key).collect().to_native()

    def metadata(self, key: str) -> dict[str, Any]:
        """The metadata of the latest materialization."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))
        assert event is not None
        assert event.asset_materialization is not None
        return {
            name: getattr(value, "value", value)
            for name, value in event.asset_materialization.metadata.items()
        }

    def counts(self, key: str) -> tuple[int, int, int, int]:
        """New, stale, orphaned and failed samples of the latest materialization."""
        metadata = self.metadata(key)
        new, stale, orphaned, failed = (
            metadata[name] for name in ("new", "stale", "orphaned", "failed")
        )
        return new, stale, orphaned, failed

    def green(self, key: str) -> set[str]:
        """The partitions that Dagster shows as materialized."""
        return self.instance.get_materialized_partitions(dg.AssetKey(key.split("/")))


def load_error(project: Project) -> str:
    """The messages of the errors that loading a project ends in, outermost first."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        project.load()
    messages = []
    error: BaseException | None = caught.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(messages)
