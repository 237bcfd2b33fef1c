"""What the scaffolders have in common."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dagster as dg

from dagster_metaxy.declare.project import CONFIG_FILE, has_config, starter_config


@contextmanager
def clean_on_failure(request: dg.ScaffoldRequest[Any]) -> Iterator[Path]:
    """The folder to write into, which goes again where writing fails.

    `dg` makes the folder before it calls the scaffolder, and refuses one that exists: left
    behind, it would have to be deleted by hand before the next try.
    """
    folder = Path(request.target_path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def project_root(request: dg.ScaffoldRequest[Any]) -> Path:
    """The root folder of the project that is scaffolded into."""
    if request.project_root is None:
        raise click.UsageError("Scaffold inside a project; make one with `create-dagster project`.")
    return Path(request.project_root)


def ensure_metaxy_config(root: Path) -> None:
    """Write a metaxy.toml with the embedded store where the project has none."""
    if not has_config(root):
        # The name that Metaxy gives to classes of the project's module: `mx` shows one project's.
        name = re.sub(r"\W|_+", "_", root.name)
        (root / CONFIG_FILE).write_text(starter_config(name))
        click.echo(f"Wrote {CONFIG_FILE}: samples are kept in data/metaxy, a Delta store.")
        ignored = root / ".gitignore"
        if ignored.is_file() and "data/" not in ignored.read_text().split():
            with ignored.open("a") as file:
                file.write("\n# Samples and artifacts\ndata/\n")
            click.echo("Added data/ to .gitignore.")
