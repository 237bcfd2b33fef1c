"""The reference pipeline through the installed `dg`, in processes of its own, on real clips."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import media_tools
import pytest
from projects import CLIPS

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DUB = REPOSITORY / "tests/media/dub.wav"
PICTURE = ("frames", "scenes", "quality", "contact_sheet")
ASSETS = ("videos", *PICTURE, "brightness", "audio", "loudness")
NOTHING = dict.fromkeys(ASSETS, (0, 0, 0, 0))


class Home:
    """A project with this repository's `defs/`, clips and metaxy.toml, and a Dagster home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        package = root / "src/demo"
        package.mkdir(parents=True)
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (package / "__init__.py").touch()
        shutil.copy(REPOSITORY / "src/dagster_metaxy/definitions.py", package)
        shutil.copytree(REPOSITORY / "defs", package / "defs")
        shutil.copytree(CLIPS, root / "clips")
        shutil.copy(REPOSITORY / "metaxy.toml", root)
        (root / "pyproject.toml").write_text(
            '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "demo"\n'
        )

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": str(self.root / "src"),
            "VIRTUAL_ENV": str(BIN.parent),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
        }

    def dg(self, *arguments: str, ok: bool = True) -> str:
        done = subprocess.run(
            [BIN / "dg", *arguments],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout[-4000:]
        return done.stdout

    def counts(self) -> dict[str, tuple[int, int, int, int]]:
        """New, stale, orphaned and failed samples of the latest materializations."""
        counts = {}
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            for name in ASSETS:
                event = instance.get_latest_materialization_event(dg.AssetKey(["clips", name]))
                assert event is not None
                assert event.asset_materialization is not None
                metadata = event.asset_materialization.metadata
                counts[name] = tuple(
                    metadata[key].value for key in ("new", "stale", "orphaned", "failed")
                )
        return counts

    def launch(self) -> dict[str, tuple[int, int, int, int]]:
        self.dg("launch", "--job", "clips")
        return self.counts()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_commands_of_dg(home: Home) -> None:
    components = home.dg("list", "components")
    assert "dagster_metaxy.components.MetaxyAssetComponent" in components
    assert "dagster_metaxy.components.PartitionedVideoComponent" in components
    assert "validated successfully" in home.dg("check", "yaml")
    assert "loaded successfully" in home.dg("check", "defs")
    listed = json.loads(home.dg("list", "defs", "--json"))
    assert {asset["asset_key"] for asset in listed["assets"]} == {
        f"clips/{name}" for name in ASSETS
    }
    assert [job["name"] for job in listed["jobs"]] == ["clips"]
    assert [sensor["name"] for sensor in listed["sensors"]] == ["clips_sensor"]


def _mx(home: Home, *arguments: str) -> str:
    done = subprocess.run(
        [BIN / "mx", *arguments],
        cwd=home.root,
        env={key: value for key, value in home.env.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _metaxys_own_command_sees_the_features(home: Home) -> None:
    listed = _mx(home, "list", "features")
    assert all(f"clips/{name}" in listed for name in ASSETS)
    assert "clips/brightness" in _mx(home, "graph", "render")
    _mx(home, "push")
    status = json.loads(_mx(home, "metadata", "status", "--all-features", "--format", "json"))
    features = status["features"]
    assert set(features) == {f"clips/{name}" for name in ASSETS}
    assert not any(f.get("needs_update") for f in features.values())


def test_what_is_recomputed(home: Home) -> None:
    first = home.launch()
    assert {first[name] for name in ("videos", *PICTURE)} == {(3, 0, 0, 0)}
    assert first["audio"] == first["loudness"] == (2, 0, 0, 0)
    assert first["brightness"] == (29, 0, 0, 0)
    _metaxys_own_command_sees_the_features(home)

    # The soundtrack of one clip, its picture packets untouched.
    portrait = home.root / "clips/portrait.mp4"
    media_tools.replace_audio(CLIPS / "portrait.mp4", DUB, portrait)
    one = (0, 1, 0, 0)
    assert home.launch() == {**NOTHING, "videos": one, "audio": one, "loudness": one}

    # Touched, the folder renamed, and remuxed, at once.
    media_tools.remux(portrait, home.root / "clips/portrait.mkv")
    portrait.unlink()
    (home.root / "clips/bikes.mp4").touch()
    (home.root / "clips").rename(home.root / "moved")
    yaml = home.root / "src/demo/defs/clips/defs.yaml"
    yaml.write_text(yaml.read_text().replace("source: clips", "source: moved"))
    # And corrupt files among them.
    (home.root / "moved/empty.mp4").touch()
    media_tools.faststart(CLIPS / "portrait.mp4", home.root / "whole.mp4")
    media_tools.truncate(home.root / "whole.mp4", home.root / "moved/half.mp4", 0.5)
    for name in ("empty", "half"):  # not just now, when they might still be being copied
        os.utime(home.root / f"moved/{name}.mp4", (1_700_000_000, 1_700_000_000))
    printed = home.dg("launch", "--job", "clips", ok=False)
    assert "all is done but for samples that failed" in printed
    assert home.counts() == {**NOTHING, "videos": (0, 0, 0, 2)}
    assert "video_id=empty: MediaError: empty.mp4: Invalid data found" in printed
    assert "video_id=half: MediaError: half.mp4: truncated" in printed

    # A partition by itself, as a user names it.
    home.dg("launch", "--assets", "clips/frames", "--partition", "bikes")


def test_every_wrong_component_is_told_by_check_defs(home: Home) -> None:
    defs = home.root / "src/demo/defs"
    for name, old, new in (
        ("brightness", ".compute.brightness", "'{{ nope }}'"),
        ("loudness", "compute: .compute.loudness", "compute: .compute.loud"),
        ("clips", "every_seconds: 1", "every_seconds: '{{ env.NO_SUCH }}'"),
    ):
        file = defs / name / "defs.yaml"
        assert old in file.read_text(), name
        file.write_text(file.read_text().replace(old, new))
    # One instance of each type is looked at, and none of the three mistakes is one of the schema.
    assert "validated successfully" in home.dg("check", "yaml")
    printed = home.dg("check", "defs", ok=False)
    told = dict(re.findall(r"\S+/defs/(\S+\.yaml:\d+:\d+): (.*)", printed))
    assert told.pop("brightness/defs.yaml:16:12").startswith(
        "compute: the template fails: 'nope' not found in scope"
    )
    assert told.pop("loudness/defs.yaml:17:12").endswith(
        "loudness/compute.py has no function 'loud'; it has: loudness."
    )
    assert told == {
        "clips/defs.yaml:10:22": "steps.0.every_seconds: the environment variable NO_SUCH is not set;"
        " set it, or give a default: {{ env('NO_SUCH', 'default') }}"
    }


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read()


@pytest.fixture
def served(home: Home) -> Iterator[str]:
    """The address of a `dg dev` that serves the project."""
    port = "3977"
    process = subprocess.Popen(
        [BIN / "dg", "dev", "--host", "127.0.0.1", "--port", port],
        cwd=home.root,
        env=home.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                _get(f"{url}/server_info")
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_dg_dev_serves_the_graph(home: Home, served: str) -> None:
    query = "{ assetNodes { assetKey { path } kinds groupName partitionDefinition { name } } }"
    request = urllib.request.Request(
        f"{served}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        nodes = json.load(response)["data"]["assetNodes"]
    assert {node["assetKey"]["path"][-1] for node in nodes} == set(ASSETS)
    for node in nodes:
        assert node["groupName"] == "clips"
        assert "metaxy" in node["kinds"]
    partitioned = {n["assetKey"]["path"][-1] for n in nodes if n["partitionDefinition"]}
    assert partitioned == {"videos", *PICTURE, "audio"}
