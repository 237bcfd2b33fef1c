"""What loading 300 features declared in YAML costs beside 300 assets written by hand.

    uv run python benchmarks/load.py [repetitions]

By hand: a Metaxy feature class and a `@dg.asset` with `metaxify` each. In two forms: everything in
one file (in YAML, 300 documents), and a file (a folder) for each. A component that does nothing shows
what Dagster's own loading of components takes. Every measurement is a process of its own, and those
of one repetition run one after the other; CPU seconds, without the imports that all share.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FEATURES = 300
CHAINS = 100  # of three features each

_ROOT = """
import metaxy as mx


class Docs(mx.BaseFeature, spec=mx.FeatureSpec(key="b/docs", id_columns=["doc"], fields=["text"])):
    doc: str
    size: int
"""

_HAND_HEAD = """
import dagster as dg
import metaxy as mx
import metaxy.ext.dagster as mxd

import roots
"""

_HAND = """

class F{n}(
    mx.BaseFeature,
    spec=mx.FeatureSpec(
        key="b/f{n}",
        id_columns=["doc"],
        deps=[mx.FeatureDep(feature="{dep}", rename={{"{column}": "above"}})],
        fields=[mx.FieldSpec(key="default", code_version="1")],
    ),
):
    doc: str
    words{n}: int


@mxd.metaxify
@dg.asset(key=["b", "f{n}"], metadata={{"metaxy/feature": "b/f{n}"}}, group_name="b", tags={{"a": "b"}})
def f{n}(context):
    ...
"""

_OURS = """
type: dagster_metaxy.MetaxyAssetComponent
attributes:
  feature: b/f{n}
  deps: [{{feature: {dep}, rename: {{{column}: above}}}}]
  id_columns: [doc]
  fields: [{{key: default, code_version: 1}}]
  columns: {{words{n}: int}}
  group_name: b
  tags: {{a: b}}
  compute: roots.compute
"""

_TRIVIAL = """
type: roots.Trivial
attributes:
  feature: b/f{n}
"""

_TRIVIAL_CLASS = """
import dagster as dg


def compute(sample):
    return {}


class Trivial(dg.Component, dg.Model, dg.Resolvable):
    feature: str

    def build_defs(self, context):
        return dg.Definitions(assets=[dg.AssetSpec(self.feature.split("/"))])
"""

_TOML = """
project = "bench"
store = "dev"
entrypoints = ["roots"]
[stores.dev]
type = "metaxy.ext.polars.handlers.delta.DeltaMetadataStore"
config = {root_path = "data"}
"""

# What all of them import is there before the clock starts.
_MEASURE = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import dagster as dg, metaxy as mx, metaxy.ext.dagster, polars, narwhals
import dagster_metaxy.components
from metaxy.ext.polars.handlers.delta import DeltaMetadataStore
root = Path(sys.argv[1])
sys.path.insert(0, str(root))
started = time.process_time()
if sys.argv[2] == "hand":
    mx.init()
defs = dg.load_from_defs_folder(path_within_project=root)
keys = defs.get_repository_def().asset_graph.get_all_asset_keys()
print(len(keys), time.process_time() - started)
"""


def feature(template: str, n: int) -> str:
    above = n - CHAINS
    return template.format(
        n=n,
        dep="b/docs" if above < 0 else f"b/f{above}",
        column="size" if above < 0 else f"words{above}",
    )


def write(root: Path, kind: str, folders: bool) -> None:
    """A project with 300 features of a kind."""
    defs = root / "bench" / "defs"
    defs.mkdir(parents=True)
    (root / "bench" / "__init__.py").touch()
    (root / "dg.toml").write_text('directory_type = "project"\n[project]\nroot_module = "bench"\n')
    (root / "metaxy.toml").write_text(_TOML)
    (root / "roots.py").write_text(_ROOT + _TRIVIAL_CLASS)
    template = {"hand": _HAND, "component": _OURS, "trivial": _TRIVIAL}[kind]
    texts = [feature(template, n) for n in range(FEATURES)]
    if kind == "hand":
        (defs / "__init__.py").touch()
        if folders:
            for n, text in enumerate(texts):
                (defs / f"f{n:03}.py").write_text(_HAND_HEAD + text)
        else:
            (defs / "assets.py").write_text(_HAND_HEAD + "".join(texts))
    elif folders:
        for n, text in enumerate(texts):
            (defs / f"f{n:03}").mkdir()
            (defs / f"f{n:03}" / "defs.yaml").write_text(text)
    else:
        (defs / "defs.yaml").write_text("---".join(texts))


def measure(root: Path, kind: str) -> float:
    """CPU seconds that a new process takes to load the project."""
    printed = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(root), kind],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if printed.returncode:
        raise RuntimeError(printed.stderr[-3000:])
    count, seconds = printed.stdout.split()[-2:]
    if int(count) < FEATURES:
        raise RuntimeError(f"only {count} assets were loaded")
    return float(seconds)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            (kind, form) for form in (False, True) for kind in ("hand", "component", "trivial")
        ]
        seconds: dict[tuple[str, bool], list[float]] = {case: [] for case in cases}
        for kind, form in cases:
            write(Path(folder) / f"{kind}{form}", kind, form)
        for _ in range(repetitions):
            for kind, form in cases:
                seconds[kind, form].append(measure(Path(folder) / f"{kind}{form}", kind))
        print(f"{FEATURES} features, CPU seconds, median of {repetitions} processes")
        for form, title in ((False, "one file"), (True, "a file each")):
            hand, ours, trivial = (
                statistics.median(seconds[kind, form]) for kind in ("hand", "component", "trivial")
            )
            print(
                f"{title:<12} by hand {hand:6.2f} s   components {ours:6.2f} s"
                f" (ratio {ours / hand:4.2f})   components that do nothing {trivial:6.2f} s"
            )
        print(
            json.dumps({f"{k}, {'files' if f else 'one file'}": v for (k, f), v in seconds.items()})
        )


if __name__ == "__main__":
    main()
