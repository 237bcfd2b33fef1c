"""Features that are not computed from an upstream of YAML: roots of one's own, Python classes,
and features that are produced elsewhere."""

from __future__ import annotations

import textwrap
from pathlib import Path

import dagster as dg
import metaxy as mx
import polars as pl
import pytest
from projects import Project, load_error

ROOT = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: library/books
      id_columns: [book]
      columns: {book: str, pages: int, shelf: {type: str, nullable: true}}
      compute: .compute.books
      version_columns: etag
    """

CHILD = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: library/length
      deps: [library/books]
      id_columns: [book]
      columns: {length: int}
      compute: .compute.length
    """


class Library:
    """A root feature that lists a table, and a feature that is computed from it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.write("books/defs.yaml", ROOT)
        project.write("length/defs.yaml", CHILD)
        project.write("length/compute.py", "def length(sample): return {'length': sample['pages']}")
        self.hold([])

    def hold(self, books: list[dict[str, object]]) -> None:
        self.compute(f"def books(): return {books!r}")

    def compute(self, code: str) -> None:
        file = self.project.write("books/compute.py", code)
        # Same second, same size: Python would take the cached bytecode.
        for cached in file.parent.glob("__pycache__/*"):
            cached.unlink()

    def run(self, **options: object) -> None:
        self.project.materialize("library/books", "library/length", **options)  # type: ignore[arg-type]

    def counts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.project.counts("library/books"), self.project.counts("library/length")


@pytest.fixture
def library(project: Project) -> Library:
    return Library(project)


A = {"book": "a", "pages": 1, "etag": "a1"}
B = {"book": "b", "pages": 2, "etag": "b1"}


def test_a_root_lists_its_samples(library: Library) -> None:
    library.hold([A, B])
    library.run()
    assert library.counts() == ((2, 0, 0, 0), (2, 0, 0, 0))
    assert "etag" not in library.project.rows("library/books").columns
    library.run()
    assert library.counts() == ((0, 0, 0, 0), (0, 0, 0, 0))
    library.hold([{**A, "etag": "a2"}, {**B, "pages": 7}])
    library.run()
    # The version says what is stale; another column alone is only kept up to date.
    assert library.counts() == ((0, 1, 0, 0), (0, 1, 0, 0))
    assert dict(library.project.rows("library/books").select("book", "pages").rows()) == {
        "a": 1, "b": 7,
    }  # fmt: skip
    assert "1 sample has other columns" in str(library.project.metadata("library/books")["notes"])
    library.hold([B])
    library.run()
    assert library.counts()[0][2] == 1
    assert library.counts()[1] == (0, 0, 1, 0)
    assert library.project.rows("library/length")["book"].to_list() == ["b"]


def test_provenance_is_what_the_columns_say(library: Library) -> None:
    library.hold([A])
    library.run()
    row = library.project.rows("library/books").row(0, named=True)
    assert row["metaxy_provenance_by_field"] == {"default": "a1"}


def test_versions_by_field(library: Library) -> None:
    library.project.write(
        "books/defs.yaml",
        ROOT.replace("version_columns: etag", "version_columns: {text: t, cover: c}").replace(
            "compute:", "fields: [text, cover]\n      compute:"
        ),
    )
    library.project.write(
        "length/defs.yaml",
        CHILD + "  fields: [{key: n, deps: [{feature: library/books, fields: [text]}]}]\n",
    )
    row = {"book": "a", "pages": 1, "t": 1, "c": b"\x01"}
    library.hold([row])
    library.run()
    stored = library.project.rows("library/books").row(0, named=True)
    assert stored["metaxy_provenance_by_field"] == {"text": "1", "cover": "01"}
    library.hold([{**row, "c": b"\x02"}])
    library.run()
    assert library.counts() == ((0, 1, 0, 0), (0, 0, 0, 0))
    library.hold([{**row, "t": 2}])
    library.run()
    assert library.counts() == ((0, 1, 0, 0), (0, 1, 0, 0))


@pytest.mark.parametrize(
    "code",
    [
        "def books():\n  for b in 'ab': yield {'book': b, 'pages': 1,"
        " 'metaxy_provenance_by_field': {'default': b}}",
        "import polars as pl\ndef books(): return pl.DataFrame({'book': ['a', 'b'], 'pages': 1,"
        " 'metaxy_provenance_by_field': [{'default': 'a'}, {'default': 'b'}]})",
        "class books:\n  def __call__(self, context, table, size):\n"
        "    assert context.run_id\n"
        "    return [{'book': b, 'pages': size, 'metaxy_provenance_by_field': {'default': b}}"
        " for b in table]",
    ],
    ids=["generator", "frame", "class, resource, context and constant"],
)
def test_forms_of_a_root_compute(library: Library, code: str) -> None:
    yaml = ROOT.replace("version_columns: etag", "params: {size: 3}" if "size" in code else "")
    library.project.write("books/defs.yaml", yaml)
    library.project.write(
        "table.py",
        "import dagster as dg\n@dg.definitions\n"
        "def defs(): return dg.Definitions(resources={'table': ['a', 'b']})",
    )
    library.compute(code)
    library.run()
    assert library.counts() == ((2, 0, 0, 0), (2, 0, 0, 0))


def test_what_a_root_cannot_write_is_named_and_kept(library: Library) -> None:
    library.hold([A, B])
    library.run()
    C = {"book": "c", "pages": 3, "etag": "c1"}
    library.hold(
        [{**A, "pages": "many"}, {**B, "etag": None}, C, {**C, "pages": 4}, {**C, "book": None}]
    )
    library.run()
    assert library.counts()[0] == (0, 0, 0, 4)
    table = library.project.metadata("library/books")["failed samples"]
    assert [(r.data["sample"], r.data["message"]) for r in table.records] == [
        ("book=a", "column 'pages' should be int, got str: 'many'"),
        ("book=b", "the version of the field 'default' is null"),
        ("book=c", "the compute returned two rows that differ for this sample"),
        ("book=None", "column 'book' is null, but not declared nullable"),
    ]
    assert sorted(library.project.rows("library/books")["book"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def books(): return [{'book': 'a', 'pages': 1}]", "'etag'"),
        ("def books(): return [{'book': 'a', 'etag': 1}]", "did not return column 'pages'"),
        ("def books(): return {'book': 'a'}", "returns all samples"),
        ("def books(): return ['a']", "returned str among its samples"),
    ],
)
def test_a_wrong_root_compute_stops_the_run(library: Library, code: str, message: str) -> None:
    library.hold([A])
    library.run()
    library.compute(code)
    with pytest.raises(dg.Failure, match=message):
        library.run()
    assert library.project.rows("library/books")["book"].to_list() == ["a"]


def test_a_source_that_is_suddenly_empty_deletes_nothing(library: Library) -> None:
    library.hold([A, B])
    library.run()
    library.hold([])
    library.run()
    assert library.counts() == ((0, 0, 0, 0), (0, 0, 0, 0))
    assert "2" in str(library.project.metadata("library/books")["notes"])


def test_another_code_version_of_a_root(library: Library) -> None:
    library.hold([A, B])
    library.run()
    library.project.write(
        "books/defs.yaml",
        ROOT.rstrip() + "\n      fields: [{key: default, code_version: '2'}]\n",
    )
    library.hold([A])
    library.run()
    # Known, though Metaxy calls it new; and b goes, though no row of this version is there.
    assert library.counts() == ((0, 1, 1, 0), (0, 1, 1, 0))


def test_partitions_of_a_root(library: Library) -> None:
    library.project.write(
        "books/defs.yaml",
        ROOT.rstrip() + "\n      partitions_def: {type: static, partition_keys: [a, b]}\n",
    )
    library.hold([A, B])
    library.project.materialize("library/books", partition="a")
    assert library.project.rows("library/books")["book"].to_list() == ["a"]
    assert library.project.green("library/books") == {"a"}
    library.hold([B])
    library.project.materialize("library/books", partition="b")
    assert sorted(library.project.rows("library/books")["book"]) == ["a", "b"]
    library.project.materialize("library/books", partition="a")
    assert library.project.rows("library/books")["book"].to_list() == ["b"]


CLASSES = """
    import metaxy as mx


    class Books(mx.BaseFeature, spec=mx.FeatureSpec(key="library/books", id_columns=["book"])):
        \"\"\"What is on the shelves.\"\"\"

        book: str
        pages: int
        tags: dict[str, int] | None = None


    class Length(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="library/length", id_columns=["book"], deps=[mx.FeatureDep(feature=Books)]
        ),
    ):
        book: str
        length: int
        words: list[str]
    """


@pytest.fixture
def classes(library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Features of Python classes, in a module that metaxy.toml names."""
    root = library.project.root
    name = f"features_{root.name}".replace("-", "_")
    (root / f"{name}.py").write_text(textwrap.dedent(CLASSES))
    monkeypatch.syspath_prepend(str(root))
    toml = root / "metaxy.toml"
    toml.write_text(
        toml.read_text().replace(
            '["dagster_metaxy.entrypoint"]', f'["dagster_metaxy.entrypoint", "{name}"]'
        )
    )
    head = "type: dagster_metaxy.MetaxyAssetComponent\nattributes:\n  compute: .compute."
    library.project.write(
        "books/defs.yaml", head + "books\n  feature: library/books\n  version_columns: etag\n"
    )
    library.project.write("length/defs.yaml", head + "length\n  feature: library/length\n")
    library.project.write(
        "length/compute.py",
        "def length(sample): return {'length': sample['pages'], 'words': ['a'] * sample['pages']}",
    )
    return library


