"""Videos that a table or an API lists, wherever they lie, in projects of YAML."""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from objects import Bucket
from projects import CLIPS, Project, load_error
from stores import database
from tables import VideoTable
from watches import Watch

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.discovery.files import SourceError
from dagster_metaxy.discovery.sources import Records
from dagster_metaxy.locations import local_file, read

BIKES, PORTRAIT = ((CLIPS / f"{name}.mp4").read_bytes() for name in ("bikes", "portrait"))

SQL = """
type: sql
resource: database
query: SELECT * FROM videos
columns:
  title: {type: str, nullable: true}
"""


class Table(VideoTable):
    """A table of videos, and the files that it names."""

    columns = "id, location, title, version"

    def declare(self, source: str = SQL, more: str = "") -> None:
        lines = "\n".join(f"    {line}" for line in source.strip().splitlines())
        text = (
            "type: dagster_metaxy.PartitionedVideoComponent\nattributes:\n"
            f"  source:\n{lines}\n  feature_prefix: clips\n"
            "  partitions: dynamic\n  steps: [{type: frames, every_seconds: 2, max_size: 64}]\n"
        )
        self.project.write("clips/defs.yaml", text + more)


@pytest.fixture
def table(project: Project) -> Table:
    return Table(project)


def test_a_query(table: Table, bucket: Bucket) -> None:
    """Of videos on a disk and in a bucket; with a column of its own."""
    project = table.project
    folder = project.add_clips("elsewhere", ("bikes",))
    bucket.put(f"{bucket.url}/portrait.mp4", PORTRAIT)
    table.add(1, "elsewhere/bikes.mp4", "Bikes", None)
    table.add("two", f"{bucket.url}/portrait.mp4", None, None)
    table.declare()
    assert project.run_job().success
    assert project.counts("clips/videos") == (2, 0, 0, 0)
    rows = {row["video_id"]: row for row in project.rows("clips/videos").to_dicts()}
    assert {name: row["title"] for name, row in rows.items()} == {"1": "Bikes", "two": None}
    assert rows["1"]["path"] == str(folder / "bikes.mp4")
    assert rows["two"]["path"] == f"{bucket.url}/portrait.mp4"
    assert set(project.rows("clips/frames")["video_id"]) == {"1", "two"}
    assert project.green("clips/frames") == {"1", "two"}

    # A title is no content; what it says is kept.
    table.execute("UPDATE videos SET title = 'More bikes' WHERE id = 1")
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 0, 0, 0)
    assert project.counts("clips/frames") == (0, 0, 0, 0)
    titles = dict(project.rows("clips/videos").select("video_id", "title").rows())
    assert titles == {"1": "More bikes", "two": None}

    # Somewhere else, with the same content: nothing is computed.
    bucket.put(f"{bucket.url}/copy.mp4", PORTRAIT)
    table.execute("UPDATE videos SET location = ? WHERE id = 'two'", f"{bucket.url}/copy.mp4")
    table.execute("DELETE FROM videos WHERE id = 1")
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 0, 1, 0)
    assert project.counts("clips/frames")[:2] == (0, 0)
    (row,) = project.rows("clips/videos").to_dicts()
    assert row["path"] == f"{bucket.url}/copy.mp4"


def test_a_query_of_postgresql(project: Project, tmp_path: Path) -> None:
    """Whose ids are UUIDs, and whose versions are times."""
    import psycopg

    url = database(str(tmp_path))
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TABLE videos (id uuid PRIMARY KEY, location text, updated_at timestamptz,"
            " recorded_on date, tags text[], more jsonb, price numeric(10, 2))"
        )
        for n, name in enumerate(("bikes", "portrait")):
            connection.execute(
                "INSERT INTO videos VALUES (%s, %s, '2026-01-02 03:04:05+02', '2026-01-01',"
                """ '{a,b}', '{"a": 1}', 1.5)""",
                (f"00000000-0000-4000-8000-00000000000{n}", f"elsewhere/{name}.mp4"),
            )
    project.add_clips("elsewhere", ("bikes", "portrait"))
    project.write(
        "resources/defs.yaml",
        f"""
        type: dagster_metaxy.ResourcesComponent
        attributes:
          resources:
            database:
              type: dagster_metaxy.resources.DatabaseResource
              url: {url.replace("postgresql:", "postgresql+psycopg:")}
        """,
    )
    table = Table.__new__(Table)
    table.project = project
    columns = {
        "updated_at": "datetime",
        "recorded_on": "date",
        "tags": "list[str]",
        "more": "str",
    }
    table.declare(
        "type: sql\nresource: database\nquery: SELECT * FROM videos\nversion: updated_at\n"
        f"columns: {json.dumps(columns)}\n"
    )
    assert project.run_job().success
    assert project.counts("clips/videos") == (2, 0, 0, 0)
    rows = {row["video_id"]: row for row in project.rows("clips/videos").to_dicts()}
    assert set(rows) == {f"00000000-0000-4000-8000-00000000000{n}" for n in range(2)}
    row = rows["00000000-0000-4000-8000-000000000000"]
    assert row["path"] == str(project.root / "elsewhere/bikes.mp4")
    assert {name: row[name] for name in columns} == {
        "updated_at": dt.datetime(2026, 1, 2, 1, 4, 5, tzinfo=dt.timezone.utc),
        "recorded_on": dt.date(2026, 1, 1),
        "tags": ["a", "b"],
        "more": '{"a": 1}',
    }
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE videos SET more = '[]'")
        connection.execute("UPDATE videos SET updated_at = now() WHERE location LIKE '%bikes%'")
    (project.root / "elsewhere/bikes.mp4").write_bytes(PORTRAIT)
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 1, 0, 0)
    assert set(project.rows("clips/videos")["more"]) == {"[]"}


