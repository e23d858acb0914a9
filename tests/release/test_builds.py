"""Wheel and sdist: the same bytes from the same commit, with its version and all needed files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_OURS = ("noetl_events", "consumers", "deploy", "docs", "examples", "requirements", "tests")
_FILES = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "compose.yaml", ".gitignore")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree without its repository."""
    copy = tmp_path_factory.mktemp("tree")
    for name in _OURS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, copy / name)
    return copy


def build(
    tree: Path, *, into: Path, version: str = "", targets: tuple[str, ...] = ("sdist", "wheel")
) -> dict[str, Path]:
    """Build *targets* from *tree*, and return them by kind."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SETUPTOOLS_SCM")}
    environment |= {"SOURCE_DATE_EPOCH": "1780000000"}
    environment |= {"SETUPTOOLS_SCM_PRETEND_VERSION": version} if version else {}
    options = [option for target in targets for option in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into), *options]
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, timeout=180)
    return {"wheel" if path.suffix == ".whl" else "sdist": path for path in into.iterdir()}


def hashes(built: dict[str, Path]) -> dict[str, str]:
    """Return the hashes of the files, without their names."""
    return {kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in built.items()}


def test_a_commit_makes_the_same_bytes_each_time(tree: Path, tmp_path: Path) -> None:
    """Files of another age and mode, in another folder, make the same bytes; and the sdist makes the same wheel."""
    first = build(tree, into=tmp_path / "1", version="1.2.3")
    again = tmp_path / "again"
    shutil.copytree(tree, again, copy_function=shutil.copy)
    for path in again.rglob("*.py"):
        path.chmod(0o600)
    assert hashes(build(again, into=tmp_path / "2", version="1.2.3")) == hashes(first)

    with tarfile.open(first["sdist"]) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    # Without a repository and a variable the version comes from the sdist.
    rebuilt = build(unpacked, into=tmp_path / "3", targets=("wheel",))
    assert rebuilt["wheel"].name == "noetl_events-1.2.3-py3-none-any.whl"
    assert hashes(rebuilt)["wheel"] == hashes(first)["wheel"]


def test_a_bare_tree_makes_a_wheel_with_what_it_needs_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    """A tree without repository and tag makes a wheel with a version, both packages, types and page, and no test."""
    wheel = build(tree, into=tmp_path, targets=("wheel",))["wheel"]
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"noetl_events", "consumers", "noetl_events-0.0.0.dist-info"}
    assert {"noetl_events/py.typed", "consumers/py.typed", "consumers/gateway/page.html"} <= names
    assert "noetl_events-0.0.0.dist-info/licenses/LICENSE" in names


def test_the_version_is_the_tag(tree: Path, tmp_path: Path) -> None:
    """A commit tagged v3.2.1 is version 3.2.1."""
    tagged = tmp_path / "tagged"
    shutil.copytree(tree, tagged)
    who = [
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    ]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v3.2.1"]):
        subprocess.run(["git", *who, *command], cwd=tagged, check=True, capture_output=True)
    built = build(tagged, into=tmp_path / "built", targets=("wheel",))
    assert built["wheel"].name == "noetl_events-3.2.1-py3-none-any.whl"
