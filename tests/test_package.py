"""What importing the package costs, and what it offers to `dg`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import dagster_metaxy

HEAVY = {"metaxy", "polars", "narwhals", "av", "numpy", "PIL", "deltalake", "xxhash", "pyarrow"}


def _imported_by(module: str) -> set[str]:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    return {name.split(".")[0] for name in json.loads(printed)}


def test_the_registry_brings_in_dagster_pydantic_and_the_standard_library_only() -> None:
    beyond_dagster = _imported_by("dagster_metaxy.components") - _imported_by("dagster")
    assert beyond_dagster <= {"dagster_metaxy", *sys.stdlib_module_names}
    assert not beyond_dagster & HEAVY


def test_worker_processes_load_no_dagster() -> None:
    assert not _imported_by("dagster_metaxy.increment.update") & {"dagster", *HEAVY}


def test_importing_the_package_imports_nothing_of_it() -> None:
    assert _imported_by("dagster_metaxy") <= {"dagster_metaxy", *sys.stdlib_module_names} | {
        name for name in _imported_by("sys") if name not in HEAVY
    }


@pytest.mark.parametrize("name", dagster_metaxy.__all__)
def test_public_names(name: str) -> None:
    assert getattr(dagster_metaxy, name).__name__ == name
    assert name in dir(dagster_metaxy)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = dagster_metaxy.nothing_like_it


def test_the_entry_point_of_dg() -> None:
    (point,) = (
        e
        for e in entry_points(group="dagster_dg_cli.registry_modules")
        if e.name == "dagster_metaxy"
    )
    assert point.value == "dagster_metaxy.components"
    assert set(point.load().__all__) == set(dagster_metaxy.__all__)


def test_defs_is_reached_through_the_link() -> None:
    # A checkout without symbolic links makes a text file of it.
    link = Path(dagster_metaxy.__file__).parent / "defs"
    assert link.is_dir()
    assert (link / "clips" / "defs.yaml").is_file()
