"""The pages: link targets, and the correctness of the commands and code in them."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from cyclopts.exceptions import CycloptsError

from consumers.cli.app import app
from consumers.settings import declared_settings
from noetl_events.testing import make_event
from tests.docs.pages import DOCS, PAGES, ROOT, Block, anchors, blocks, links

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer

REPOSITORY = "https://github.com/noetl/noetl-events/blob/main/"
TUTORIAL = DOCS / "tutorial/quickstart.md"
# These post to a gateway, which has its own tests.
_ELSEWHERE = "HttpSink("


def dead(page: Path, link: str) -> bool:
    """Return true if *link* of *page* has no target; other sites are not requested."""
    if link.startswith(("https://", "http://", "mailto:")) and not link.startswith(REPOSITORY):
        return False
    path, _, anchor = link.removeprefix(REPOSITORY).partition("#")
    target = (ROOT if link.startswith(REPOSITORY) else page.parent) / path if path else page
    if not target.exists():
        return True
    return bool(anchor) and (target.suffix != ".md" or anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link has an existing file and an existing heading as its target."""
    assert [link for link in links(page) if dead(page, link)] == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """A missing file, a missing heading and a missing file of the repository are found; code is no link."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n[x](no.md) [x](#a-b) [x](#c) `[x](code.md)`\n[x](page.md#a-b)\n" + f"[x]({REPOSITORY}no.md)"
    )

    assert [link for link in links(page) if dead(page, link)] == ["no.md", "#c", f"{REPOSITORY}no.md"]


@pytest.mark.parametrize("picture", sorted(DOCS.glob("images/*.svg")), ids=lambda path: path.name)
def test_a_picture_loads_nothing(picture: Path) -> None:
    """No drawing makes the reader's browser request a font from another site."""
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", picture.read_text())


def test_every_page_is_in_the_navigation() -> None:
    """The navigation has each page, and no missing one."""
    named = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)

    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS))


def typed() -> list[tuple[str, ...]]:
    """Return every call of `noetl-events` in a console block, without the shell's syntax."""
    lines = [
        line
        for block in blocks("console")
        if block.page.parent.name != "reference"
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    calls = [shlex.split(line, comments=True) for line in lines if re.match(r"(\w+=\S+ )*noetl-events ", line)]
    ends = ("|", ">", "&&", "&")
    commands = [call[call.index("noetl-events") + 1 :] for call in calls]
    return sorted({tuple(_until(command, ends)) for command in commands})


def _until(words: list[str], ends: tuple[str, ...]) -> list[str]:
    return words[: next((place for place, word in enumerate(words) if word in ends), len(words))]


def _without_config(words: tuple[str, ...]) -> list[str]:
    # This line is read before the command.
    return [word for place, word in enumerate(words) if "--config" not in words[max(place - 1, 0) : place + 1]]


@pytest.mark.parametrize("arguments", typed(), ids=" ".join)
def test_a_command_that_is_shown_is_one(arguments: tuple[str, ...]) -> None:
    """Commands and options exist, and accept their values."""
    try:
        app.parse_args(_without_config(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        pytest.fail(str(exc))


def test_variables_that_are_named_are_read() -> None:
    """Every variable of the project on a page is read by the code."""
    known = " ".join(path.read_text() for path in [*ROOT.glob("consumers/**/*.py"), *ROOT.glob("noetl_events/**/*.py")])
    known += " ".join(
        path.read_text() for path in [*ROOT.glob("deploy/**/*.*"), ROOT / "Makefile", ROOT / "compose.yaml"]
    )
    known += " ".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    named = {name for page in PAGES for name in re.findall(r"\b(?:NOETL|NATS)_[A-Z_]+[A-Z]\b", page.read_text())}

    assert {name for name in named if name not in known} == set()
    assert {one.environ for one in declared_settings()} <= named


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_compiles(block: Block) -> None:
    """The Python code on the pages compiles."""
    compile(block.text, str(block.page), "exec")


def test_examples_run(own_server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every producer runs as shown, except for the server's address and the folder."""
    nats = ("--nats", own_server.url)
    app.meta(["stream", "ensure", *nats], result_action="return_value")
    for number, block in enumerate(blocks("python")):
        if "asyncio.run(" not in block.text or _ELSEWHERE in block.text:
            continue
        here = block.text.replace("nats://127.0.0.1:4222", own_server.url)
        run(here.replace("/var/spool/noetl", str(tmp_path / f"spool{number}")), block.page)
    capsys.readouterr()
    app.meta(["tail", "--from-start", "--until-end", "--json", *nats], result_action="return_value")
    steps = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]

    assert steps.count("fetch") == 2
    assert {"fetch", "load", "greet"} <= set(steps)


async def test_sink_of_the_tutorial_works(tmp_path: Path) -> None:
    """The sink keeps the newest event of each execution, with duplicates and late events."""
    [source] = [block.text for block in blocks("python") if block.page == TUTORIAL and "class LatestSink" in block.text]
    sink = run(source, TUTORIAL)["LatestSink"].from_url(f"latest://{tmp_path}/latest.json")
    early, late = make_event(1), make_event(2)
    await sink.emit_batch([early, late])
    await sink.emit_batch([early])
    await sink.aclose()
    [kept] = json.loads((tmp_path / "latest.json").read_text()).values()

    assert kept["when"] == max(early.created_at, late.created_at).isoformat()


def run(source: str, page: Path) -> dict[str, Any]:
    """Run *source* of *page* in this process and return its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, str(page), "exec"), names)  # noqa: S102  (the project's own pages)
    return names


def test_what_the_readme_claims_was_measured() -> None:
    """Each number in the README's table is in the report; a new report that differs is noticed."""
    table = (ROOT / "README.md").read_text().partition("## Measured")[2].partition("\n## ")[0]
    claimed = {*re.findall(r"\d[\d,]*\.\d+|\d+,\d{3}(?= \|)", table)}
    report = {*re.findall(r"\d[\d,.]*\d|\d", (DOCS / "benchmarks.md").read_text())}

    assert len(claimed) > 10
    assert claimed - report == set()