def test_versions_of_a_table_are_trusted(table: Table) -> None:
    project = table.project
    file = project.add_clips("elsewhere", ("bikes",)) / "bikes.mp4"
    table.add("a", "elsewhere/bikes.mp4", "A", "v1")
    table.declare(SQL + "version: version\n")
    assert project.run_job().success
    file.write_bytes(PORTRAIT)
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 0, 0, 0)
    table.execute("UPDATE videos SET version = 'v2'")
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 1, 0, 0)
    assert project.rows("clips/videos")["etag"].to_list() == ["v2"]


def test_records_that_cannot_be_used(table: Table) -> None:
    """Each is named, and stops no other; what the store has of it stays."""
    project = table.project
    project.add_clips("elsewhere", ("bikes", "portrait"))
    table.add("good", "elsewhere/bikes.mp4", "A", "1")
    table.add("twice", "elsewhere/portrait.mp4", "A", "1")
    table.declare()
    assert project.run_job().success
    table.add("twice", "elsewhere/bikes.mp4", "A", "1")
    table.add("away", "elsewhere/nowhere.mp4", "A", "1")
    table.add("empty", None, "A", "1")
    table.add(None, "elsewhere/bikes.mp4", "A", "1")
    project.run_job(raise_on_error=False)
    assert project.counts("clips/videos") == (0, 0, 0, 4)
    failed = {
        record.data["sample"]: record.data["message"]
        for record in project.metadata("clips/videos")["failed samples"].records
    }
    assert "the id is listed more than once, " in failed["video_id=twice"]
    assert "nowhere.mp4: No such file or directory" in failed["video_id=away"]
    assert "its 'location' is empty" in failed["video_id=empty"]
    assert "its 'id' is empty" in failed["video_id=record 6"]
    assert set(project.rows("clips/videos")["video_id"]) == {"good", "twice"}
    (check,) = project.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey(["clips", "videos"]), "no_failed_samples")]
    ).values()
    assert check.event is not None
    assert check.event.asset_check_evaluation is not None
    assert not check.event.asset_check_evaluation.passed


def test_a_table_that_is_away_deletes_nothing(table: Table) -> None:
    project = table.project
    project.add_clips("elsewhere", ("bikes",))
    table.add("a", "elsewhere/bikes.mp4", "A", "1")
    table.declare()
    assert project.run_job().success
    table.execute("ALTER TABLE videos RENAME TO other")
    result = project.run_job(raise_on_error=False)
    assert not result.success
    (failure,) = [e for e in result.get_step_failure_events() if "videos" in str(e.step_key)]
    assert "cannot read the query of 'database': " in str(failure.step_failure_data.error)
    assert project.rows("clips/videos").height == 1


def test_a_column_that_the_query_does_not_give(tmp_path: Path) -> None:
    given = [{"id": "a", "location": "a.mp4"}]
    columns = {"title": Column(), "note": Column(nullable=True)}
    source = Records("database", lambda _: given, "the query", tmp_path, columns=columns)
    message = "the query of 'database': record 1 has no field 'title'; it has: id, location"
    with pytest.raises(SourceError, match=message):
        source.listing({"database": None})


