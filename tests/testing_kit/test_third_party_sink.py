"""A sink of another distribution: installed, opened by its URL, and tested by the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from noetl_events import encode
from noetl_events.testing import make_events

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third_party_sink"
MODULE = EXAMPLE / "noetl_events_folder.py"
TESTS = EXAMPLE / "tests" / "test_noetl_events_folder.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with the example installed, without a network."""
    source, target = tmp_path / "source", tmp_path / "installed"
    # The folder is a copy, because a build leaves files behind.
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(target)}


def test_its_own_tests_pass(environment: dict[str, str], tmp_path: Path) -> None:
    """The installed example passes the contract with its own test file."""
    (tmp_path / "test_example.py").write_bytes(TESTS.read_bytes())
    options = ["-q", "-n", "0", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    command = [sys.executable, "-m", "pytest", *options, f"--basetemp={tmp_path}/tests", "test_example.py"]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, timeout=300, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


def test_its_scheme_is_known_once_it_is_installed(environment: dict[str, str], tmp_path: Path) -> None:
    """`noetl-events replay` writes to the sink by its URL, as to any built-in one."""
    (tmp_path / "events").mkdir()
    recording = tmp_path / "run.jsonl"
    recording.write_bytes(b"".join(encode(event) + b"\n" for event in make_events(3)))
    command = [sys.executable, "-m", "consumers", "replay", str(recording), "--to", f"folder://{tmp_path}/events"]
    subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True)

    assert len(list((tmp_path / "events").iterdir())) == 3


def test_it_is_small() -> None:
    """The whole sink has less than a hundred lines."""
    assert len(MODULE.read_text().splitlines()) < 100


@pytest.mark.parametrize("path", [MODULE, TESTS, EXAMPLE / "pyproject.toml"], ids=lambda path: path.name)
def test_page_shows_the_file_as_it_is(path: Path) -> None:
    """The page on writing a sink shows each file of the example, word for word."""
    assert f"\n{path.read_text()}```\n" in (ROOT / "docs" / "how-to" / "write-a-sink.md").read_text()
