"""What a user reads of each mistake: one sentence, its place, and no traceback of ours."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from projects import Project

from dagster_metaxy.steps import STEPS

OWN = """\
type: dagster_metaxy.MetaxyAssetComponent

attributes:
  feature: clips/own
  deps: [clips/videos]
  id_columns: [video_id]
  columns:
    x: int
  compute: .compute.own
"""
COMPUTE = "def own(sample):\n    return {'x': 1}\n"
VIDEOS = """\
type: dagster_metaxy.PartitionedVideoComponent

attributes:
  source: videos
  feature_prefix: clips
  steps: [frames]
"""
DAILY = VIDEOS.replace("steps: [frames]", 'partitions: {type: daily, start_date: "2026-01-01"}')
ADD = "  compute: .compute.own"
ROW_TYPES = "str, int, float, bool, bytes, date, datetime, or list[...] of one"


@pytest.fixture
def own(project: Project) -> Project:
    project.add_clips()
    project.write("clips/defs.yaml", VIDEOS)
    project.write("own/defs.yaml", OWN)
    project.write("own/compute.py", COMPUTE)
    return project


def told(project: Project) -> list[str]:
    """The lines of the error of loading a project, with paths below it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        project.load()
    error = caught.value.__cause__ or caught.value
    defs = str(project.sandbox.defs_folder_path)
    text = str(error).replace(defs, "defs").replace(str(project.root), "")
    return text.replace(f"{project.sandbox.project_name}.", "").splitlines()


