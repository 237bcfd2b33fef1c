"""The example of docs/patterns, as it stands."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from objects import Bucket
from projects import Project

EXAMPLE = Path(__file__).parents[2] / "docs/patterns/defs"


@pytest.fixture
def catalog() -> Iterator[str]:
    """An API that wants a key."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == "Bearer hunter2"
            body = json.dumps([{"name": "a"}]).encode()
            self.send_response(200 if known and self.path == "/entries" else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_seven_patterns(
    project: Project, catalog: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLE, project.sandbox.defs_folder_path, dirs_exist_ok=True)
    text = (project.sandbox.defs_folder_path / "assets/defs.yaml").read_text()
    project.write("assets/defs.yaml", text.replace("s3://bucket/", f"s3://{bucket.name}/"))
    path = project.root / "catalog.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE titles (title TEXT)")
        database.executemany("INSERT INTO titles VALUES (?)", [("B",), ("A",)])
        database.execute("CREATE TABLE orders (customer TEXT, day TEXT)")
        rows = [("x", "2026-01-02"), ("x", "2026-01-02"), ("y", "2026-01-03")]
        database.executemany("INSERT INTO orders VALUES (?, ?)", rows)
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("CATALOG_URL", catalog)
    monkeypatch.setenv("CATALOG_KEY", "hunter2")

    def read(name: str) -> object:
        return json.loads((project.root / "data/json" / name).read_text())

    assert project.materialize("entries", "titles", "report").success
    assert read("entries.json") == [{"name": "a"}]
    assert read("titles.json") == ["A", "B"]
    assert json.loads(bucket.read(f"s3://{bucket.name}/data/report.json")) == {"titles": 2}
    assert not (project.root / "data/json/report.json").exists()
    with sqlite3.connect(path) as database:  # torn down
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert tables == {"titles", "orders"}

    assert project.materialize("by_camera", partition="cam_a").success
    assert read("by_camera/cam_a.json") == {"camera": "cam_a"}
    assert project.materialize("by_day", partition="2026-01-02").success
    assert read("by_day/2026-01-02.json") == {"count": 2}
    project.instance.add_dynamic_partitions("customers", ["x", "y"])
    assert project.materialize("by_customer", partition="x").success
    assert project.rows("by_customer").select("customer", "orders").rows() == [("x", 2)]

    # What is secret is nowhere.
    runs = project.instance.get_runs()
    told = [str(entry) for run in runs for entry in project.instance.all_logs(run.run_id)]
    assert len(runs) == 4
    assert not any("hunter2" in line for line in told)
