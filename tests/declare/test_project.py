"""metaxy.toml: found, anchored, and read alike by Metaxy's own command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import metaxy as mx
import pytest
from stores import STORES, store_config

from dagster_metaxy.declare.project import ConfigurationMissing, load_project, starter_config


@pytest.fixture(autouse=True)
def _no_configuration() -> object:
    mx.MetaxyConfig.reset()
    yield
    mx.MetaxyConfig.reset()


def test_paths_are_taken_from_the_file_not_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metaxy.toml").write_text(starter_config("p"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    project = load_project(tmp_path, "p")
    assert str(tmp_path / "data/metaxy") in project.store().display()


@pytest.mark.parametrize("kind", STORES)
def test_paths_of_every_kind_of_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "metaxy.toml").write_text(store_config(kind, "data"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with load_project(tmp_path, "p").store().open("w"):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


def test_two_projects_in_one_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metaxy.toml").write_text(starter_config(name))
    assert load_project(tmp_path / "one", "x").name == "one"
    two = load_project(tmp_path / "two", "x")
    assert two.name == "two"
    assert str(tmp_path / "two") in two.store().display()


def test_nothing_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationMissing, match=r"no metaxy\.toml"):
        load_project(tmp_path, "p")
    assert not mx.MetaxyConfig.is_set()


def test_configured_in_python(tmp_path: Path) -> None:
    config = mx.MetaxyConfig(project="mine", stores={})
    with config.use():
        assert load_project(tmp_path, "x").name == "mine"


def test_the_mx_command_reads_it(tmp_path: Path) -> None:
    (tmp_path / "metaxy.toml").write_text(starter_config("p"))
    mx_command = Path(sys.executable).parent / "mx"
    printed = subprocess.run(
        [mx_command, "list", "stores"],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    assert "dev" in printed.stdout