def edit(project: Project, old: str, new: str, file: str = "own/defs.yaml") -> None:
    path = project.sandbox.defs_folder_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "place", "sentence"),
    [
        # attributes
        ("id_columns:", "id_colums:", "6:3", "id_colums: there is no such attribute. Did you mean 'id_columns'?"),
        ("x: int", "x: {typ: int}", "8:9", "columns.x.typ: there is no such attribute"),
        (ADD, "", "4:12", "compute is missing: the function that computes a sample, such as .compute.function"),
        (ADD, f"  group_name: [a]\n{ADD}", "9:15", "group_name: must be a valid string (got a list)"),
        ("[clips/videos]", "clips/videos", "5:9", "deps: must be a valid list (got 'clips/videos')"),
        (ADD, f"  orphans: harsh\n{ADD}", "9:12", "orphans: must be 'soft' or 'hard' (got 'harsh')"),
        (ADD, f"  workers: 0\n{ADD}", "9:12", "workers: must be 1 or more"),
        (ADD, f"  engine: procs\n{ADD}", "9:11", "engine: must be 'threads' or 'processes' (got 'procs')"),
        (ADD, f"  time_limit: 0\n{ADD}", "9:15", "time_limit: must be more than 0"),
        (ADD, f"  chunk_seconds: -1\n{ADD}", "9:18", "chunk_seconds: must be more than 0"),
        (ADD, f"  chunk_samples: 0\n{ADD}", "9:18", "chunk_samples: must be 1 or more"),
        (ADD, f"  engine: threads\n  time_limit: 60\n{ADD}", "10:15", "a time_limit needs `engine: processes`, since a thread cannot be ended: remove engine, or time_limit"),
        ("x: int", "x: {type: flaot}", "8:15", f"columns.x.type: unknown column type 'flaot'; use one of {ROW_TYPES}"),
        (ADD, f"  partitions_def: {{type: dialy}}\n{ADD}", "9:26", "partitions_def.type: must be one of 'hourly', 'daily', 'weekly', 'monthly', 'time_window', 'static', 'dynamic', 'multi' (got 'dialy')"),
        (ADD, f"  partitions_def:\n    type: daily\n{ADD}", "9:3", "partitions_def: 'start_date' is missing"),
        # templates
        ("clips/own", "'{{ env.NO_SUCH }}'", "4:12", "feature: the environment variable NO_SUCH is not set; set it, or give a default: {{ env('NO_SUCH', 'default') }}"),
        ("clips/own", "'{{ env.NO_SUCH }}/own'", "4:12", "feature: the environment variable NO_SUCH is not set; set it, or give a default: {{ env('NO_SUCH', 'default') }}"),
        (".compute.own", "'{{ env.NO_SUCH }}'", "9:12", "compute: the environment variable NO_SUCH is not set; set it, or give a default: {{ env('NO_SUCH', 'default') }}"),
        ("clips/own", "\"{{ env('NO_SUCH') }}\"", "4:12", "feature: the template fails: Environment variable NO_SUCH is not set and no default value was provided. To provide a default value, use e.g. `env('NO_SUCH', 'default_value')`."),
        ("clips/own", "'{{ nope.x }'", "4:12", "feature: the template fails: TemplateSyntaxError: unexpected '}'"),
        (ADD, f"  metadata: {{a: ['{{{{ 1 / 0 }}}}']}}\n{ADD}", "9:18", "metadata.a.0: the template fails: ZeroDivisionError: division by zero"),
        # features
        ("[clips/videos]", "[clips/vidoes]", "5:10", "no feature 'clips/vidoes' is declared. Did you mean 'clips/videos'?"),
        ("[clips/videos]", "\n  - feature: clips/vidoes", "6:14", "no feature 'clips/vidoes' is declared. Did you mean 'clips/videos'?"),
        ("[clips/videos]", "[{feature: clips/frames, columns: [pth], lineage: aggregation}]", "5:44", "'clips/frames' has no column 'pth'; it has: video_id, frame_index, time, path, width, height. Did you mean 'path'?"),
        (ADD, f"  fields: [{{key: a, deps: [{{feature: clips/videos, fields: [vido]}}]}}]\n{ADD}", "9:61", "'clips/videos' has no field 'vido'; it has: video, audio. Did you mean 'video'?"),
        ("[video_id]", "[video]", "6:15", "a sample of 'clips/own' is named by video, one of its upstream 'clips/videos' by video_id: they must be the same, since one sample is computed from one. For one from a group, write `lineage: aggregation`; for many from one, `lineage: {type: expansion, on: [...]}`"),
        ("[clips/videos]", "[clips/own]", "5:9", "features depend on each other in a circle: clips/own -> clips/own"),
        (ADD, f"  store: prod\n{ADD}", "9:10", "metaxy.toml has no store 'prod'; it has: dev"),
        # computes
        (".compute.own", ".compute.owns", "9:12", "defs/own/compute.py has no function 'owns'; it has: own. Did you mean 'own'?"),
        (".compute.own", ".computes.own", "9:12", "there is no defs/own/computes.py to take 'own' from"),
        (".compute.own", "own", "9:12", "'own' names no function. Write '.compute.own' for the function 'own' in compute.py beside this file, or 'package.module.function' for an installed one."),
    ],
)  # fmt: skip
def test_a_mistake_in_the_yaml(own: Project, old: str, new: str, place: str, sentence: str) -> None:
    edit(own, old, new)
    first, *snippet = told(own)
    assert first == f"defs/own/defs.yaml:{place}: {sentence}"
    line, column = map(int, place.split(":"))
    mark = snippet.index(f"      | {' ' * (column - 1)}^")
    assert snippet[mark - 1].startswith(f"{line:>5} | ")


@pytest.mark.parametrize("attributes", ["attributes: {}", "attributes:"])
def test_no_attributes(own: Project, attributes: str) -> None:
    own.write("clips/defs.yaml", VIDEOS.split("attributes")[0] + attributes)
    first, *_ = told(own)
    column = 13 if "{}" in attributes else 1
    assert first == (
        f"defs/clips/defs.yaml:3:{column}: attributes: 'source', 'feature_prefix' are missing"
    )


AGGREGATION = "[{feature: clips/videos, lineage: aggregation}]"


