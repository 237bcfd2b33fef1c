"""What is to be done, and why, before anything is; and what a run is asked to do beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from worlds import RUNTIME, World, update

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation
from dagster_metaxy.increment.conditions import ConditionError
from dagster_metaxy.increment.outcome import Counts, Outcome, UpdateError
from dagster_metaxy.increment.quarantine import Quarantine
from dagster_metaxy.increment.selection import Scope, Selection
from dagster_metaxy.increment.update import SampleError, Update


class Counting:
    """A compute that counts its calls; docs in `bad` fail."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.calls: list[str] = []

    def __call__(self, sample: Any) -> dict[str, Any]:
        self.calls.append(sample["doc"])
        if sample["doc"] in self.bad:
            raise ValueError("bad")
        return {"words": sample["pages"]}


def plan(world: World, updating: Update, **selection: Any) -> dict[str, tuple[str, str]]:
    with world.store.open("r") as store:
        found = updating.plan(store, selection=Selection(**selection))
    return {name.partition("=")[2]: (why, detail) for name, why, detail in found.rows()}


def run(world: World, updating: Update, **selection: Any) -> Outcome:
    runtime = replace(RUNTIME, selection=Selection(**selection))
    return updating.run(world.store, Scope(), runtime)


def words(world: World, compute: Any, version: str = "1", **options: Any) -> Update:
    return update(
        world,
        world.define(
            Feature(
                "t/words",
                ("doc",),
                {"words": Column("int")},
                fields=(
                    {
                        "key": "words",
                        "code_version": version,
                        "deps": [{"feature": "t/docs", "fields": ["text"]}],
                    },
                ),
                deps=({"feature": "t/docs"},),
            )
        ),
        compute,
        **options,
    )


def test_reasons(world: World) -> None:
    compute = Counting("c")
    updating = words(world, compute)
    world.put(a=("1", "1", 1), b=("1", "1", 1), c=("1", "1", 1))
    assert {name: why for name, (why, _) in plan(world, updating).items()} == dict.fromkeys(
        "abc", "new"
    )
    run(world, updating)
    world.put(b=("2", "1", 1), d=("1", "1", 1))
    world.drop("a")
    found = plan(world, updating)
    why, detail = found.pop("c")
    assert why == "quarantined"
    assert "1 attempt failed: ValueError: bad (" in detail
    assert found == {
        "b": ("input changed", "t/docs: text 1 -> 2"),
        "d": ("new", ""),
        "a": ("orphaned", "no longer in t/docs"),
    }
    # What was never computed comes first, what has failed last.
    del compute.calls[:]
    outcome = run(world, updating, retry_quarantined=True)
    assert compute.calls == ["d", "b", "c"]
    assert outcome.plan is not None
    assert outcome.plan.counts == {"new": 1, "input changed": 1, "retry": 1, "orphaned": 1}
    (why, detail) = plan(world, updating)["c"]
    assert "2 attempts failed" in detail


def test_quarantine_ends_with_another_input_or_code_or_when_asked(world: World) -> None:
    compute = Counting("b", "c")
    updating = words(world, compute)
    world.put(a=("1", "1", 1), b=("1", "1", 1), c=("1", "1", 1))
    run(world, updating)
    del compute.calls[:]
    run(world, updating)
    assert compute.calls == []
    world.put(b=("2", "1", 1))
    assert plan(world, updating)["b"] == ("new", "")
    assert plan(world, updating)["c"][0] == "quarantined"
    run(world, updating)
    assert compute.calls == ["b"]
    assert "1 attempt failed" in plan(world, updating)["b"][1]  # of this input
    # Named by itself, it is asked for; a limit or a share asks for nothing.
    run(world, updating, limit=5)
    run(world, updating, only={"c"})
    assert compute.calls == ["b", "c"]
    run(world, updating, force="doc = 'c'")
    assert compute.calls == ["b", "c", "c"]
    compute.bad.clear()
    run(world, words(world, compute, "2"))
    assert sorted(compute.calls[3:]) == ["a", "b", "c"]
    # A sample that was fine before, and is quarantined now, keeps its row.
    compute.bad.add("a")
    world.put(a=("2", "1", 9))
    run(world, words(world, compute, "2"))
    outcome = run(world, words(world, compute, "2"))
    assert outcome.total == Counts(quarantined=1)
    assert {row["doc"]: row["words"] for row in world.rows("t/words")} == dict.fromkeys("abc", 1)
    # Back to the input that was computed once: nothing to do, and nothing failed.
    world.put(a=("1", "1", 1))
    outcome = run(world, words(world, compute, "2"))
    assert outcome.total == Counts()
    assert outcome.remaining is not None
    assert not outcome.remaining.failed


