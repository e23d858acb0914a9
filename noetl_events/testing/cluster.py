"""Run three servers with JetStream on loopback until Ctrl-C, for `make cluster`."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from noetl_events.testing.nats_server import ServerFailed, ServerMissing, nats_cluster

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer

_ENDS: Final = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Run the cluster until SIGINT or SIGTERM, and return the exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="noetl-cluster-") as root, nats_cluster(Path(root)) as servers:
            _announce(servers, root)
            # Block the signals after the start, because servers would inherit the mask and ignore SIGTERM.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
            signal.sigwait(_ENDS)
    except KeyboardInterrupt:
        return 130
    except (ServerFailed, ServerMissing) as exc:
        sys.stderr.write(f"cluster: {exc}\n")
        return 1
    return 0


def _announce(servers: list[NatsServer], root: str) -> None:
    sys.stderr.write(f"Three servers, their stores under {root}; Ctrl-C ends them.\n")
    sys.stdout.write(f"{','.join(server.url for server in servers)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