def test_a_sensor_asks_the_table(table: Table) -> None:
    project = table.project
    project.add_clips("elsewhere", ("bikes",))
    table.add("a", "elsewhere/bikes.mp4", "A", "1")
    table.declare()
    watch = Watch(project)
    data = watch.tick()
    assert data.run_requests[0].tags["found"].startswith("1 new, 0 changed and 0 vanished of 1")
    assert watch.run(data).success
    assert "1 video, none new, changed or gone" in watch.tick().skip_message
    table.execute("DELETE FROM videos")
    assert watch.tick().run_requests


def test_a_value_of_another_type() -> None:
    """Its record is named, and stops no other."""
    records = [
        {"id": "a", "location": "/a.mp4", "seconds": 1, "version": 1},
        {"id": "b", "location": "/b.mp4", "seconds": "long", "version": 1},
        {"id": "c", "location": "/c.mp4", "version": 1},
        {"id": "d", "location": "file:///d.mp4", "seconds": 2.5, "version": 2},
        {"id": "e", "seconds": 2.5},
    ]
    columns = {"seconds": Column("float")}
    found = Records("api", list, "all", Path("/"), version="version", columns=columns)
    listing = found.listing({"api": records})
    assert [(f.id, f.path, f.kept["seconds"]) for f in listing.files] == [
        ("a", "/a.mp4", 1.0),
        ("d", "/d.mp4", 2.5),
    ]
    assert listing.unreadable == {
        "b": "column 'seconds' should be float, got str: 'long'",
        "c": "has no field 'seconds'; it has: id, location, version",
        "e": "has no field 'location'; it has: id, seconds",
    }
    with pytest.raises(SourceError, match="record 1 has no field 'id'; it has: name"):
        found.listing({"api": [{"name": "a"}]})


@pytest.mark.parametrize("version", [None, "version"])
def test_urls_without_obstore(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence for all of them, and not one for each."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    records = [
        {"id": str(n), "location": f"https://h/{n}.mp4?key=x", "version": 1} for n in range(9)
    ]
    found = Records("api", list, "all", Path("/"), version=version)
    with pytest.raises(SourceError) as caught:
        found.listing({"api": records})
    assert str(caught.value) == (
        "all of 'api', where videos lie at https://, needs obstore, which is not installed:"
        " pip install 'dagster-metaxy[object-store]'"
    )
    assert found.listing({"api": []}).files == []
    told = r"^a file at s3:// needs obstore, .*: pip install 'dagster-metaxy\[object-store\]'$"
    with pytest.raises(ModuleNotFoundError, match=told), local_file("s3://bucket/x"):
        pass


