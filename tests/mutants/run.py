"""
Change the code in small, random ways, and find the changes that no test notices.

    python -m tests.mutants.run [--count N] [--seed N] [--jobs N] [--changed-since REF] [--coverage FILE] [FILE...]

A mutant is one change that an operator of cosmic-ray, or of `operators`, makes at one place.  Annotations,
docstrings and logged texts are not changed.  For each mutant the tests that executed the changed line, by the coverage
of a complete run (`make mutants` measures it), run in random order until one fails.

Prints a line for each mutant, and the diff of each that was not found; `equivalent.toml` lists those that no test can
find, with the reason.  The exit code is 1 if fewer than 92 % of the others were found.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import random
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import parso
from cosmic_ray import plugins
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from coverage import CoverageData

from tests.mutants.operators import NameSwapper, StatementRemover
from tests.mutations.plant import ROOT, copy_tree, ran

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODULES: Final = (
    "noetl_events/conflicts.py",
    "noetl_events/emitter.py",
    "noetl_events/envelope.py",
    "noetl_events/ids.py",
    "noetl_events/lenient.py",
    "noetl_events/retry.py",
    "noetl_events/jetstream/connection.py",
    "noetl_events/jetstream/consumer_config.py",
    "noetl_events/jetstream/consumers.py",
    "noetl_events/jetstream/stream_config.py",
    "noetl_events/jetstream/streams.py",
    "noetl_events/jetstream/consume/*.py",
    "noetl_events/jetstream/publish/*.py",
    "noetl_events/sinks/http/*.py",
    "noetl_events/sinks/spool/*.py",
    "consumers/dead_letters/*.py",
    "consumers/gateway/auth.py",
    "consumers/gateway/hub.py",
    "consumers/gateway/sse.py",
    "consumers/projector/crash_records.py",
    "consumers/projector/hold.py",
    "consumers/projector/partitions.py",
    "consumers/projector/projector.py",
    "consumers/projector/quarantine.py",
    "consumers/sinks/postgres/*.py",
    "consumers/sinks/sqlite.py",
    "consumers/verification/*.py",
)
"""The modules that events pass through."""

ENOUGH: Final = 0.92
_MOST_TESTS: Final = 40
_PATIENCE: Final = 240.0
_FOUND: Final = (1, 2)
_LEFT_OUT: Final = re.compile(r"Variable(Replacer|Inserter)|RemoveDecorator|ReplaceUnaryOperator_\w+_Invert")
_EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")


class Mutant(NamedTuple):
    """
    A small change of the code.

    Args:
        file: path relative to the root of the tree.
        operator: name of the operator.
        occurrence: index of the place among those in the file that the operator can change.
        line: number of the changed line.

    """

    file: str
    operator: str
    occurrence: int
    line: int

    @property
    def name(self) -> str:
        """Return a name that is valid until the file changes."""
        return f"{self.file}:{self.line} {self.operator.removeprefix('core/')} {self.occurrence}"


def operators() -> dict[str, Any]:
    """Return the operators by name."""
    names = [name for name in plugins.operator_names() if not _LEFT_OUT.search(name)]
    made = {name: plugins.get_operator(name)() for name in names}
    return made | {"StatementRemover": StatementRemover(), "NameSwapper": NameSwapper()}


def mutants_of(file: str, made: dict[str, Any]) -> Iterator[Mutant]:
    """Yield every mutant of *file*."""
    tree = get_ast((ROOT / file).read_text(encoding="utf-8"))
    counts = dict.fromkeys(made, 0)
    for node in _nodes(tree):
        for name, operator in made.items():
            for (line, _), _ in operator.mutation_positions(node):
                yield Mutant(file, name, counts[name], line)
                counts[name] += 1


def _nodes(node: Any) -> Iterator[Any]:
    # cosmic-ray counts in this order: a node before its children.
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def mutated(mutant: Mutant, operator: Any) -> str | None:
    """Return the source of *mutant*; None if no executed code has changed."""
    sound = (ROOT / mutant.file).read_text(encoding="utf-8")
    try:
        source = mutate_code(sound, operator, mutant.occurrence)
        return None if source is None or _what_runs(source) == _what_runs(sound) else str(source)
    except (SyntaxError, parso.ParserSyntaxError):
        return None


def _what_runs(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, None)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(value=None)
        if isinstance(node, ast.arguments):
            # A star in a signature is no product.
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.posonlyargs, node.kwonlyargs = [], []
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
            node.args, node.keywords = [], []
    return ast.dump(tree)


class Tests:
    """The tests that executed a line, by the coverage in *file*."""

    def __init__(self, file: Path) -> None:
        self._data = CoverageData(str(file))
        self._data.read()

    def of(self, mutant: Mutant, order: random.Random) -> list[str]:
        """Return the names of the tests for *mutant*, the most specific first."""
        contexts = self._data.contexts_by_lineno(str(ROOT / mutant.file))
        names = sorted({name.split("|")[0] for name in contexts.get(mutant.line, ()) if name})
        order.shuffle(names)
        # A test with the file's own name is the most likely to notice.
        stem = Path(mutant.file).stem
        names.sort(key=lambda name: stem not in name)
        return names[:_MOST_TESTS]


def is_found(folder: Path, mutant: Mutant, source: str, names: Sequence[str]) -> bool:
    """Run the tests *names* on *mutant*, in the tree in *folder*, and return true if one fails."""
    path = folder / mutant.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(source, encoding="utf-8")
    try:
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly", "--timeout=60"]
        return ran(folder, ["pytest", *options, f"--basetemp={folder / 'tmp'}", *names], _PATIENCE) in _FOUND
    finally:
        path.write_text(sound, encoding="utf-8")


def changed_since(reference: str) -> list[str]:
    """Return the files that differ from *reference*."""
    command = ["git", "-C", str(ROOT), "diff", "--name-only", reference, "--"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def chosen_files(patterns: Sequence[str], changed: str) -> list[str]:
    """Return the files of *patterns*, limited to *changed* if given."""
    files = sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)})
    return [file for file in files if not changed or file in set(changed_since(changed))]


def sample(files: Sequence[str], count: int, order: random.Random) -> Iterator[tuple[Mutant, str]]:
    """Yield *count* mutants of *files* with their source, drawn evenly from all."""
    made = operators()
    known = set(tomllib.loads(_EQUIVALENT.read_text(encoding="utf-8")).get("equivalent", {}))
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for mutant in (mutant for file in files for mutant in mutants_of(file, made)):
        lines.setdefault((mutant.file, mutant.line), []).append(mutant)
    # Each line is drawn once: a comparison has ten mutants with mostly the same result.
    for line in order.sample(sorted(lines), len(lines)):
        if not count:
            return
        candidates = [mutant for mutant in lines[line] if mutant.name not in known]
        order.shuffle(candidates)
        for mutant in candidates:
            if source := mutated(mutant, made[mutant.operator]):
                count -= 1
                yield mutant, source
                break


def main(arguments: Sequence[str]) -> int:
    """Make the mutants, and report."""
    parser = argparse.ArgumentParser("tests.mutants.run", description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--changed-since", default="", metavar="REF")
    parser.add_argument("--coverage", type=Path, default=ROOT / "build" / "mutants" / "coverage")
    parser.add_argument("files", nargs="*", default=MODULES)
    given = parser.parse_args(arguments)
    order = random.Random(given.seed)
    drawn = list(sample(chosen_files(given.files, given.changed_since), given.count, order))
    tests = Tests(given.coverage)
    folders: SimpleQueue[Path] = SimpleQueue()
    found = 0

    def judge(drawn: tuple[Mutant, str]) -> tuple[Mutant, str, str]:
        mutant, source = drawn
        names = tests.of(mutant, random.Random(given.seed))
        if not names:
            return mutant, source, "not reached"
        folder = folders.get()
        try:
            return mutant, source, "found" if is_found(folder, mutant, source, names) else "NOT FOUND"
        finally:
            folders.put(folder)

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(given.jobs) as pool:
        for number in range(given.jobs):
            copy_tree(Path(scratch, str(number)))
            folders.put(Path(scratch, str(number)))
        for mutant, source, verdict in pool.map(judge, drawn):
            found += verdict == "found"
            sys.stdout.write(f"{verdict:<11}  {mutant.name}\n")
            if verdict != "found":
                sound = (ROOT / mutant.file).read_text(encoding="utf-8")
                lines = difflib.unified_diff(sound.splitlines(), source.splitlines(), n=1, lineterm="")
                sys.stdout.write("".join(f"    {line}\n" for line in list(lines)[2:]))
            sys.stdout.flush()
    sys.stdout.write(f"{found} of {len(drawn)} found\n")
    return 0 if found >= ENOUGH * len(drawn) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
