"""Random graphs and random changes, failures and kills, against a model of what must be.

The model knows nothing of stores or hashes: a version of a sample is what it was computed from. Set
`MODEL_EXAMPLES` to try more graphs, each time others, and `MODEL_SHRINK=1` to find, in some minutes,
the smallest that fails.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metaxy as mx
from graphs import CHUNK, DOCS, Codes, Ids, Node, Project, Row, content, interrupted, killed
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.increment.selection import Selection

FAILED, EMPTY, DONE = "failed", "empty", "done"
Version = tuple[Any, ...]
Docs = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Sample:
    """What there is to compute: from which version, and from which rows."""

    version: Mapping[str, int]
    inputs: list[Row]


@dataclass
class Made:
    """What a sample was computed from, and the rows that it gave, by their ids."""

    version: Mapping[str, int]
    rows: dict[Ids, Row]


class Model:
    """What the store holds, and what there is to do.

    Rows are of the feature version that they were made under, which is that of all code they come
    from: others are not seen, until the code is reverted.
    """

    def __init__(self, nodes: Mapping[str, Node], codes: Codes) -> None:
        self.nodes = nodes
        self.codes = codes
        self.made: dict[str, dict[int, dict[Ids, Made]]] = {name: {} for name in nodes}
        self.last: dict[str, dict[Ids, tuple[Any, str]]] = {name: {} for name in nodes}
        """How the compute of a sample ended last, by the version of its input."""
        self.gone: dict[str, set[Ids]] = {name: set() for name in nodes}
        """Rows of which it is known, under whatever code, that they are no more."""
        self.written: set[str] = set()
        self._numbers: dict[Any, int] = {}

    def _number(self, *what: Any) -> int:
        """One number for equal versions: nested, they grow too big."""
        return self._numbers.setdefault(what, len(self._numbers))

    def code(self, name: str, field: str) -> int:
        """The version of all code that a field comes from."""
        node = self.nodes[name]
        reads = sorted((u, f, self.code(u, f)) for u, f in node.reads.get(field, ()))
        return self._number(name, field, self.codes[name][field], *reads)

    def now(self, name: str) -> dict[Ids, Made]:
        """What is there of the code of now."""
        code = self._number(*(self.code(name, f) for f in self.nodes[name].fields))
        return self.made[name].setdefault(code, {})

    def rows(self, name: str) -> dict[Ids, tuple[Mapping[str, int], Row]]:
        """Its rows, with their versions."""
        return {
            ids: (made.version, row)
            for made in self.now(name).values()
            for ids, row in made.rows.items()
        }

    def older(self, name: str) -> set[Ids]:
        """Rows of other code only, of which nobody knows yet whether they are no more."""
        ids = {i for code in self.made[name].values() for made in code.values() for i in made.rows}
        return ids - set(self.rows(name)) - self.gone[name]

    def parents(self, name: str, rows: Iterable[Ids]) -> set[Ids]:
        return {ids[: len(self.nodes[name].parents)] for ids in rows}

    def samples(self, name: str) -> dict[Ids, Sample]:
        """What there is to compute from the rows upstream, done or not."""
        node = self.nodes[name]
        ups = {up: self.rows(up) for up in node.ups}
        groups: dict[Ids, list[Ids]] = {}
        for ids in sorted(set.intersection(*map(set, ups.values()))):
            groups.setdefault(ids[: len(node.parents)], []).append(ids)
        return {
            ids: Sample(
                {
                    field: self._number(
                        name,
                        field,
                        self.codes[name][field],
                        *((u, f, *(ups[u][i][0][f] for i in group)) for u, f in node.reads[field]),
                    )
                    for field in node.fields
                },
                [{k: v for up in node.ups for k, v in ups[up][i][1].items()} for i in group],
            )
            for ids, group in groups.items()
        }

    def todo(self, name: str) -> tuple[set[Ids], set[Ids]]:
        """The samples to compute, and those to hold back."""
        tasks, held = set(), set()
        made, last = self.now(name), self.last[name]
        for ids, sample in self.samples(name).items():
            if ids in made and made[ids].version == sample.version:
                continue
            match last.get(ids):
                case (version, "failed") if version == sample.version:
                    held.add(ids)
                case (version, "empty") if version == sample.version and ids not in made:
                    pass  # a run that was killed before its note has rows from since then
                case _:
                    tasks.add(ids)
        return tasks, held

    def unknown(self, name: str) -> set[Ids]:
        """Samples that may come from rows upstream that are not seen for their code."""
        width = len(self.nodes[name].parents)
        return {ids[:width] for up in self.nodes[name].ups for ids in self.older(up)}

    def orphans(self, name: str) -> set[Ids]:
        there = set(self.now(name)) | self.parents(name, self.older(name))
        return there - set(self.samples(name)) - self.unknown(name)

    def outputs(self, name: str, sample: Sample) -> dict[Ids, Row]:
        node = self.nodes[name]
        return {
            tuple(row[c] for c in node.ids): row
            for row in node.outputs(self.codes[name], sample.inputs)
        }

    def delete(self, name: str, ids: Iterable[Ids]) -> None:
        """Delete samples, whatever code they come from."""
        for made in self.made[name].values():
            for i in ids:
                made.pop(i, None)

    def clear(self, name: str, ids: Ids, rows: Iterable[Ids] = ()) -> None:
        """Take away the rows of a sample if there are others than these.

        Those of other code come back with it, unless they are deleted for good.
        """
        there = {row for row in {*self.older(name), *self.rows(name)} if row[: len(ids)] == ids}
        if there - {*rows}:
            if self.nodes[name].hard:
                self.delete(name, {ids})
            self.now(name).pop(ids, None)
            self.gone[name] |= there

    def write(self, name: str, ids: Ids, version: Mapping[str, int], rows: dict[Ids, Row]) -> None:
        """Write the rows of a sample instead of those there are."""
        self.clear(name, ids, rows)
        if rows:
            self.now(name)[ids] = Made(version, rows)
            self.gone[name] -= set(rows)
            self.written.add(name)

    def lists(self, docs: Docs) -> bool:
        """Whether the root has just these documents."""
        now = {doc: tuple(made.version.values()) for (doc,), made in self.now(DOCS).items()}
        return now == docs and {doc for (doc,) in self.older(DOCS)} <= {*docs}

    def list(self, docs: Docs) -> int:
        """Have the root list documents; gives how many differ from what it had."""
        now, written = self.now(DOCS), 0
        known = {*self.older(DOCS), *now}
        for doc, (text, title) in docs.items():
            version = {"text": text, "title": title}
            if (doc,) not in now or now[doc,].version != version:
                row = {"doc": doc, "docs_text": text, "docs_title": title}
                self.write(DOCS, (doc,), version, {(doc,): row})
                written += 1
        self.delete(DOCS, known - {(doc,) for doc in docs})
        return written

    def from_nothing(self, docs: Docs) -> dict[str, dict[Ids, Row]]:
        """The rows of each feature if all was computed anew."""
        fresh = Model(self.nodes, self.codes)
        fresh.list(docs)
        for name in list(self.nodes)[1:]:
            for ids, sample in fresh.samples(name).items():
                fresh.write(name, ids, sample.version, fresh.outputs(name, sample))
        return {name: {i: row for i, (_, row) in fresh.rows(name).items()} for name in self.nodes}


@st.composite
def reads(draw: st.DrawFn, ups: list[Node]) -> dict[str, tuple[tuple[str, str], ...]]:
    """What the fields of a feature read: of each one upstream all, one each, or both the same one."""
    found: dict[str, tuple[tuple[str, str], ...]] = {"x": (), "y": ()}
    for up in ups:
        one, other = ((up.name, field) for field in up.fields)
        x, y = draw(
            st.sampled_from(
                [
                    ((one,), (one,)),
                    ((other,), (other,)),
                    ((one,), (other,)),
                    ((one, other), (one, other)),
                ]
            )
        )
        found = {"x": (*found["x"], *x), "y": (*found["y"], *y)}
    return found


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Node]:
    """A root, and two or three features that are computed."""
    nodes = {DOCS: Node(DOCS, "root")}
    for number in range(draw(st.integers(2, 3))):
        by_level = {p: [n for n in nodes.values() if n.paged == p] for p in (False, True)}
        kinds = ["expand", "map", "join"] + (["collect"] if by_level[True] else [])
        kind = draw(st.sampled_from(kinds))
        paged = {"expand": False, "collect": True}.get(kind)
        if paged is None:
            paged = bool(by_level[True]) and draw(st.booleans())
        ups = [draw(st.sampled_from(by_level[paged]))]
        if kind == "join" and (others := [n for n in by_level[paged] if n not in ups]):
            ups.append(draw(st.sampled_from(others)))
        name = f"f{number}"
        nodes[name] = Node(
            name,
            "map" if kind == "join" else kind,  # type: ignore[arg-type]
            tuple(up.name for up in ups),
            draw(reads(ups)),
            paged=kind == "expand" or (paged and kind != "collect"),
            files=draw(st.booleans()),
            hard=draw(st.booleans()),
        )
    return nodes


VALUES = st.integers(0, 3)
INDEX = st.integers(0, 11)


class Machine(RuleBasedStateMachine):
    """What users do, and what goes wrong."""

    @initialize(nodes=graphs(), docs=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=3))
    def begin(self, nodes: dict[str, Node], docs: list[tuple[int, int]]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.exits = ExitStack()
        mx.MetaxyConfig.reset()
        self.exits.callback(mx.MetaxyConfig.reset)
        self.exits.enter_context(mx.FeatureGraph().use())
        codes = {name: dict.fromkeys(node.fields, 0) for name, node in nodes.items()}
        named = {"abc"[n]: doc for n, doc in enumerate(docs)}
        self.project = Project(self.folder, nodes, codes, named)
        self.model = Model(nodes, codes)
        self.computed = list(nodes)[1:]
        self.idle = False
        """Whether the last run did nothing: where the next one would, too, planning is enough."""
        self.run_all()

    # What changes

    @property
    def docs(self) -> dict[str, tuple[int, int]]:
        return self.project.docs

    def doc(self, index: int) -> str:
        return sorted(self.docs)[index % len(self.docs)]

    @precondition(lambda self: len(self.docs) < 4)
    @rule(doc=st.sampled_from("abcde"), text=VALUES, title=VALUES)
    def add(self, doc: str, text: int, title: int) -> None:
        self.docs.setdefault(doc, (text, title))

    @rule(index=INDEX, text=VALUES)
    def change_text(self, index: int, text: int) -> None:
        doc = self.doc(index)
        self.docs[doc] = (text, self.docs[doc][1])

    @rule(index=INDEX, title=VALUES)
    def change_title(self, index: int, title: int) -> None:
        doc = self.doc(index)
        self.docs[doc] = (self.docs[doc][0], title)

    @precondition(lambda self: len(self.docs) > 1)  # of none, a root believes nothing
    @rule(index=INDEX)
    def delete(self, index: int) -> None:
        del self.docs[self.doc(index)]

    @rule(index=INDEX, to=st.sampled_from("abcde"))
    def rename(self, index: int, to: str) -> None:
        if to not in self.docs:
            self.docs[to] = self.docs.pop(self.doc(index))

    @rule(index=INDEX, field=st.integers(0, 1), version=st.integers(0, 2))
    def code(self, index: int, field: int, version: int) -> None:
        """Bump or revert a code version."""
        name = list(self.project.nodes)[index % len(self.project.nodes)]
        self.project.codes[name][self.project.nodes[name].fields[field]] = version
        self.project.define()

    @rule(index=INDEX, sample=INDEX)
    def break_sample(self, index: int, sample: int) -> None:
        name = self.name(index)
        if samples := sorted(self.model.samples(name)):
            self.project.bad.add((name, samples[sample % len(samples)]))

    @rule()
    def mend_all(self) -> None:
        self.project.bad.clear()

    # What runs

    def name(self, index: int) -> str:
        return self.computed[index % len(self.computed)]

    @rule()
    def list_docs(self) -> None:
        if self.idle and self.model.lists(self.docs):
            return
        outcome = self.project.run(DOCS)
        assert outcome.total.new + outcome.total.stale == self.model.list(self.docs)
        self.check_rows(DOCS)

    @rule(index=INDEX)
    def run_one(self, index: int) -> None:
        self.run(self.name(index))

    @rule()
    def run_all(self) -> None:
        self.list_docs()
        for name in self.computed:
            self.run(name)

    @rule(index=INDEX, limit=st.integers(0, 2))
    def run_limited(self, index: int, limit: int) -> None:
        self.run(self.name(index), limit=limit)

    @rule(index=INDEX, sample=INDEX, goes=st.booleans())
    def run_only(self, index: int, sample: int, goes: bool) -> None:
        """Run a feature for one sample only, maybe while another is orphaned."""
        name = self.name(index)
        if goes and len(self.docs) > 1:
            self.delete(sample + 1)
            self.list_docs()
        if samples := sorted(self.model.samples(name)):
            self.run(name, only={self.named(name, samples[sample % len(samples)])})

    @rule(index=INDEX)
    def retry(self, index: int) -> None:
        self.run(self.name(index), retry_quarantined=True)

    @rule(
        index=INDEX,
        kind=st.sampled_from(["compute", "write"]),
        number=st.integers(1, 5),
        how=st.sampled_from([interrupted, killed]),
    )
    def kill(self, index: int, kind: str, number: int, how: Any) -> None:
        """End a run before a compute or a write; what it did until then is there."""
        name = self.name(index)
        if self.blocked(name):
            return
        tasks, _ = self.model.todo(name)
        samples = self.model.samples(name)
        calls, kept = 0, set()
        for what, *told in how(self.project, name, kind, number):
            if what == "compute":
                calls += 1
                continue
            key, columns, rows = told
            remembers = key.endswith("/metaxy_ledger")
            if what == "append":
                ids = self.parents_in(name, columns, rows)
                assert ids <= tasks
                kept |= ids
                for one in ids:
                    if remembers:
                        self.remember(name, one, samples[one])
                    else:
                        self.model.write(
                            name, one, samples[one].version, self.model.outputs(name, samples[one])
                        )
            elif remembers:
                for one in rows:
                    self.model.last[name].pop(one, None)
            else:
                assert columns == self.project.nodes[name].parents
                for one in rows:
                    if one in samples:
                        self.model.clear(name, one)
                    else:
                        self.model.delete(name, {one})
        # Of a run that waits to be written, a chunk; beside it, what was begun ahead of it.
        assert calls <= len(kept) + CHUNK + 2
        self.check_rows(name)

    @rule(
        index=INDEX,
        doc=INDEX,
        text=VALUES,
        number=st.integers(1, 4),
        how=st.sampled_from([interrupted, killed]),
    )
    def kill_between_changes(self, index: int, doc: int, text: int, number: int, how: Any) -> None:
        """Another text for the time of a run that is killed."""
        before = self.docs[self.doc(doc)]
        self.change_text(doc, text)
        self.list_docs()
        self.kill(index, "write", number, how)
        self.docs[self.doc(doc)] = before
        self.list_docs()

    @rule(
        index=INDEX,
        field=st.integers(0, 1),
        doc=INDEX,
        fails=st.booleans(),
        back=st.booleans(),
    )
    def other_code_for_a_while(
        self, index: int, field: int, doc: int, fails: bool, back: bool
    ) -> None:
        """Other code of one feature, which runs last; a document fails with it, and goes; with the
        code, it may come back."""
        before = deepcopy(self.project.codes)
        self.code(index, field, 2)
        changed = list(self.project.nodes)[index % len(self.project.nodes)]
        for name in self.computed:
            if name != changed:
                self.run(name)
        of_doc = {(changed, (self.doc(doc), *page)) for page in ((), (0,), (1,))}
        self.project.bad |= of_doc if fails else set()
        self.run_all()
        if len(self.docs) > 1:
            kept = {self.doc(doc): self.docs.pop(self.doc(doc))}
            self.run_all()
            if back:
                self.docs.update(kept)
        self.project.bad -= of_doc
        self.project.codes.update(before)
        self.project.define()
        self.run_all()

    @rule()
    def settle(self) -> None:
        """Once all is mended and has run, the store is as if computed from nothing."""
        self.project.bad.clear()
        self.list_docs()
        for name in self.computed:
            self.run(name, retry_quarantined=True)
        for name, rows in self.model.from_nothing(self.docs).items():
            assert self.stored(name) == rows, name
            plan = self.plan(name) if name != DOCS else None
            assert plan is None or not plan.acts

    # What must be

    def blocked(self, name: str) -> bool:
        return not {*self.project.nodes[name].ups} <= self.model.written

    def named(self, name: str, ids: Ids) -> str:
        columns = self.project.nodes[name].parents
        return ", ".join(f"{c}={v}" for c, v in zip(columns, ids, strict=True))

    def parents_in(self, name: str, columns: Iterable[str], rows: Iterable[Ids]) -> set[Ids]:
        places = [list(columns).index(c) for c in self.project.nodes[name].parents]
        return {tuple(row[p] for p in places) for row in rows}

    def run(self, name: str, **selection: Any) -> None:
        """Run a feature, and compare what it plans and does with the model."""
        if self.blocked(name):
            outcome = self.project.run(name, **selection)
            assert outcome.blocked
            assert not self.project.calls
            return
        tasks, held = self.model.todo(name)
        only = selection.get("only")
        asked = {i for i in held if selection.get("retry_quarantined")}
        if only is not None:
            asked |= {i for i in held if self.named(name, i) in only}
            tasks = {i for i in tasks if self.named(name, i) in only}
        held -= asked
        tasks |= asked
        orphans = set() if only is not None else self.model.orphans(name)
        plan = self.plan(name, **selection)
        planned = {task.ids for task in plan.tasks}
        if (limit := selection.get("limit")) is not None:
            assert len(planned) == min(limit, len(tasks))
            assert planned <= tasks
        else:
            assert planned == tasks
        assert {task.ids for task in plan.held} == held
        assert {orphan.ids for orphan in plan.orphaned} == orphans
        if not plan.acts and not selection and self.idle:
            return
        self.idle = not plan.acts
        samples = self.model.samples(name)
        folders = self.folders(name)

        outcome = self.project.run(name, **selection)
        assert Counter(self.project.calls) == Counter(planned)
        failing = {ids for ids in planned if (name, ids) in self.project.bad}
        total = outcome.total
        assert total.new + total.stale == len(planned)
        assert (total.orphaned, total.failed) == (len(orphans), len(failing))
        assert total.quarantined == len(held)
        for ids in planned:
            self.remember(name, ids, samples[ids])
            if ids not in failing:
                rows = self.model.outputs(name, samples[ids])
                self.model.write(name, ids, samples[ids].version, rows)
        self.model.delete(name, orphans)
        for ids in orphans:
            self.model.last[name].pop(ids, None)
        self.check_rows(name)
        if not failing:
            gone = {Path(str(p)) for p in plan.artifacts}
            left = self.folders(name)
            assert all(any(p == g or g in p.parents for g in gone) for p in folders - left)
            assert not any(p == g or g in p.parents for g in gone for p in left)

    def plan(self, name: str, **selection: Any) -> Plan:
        with self.project.store.open("r") as store:
            return self.project.update(name).plan(store, selection=Selection(**selection))

    def remember(self, name: str, ids: Ids, sample: Sample) -> None:
        how = DONE if self.model.outputs(name, sample) else EMPTY
        if (name, ids) in self.project.bad:
            how = FAILED
        self.model.last[name][ids] = (sample.version, how)

    def folders(self, name: str) -> set[Path]:
        """The folders of artifacts, each of a version of a sample."""
        folder = self.folder / "artifacts" / f"t__{name}"
        return {p for p in folder.glob("*/*") if p.parent.name != ".work"}

    def stored(self, name: str) -> dict[Ids, Row]:
        """The rows in the store, whose files are there."""
        node = self.project.nodes[name]
        rows = self.project.rows(name)
        for row in rows.values():
            if node.files:
                assert Path(row.pop(node.column("file"))).read_text() == content(node, row)
        return rows

    def check_rows(self, name: str) -> None:
        expected = {ids: row for ids, (_, row) in self.model.rows(name).items()}
        assert self.stored(name) == expected

    def teardown(self) -> None:
        if not hasattr(self, "exits"):
            return
        try:
            self.settle()
        finally:
            self.exits.close()
            shutil.rmtree(self.folder)


MORE = int(os.environ.get("MODEL_EXAMPLES", "0"))
TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=MORE or 3,
    stateful_step_count=15,
    derandomize=not MORE,
    database=None,
    deadline=None,
    phases=[Phase.generate, *([Phase.shrink] if os.environ.get("MODEL_SHRINK") else [])],
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