def test_features_of_python_classes(classes: Library) -> None:
    classes.hold([{**A, "tags": {"old": 1}}, B])
    classes.run()
    assert classes.counts() == ((2, 0, 0, 0), (2, 0, 0, 0))
    classes.run()
    assert classes.counts() == ((0, 0, 0, 0), (0, 0, 0, 0))
    rows = classes.project.rows("library/length").sort("book")
    assert rows["words"].to_list() == [["a"], ["a", "a"]]
    spec = classes.project.load().resolve_asset_graph().get(dg.AssetKey(["library", "books"]))
    assert spec.description == "What is on the shelves."


def test_a_row_of_a_python_class_is_checked(classes: Library) -> None:
    classes.hold([A, {**B, "pages": "two"}])
    classes.run()
    assert classes.counts() == ((1, 0, 0, 1), (1, 0, 0, 0))


def test_yaml_on_a_python_class(classes: Library) -> None:
    classes.project.write(
        "own/defs.yaml",
        CHILD.replace("library/length", "library/own").replace("[library/books]", "[library/boks]"),
    )
    classes.project.write("own/compute.py", "def length(sample): return {'length': 1}")
    assert "no feature 'library/boks' is declared. Did you mean" in load_error(classes.project)
    classes.project.write(
        "own/defs.yaml",
        CHILD.replace("library/length", "library/own").replace(
            "[library/books]", "[{feature: library/books, columns: [page]}]"
        ),
    )
    assert "'library/books' has no column 'page'" in load_error(classes.project)


