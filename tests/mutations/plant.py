"""
Plant each bug of the table in a copy of the tree, and demand that its test fails.

    python -m tests.mutations.plant [WORDS...]

With WORDS only the bugs that have one of them in their name.  Prints a line a bug; exit code 1 if one was not found.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]
_PARTS = ("noetl_events", "consumers", "tests", "examples", "pyproject.toml")
_FAILED, _PASSED = 1, 0
_PATIENCE = 90


def copy_tree(folder: Path) -> None:
    """Copy what the tests need."""
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)


def outcome(folder: Path, test: str) -> int:
    """Run *test* on the tree in *folder* and return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--timeout=30", test]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            # A bug that hangs the test and what comes after it is found as well.
            return _FAILED
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_found(folder: Path, mutation: Mutation) -> bool:
    """Plant *mutation*, run its test, and take it out again."""
    file = folder / mutation.file
    sound = file.read_text()
    file.write_text(sound.replace(mutation.code, mutation.planted))
    try:
        return outcome(folder, mutation.test) == _FAILED
    finally:
        file.write_text(sound)


def main(words: list[str]) -> int:
    """Plant them all."""
    chosen = [each for each in MUTATIONS if not words or any(word in each.bug for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy_tree(Path(scratch))
        for mutation in chosen:
            sound = outcome(Path(scratch), mutation.test) == _PASSED
            found = sound and is_found(Path(scratch), mutation)
            missed += not found
            verdict = "found    " if found else "NOT FOUND" if sound else "no proof: the test fails without it"
            sys.stdout.write(f"{verdict}  {mutation.bug:70} {mutation.test}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - missed} of {len(chosen)} found\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
