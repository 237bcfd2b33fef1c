"""ResourcesComponent: any resource from YAML, what is wrong with it told in place, secrets kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster_dg_cli.cli import create_dg_cli
from objects import KEY_ID, Proxy, environment
from projects import Project

import dagster_metaxy.extras as extras
from dagster_metaxy import ResourcesComponent
from dagster_metaxy.resources import JsonIOManager

SECRET = "hunter2-Tr0ub4dor"

OWN = """
    from typing import Any, Literal, Optional

    import dagster as dg
    from pydantic import Field, field_validator


    class Inner(dg.Config):
        token: str
        size: int = 1


    class Own(dg.ConfigurableResource):
        host: str
        port: int = 1
        safe: bool = False
        ratio: float = 0.5
        words: list[str] = []
        options: dict[str, Any] = {}
        texts: dict[str, str] = {}
        mode: Literal["a", "b"] = "a"
        maybe: Optional[int] = None
        inner: Inner = Inner(token="none")
        long: str = Field(default="long enough", min_length=8)

        @field_validator("host")
        @classmethod
        def _check(cls, host):
            if "hunter2" in host:
                raise ValueError("is no host")
            return host


    class Needs(dg.ConfigurableResource):
        own: dg.ResourceDependency[Own]
        other: Own


    class Needy(dg.ConfigurableResource):
        needs: dg.ResourceDependency[Any]


    class Open(dg.PermissiveConfig, dg.ConfigurableResource):
        known: str = "known"


    class Abstract(dg.ConfigurableIOManager):
        pass


    class Refuses(dg.ConfigurableResource):
        path: str

        def model_post_init(self, _):
            raise OSError("no such disk")


    @dg.resource
    def plain():
        return "a plain resource"


    made = Own(host="made in Python")


    def neither():
        return 1
    """

ASSETS = """
    import dagster as dg


    @dg.asset(required_resource_keys={"own"})
    def asked(context):
        own = context.resources.own
        fields = {name: getattr(own, name) for name in type(own).model_fields}
        return {**fields, "inner": own.inner.model_dump()}
    """


@pytest.fixture
def own(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("PORT", "99")
    monkeypatch.setenv("SAFE", "true")
    monkeypatch.delenv("NO_SUCH", raising=False)
    project.write("r/resources.py", OWN)
    return project


def declare(project: Project, *lines: str, folder: str = "r") -> None:
    """Write a component, of which each line is a line of `resources`, from the fifth of the file."""
    project.write(f"{folder}/defs.yaml", "")
    text = "type: dagster_metaxy.ResourcesComponent\n\nattributes:\n  resources:\n"
    text += "".join(f"    {line}\n" for line in lines)
    (project.sandbox.defs_folder_path / folder / "defs.yaml").write_text(text)


def told(project: Project) -> str:
    """The first line of the error of loading a project, with paths below its defs."""
    return all_told(project).splitlines()[0]


def all_told(project: Project) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        project.load()
    error = caught.value.__cause__ or caught.value
    text = str(error).replace(str(project.sandbox.defs_folder_path), "defs")
    return text.replace(f"{project.sandbox.project_name}.", "")


def values(project: Project) -> dict[str, Any]:
    """The fields of the resource `own`, as an asset sees them in a run."""
    project.write("assets.py", ASSETS)
    return project.materialize("asked").output_for_node("asked")


class TestFields:
    def test_as_written(self, own: Project) -> None:
        declare(
            own,
            "own:",
            "  type: .resources.Own",
            "  host: localhost",
            "  port: 5432",
            "  safe: true",
            "  ratio: 1",
            "  words: [a, b]",
            "  options: {a: {b: [1]}, env: prod}",
            "  mode: b",
            "  maybe: 3",
            "  inner: {token: x}",
        )
        found = values(own)
        assert found["host"] == "localhost"
        assert (found["port"], found["safe"], found["ratio"]) == (5432, True, 1.0)
        assert (found["words"], found["mode"], found["maybe"]) == (["a", "b"], "b", 3)
        assert found["options"] == {"a": {"b": [1]}, "env": "prod"}
        assert found["inner"] == {"token": "x", "size": 1}

    def test_variables_are_read_when_a_run_starts(
        self, own: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        declare(
            own,
            "own:",
            "  type: .resources.Own",
            "  host: '{{ env.HOST }}'",
            "  port: '{{ env.PORT }}'",
            "  safe: '{{ env.SAFE }}'",
            "  maybe: '{{ env(\"PORT\") }}'",
            "  words: [a, '{{ env.SECRET }}']",
            "  options: {a: {b: ['{{ env.SECRET }}', '{{ env.PORT }}']}, env: prod}",
            "  texts: {a: '{{ env.SECRET }}'}",
            "  inner: {token: '{{ env.SECRET }}', size: '{{ env.PORT }}'}",
            "  mode: \"{{ env('NO_SUCH', 'b') }}\"",
            "  long: '{{ context.project_root }}'",
        )
        # Not set when definitions are loaded.
        monkeypatch.delenv("HOST", raising=False)
        made = own.load().resources["own"]  # type: ignore[index]
        assert isinstance(made.host, dg.EnvVar)
        assert made.long == str(own.root)
        assert SECRET not in str(vars(made._state__internal__.config_schema))
        monkeypatch.setenv("HOST", "far away")
        found = values(own)
        assert found["host"] == "far away"
        assert (found["port"], found["safe"], found["maybe"]) == (99, True, 99)
        assert found["words"] == ["a", SECRET]
        assert found["options"] == {"a": {"b": [SECRET, "99"]}, "env": "prod"}
        assert found["inner"] == {"token": SECRET, "size": 99}
        assert (found["texts"], found["mode"]) == ({"a": SECRET}, "b")

    def test_a_default_gives_way_to_the_variable(self, own: Project) -> None:
        line = "own: {type: .resources.Own, host: x, port: \"{{ env('PORT', 7) }}\"}"
        declare(own, line)
        assert values(own)["port"] == 99
        declare(own, line.replace("PORT", "NO_SUCH"))
        assert values(own)["port"] == 7

    def test_resources_that_need_others(self, own: Project) -> None:
        declare(
            own,
            "needs: {type: .resources.Needs, own: {resource: own}, other: {resource: own}}",
            "own: {type: .resources.Own, host: '{{ env.HOST }}'}",
        )
        own.write(
            "assets.py",
            """
            import dagster as dg


            @dg.asset(required_resource_keys={"needs"})
            def asked(context):
                needs = context.resources.needs
                return [needs.own.host, needs.other.host]
            """,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOST", "there")
            assert own.materialize("asked").output_for_node("asked") == ["there", "there"]

    def test_what_is_a_resource_already(self, own: Project) -> None:
        declare(own, "plain: {type: .resources.plain}", "made: {type: .resources.made}")
        own.write(
            "assets.py",
            """
            import dagster as dg


            @dg.asset(required_resource_keys={"plain", "made"})
            def asked(context):
                return [context.resources.plain, context.resources.made.host]
            """,
        )
        output = own.materialize("asked").output_for_node("asked")
        assert output == ["a plain resource", "made in Python"]

    def test_the_class_is_shown_by_its_name(self, own: Project) -> None:
        declare(own, "own: {type: dagster_metaxy.resources.JsonIOManager, base_path: x}")
        made = own.load().resources["own"]  # type: ignore[index]
        assert isinstance(made, JsonIOManager)
        assert str(type(made)) == "<class 'dagster_metaxy.resources.io_managers.JsonIOManager'>"

    def test_in_python(self) -> None:
        files = JsonIOManager(base_path="x")
        component = ResourcesComponent(resources={"files": files})
        assert component.resources == {"files": files}


FIELDS = "host, port, safe, ratio, words, options, texts, mode, maybe, inner, long"


@pytest.mark.parametrize(
    ("lines", "place", "sentence"),
    [
        (["[a]"], "4:3", "resources: must be a mapping of names to resources"),
        (["own: {host: x}"], "5:10", "own: 'type' is missing: the class of the resource, such as dagster_metaxy.resources.JsonIOManager"),
        (["own: .resources.Own"], "5:10", "own: 'type' is missing: the class of the resource, such as dagster_metaxy.resources.JsonIOManager"),
        (["my-own: {type: .resources.Own}"], "5:5", "'my-own' is no name of a resource: write letters, digits and underscores, and no digit first"),
        (["1st: {type: .resources.Own}"], "5:5", "'1st' is no name of a resource: write letters, digits and underscores, and no digit first"),
        # the class
        (["own: {type: Own}"], "5:17", "'Own' names no class. Write '.resources.Own' for the class 'Own' in resources.py beside this file, or 'package.module.class' for an installed one."),
        (["own: {type: .resource.Own}"], "5:17", "there is no defs/r/resource.py to take 'Own' from"),
        (["own: {type: no_such.Own}"], "5:17", "there is no installed module no_such to take 'Own' from"),
        (["own: {type: .resources.neither}"], "5:17", "own.type: .resources.neither is no resource: neither a class that inherits from dg.ConfigurableResource or dg.ConfigurableIOManager, nor an object made by @dg.resource or @dg.io_manager"),
        (["own: {type: .resources.Abstract}"], "5:17", "own.type: .resources.Abstract is abstract: name a class that inherits from it"),
        (["own: {type: '{{ env.SECRET }}'}"], "5:17", "own.type: must be the dotted path of a class, as text"),
        (["own: {type: .resources.plain, host: x}"], "5:35", "own: .resources.plain is a resource already, and takes no fields"),
        # fields
        (["own: {type: .resources.Own, hosst: x}"], "5:33", f"own.hosst: Own has no such field; it has: {FIELDS}. Did you mean 'host'?"),
        (["own:", "  type: .resources.Own"], "5:5", "own: 'host' is missing (Own)"),
        (["own: {type: .resources.Own, host: x, port: many}"], "5:48", "own.port: must be a valid integer, unable to parse string as an integer (got 'many')"),
        (["own: {type: .resources.Own, host: [x]}"], "5:39", "own.host: must be a valid string (got a list)"),
        (["own: {type: .resources.Own, host: x, mode: c}"], "5:48", "own.mode: must be 'a' or 'b' (got 'c')"),
        (["own:", "  type: .resources.Own", "  host: x", "  words: [a, 1]"], "8:18", "own.words.1: must be a valid string (got 1)"),
        (["own: {type: .resources.Refuses, path: x}"], "5:10", "own: Refuses cannot be made: OSError: no such disk"),
        # templates
        (["own:", "  type: .resources.Own", "  host: 'db.{{ env.SECRET }}'"], "7:13", "own.host: the template fails: {{ env.SECRET }} must be the whole value, since it is read when a run starts: put the whole value into the variable"),
        (["own:", "  type: .resources.Own", "  host: '{{ env.SECRET | upper }}'"], "7:13", "own.host: the template fails: {{ env.SECRET }} must be the whole value, since it is read when a run starts: put the whole value into the variable"),
        (["own:", "  type: .resources.Own", "  host: '{% if env.SECRET %}x{% endif %}'"], "7:13", "own.host: the template fails: {{ env.SECRET }} must be the whole value, since it is read when a run starts: put the whole value into the variable"),
        (["own:", "  type: .resources.Own", "  host: x", "  ratio: '{{ env.SECRET }}'"], "8:14", "own.ratio: Dagster reads texts, whole numbers and truth values from the environment, and no float; write the value itself"),
        (["own:", "  type: .resources.Own", "  host: x", "  long: '{{ env.PORT }}'"], "8:13", "own.long: Own looks at the value before it is read from the environment (String should have at least 8 characters); write the value itself"),
        (["own: {type: .resources.Own, host: '{{ nothing }}'}"], "5:39", "own.host: the template fails: 'nothing' not found in scope"),
        # others
        (["a: {type: .resources.Needs, own: {resource: b}, other: {resource: b}}"], "5:49", "a.own: there is no resource 'b' in this file; there are: a."),
        (["a: {type: .resources.Needy, needs: {resource: b}}", "b: {type: .resources.Needy, needs: {resource: a}}"], "6:51", "b.needs: resources need each other in a circle: a -> b -> a"),
        # ready-made ones
        (["db: {type: dagster_metaxy.resources.DatabaseResource}"], "5:9", "db: write a `url`, or `host`, `database`, `user` and `password`"),
        (["db:", "  type: dagster_metaxy.resources.DatabaseResource", "  url: '{{ env.SECRET }}'", "  host: x"], "5:5", "db: a `url` says all: remove host, or the url"),
        (["db: {type: dagster_metaxy.resources.DatabseResource}"], "5:16", "resources/__init__.py has no class 'DatabseResource'"),
        (["api: {type: dagster_metaxy.resources.ApiResource, base_url: x, timeout: 0}"], "5:77", "api.timeout: must be greater than 0 (got 0)"),
        (["m: {type: dagster_metaxy.resources.MetaxyStoreResource, name: nope}"], "5:67", "m.name: metaxy.toml has no store 'nope'; it has: dev"),
        (["m: {type: dagster_metaxy.resources.MetaxyIOManager, store: nope}"], "5:64", "m.store: metaxy.toml has no store 'nope'; it has: dev"),
    ],
)  # fmt: skip
def test_mistakes(own: Project, lines: list[str], place: str, sentence: str) -> None:
    declare(own, *lines)
    found = told(own)
    assert found.startswith(f"defs/r/defs.yaml:{place}: ")
    assert sentence in found
    assert SECRET not in found


def test_all_mistakes_of_a_file_are_told_at_once(own: Project) -> None:
    declare(
        own,
        "a: {type: .resources.Own, hosst: x, prt: 1}",
        "b: {type: .resources.Needs, own: {resource: a}, other: {resource: c}}",
        "c: {type: .resources.Own, host: x}",
        "m: {type: dagster_metaxy.resources.MetaxyStoreResource, name: nope}",
    )
    found = all_told(own)
    assert found.startswith("defs/r/defs.yaml:5:31: a.hosst: Own has no such field")
    also = found.partition("\nAlso wrong:\n")[2].splitlines()
    assert [line.partition("defs.yaml:")[2][:12] for line in also] == [
        "5:41: a.prt:",
        "8:67: m.name",
    ]


def test_an_extra_that_is_not_installed(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for name, fields, needs in (
        ("DatabaseResource", "url: x", "needs sqlalchemy, .*dagster-metaxy[database]"),
        ("ApiResource", "base_url: x", "needs httpx, .*dagster-metaxy[api]"),
        ("ParquetIOManager", "base_path: x", "needs dagster_polars, .*dagster-metaxy[parquet]"),
        ("JsonIOManager", "base_path: s3://b", "at s3:// needs s3fs, .*dagster-metaxy[s3]"),
    ):
        declare(own, f"it: {{type: dagster_metaxy.resources.{name}, {fields}}}")
        pattern = re.escape(needs).replace(r"\.\*", "which is not installed: pip install '")
        assert re.search(f"defs.yaml:5:16: it: {name} {pattern}'$", told(own))


def test_two_components_with_a_name(own: Project) -> None:
    line = "own: {type: .resources.made}"
    declare(own, line)
    declare(own, "other: {type: r.resources.made}", folder="b")
    declare(own, "own: {type: dagster_metaxy.resources.JsonIOManager, base_path: x}", folder="b")
    found = told(own)
    assert found.startswith(
        "defs/b/defs.yaml:5:10: the resource 'own' is defined twice: here and at "
    )
    assert found.endswith("defs/r/defs.yaml:5:10")


def test_a_name_that_python_has(own: Project) -> None:
    declare(own, "own: {type: .resources.made}")
    own.write(
        "hand.py",
        """
        import dagster as dg


        @dg.definitions
        def defs():
            return dg.Definitions(resources={"own": 1})
        """,
    )
    found = told(own)
    assert found.endswith("defs.yaml:5:10: the resource 'own' is defined twice: here and in Python")


def test_no_resource_in_python(project: Project) -> None:
    project.write(
        "r/component.py",
        """
        import dagster as dg

        from dagster_metaxy import ResourcesComponent


        @dg.component_instance
        def load(context):
            return ResourcesComponent(resources={"own": 3})
        """,
    )
    assert told(project) == "own: 3 is no Dagster resource"


@pytest.mark.parametrize("style", ["yaml", "python"])
def test_the_scaffold_runs_as_written(project: Project, style: str) -> None:
    before = Path.cwd()
    os.chdir(project.root)
    try:
        result = CliRunner().invoke(
            create_dg_cli(),
            ["scaffold", "defs", "ResourcesComponent", "resources", "--format", style],
        )
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    project.write(
        "assets.py",
        """
        import dagster as dg


        @dg.asset(io_manager_key="json_files")
        def kept():
            return {"a": 1}
        """,
    )
    assert project.materialize("kept").success
    assert (project.root / "data/json/kept.json").read_text() == '{"a": 1}'


def test_all_that_the_scaffold_shows(project: Project) -> None:
    from dagster_metaxy.components.resources.scaffolder import _YAML

    # What is commented out, but sentences.
    shown = re.sub(r"^    # (?=( *[a-z_]+:)( |$))", "    ", _YAML, flags=re.M)
    shown = re.sub(r"^    mine:\n.*\n", "", shown, flags=re.M)
    project.write("resources/defs.yaml", shown)
    assert set(project.load().resources or ()) == {
        "json_files", "parquet_files", "database", "api", "metaxy", "metaxy_io",
    }  # fmt: skip


# --- secrets -------------------------------------------------------------------------------------


def log_text(project: Project, **fields: str) -> tuple[bool, str]:
    """Whether a run that asks for the resource `own` succeeds, and all events of it."""
    declare(project, "own:", *(f"  {key}: {value}" for key, value in fields.items()))
    project.write("assets.py", ASSETS)
    defs = project.load()
    job = defs.get_repository_def().get_implicit_job_def_for_assets([dg.AssetKey("asked")])
    assert job is not None
    try:
        result = job.execute_in_process(instance=project.instance, raise_on_error=False)
    except dg.DagsterInvalidConfigError:  # before there is a run
        return False, traceback.format_exc()
    logs = project.instance.all_logs(result.run_id)
    return result.success, "\n".join(dg.serialize_value(entry) for entry in logs)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        # a value that the class refuses
        ({"type": ".resources.Own", "host": "'{{ env.SECRET }}'"}, "is no host"),
        ({"type": ".resources.Own", "host": "x", "port": "'{{ env.SECRET }}'"}, "cannot be coerced into an int"),
        ({"type": ".resources.Own", "host": "x", "options": "{a: '{{ env.NO_SUCH }}'}"}, "NO_SUCH is not set"),
        ({"type": ".resources.Own", "host": "'{{ env.NO_SUCH }}'"}, "NO_SUCH"),
        ({"type": "dagster_metaxy.resources.DatabaseResource", "url": "'{{ env.SECRET }}'"}, "the url cannot be read"),
        ({"type": "dagster_metaxy.resources.DatabaseResource", "url": "'{{ env.BAD_PORT }}'"}, "the url cannot be read"),
        ({"type": "dagster_metaxy.resources.DatabaseResource", "url": "'{{ env.BAD_DIALECT }}'"}, "knows no database 'nosuch'"),
        ({"type": "dagster_metaxy.resources.ApiResource", "base_url": "'{{ env.SECRET }}'"}, "base_url must begin with"),
        ({"type": "dagster_metaxy.resources.ApiResource", "base_url": "'{{ env.BAD_API }}'"}, "must hold no user"),
    ],
)  # fmt: skip
def test_errors_of_a_run_tell_no_secret(
    own: Project, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], said: str
) -> None:
    monkeypatch.setenv("BAD_PORT", f"postgresql://me:x@db:{SECRET}/media")
    monkeypatch.setenv("BAD_DIALECT", f"nosuch://me:{SECRET}@db/media")
    monkeypatch.setenv("BAD_API", f"https://me:{SECRET}@api/v1")
    success, text = log_text(own, **fields)
    assert not success
    assert said in text
    assert SECRET not in text


def test_no_secret_leaves_the_run(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Neither what `dg` prints nor any file of Dagster's holds a secret, whether the run succeeds or
    fails; nor where a server refuses a password or a key, and repeats it in its answer."""
    package = tmp_path / "src/demo"
    (package / "defs/resources").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(
        "from pathlib import Path\nfrom dagster import definitions, load_from_defs_folder\n\n\n"
        "@definitions\ndef defs():\n"
        "    return load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "demo"\n'
    )
    (package / "defs/resources/defs.yaml").write_text(
        f"""\
type: dagster_metaxy.ResourcesComponent
attributes:
  resources:
    database:
      type: dagster_metaxy.resources.DatabaseResource
      url: "{{{{ env.DB }}}}"
    away:
      type: dagster_metaxy.resources.DatabaseResource
      host: 127.0.0.1
      port: "{{{{ env.CLOSED_PORT }}}}"
      database: media
      user: me
      password: "{{{{ env.PASSWORD }}}}"
    api:
      type: dagster_metaxy.resources.ApiResource
      base_url: http://127.0.0.1:9
      api_key: "{{{{ env.PASSWORD }}}}"
      retries: 0
    files:
      type: dagster_metaxy.resources.JsonIOManager
      base_path: {tmp_path}/data
      storage_options: {{key: "{{{{ env.PASSWORD }}}}"}}
    refused:
      type: dagster_metaxy.resources.ApiResource
      base_url: "{{{{ env.AWS_ENDPOINT_URL }}}}"
      api_key: "{{{{ env.AWS_ACCESS_KEY_ID }}}}"
    postgres:
      type: dagster_metaxy.resources.DatabaseResource
      url: "{{{{ env.POSTGRES }}}}"
"""
    )
    (package / "defs/assets.py").write_text(
        """\
import dagster as dg

from dagster_metaxy.locations import status
from dagster_metaxy.resources import ApiError, ApiResource, DatabaseResource


@dg.asset(io_manager_key="files")
def good(context, database: DatabaseResource, api: ApiResource):
    context.log.info(f"{database} {api} {database.engine}")
    try:
        api.get("x", {"token": "in-the-query"})
    except ApiError as error:
        context.log.warning(f"{error} {error!r}")
    return database.query("select 1 as one").to_dicts()


@dg.asset
def bad(context, away: DatabaseResource, refused: ApiResource, postgres: DatabaseResource):
    for ask in (
        lambda: refused.get("x"),
        lambda: postgres.query("select 1"),
        lambda: status("s3://nobodys/x.mp4"),
    ):
        try:
            ask()
        except Exception as error:
            context.log.warning(f"refused: {error} {error!r} {error.__cause__!r}")
    away.query("select 1")
"""
    )
    refusing = Proxy("http://127.0.0.1:9")
    request.addfinalizer(refusing.close)
    refusing.fault = lambda method, path: 403
    postgres = urlsplit(os.environ.get("DAGSTER_METAXY_TEST_POSTGRES", "//127.0.0.1:9"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    env = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(tmp_path / "src"),
        "PASSWORD": SECRET,
        "DB": f"sqlite:///{tmp_path}/x.db?timeout=5&cached_statements=128",
        "CLOSED_PORT": "9",
        "POSTGRES": f"postgresql+psycopg://me:{SECRET}@127.0.0.1:{postgres.port}/postgres",
        "COLUMNS": "300",
        **environment(refusing.endpoint, KEY_ID, SECRET),
    }
    dg_command = [Path(sys.executable).parent / "dg"]

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*dg_command, *arguments],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    listed = run("list", "defs", "--json")
    good = run("launch", "--assets", "good")
    bad = run("launch", "--assets", "bad")
    assert listed[0] == 0, listed[1]
    assert "DatabaseResource" in listed[1]
    assert good[0] == 0, good[1]
    assert bad[0] != 0
    assert "postgresql+psycopg://me:***@127.0.0.1:9/media cannot be reached" in bad[1]
    assert bad[1].count("refused: ") == 3
    assert len(refusing.requests) == 2
    for _, text in (listed, good, bad):
        assert SECRET not in text
        assert KEY_ID not in text
        assert "in-the-query" not in text
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    for secret in (SECRET, KEY_ID):
        assert [p for p in files if secret.encode() in p.read_bytes()] == []
