"""Delta and LanceDB in an object store that is a real server, and PostgreSQL: what several writers at
once leave.

delta-rs and Lance commit by a conditional put (`If-None-Match: *`), and need no lock beside it.
The first write of a table by several at once is not tested: LanceDB loses rows then, as
docs/stores.md says.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import docs_at, pipeline
from stores import OBJECT_STORES
from test_races import Racers

from dagster_metaxy.increment import store as stores


@pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES")
@pytest.mark.parametrize("kind", ["delta-s3", "postgresql"])
def test_several_runs_at_once(tmp_path: Path, kind: str) -> None:
    docs = docs_at(0, count=6)
    with pipeline(tmp_path / "whole") as made:  # on a local disk
        made.put(docs)
        made.run()
        expected = {key: made.rows(key) for key in made.features}
    root = tmp_path / "raced"
    with pipeline(root, kind) as made:
        made.put(docs)
    assert Racers(root, kind, ("run",), ("run",)).go() == ["done"] * 2
    with pipeline(root, kind) as made:
        made.check_done(expected)


@pytest.mark.parametrize("kind", OBJECT_STORES)
def test_deleting_and_compacting(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "SMALL_FILES", 3)
    with pipeline(tmp_path, kind) as made:
        for count in range(2, 8):
            made.put({f"d{n}": ("text", 1) for n in range(count)})
        with stores.opened(made.store, "w") as store:
            stores.delete(store, "t/docs", ["doc"], [("d0",)], hard=True)
            stores.compact(store, "t/docs")
            if kind == "delta-s3":
                import deltalake

                info = store.get_store_info("t/docs")
                options = store.storage_options  # type: ignore[attr-defined]
                table = deltalake.DeltaTable(info["uri"], storage_options=options)
                files = len(table.file_uris())
            else:
                table = store.conn.open_table("t__docs")  # type: ignore[attr-defined]
                files = table.stats()["fragment_stats"]["num_small_fragments"]
            assert files <= 2
        assert [row["doc"] for row in made.rows("t/docs")] == [f"d{n}" for n in range(1, 7)]


@pytest.mark.parametrize("kind", OBJECT_STORES)
def test_credentials_are_in_no_error(tmp_path: Path, kind: str) -> None:
    with pipeline(tmp_path, kind) as made:
        made.put(docs_at(0, count=2))
    config = tmp_path / "metaxy.toml"
    text = config.read_text().replace(
        'aws_secret_access_key = "', 'aws_secret_access_key = "hunter2-'
    )
    config.write_text(text)
    from dagster_metaxy.declare.project import load_project

    with pipeline(tmp_path / "other") as made:
        store = load_project(tmp_path, "sandbox").store()
        with (
            pytest.raises(
                Exception, match=r"(?i)denied|SignatureDoesNotMatch|403|forbidden"
            ) as raised,
            stores.opened(store, "w") as opened,
        ):
            stores.delete(opened, "t/docs", ["doc"], [("d00",)])
        assert "hunter2" not in str(raised.value)