def test_nothing_declares_it(library: Library) -> None:
    library.project.write(
        "length/defs.yaml",
        "type: dagster_metaxy.MetaxyAssetComponent\nattributes:\n"
        "  feature: library/lenght\n  compute: .compute.length\n",
    )
    assert "nothing declares 'library/lenght'" in load_error(library.project)


EXTERNAL = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: library/books
      external: true
      id_columns: [book]
      columns: {pages: int}
      description: Kept by the library.
    """


def _produce(project: Project, *books: tuple[str, int]) -> None:
    """Write rows as the feature's own project does."""
    with mx.FeatureGraph().use():

        class Books(mx.BaseFeature, spec=mx.FeatureSpec(key="library/books", id_columns=["book"])):
            book: str
            pages: int

        with project.store().open("w") as store:
            store.write(
                Books,
                pl.DataFrame(
                    [
                        {
                            "book": b,
                            "pages": p,
                            "metaxy_provenance_by_field": {"default": f"{b}{p}"},
                        }
                        for b, p in books
                    ]
                ),
            )


def _observe(project: Project) -> dg.AssetObservation:
    key = dg.AssetKey(["library", "books"])
    job = project.load().get_repository_def().get_implicit_job_def_for_assets([key])
    assert job is not None
    result = job.execute_in_process(instance=project.instance, asset_selection=[key])
    (event,) = result.get_asset_observation_events()
    return event.event_specific_data.asset_observation  # type: ignore[union-attr]