def test_transient_errors_are_tried_up_to_max_attempts(world: World) -> None:
    calls: list[str] = []
    errors: dict[str, Exception] = {
        "a": ConnectionRefusedError("away"),
        "b": ValueError("bad"),
        "c": TimeoutError("slow"),
    }

    def compute(sample: Any) -> dict[str, Any]:
        calls.append(sample["doc"])
        raise errors[sample["doc"]]

    # By a base class, and by a name with its module.
    quarantine = Quarantine({"ConnectionError", "builtins.TimeoutError", "json.ValueError"}, 3)
    updating = words(world, compute, quarantine=quarantine)
    world.put(**dict.fromkeys(errors, ("1", "1", 1)))
    for _ in range(5):
        run(world, updating)
    assert sorted(calls) == ["a", "a", "a", "b", "c", "c", "c"]
    assert plan(world, updating)["a"][0] == "quarantined"
    more = words(world, compute, quarantine=Quarantine({"ConnectionError"}, 4))
    assert {doc: why for doc, (why, _) in plan(world, more).items()} == {
        "a": "retry",
        "b": "quarantined",
        "c": "quarantined",
    }


def test_where_a_failed_sample_stops_the_run_nothing_is_quarantined(world: World) -> None:
    compute = Counting("a")
    updating = words(world, compute, on_error="fail")
    world.put(a=("1", "1", 1))
    for _ in range(2):
        with pytest.raises(SampleError):
            run(world, updating)
    assert compute.calls == ["a", "a"]


def test_a_class_that_cannot_be_made_quarantines_nothing(world: World) -> None:
    made: list[int] = []

    class Model:
        def __init__(self) -> None:
            made.append(1)
            raise ConnectionError("the hub is away")

        def __call__(self, sample: Any) -> dict[str, Any]:
            raise AssertionError

    world.put(a=("1", "1", 1), b=("1", "1", 1), c=("1", "1", 1))
    updating = words(world, Model)
    with pytest.raises(
        UpdateError, match=r"Model cannot be made: ConnectionError: the hub is away"
    ):
        run(world, updating)
    assert len(made) < 3
    assert {why for why, _ in plan(world, updating).values()} == {"new"}


def test_a_compute_that_exits_fails_its_sample_only(world: World) -> None:
    def compute(sample: Any) -> dict[str, Any]:
        if sample["doc"] == "a":
            raise SystemExit(3)
        return {"words": 1}

    world.put(a=("1", "1", 1), b=("1", "1", 1))
    (failed,) = run(world, words(world, compute)).failed
    assert str(failed).startswith("doc=a: RuntimeError: the compute called sys.exit(3)")
    assert {row["doc"] for row in world.rows("t/words")} == {"b"}


def test_a_long_message_is_cut(world: World) -> None:
    def compute(sample: Any) -> dict[str, Any]:
        raise ValueError("x" * 100_000)

    world.put(a=("1", "1", 1))
    (failed,) = run(world, words(world, compute)).failed
    assert len(failed.message) < 3_000


def test_artifacts_that_would_be_deleted(world: World) -> None:
    def compute(sample: Any, context: Any) -> dict[str, Any]:
        context.artifact("words.txt").write_text("x")
        return {"words": 1}

    updating = words(world, compute)
    world.put(a=("1", "1", 1), b=("1", "1", 1), c=("1", "1", 1))
    outcome = run(world, updating)
    assert outcome.artifacts == {"text/plain": (3, 3)}
    world.put(b=("2", "1", 1))
    world.drop("a")
    with world.store.open("r") as store:
        folders = [Path(str(folder)) for folder in updating.plan(store).artifacts]
    assert [
        folder.relative_to(world.root / "artifacts/t__words").parts[0] for folder in folders
    ] == [
        "a",
        "b",
    ]
    assert all(folder.is_dir() for folder in folders)
    run(world, updating)
    assert not any(folder.is_dir() for folder in folders)