@pytest.mark.parametrize(
    ("compute", "deps", "sentence"),
    [
        ("x = 1\ny = x / 0\n", None, "importing defs.own.compute failed: ZeroDivisionError: division by zero (defs/own/compute.py:2)"),
        ("x = 1\nimport nowhere_at_all\n", None, "importing defs.own.compute failed: ModuleNotFoundError: No module named 'nowhere_at_all' (defs/own/compute.py:2)"),
        ("x = 1\ndef own(sample) return x\n", None, "importing defs.own.compute failed: expected ':' (defs/own/compute.py:2)"),
        ("def own(): ...\n", None, "own takes no sample: its first parameter is what it computes from"),
        ("def own(sample, other, /): ...\n", None, "own takes 'other' by its position: it is called with one argument, and further parameters are filled in by their names"),
        ("async def own(sample): ...\n", None, "own is async; a compute is a plain function, run in a thread"),
        ("def own(samples: list[dict]): ...\n", None, "own takes many samples (samples), but is called with one, a mapping: write `lineage: aggregation` in `deps` for all samples of a group"),
        ("def own(sample: dict): ...\n", AGGREGATION, "own takes one sample (sample), but is called with a list of samples: the feature aggregates (`lineage: aggregation`)"),
        ("def own(sample):\n    yield {'x': 1}\n", None, "own returns many rows, but the feature has one for each sample: write `lineage: {type: expansion, on: [...]}` in `deps` for many"),
    ],
)  # fmt: skip
def test_a_compute_that_does_not_fit(
    own: Project, compute: str, deps: str | None, sentence: str
) -> None:
    own.write("own/compute.py", compute)
    if deps:
        edit(own, "[clips/videos]", deps)
    assert told(own)[0] == f"defs/own/defs.yaml:9:12: {sentence}"


def test_a_limit_of_a_root_feature(own: Project) -> None:
    edit(own, "  deps: [clips/videos]\n", "  time_limit: 60\n")
    own.write("own/compute.py", "def own(): ...\n")
    assert told(own)[0] == (
        "defs/own/defs.yaml:5:15: the compute of a root feature, which lists all samples, is called in"
        " the run's own process: remove time_limit"
    )


def test_a_compute_that_no_process_can_import(own: Project) -> None:
    edit(own, ADD, f"  time_limit: 60\n{ADD}")
    own.write("own/compute.py", "own = lambda sample: {'x': 1}\n")
    first, *_ = told(own)
    assert first.startswith("defs/own/defs.yaml:10:12: <lambda> cannot be sent to a process (")
    assert first.endswith("at the top level of a module, or use `engine: threads`")


def test_an_expansion_that_returns_one_row(own: Project) -> None:
    edit(
        own,
        "[clips/videos]",
        "[{feature: clips/videos, lineage: {type: expansion, on: [video_id]}}]",
    )
    edit(own, "[video_id]\n", "[video_id, part]\n")
    own.write("own/compute.py", "def own(sample) -> dict: ...\n")
    assert "own returns one row, but the feature expands" in told(own)[0]


@pytest.mark.parametrize(
    "compute",
    [
        "from typing import Any, Mapping\ndef own(sample: Mapping[str, Any]) -> dict[str, int]: ...\n",
        "def own(sample: 'NotThere') -> 'NotThere': ...\n",
        "class own:\n    def __call__(self, sample: dict): ...\n",
    ],
)
def test_annotations_that_fit_or_say_nothing(own: Project, compute: str) -> None:
    own.write("own/compute.py", compute)
    assert own.load()


def test_what_a_module_raised_is_kept_without_frames_of_ours(own: Project) -> None:
    own.write("own/compute.py", "import json\n\njson.loads('{')\n")
    with pytest.raises(Exception, match="Error while building") as caught:
        own.load()
    located = caught.value.__cause__
    assert located is not None
    cause = located.__cause__
    assert type(cause).__name__ == "JSONDecodeError"
    assert cause is not None
    assert cause.__traceback__ is not None
    assert cause.__traceback__.tb_frame.f_code.co_filename.endswith("own/compute.py")


def test_both_places_of_a_feature(own: Project) -> None:
    own.write("zwei/defs.yaml", OWN)
    own.write("zwei/compute.py", COMPUTE)
    assert told(own)[0] == (
        "defs/zwei/defs.yaml:4:12: the feature 'clips/own' is declared twice: here and at"
        " defs/own/defs.yaml:4:12"
    )


@pytest.mark.parametrize(
    ("key", "place"), [("own", "own/defs.yaml:4:12"), ("frames", "clips/defs.yaml:5:19")]
)
def test_both_places_of_an_asset(own: Project, key: str, place: str) -> None:
    own.write(
        "hand.py", f"import dagster as dg\n\n\n@dg.asset(key=['clips', '{key}'])\ndef x(): ...\n"
    )
    assert told(own)[0] == (
        f"defs/{place}: the asset 'clips/{key}' is defined twice: here and at defs/hand.py:4"
    )