def test_an_external_feature_is_observed(library: Library) -> None:
    project = library.project
    project.write("books/defs.yaml", EXTERNAL)
    observation = _observe(project)
    assert observation.metadata["dagster/row_count"].value == 0
    _produce(project, ("a", 1), ("b", 2))
    first = _observe(project)
    assert first.metadata["dagster/row_count"].value == 2
    project.materialize("library/length")
    assert project.counts("library/length") == (2, 0, 0, 0)
    _produce(project, ("b", 3), ("c", 3))
    second = _observe(project)
    assert second.metadata["dagster/row_count"].value == 3
    assert second.data_version != first.data_version
    assert _observe(project).data_version == second.data_version
    project.materialize("library/length")
    assert project.counts("library/length") == (1, 1, 0, 0)
    assert (
        project.instance.get_latest_materialization_event(dg.AssetKey(["library", "books"])) is None
    )


def test_the_asset_of_an_external_feature(library: Library) -> None:
    library.project.write("books/defs.yaml", EXTERNAL)
    graph = library.project.load().resolve_asset_graph()
    node = graph.get(dg.AssetKey(["library", "books"]))
    assert node.is_observable
    assert not node.is_materializable
    assert node.description == "Kept by the library."
    columns = node.metadata["dagster/column_schema"].columns
    assert {c.name: c.type for c in columns} == {"book": "any", "pages": "int"}
    assert "metaxy" in node.kinds
    child = graph.get(dg.AssetKey(["library", "length"]))
    assert child.parent_keys == {dg.AssetKey(["library", "books"])}


def test_columns_of_an_external_feature_need_not_be_declared(library: Library) -> None:
    library.project.write("books/defs.yaml", EXTERNAL.replace("columns: {pages: int}", ""))
    _produce(library.project, ("a", 1))
    library.project.materialize("library/length")
    assert library.project.counts("library/length") == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("  compute: .compute.books\n", "an external feature is not computed here"),
        ("  version_columns: etag\n", "version_columns is for root features"),
    ],
)
def test_what_does_not_go_with_external(library: Library, extra: str, message: str) -> None:
    file = library.project.write("books/defs.yaml", EXTERNAL)
    file.write_text(file.read_text() + extra)
    assert message in load_error(library.project)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (CHILD.replace("deps: [library/books]", ""), "takes 'sample', but the feature has no deps"),
        (CHILD.replace("id_columns: [book]", ""), "id_columns is missing"),
        (CHILD.replace("columns: {length: int}", ""), "columns is missing"),
        (CHILD.replace("compute: .compute.length", ""), "compute is missing"),
        (CHILD + "  version_columns: x\n", "version_columns is for root features"),
    ],
)
def test_what_is_missing_is_said(library: Library, yaml: str, message: str) -> None:
    file = library.project.write("length/defs.yaml", yaml)
    error = load_error(library.project)
    assert message in error
    assert str(file) in error


def test_a_type_beyond_ours_is_left_to_the_class(tmp_path: Path) -> None:
    from dagster_metaxy.declare.feature import Feature

    with mx.FeatureGraph().use():

        class F(mx.BaseFeature, spec=mx.FeatureSpec(key="a/b", id_columns=["i"])):
            i: str
            n: int | None
            values: list[float]
            more: dict[str, int]
            text: list[str] | None = None
            path: Path

        feature = Feature.known("a/b")
    assert feature is not None
    assert {n: (c.type, c.nullable) for n, c in feature.columns.items()} == {
        "i": ("str", False),
        "n": ("int", True),
        "values": ("list[float]", False),
        "more": ("any", False),
        "text": ("list[str]", True),
        "path": ("str", False),
    }


STATIC = "\n      partitions_def: {type: static, partition_keys: [a, b]}\n"
DAY = "\n      partitions_def: {type: daily, start_date: '2026-01-01'}\n      partition_by: day\n"
WITH_DAY = ROOT.rstrip().replace("shelf: {type: str, nullable: true}", "day: date")
JOBS = "type: dagster_metaxy.MetaxyJobsComponent\nattributes: {}\n"


def test_an_empty_source_deletes_nothing_partition_by_partition(library: Library) -> None:
    library.project.write("books/defs.yaml", ROOT.rstrip() + STATIC)
    library.hold([A, B])
    for partition in "ab":
        library.project.materialize("library/books", partition=partition)
    library.hold([])
    for partition in "ab":
        library.project.materialize("library/books", partition=partition)
    assert sorted(library.project.rows("library/books")["book"]) == ["a", "b"]


