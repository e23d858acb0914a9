"""Ports of servers that tests start."""

from __future__ import annotations

import subprocess
import sys

_PRINT_PORTS = """
import sys
from noetl_events.testing.server_process import free_port
print(*(free_port() for _ in range(300)), flush=True)
sys.stdin.read()
"""


def test_processes_never_share_a_port() -> None:
    """Processes that run at once get different ports, even if nothing listens there."""
    running = [
        subprocess.Popen([sys.executable, "-c", _PRINT_PORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    ports: list[int] = []
    for process in running:
        assert process.stdout is not None
        ports += map(int, process.stdout.readline().split())
    for process in running:
        process.communicate(timeout=180)

    assert len(ports) == 8 * 300
    assert len(set(ports)) == len(ports)
