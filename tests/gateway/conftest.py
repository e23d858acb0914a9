"""A gateway and a browser for all tests of the live page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.live_gateway import LiveGateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.gateway.page_reader import Page


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    """Return a gateway for the tests that do not change it."""
    with LiveGateway(tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture
def gateway(shared: LiveGateway) -> LiveGateway:
    """Return a gateway with empty streams."""
    shared.forget_all()
    return shared


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[LiveGateway]:
    """Return a gateway that the test may kill."""
    with LiveGateway(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a browser with a private profile."""
    from tests.gateway.browser import browsing  # noqa: PLC0415  (skips the tests without selenium)

    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(browser: Any, gateway: LiveGateway) -> Page:
    """Return the live page, connected."""
    from tests.gateway.page_reader import live  # noqa: PLC0415  (skips the tests without selenium)

    return live(browser, gateway.url)