def test_ids_are_compared_as_the_store_has_them(library: Library) -> None:
    library.hold([A, B])
    library.run()
    library.compute(
        "from pathlib import Path\n"
        "def books(): return [{'book': Path('a'), 'pages': 1, 'etag': 'a1'},"
        " {'book': Path('b'), 'pages': 'x', 'etag': 'b1'}]"
    )
    library.run()
    assert library.counts()[0] == (0, 0, 0, 1)
    assert sorted(library.project.rows("library/length")["book"]) == ["a", "b"]


def test_times_as_ids(library: Library) -> None:
    yaml = ROOT.replace("[book]", "[at]").replace("{book: str,", "{at: datetime, book: str,")
    library.project.write("books/defs.yaml", yaml)
    library.compute(
        "import datetime\ndef books(): return [{'at': datetime.datetime(2026, 1, 1), 'book': 'a',"
        " 'pages': 1, 'etag': 1}]"
    )
    (library.project.sandbox.defs_folder_path / "length/defs.yaml").unlink()
    for counts in ((1, 0, 0, 0), (0, 0, 0, 0)):
        library.project.materialize("library/books")
        assert library.project.counts("library/books") == counts


@pytest.mark.parametrize("day", ["20260102", "[1]"])
def test_a_wrong_value_in_the_partition_column_fails_one_sample(library: Library, day: str) -> None:
    library.project.write("books/defs.yaml", WITH_DAY + DAY)
    library.compute(
        "import datetime\ndef books(): return [{'book': 'a', 'pages': 1, 'etag': 1,"
        " 'day': datetime.date(2026, 1, 2)},"
        f" {{'book': 'b', 'pages': 1, 'etag': 1, 'day': {day}}}]"
    )
    library.project.materialize("library/books", partition="2026-01-02")
    assert library.project.rows("library/books")["book"].to_list() == ["a"]


def test_a_column_declared_later_is_filled_by_the_next_run(library: Library) -> None:
    library.hold([{**A, "etag": "1"}])
    library.run()
    library.project.write(
        "books/defs.yaml", ROOT.replace("pages: int,", "pages: int, author: str,")
    )
    library.hold([{**A, "etag": "1", "author": "x"}])
    library.run()
    assert library.counts() == ((0, 0, 0, 0), (0, 0, 0, 0))
    assert library.project.rows("library/books")["author"].to_list() == ["x"]


def test_a_column_that_an_external_table_lacks(library: Library) -> None:
    yaml = EXTERNAL.replace("{pages: int}", "{pages: int, author: str}")
    library.project.write("books/defs.yaml", yaml)
    _produce(library.project, ("a", 1))
    assert _observe(library.project).metadata["dagster/row_count"].value == 1


def test_bytes_are_left_out_of_the_preview(library: Library) -> None:
    library.project.write(
        "length/defs.yaml", CHILD.replace("{length: int}", "{length: int, raw: bytes}")
    )
    library.project.write(
        "length/compute.py", "def length(sample): return {'length': 1, 'raw': b'x'}"
    )
    library.hold([A])
    library.run()
    assert library.project.rows("library/length")["raw"].to_list() == [b"x"]


@pytest.mark.parametrize(
    "arguments",
    [
        "feature='library/ext', external=True, id_columns=['book'], columns={'pages': 'int'}",
        "feature='library/own', deps=['library/books'], compute=lambda s: {'n': 1},"
        " id_columns=['book'], columns={'n': 'int'}",
    ],
)
def test_python_builds_a_component_itself(library: Library, arguments: str) -> None:
    library.project.write(
        "other/py.py",
        f"""
        import dagster as dg
        from dagster_metaxy import MetaxyAssetComponent

        @dg.definitions
        def defs(context: dg.ComponentLoadContext) -> dg.Definitions:
            return MetaxyAssetComponent({arguments}).build_defs(context)
        """,
    )
    assert len(library.project.load().resolve_asset_graph().get_all_asset_keys()) == 3


