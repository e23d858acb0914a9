"""
Run the tests as on a newly installed and busy machine.

    python -m tests.fresh [--load N] [--without ASPECT]... [PYTEST ARGUMENTS...]

Each aspect is a difference between machines that a test, or the code, may not depend on; `--without` leaves one out.
Aspects that need root and Linux namespaces are left out elsewhere, with a message.  The exit code is that of pytest.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAMESPACES: Final = {
    "uptime": "time.monotonic() begins at one second",
    "network": "nothing but loopback, without IPv6, and a host name that resolves to nothing",
    "shm": "64 MB of /dev/shm, as a container has",
}
SURROUNDINGS: Final = {
    "home": "HOME names a folder that is not there and cannot be made",
    "locale": "LC_ALL=C",
    "zone": "TZ=Pacific/Kiritimati, 14 hours ahead",
    "umask": "files that are made belong to their owner alone",
    "files": "1,024 file descriptors",
}
_FLAGS: Final = {"uptime": ["--time"], "network": ["--net", "--uts"], "shm": ["--mount"]}
_INSIDE: Final = "--inside="
_SIOCSIFFLAGS: Final = 0x8914
_UP_AND_RUNNING: Final = 0x41
_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_SPIN: Final = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


def main(arguments: Sequence[str]) -> int:
    """Set up every aspect and run pytest under it."""
    parser = argparse.ArgumentParser("tests.fresh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--load", type=int, default=0, help="busy loops beside the tests")
    parser.add_argument("--without", action="append", default=[], choices=[*NAMESPACES, *SURROUNDINGS])
    given, pytest = parser.parse_known_args(arguments)
    aspects = [aspect for aspect in (*NAMESPACES, *SURROUNDINGS) if aspect not in given.without]
    possible = [aspect for aspect in aspects if aspect in SURROUNDINGS or _can_unshare(aspect)]
    for aspect in aspects:
        said = (NAMESPACES | SURROUNDINGS)[aspect] if aspect in possible else "left out: it needs root on Linux"
        print(f"fresh: {aspect}: {said}", file=sys.stderr)  # noqa: T201  (the report of a program)
    inside = [sys.executable, "-m", "tests.fresh", _INSIDE + ",".join(possible), *pytest]
    with _load(given.load):
        return subprocess.call([*_unshare(possible), *inside])


def _unshare(aspects: Sequence[str]) -> list[str]:
    flags = [flag for aspect in aspects for flag in _FLAGS.get(aspect, [])]
    if "uptime" in aspects:
        flags += [f"--monotonic={_to_one_second(time.CLOCK_MONOTONIC)}", f"--boottime={_to_one_second(_BOOTTIME)}"]
    return ["unshare", "--fork", *flags] if flags else []


def _can_unshare(aspect: str) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_unshare([aspect]), "true"], capture_output=True, check=False).returncode == 0


def _to_one_second(clock: int) -> int:
    return 1 - int(time.clock_gettime(clock))


@contextmanager
def _load(loops: int) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def run_inside(aspects: Sequence[str], arguments: Sequence[str]) -> None:
    """Set up the aspects that belong inside the namespaces, then replace this process by pytest."""
    if "network" in aspects:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        socket.sethostname("set-up-a-minute-ago")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))
    if "shm" in aspects:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", "/dev/shm"], check=True)  # noqa: S108
    if "home" in aspects:
        os.environ["HOME"] = "/dev/null/home"
    if "locale" in aspects:
        os.environ |= {"LC_ALL": "C"}
        os.environ.pop("LANG", None)
    if "zone" in aspects:
        os.environ["TZ"] = "Pacific/Kiritimati"
    if "umask" in aspects:
        os.umask(0o077)
    if "files" in aspects:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith(_INSIDE):
        run_inside(sys.argv[1].removeprefix(_INSIDE).split(","), sys.argv[2:])
    sys.exit(main(sys.argv[1:]))