def test_an_asset_of_another_key_is_no_matter(own: Project) -> None:
    own.write("hand.py", "import dagster as dg\n\n\n@dg.asset(key=['clips', 'x'])\ndef x(): ...\n")
    assert own.load()


def test_all_that_are_wrong_are_told(own: Project) -> None:
    edit(own, "int", "flaot")
    own.write("a/defs.yaml", OWN.replace("clips/own", "clips/a").replace("video_id", "video"))
    own.write("a/compute.py", COMPUTE)
    own.write("b/defs.yaml", OWN.replace("clips/own", "clips/b").replace(".own", ".owns"))
    own.write("b/compute.py", COMPUTE)
    lines = told(own)
    assert lines[0].startswith("defs/a/defs.yaml:6:15: a sample of 'clips/a' is named by video")
    others = lines[lines.index("Also wrong:") + 1 :]
    assert [line.split(": ")[0] for line in others] == [
        "defs/b/defs.yaml:9:12",
        "defs/own/defs.yaml:8:8",
    ]


def test_what_depends_on_a_wrong_one_is_not_wrong(own: Project) -> None:
    edit(own, "[frames]", "[frame]", "clips/defs.yaml")
    edit(own, "[clips/videos]", AGGREGATION)
    lines = told(own)
    types = ", ".join(map(repr, STEPS))
    assert lines[0] == (
        f"defs/clips/defs.yaml:6:11: steps.0.type: must be one of {types} (got 'frame')"
    )
    assert "Also wrong:" not in lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x: int", "x: {type: '{{ env.SECRET }}'}"),
        (ADD, f"  orphans: '{{{{ env.SECRET }}}}'\n{ADD}"),
        (ADD, f"  workers: '{{{{ env.SECRET }}}}'\n{ADD}"),
        (ADD, f"  retry_policy: '{{{{ env.SECRET }}}}'\n{ADD}"),
        (ADD, f"  partitions_def: {{type: '{{{{ env.SECRET }}}}'}}\n{ADD}"),
        (ADD, f"  group_name: {{a: '{{{{ env.SECRET }}}}'}}\n{ADD}"),
    ],
)
def test_what_a_template_gave_is_not_shown(
    own: Project, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    edit(own, old, new)
    assert "s3cr3t" not in "\n".join(told(own))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('project = "sandbox"', "project = sandbox", r":1:11: Invalid value"),
        ("hash_truncation_length", "hash_length", r":3:1: hash_length: Extra inputs are not permitted"),
        ("DeltaMetadataStore", "DeltaStore", r":8:9: the store 'dev' cannot be used: there is no type 'metaxy\.ext\.polars\.handlers\.delta\.DeltaStore'"),
        ("root_path", "rot_path", r":11:1: the store 'dev' cannot be used: root_path: Field required; rot_path: Extra inputs are not permitted"),
        ('store = "dev"', 'store = "prod"', r":2:10: the store 'prod' cannot be used: Store 'prod' not found"),
        ("xxhash64", "xxhash65", r":12:19: the store 'dev' cannot be used: 'xxhash65' is not a valid HashAlgorithm"),
        ("dagster_metaxy.entrypoint", "nowhere.at_all", r":5:17: Failed to import entrypoint module 'nowhere\.at_all'"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used(
    own: Project, old: str, new: str, sentence: str
) -> None:
    file = own.root / "metaxy.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    (line,) = told(own)
    assert re.match(rf"/metaxy\.toml{sentence}", line), line


def test_a_store_whose_package_is_not_installed(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = own.root / "src/acme_store.py"
    package.write_text("import no_such_database\n")
    monkeypatch.syspath_prepend(str(package.parent))
    file = own.root / "metaxy.toml"
    file.write_text(re.sub('type = ".*"', 'type = "acme_store.Store"', file.read_text()))
    assert told(own) == [
        "/metaxy.toml:8:9: the store 'dev' cannot be used: its type needs no_such_database, which is"
        " not installed: pip install no_such_database"
    ]


def test_a_pattern_that_finds_nothing(own: Project) -> None:
    own.write("clips/defs.yaml", DAILY)
    assert told(own)[0] == (
        "defs/clips/defs.yaml:6:15: no file has a partition: of 'bigbuckbunny.mp4', for example, the"
        r" path has no match for the partition pattern '(\\d{4}-\\d{2}-\\d{2})'"
    )
    (own.root / "videos/portrait.mp4").rename(own.root / "videos/2026-02-03.mp4")
    assert own.load()  # one has a partition


def test_a_pattern_that_finds_nothing_any_more(own: Project) -> None:
    own.run_job()
    own.write("clips/defs.yaml", DAILY)
    own.load()  # its rows are not to be lost
    folder = own.root / "videos"
    for file in list(folder.iterdir()):
        file.rename(folder / f"x{file.name}")
    with pytest.raises(dg.Failure) as caught:
        own.run_job()
    assert str(caught.value.description) == (
        "clips/videos: no file has a partition: of 'xbigbuckbunny.mp4', for example, the path has no"
        r" match for the partition pattern '(\\d{4}-\\d{2}-\\d{2})'"
    )
    assert own.rows("clips/videos").height == 3


def references(project: Project, key: str) -> list[tuple[str, int | None]]:
    spec = project.load().resolve_asset_graph().get(dg.AssetKey(key.split("/")))
    value = spec.metadata["dagster/code_references"]
    assert isinstance(value, dg.CodeReferencesMetadataValue)
    found: list[Any] = value.code_references
    return [(Path(r.file_path).name, r.line_number) for r in found]


@pytest.mark.parametrize(
    ("compute", "line"),
    [
        ("def own(sample): ...\n", 1),
        ("import json\n\n\nclass own:\n    def __call__(self, sample): ...\n", 4),
        (
            "import functools\n\n\ndef timed(f):\n    @functools.wraps(f)\n    def timer(sample):\n"
            "        return f(sample)\n\n    return timer\n\n\n@timed\ndef own(sample): ...\n",
            12,
        ),
        ("import functools\n\n\ndef f(sample, x): ...\n\n\nown = functools.partial(f, x=1)\n", 4),
    ],
)
def test_an_asset_links_to_its_code_and_its_yaml(own: Project, compute: str, line: int) -> None:
    own.write("own/compute.py", compute)
    assert references(own, "clips/own") == [("compute.py", line), ("defs.yaml", 1)]


def test_what_has_no_file_has_no_link(own: Project) -> None:
    edit(own, ".compute.own", "builtins.len")
    assert references(own, "clips/own") == [("defs.yaml", 1)]
    assert references(own, "clips/videos") == [("defs.yaml", 1)]


REPORT = """
    import dagster as dg


    @dg.asset(ins={"own": dg.AssetIn(dg.AssetKey(["clips", "own"]))})
    def report(own):
        return sorted(own.collect().to_native()["video_id"])
    """
RESOURCES = """
    import dagster as dg
    import metaxy.ext.dagster as mxd


    @dg.definitions
    def resources():
        store = mxd.MetaxyStoreFromConfigResource(name="dev")
        return dg.Definitions(resources={"metaxy_io": mxd.MetaxyIOManager(store=store)})
    """


def test_downstream_assets_load_a_feature_by_its_io_manager(own: Project) -> None:
    edit(own, ADD, f"  io_manager_key: metaxy_io\n{ADD}")
    own.write("report.py", textwrap.dedent(REPORT))
    own.write("resources.py", textwrap.dedent(RESOURCES))
    names = ["bigbuckbunny", "bikes", "portrait"]
    together = own.materialize("clips/videos", "clips/own", "report")
    assert together.output_for_node("report") == names
    (own.root / "videos/bikes.mp4").unlink()
    own.run_job()
    assert own.materialize("report").output_for_node("report") == ["bigbuckbunny", "portrait"]


def test_an_io_manager_that_is_not_there(own: Project) -> None:
    edit(own, ADD, f"  io_manager_key: metaxy_io\n{ADD}")
    with pytest.raises(
        dg.DagsterInvalidDefinitionError,
        match=r"io manager with key 'metaxy_io' required by output 'clips__own'.* was not provided",
    ):
        own.load().get_repository_def()


def test_without_an_io_manager_no_resource_is_needed(own: Project) -> None:
    graph = own.load().resolve_asset_graph()
    for asset in graph.assets_defs:
        assert asset.required_resource_keys <= {"io_manager"}