def test_partition_mapping_of_a_python_class(classes: Library) -> None:
    head = "type: dagster_metaxy.MetaxyAssetComponent\nattributes:\n  compute: .compute."
    books = classes.project.write(
        "books/defs.yaml", head + "books\n  feature: library/books\n  version_columns: etag\n"
    )
    length = classes.project.write("length/defs.yaml", head + "length\n  feature: library/length\n")
    kinds = ("{type: daily, start_date: '2026-01-01'}", "{type: static, partition_keys: [a]}")
    for file, kind in zip((books, length), kinds, strict=True):
        file.write_text(file.read_text() + f"  partitions_def: {kind}\n")
    assert "say in the dep which of them" in load_error(classes.project)
    length.write_text(
        length.read_text() + "  deps: [{feature: library/books, partition_mapping: all}]\n"
    )
    classes.project.load().resolve_asset_graph()
    length.write_text(length.read_text().replace("library/books", "library/other"))
    assert "does not depend on 'library/other', but on library/books" in load_error(classes.project)


def test_params_of_a_python_class_are_no_code_version(classes: Library) -> None:
    file = classes.project.sandbox.defs_folder_path / "length/defs.yaml"
    file.write_text(file.read_text() + "  params_in_code_version: true\n")
    assert "which says its code versions itself" in load_error(classes.project)


def test_what_depends_on_a_wrong_component_is_not_blamed(library: Library) -> None:
    shelf = (
        "\n      partitions_def: {type: static, partition_keys: [x]}\n      partition_by: shelf\n"
    )
    library.project.write(
        "books/defs.yaml", ROOT.rstrip().replace(".compute.books", ".compute.bokks") + shelf
    )
    library.project.write("length/defs.yaml", CHILD.rstrip() + shelf)
    error = load_error(library.project)
    assert "bokks" in error
    assert "partition" not in error.replace("partitions_def", "").replace(
        "partition_by", ""
    ).replace("partition_keys", "")


def test_options_of_computes_do_not_go_with_external(library: Library) -> None:
    file = library.project.write("books/defs.yaml", EXTERNAL)
    file.write_text(file.read_text() + "  retry_policy: {max_retries: 2}\n")
    assert "remove retry_policy, or external" in load_error(library.project)