def test_a_field_that_does_not_count_is_no_reason(world: World) -> None:
    updating = words(world, Counting())
    world.put(a=("1", "1", 1))
    run(world, updating)
    world.put(a=("1", "2", 1))
    assert plan(world, updating) == {}


def test_another_code_version(world: World) -> None:
    world.put(a=("1", "1", 1))
    run(world, words(world, Counting()))
    assert plan(world, words(world, Counting(), "2")) == {"a": ("code version", "words: 1 -> 2")}


def test_an_upstream_with_other_code(world: World) -> None:
    world.put(a=("1", "1", 1))
    updating = words(world, Counting())
    run(world, updating)
    world.docs = replace(
        world.docs, fields=({"key": "text", "code_version": "9"}, {"key": "title"})
    )
    world.docs.register("t")
    updating = words(world, Counting())
    world.put(a=("2", "1", 1))
    assert plan(world, updating) == {"a": ("upstream recomputed", "t/docs by other code")}


def test_members_of_a_group(world: World) -> None:
    pages = update(world, world.pages(), lambda s: [{"page": n} for n in range(s["pages"])])
    world.put(a=("1", "1", 2))
    run(world, pages)
    counted = world.define(
        Feature(
            "t/counts",
            ("doc",),
            {"count": Column("int")},
            deps=({"feature": "t/pages", "lineage": aggregation(["doc"])},),
        )
    )
    counting = update(world, counted, lambda samples: {"count": len(samples)})
    run(world, counting)
    world.put(a=("2", "1", 3))
    run(world, pages)
    why, detail = plan(world, counting)["a"]
    assert why == "input changed"
    assert "t/pages: 2 -> 3 samples" in detail


def test_a_parent_without_children_is_done(world: World) -> None:
    calls = []

    def compute(sample: Any) -> list[dict[str, Any]]:
        calls.append(sample["doc"])
        return [{"page": n} for n in range(sample["pages"])]

    updating = update(world, world.pages(), compute)
    world.put(a=("1", "1", 0), b=("1", "1", 2))
    for _ in range(2):
        outcome = run(world, updating)
        assert not outcome.failed
    assert sorted(calls) == ["a", "b"]
    with world.store.open("r") as store:
        assert not updating.plan(store).pending
    # Children that a reprocessed parent no longer has go, and stay away.
    world.put(b=("2", "1", 0))
    for _ in range(2):
        run(world, updating)
    assert sorted(calls) == ["a", "b", "b"]
    assert world.rows("t/pages") == []


def test_force(world: World) -> None:
    compute = Counting()
    updating = words(world, compute)
    world.put(a=("1", "1", 1), b=("1", "1", 5))
    run(world, updating)
    assert {why for why, _ in plan(world, updating, force=True).values()} == {"forced"}
    run(world, updating, force=True)
    run(world, updating, force="pages > 3")
    assert sorted(compute.calls) == ["a", "a", "b", "b", "b"]
    assert len(world.rows("t/words")) == 2
    for wrong, message in (("pages >", "no condition"), ("size > 3", "they have: doc, pages")):
        with pytest.raises(ConditionError, match=message):
            run(world, updating, force=wrong)


def test_only_some(world: World) -> None:
    compute = Counting()
    updating = words(world, compute)
    world.put(**dict.fromkeys("abcdef", ("1", "1", 1)))
    run(world, updating, only={"b", "doc=c"})
    assert sorted(compute.calls) == ["b", "c"]
    outcome = run(world, updating, only={"b", "doc=nobody"})
    assert (
        "nothing to do for b, doc=nobody: there is no such sample, or it is up to date"
        in " ".join(outcome.notes)
    )
    world.drop("b")
    run(world, updating, only={"a"})
    assert {row["doc"] for row in world.rows("t/words")} == {"a", "b", "c"}
    outcome = run(world, updating, limit=2)
    assert len(compute.calls) == 5
    assert "1 sample was not asked for" in outcome.notes
    assert {row["doc"] for row in world.rows("t/words")} >= {"a", "c"}
    assert "b" not in {row["doc"] for row in world.rows("t/words")}


