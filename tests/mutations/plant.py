"""
Plant each bug of the table in a copy of the tree, and check that its test fails.

    python -m tests.mutations.plant [WORDS...]

With WORDS only the bugs with one of them in their name are planted.  Prints a line for each bug; exit code 1 if one was
not found.  Two options replace the bugs' own tests: --simulate by a thousand seeds of the simulator, --campaign by a
fault campaign of a minute.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]
_PARTS = ("noetl_events", "consumers", "tests", "examples", "pyproject.toml")
_FAILED, _PASSED = 1, 0
_PATIENCE = 180


class Search(NamedTuple):
    """A search that may find a bug by itself: its `python -m` arguments, its name, and its maximal seconds."""

    module: list[str]
    words: str
    patience: float


# The seed is one with many kinds of faults within the minute.
SEED: Final = 316

SEARCHES: Final = {
    "--simulate": Search(["tests.simulation.simulate", "1000", "0", "1"], "1,000 seeds of the simulator", 600.0),
    "--campaign": Search(
        ["tests.faults.campaign", "--seed", str(SEED), "--minutes", "1"], "a campaign of a minute", 420.0
    ),
}


def copy_tree(folder: Path) -> None:
    """Copy the files that the tests need."""
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    # The servers of older versions are large, so they are not copied.
    (folder / ".venv").mkdir()
    (folder / ".venv" / "servers").symlink_to(ROOT / ".venv" / "servers")


def outcome(folder: Path, test: str) -> int:
    """Run *test* on the tree in *folder* and return pytest's exit code."""
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--timeout=60", f"--basetemp={folder / 'tmp'}"]
    return ran(folder, ["pytest", *options, test])


def ran(folder: Path, module: list[str], patience: float = _PATIENCE) -> int:
    """Run a module on the tree in *folder* for at most *patience* seconds, and return its exit code."""
    command = [sys.executable, "-m", *module]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            # A timeout counts as a finding, also for a bug that hangs a later test.
            return _FAILED
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_found(folder: Path, mutation: Mutation) -> bool:
    """Plant *mutation*, run its test, and restore the code."""
    with planted(folder, mutation):
        return outcome(folder, mutation.test) == _FAILED


@contextmanager
def planted(folder: Path, mutation: Mutation) -> Iterator[None]:
    """Keep *mutation* in the tree in *folder* during the block."""
    file = folder / mutation.file
    sound = file.read_text()
    _write(file, sound.replace(mutation.code, mutation.planted))
    try:
        yield
    finally:
        _write(file, sound)


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    # Bytecode is matched by size and second of its source, which can equal those of the earlier text.
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def survey(chosen: list[Mutation], search: Search) -> int:
    """Print the result of *search* for each of *chosen*."""
    found = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy_tree(Path(scratch))
        for mutation in chosen:
            with planted(Path(scratch), mutation):
                is_seen = ran(Path(scratch), search.module, search.patience) != _PASSED
            found += is_seen
            sys.stdout.write(f"{'found    ' if is_seen else 'not found'}  {mutation.bug}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{found} of {len(chosen)} found by {search.words}\n")
    return 0


def main(words: list[str]) -> int:
    """Plant all bugs."""
    names = [word for word in words if word not in SEARCHES]
    chosen = [each for each in MUTATIONS if not names or any(word in each.bug for word in names)]
    if names != words:
        return survey(chosen, SEARCHES[next(word for word in words if word in SEARCHES)])
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy_tree(Path(scratch))
        outcomes: dict[str, int] = {}
        for mutation in chosen:
            if mutation.test not in outcomes:
                outcomes[mutation.test] = outcome(Path(scratch), mutation.test)
            sound = outcomes[mutation.test] == _PASSED
            found = sound and is_found(Path(scratch), mutation)
            missed += not found
            verdict = "found    " if found else "NOT FOUND" if sound else "no proof: the test fails without it"
            sys.stdout.write(f"{verdict}  {mutation.bug:70} {mutation.test}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - missed} of {len(chosen)} found\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