class Catalog:
    """An API that lists videos, a page at a time, and serves them."""

    def __init__(self) -> None:
        self.videos: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.keys: list[str | None] = []
        self.modified = "Mon, 02 Nov 2026 10:00:00 GMT"
        self.ranges = True
        self.requests = 0
        catalog = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                if path == "/api/videos":
                    catalog.keys.append(self.headers.get("Authorization"))
                    page = int(query.removeprefix("page=") or 1)
                    found = catalog.videos[page - 1 : page]
                    following = f"/api/videos?page={page + 1}" if found else None
                    self._answer(json.dumps({"data": found, "next": following}).encode())
                    return
                content = catalog.files.get(path)
                if content is None:
                    self.send_error(404)
                    return
                first, last = 0, len(content) - 1
                catalog.requests += 1
                if catalog.ranges and (asked := self.headers.get("Range")):
                    begin, _, end = asked.removeprefix("bytes=").partition("-")
                    first, last = int(begin), min(int(end or last), last)
                self._answer(content[first : last + 1], first, last, len(content))

            do_HEAD = do_GET

            def _answer(self, body: bytes, *part: int) -> None:
                part_only = catalog.ranges and "Range" in self.headers
                self.send_response(206 if part_only else 200)
                if part:
                    self.send_header("Content-Range", "bytes {}-{}/{}".format(*part))
                    self.send_header("Last-Modified", catalog.modified)
                    self.send_header("ETag", f'"{part[2]}"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    made = Catalog()
    yield made
    made.close()


HTTP = """
type: http
resource: catalog
path: videos
items: data
next: next
id: name
location: url
columns: {seconds: float}
"""


def test_an_api(project: Project, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists in pages, with a key, and the videos lie on a web server."""
    monkeypatch.setenv("CATALOG_KEY", "hunter2")
    project.write(
        "resources/defs.yaml",
        f"""
        type: dagster_metaxy.ResourcesComponent
        attributes:
          resources:
            catalog:
              type: dagster_metaxy.resources.ApiResource
              base_url: {catalog.url}/api
              api_key: "{{{{ env.CATALOG_KEY }}}}"
        """,
    )
    table = Table.__new__(Table)
    table.project = project
    table.declare(HTTP)
    catalog.files = {"/files/a b.mp4": BIKES, "/files/p.mp4": PORTRAIT}
    catalog.files = {name.replace(" ", "%20"): data for name, data in catalog.files.items()}
    catalog.videos = [
        {"name": "bikes", "url": f"{catalog.url}/files/a b.mp4", "seconds": 10, "more": 1},
        {"name": "portrait", "url": f"{catalog.url}/files/p.mp4", "seconds": 2.5, "more": 2},
    ]
    assert project.run_job().success
    assert project.counts("clips/videos") == (2, 0, 0, 0)
    rows = {row["video_id"]: row for row in project.rows("clips/videos").to_dicts()}
    assert rows["bikes"]["seconds"] == 10.0
    assert rows["bikes"]["size"] == len(BIKES)
    assert set(project.rows("clips/frames")["video_id"]) == {"bikes", "portrait"}
    assert set(catalog.keys) == {"Bearer hunter2"}
    assert project.run_job().success
    assert project.counts("clips/videos") == (0, 0, 0, 0)

    catalog.videos[1]["url"] = f"{catalog.url}/files/none.mp4"
    project.run_job(raise_on_error=False)
    (failed,) = project.metadata("clips/videos")["failed samples"].records
    assert f"{catalog.url}/files/none.mp4: there is no such object" in failed.data["message"]
    assert set(project.rows("clips/videos")["video_id"]) == {"bikes", "portrait"}


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("ranges", False, "the server does not answer range requests"),
        ("modified", "yesterday", "the server sends a Last-Modified that is no date"),
    ],
)
def test_what_a_web_server_never_does_is_not_tried_again(
    catalog: Catalog, attribute: str, value: Any, message: str
) -> None:
    catalog.files = {"/p.mp4": PORTRAIT}
    setattr(catalog, attribute, value)
    url = f"{catalog.url}/p.mp4"
    with pytest.raises(OSError, match=f"^{url}: {message}") as caught:
        read(url, lambda media: media.read(10))
    assert not isinstance(caught.value, ConnectionError)
    assert catalog.requests <= 3  # its status before and after, and one part


def test_signed_urls_are_refused_unseen() -> None:
    with pytest.raises(OSError, match=r"^https://h/p.mp4: a URL with a query") as caught:
        read("https://h/p.mp4?sig=topsecret", lambda media: media.read(10))
    assert "topsecret" not in str(caught.value)


def test_a_cache(table: Table, bucket: Bucket) -> None:
    project = table.project
    for name, data in (("bikes", BIKES), ("portrait", PORTRAIT)):
        bucket.put(f"{bucket.url}/{name}.mp4", data)
    table.declare(
        f"path: {bucket.url}\nglob: '*.mp4'\n",
        f"  cache: {{folder: cache, max_gigabytes: {(len(BIKES) + len(PORTRAIT) + 10) / 1e9}}}\n",
    )
    assert project.run_job().success
    kept = {path.stat().st_size: path for path in (project.root / "cache").iterdir()}
    assert set(kept) == {len(BIKES), len(PORTRAIT)}
    assert kept[len(BIKES)].read_bytes() == BIKES
    bucket.put(f"{bucket.url}/bunny.mp4", (CLIPS / "bigbuckbunny.mp4").read_bytes())
    assert project.run_job().success
    assert project.counts("clips/videos") == (1, 0, 0, 0)
    sizes = [path.stat().st_size for path in (project.root / "cache").iterdir()]
    assert (CLIPS / "bigbuckbunny.mp4").stat().st_size in sizes
    assert sum(sizes) <= sum(map(len, (BIKES, PORTRAIT))) + 10 or len(sizes) == 1


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("type: sql\nresource: database\n", 3, "query"),
        ("type: sqll\nresource: database\n", 4, "sqll"),
        (SQL + "  path: {type: str}\n", 9, "every video has a column 'path' already"),
        (SQL + "  size2: {type: text}\n", 9, "text"),
        ("path: https://example.com/videos\n", 4, "a web server cannot be listed"),
        ("path: what://bucket/videos\n", 4, "what://bucket"),
        ("path: videos\nquery: SELECT 1\n", 5, "query"),
    ],
)
def test_mistakes(table: Table, source: str, line: int, message: str) -> None:
    table.declare(source)
    error = load_error(table.project)
    assert message in error
    assert f"defs.yaml:{line}" in error


def test_a_resource_that_nobody_defines(project: Project) -> None:
    table = Table.__new__(Table)
    table.project = project
    table.declare()
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="database"):
        project.load().get_repository_def()
