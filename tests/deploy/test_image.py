"""The Dockerfile, read without a container engine."""

from __future__ import annotations

import re

from tests.deploy.files import ROOT, pods

DOCKERFILE = (ROOT / "Dockerfile").read_text()
_COPIED = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


def test_the_image_is_of_one_base_with_an_exact_tag() -> None:
    """Both stages begin with the same image, pinned to a patch release and a distribution."""
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_every_package_is_installed_by_its_hash() -> None:
    """Packages are installed by the hashes of the pins alone; the built wheel needs nothing more."""
    pip = [command for command in re.findall(r"install (?:\\\n +)?(.*)", DOCKERFILE) if command]
    assert pip
    assert all("--require-hashes" in command or "--no-index" in command for command in pip)


def test_the_builder_gets_what_is_copied() -> None:
    """`.dockerignore` allows each file that the Dockerfile copies."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for names in _COPIED.findall(DOCKERFILE):
        for name in names.split():
            path = name.removeprefix("./").rstrip("/")
            assert any(kept.split("/")[0] == path for kept in let_through), path


def test_the_image_runs_as_the_user_that_kubernetes_asks_for() -> None:
    """The user is a number, not root, and the same on both sides."""
    [user] = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods().values()} == {int(user)}