def test_a_subsample_is_always_the_same(world: World) -> None:
    world.put(**{f"d{n}": ("1", "1", 1) for n in range(200)})
    first, second = Counting(), Counting()
    run(world, words(world, first), subsample=0.2)
    assert 20 < len(first.calls) < 60
    run(world, words(world, second), subsample=0.5)
    assert not set(first.calls) & set(second.calls)
    taken = Selection(subsample=0.5)
    assert all(taken.takes((doc,), f"doc={doc}") for doc in first.calls)


def test_on_error_fail_keeps_what_is_done(world: World) -> None:
    world.put(a=("1", "1", 1), b=("1", "1", 1), c=("1", "1", 1))
    compute = Counting("b")
    updating = words(world, compute, on_error="fail")
    with pytest.raises(SampleError, match="doc=b: ValueError: bad"):
        run(world, updating)
    # What is under way when it fails is not waited for.
    assert {row["doc"] for row in world.rows("t/words")} == {"a"}


def test_cost_and_expectation(world: World) -> None:
    def compute(sample: Any, context: Any) -> dict[str, Any]:
        context.artifact("deep/file.txt").write_text("x" * 100)
        return {"words": 1}

    updating = words(world, compute)
    world.put(a=("1", "1", 1))
    outcome = run(world, updating)
    assert outcome.costs.total.bytes_written == 100
    assert [name for name, _ in outcome.costs.costliest] == ["doc=a"]
    world.put(b=("1", "1", 1), c=("1", "1", 1))
    with world.store.open("r") as store:
        seconds = updating.plan(store).seconds
    assert seconds == pytest.approx(2 * outcome.costs.total.seconds)


@pytest.mark.parametrize("name", ["", "../x", "a/../../x", "/etc/x"])
def test_names_of_artifacts(world: World, name: str) -> None:
    def compute(sample: Any, context: Any) -> dict[str, Any]:
        context.artifact(name)
        return {"words": 1}

    world.put(a=("1", "1", 1))
    assert run(world, words(world, compute)).failed[0].error == "ValueError"


def test_a_lost_ledger_loses_explanations_only(world: World) -> None:
    import shutil

    compute = Counting()
    updating = words(world, compute)
    world.put(a=("1", "1", 1), b=("1", "1", 1))
    run(world, updating)
    (ledger,) = (world.root / "data/metaxy").rglob("*ledger*.delta")
    shutil.rmtree(ledger)
    world.put(b=("2", "1", 1))
    assert plan(world, updating) == {"b": ("input or code changed", "")}
    run(world, updating)
    assert sorted(compute.calls) == ["a", "b", "b"]


def test_force_computes_parents_without_children_too(world: World) -> None:
    calls: list[str] = []

    def compute(sample: Any) -> list[dict[str, Any]]:
        calls.append(sample["doc"])
        return [{"page": n} for n in range(sample["pages"])]

    updating = update(world, world.pages(), compute)
    world.put(a=("1", "1", 0), b=("1", "1", 1))
    run(world, updating)
    assert plan(world, updating) == {}
    run(world, updating, force=True)
    assert sorted(calls) == ["a", "a", "b", "b"]
    world.put(a=("2", "1", 2))
    run(world, updating)
    assert sorted(calls) == ["a", "a", "a", "b", "b"]


def test_force_refuses_a_null_id_once(world: World) -> None:
    updating = words(world, Counting())
    world.put(a=("1", "1", 1), **{"": ("1", "1", 1)})
    with world.store.open("w") as store:
        rows = store.read("t/docs").collect().to_native()
        null = rows.filter(rows["doc"] == "").with_columns(doc=pl.lit(None, pl.String))
        store.write("t/docs", null.select("doc", "pages", "metaxy_provenance_by_field"))
    assert run(world, updating, force=True).total.failed == 1
