"""Ports of servers that tests start."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PRINT_PORTS = """
import sys
from noetl_events.testing.server_process import free_port
print(*(free_port() for _ in range(300)), flush=True)
sys.stdin.read()
"""


@contextmanager
def printing(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command*, and kill it in the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_processes_never_share_a_port() -> None:
    """Processes that run at once get different ports, even if nothing listens there."""
    command, ports = [sys.executable, "-c", _PRINT_PORTS], list[int]()
    with ExitStack() as stack:
        running = [stack.enter_context(printing(command)) for _ in range(8)]
        for process in running:
            assert process.stdout is not None
            ports += map(int, process.stdout.readline().split())

    assert len(ports) == 8 * 300
    assert len(set(ports)) == len(ports)