class TestJobs:
    @pytest.fixture(autouse=True)
    def _jobs(self, library: Library) -> None:
        library.project.write("jobs/defs.yaml", JOBS)

    def _delete(self, project: Project, feature: str) -> dg.ExecuteInProcessResult:
        config = {"feature": feature, "filter": "book = 'a'", "dry_run": False}
        return project.run_job(
            "metaxy_delete",
            run_config={"ops": {"delete": {"config": config}}},
            raise_on_error=False,
        )

    def test_external_samples_are_not_deleted(self, library: Library) -> None:
        project = library.project
        project.write("books/defs.yaml", EXTERNAL)
        _produce(project, ("a", 1), ("b", 2))
        project.materialize("library/length")
        result = self._delete(project, "library/books")
        assert not result.success
        assert "library/books is external" in str(
            [e.event_specific_data for e in result.all_events if e.is_step_failure]
        )
        assert project.rows("library/books").height == 2
        assert project.rows("library/length").height == 2

    def test_nor_those_of_external_features_downstream(self, library: Library) -> None:
        project = library.project
        project.write(
            "ext/defs.yaml",
            """
            type: dagster_metaxy.MetaxyAssetComponent
            attributes:
              feature: library/summary
              external: true
              deps: [library/books]
              id_columns: [book]
            """,
        )
        library.hold([A, B])
        library.run()
        with mx.FeatureGraph().use(), project.store().open("w") as store:

            class Summary(
                mx.BaseFeature, spec=mx.FeatureSpec(key="library/summary", id_columns=["book"])
            ):
                book: str

            row = {"book": "a", "metaxy_provenance_by_field": {"default": "x"}}
            store.write(Summary, pl.DataFrame([row]))
            assert store.read(Summary).collect().shape[0] == 1
            assert self._delete(project, "library/books").success
        assert project.rows("library/books").height == 1
        assert project.rows("library/length").height == 1
        with mx.FeatureGraph().use(), project.store().open("r") as store:

            class Again(
                mx.BaseFeature, spec=mx.FeatureSpec(key="library/summary", id_columns=["book"])
            ):
                book: str

            assert store.read(Again).collect().shape[0] == 1

    def test_all_features_in_all_partitions_and_beyond(self, library: Library) -> None:
        project = library.project
        yaml = WITH_DAY.replace("day: date", "day: {type: date, nullable: true}")
        project.write("books/defs.yaml", yaml + DAY)
        project.write("length/defs.yaml", CHILD.rstrip() + DAY)
        library.compute(
            "import datetime\ndef books():\n"
            "  yield {'book': 'a', 'pages': 1, 'etag': 1, 'day': datetime.date(2026, 1, 2)}\n"
            "  yield {'book': 'b', 'pages': 1, 'etag': 1, 'day': None}\n"
        )
        project.run_job("metaxy_update")
        assert sorted(project.rows("library/length")["book"]) == ["a", "b"]
        for key in ("library/books", "library/length"):
            assert project.green(key) == {"2026-01-02"}

    def test_reconcile_reports_partitions(self, library: Library) -> None:
        project = library.project
        project.write("books/defs.yaml", WITH_DAY + DAY)
        project.write("length/defs.yaml", CHILD.rstrip() + DAY)
        code = (
            "import datetime\ndef books():\n"
            "  yield {'book': 'a', 'pages': 1, 'etag': 1, 'day': datetime.date(2026, 1, 1)}\n"
        )
        library.compute(code)
        project.run_job("metaxy_update")
        with dg.DagsterInstance.ephemeral() as new:
            project.load().resolve_job_def("metaxy_reconcile").execute_in_process(instance=new)
            for key in ("books", "length"):
                assert new.get_materialized_partitions(dg.AssetKey(["library", key])) == {
                    "2026-01-01"
                }
        # A sample that was never computed here, of an upstream whose code has changed since
        library.compute(code + code.partition(":\n")[2].replace("'a'", "'b'").replace("1)}", "2)}"))
        project.materialize("library/books", partition="2026-01-02")
        project.write(
            "books/defs.yaml",
            WITH_DAY + "\n      fields: [{key: default, code_version: '2'}]" + DAY,
        )
        assert project.run_job("metaxy_reconcile").success

    def test_reconcile_before_the_partition_column_was_stored(self, library: Library) -> None:
        project = library.project
        yaml = ROOT.replace("shelf: {type: str", "day: {type: date")
        project.write("books/defs.yaml", yaml)
        library.hold([A])
        library.run()
        project.write("length/defs.yaml", CHILD.rstrip() + DAY)
        assert project.run_job("metaxy_reconcile").success

    def test_a_condition_on_dates(self, library: Library) -> None:
        library.project.write("books/defs.yaml", WITH_DAY)
        library.compute(
            "import datetime\ndef books():\n"
            "  for n in (1, 2, 3):\n"
            "    yield {'book': str(n), 'pages': n, 'etag': 1, 'day': datetime.date(2026, 1, n)}\n"
        )
        library.run()
        config = {"feature": "library/books", "filter": "day > '2026-01-02'", "dry_run": False}
        library.project.run_job("metaxy_delete", run_config={"ops": {"delete": {"config": config}}})
        assert sorted(library.project.rows("library/length")["book"]) == ["1", "2"]


def test_partitions_of_a_feature_that_has_rows(library: Library) -> None:
    library.project.write("books/defs.yaml", WITH_DAY)
    library.compute(
        "import datetime\ndef books(): return [{'book': 'a', 'pages': 1, 'etag': 1,"
        " 'day': datetime.date(2026, 1, 2)}]"
    )
    library.run()
    library.project.write("length/defs.yaml", CHILD.rstrip() + DAY)
    library.project.materialize("library/length", partition="2026-01-02")
    assert library.counts()[1] == (0, 0, 0, 0)
    assert library.project.green("library/length") == {"2026-01-02"}


def test_an_external_feature_that_nobody_wrote(library: Library) -> None:
    library.project.write("books/defs.yaml", EXTERNAL)
    assert "is not in the store" in str(_observe(library.project).metadata["notes"].value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("compute:", "partitions_def: daily\n      compute:", "such as {type: daily, start_date:"),
        (
            "[library/books]",
            "[{feature: library/books, lineage: expansion}]",
            "{type: expansion, on:",
        ),
    ],
)
def test_words_that_need_more(library: Library, old: str, new: str, message: str) -> None:
    library.project.write("length/defs.yaml", CHILD.replace(old, new, 1))
    assert message in load_error(library.project)
