"""The running gateway conforms to its OpenAPI document."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from consumers.gateway.openapi import document
from tests.gateway.gateway_process import serving

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration

_CHECKS: Any = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


# The gateway runs in this process beside the strategies, and takes the jitter of its waits from `random`.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:FutureWarning")
@pytest.mark.parametrize(
    ("method", "path"),
    # The stream is left out, because it never ends.
    [
        ("POST", "/api/events"),
        ("POST", "/api/events/batch"),
        ("GET", "/api/executions/{execution_id}"),
        ("GET", "/api/status"),
        ("GET", "/api/dead"),
    ],
)
async def test_document(connection: Connection, stream: StreamDeclaration, method: str, path: str) -> None:
    """Every answer to a request that schemathesis generates is one that the document names."""
    operation = schemathesis.openapi.from_dict(document())[path][method]
    async with serving(connection, stream) as web:
        await asyncio.to_thread(_examine, operation, web.url)


def _examine(operation: Any, url: str) -> None:
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=_CHECKS)

    check()
