"""The choice of the next server and of the wait before it, without a connection."""

from __future__ import annotations

import time
from collections import Counter
from urllib.parse import urlparse

import pytest
from nats.aio.client import Server

from noetl_events.jetstream.connect.servers import LASTING, ServerPool, read_servers


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the pool a clock of the test."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def known(*addresses: str) -> list[Server]:
    """Return servers in the form of nats-py's pool."""
    return [Server(uri=urlparse(f"nats://{address}")) for address in addresses]


def pool_of(*addresses: str) -> ServerPool:
    """Return a pool with these configured servers, after a lost connection."""
    return ServerPool(read_servers(",".join(f"nats://{address}" for address in addresses)))


def test_configured_server_is_tried_as_often_as_all_that_were_discovered(clock: Clock) -> None:
    """Attempts alternate between configured and discovered servers, starting with a configured one."""
    pool = pool_of("own:4222")
    servers = known("a:4222", "b:4222", "own:4222", "c:4222")
    tried = []
    for _ in range(40):
        server, wait = pool.choose(servers)
        clock.now += wait + 5.0
        tried.append(server.uri.netloc)

    assert tried[0] == "own:4222"
    assert Counter(tried)["own:4222"] == 20
    assert all(count >= 6 for count in Counter(tried).values())


def test_dead_servers_add_no_wait(clock: Clock) -> None:
    """While dead addresses take their timeouts, a server is tried again as soon as its own wait is over."""
    pool = pool_of("own:4222")
    for _ in range(20):
        server, wait = pool.choose(known("own:4222", "dead:4222"))
        if server.uri.netloc == "own:4222":
            assert wait <= 5.0
        else:
            assert wait == 0.0 or clock.now < 1_100
            clock.now += 5.0
        clock.now += wait


def test_waits_grow_and_end_with_a_good_connection(clock: Clock) -> None:
    """Each failure doubles the wait up to five seconds; a connection that has lasted resets the wait."""
    pool = pool_of("own:4222")
    waits = []
    for _ in range(12):
        _, wait = pool.choose(known("own:4222"))
        clock.now += wait
        waits.append(wait)
    assert waits[0] <= 0.1
    assert 2.5 <= waits[-1] <= 5.0
    pool.connected()
    clock.now += LASTING
    pool.lost(is_refused=False)

    assert pool.choose(known("own:4222"))[1] <= 0.1


def test_connection_that_ends_at_once_is_a_failure(clock: Clock) -> None:
    """A connection that ends within ten seconds, repeatedly, is retried with waits of up to 15 seconds."""
    pool = pool_of("own:4222")
    rests = []
    for _ in range(12):
        pool.connected()
        clock.now += 0.01
        pool.lost(is_refused=True)
        rests.append(pool.pause)
        clock.now += pool.pause

    assert rests[0] == 0.0
    assert 7.5 <= rests[-1] <= 15.0


def test_good_connection_ends_what_was_before_it(clock: Clock) -> None:
    """A connection that has lasted resets the waits, whatever refusals came before it."""
    pool = pool_of("own:4222")
    for _ in range(12):
        pool.failed(is_refused=True)
    pool.connected()
    clock.now += LASTING
    pool.lost(is_refused=False)
    assert pool.pause == 0.0
    waits = []
    for _ in range(30):
        waits.append(pool.choose(known("own:4222"))[1])
        clock.now += waits[-1]
    assert max(waits) <= 5.0
    pool.connected()
    pool.lost(is_refused=False)

    assert pool.pause == 0.0


def test_lost_connection_is_counted_once(clock: Clock) -> None:
    """A connection that nats-py reports as lost twice is counted once: the first failure costs no wait."""
    pool = pool_of("own:4222")
    pool.connected()
    clock.now += 0.01
    for _ in range(3):
        pool.lost(is_refused=False)

    assert pool.pause == 0.0


def test_configured_server_is_first_after_each_connection(clock: Clock) -> None:
    """The first attempt after a connection goes to a configured server, however the last round ended."""
    pool = pool_of("own:4222")
    servers = known("a:4222", "own:4222")
    for _ in range(4):
        assert pool.choose(servers)[0].uri.netloc == "own:4222"
        pool.connected()
        clock.now += LASTING
        pool.lost(is_refused=False)


def test_discovered_servers_serve_where_no_other_is_left(clock: Clock) -> None:
    """A client with only discovered servers left tries those in turn."""
    pool = pool_of("own:4222")
    tried = []
    for _ in range(4):
        server, wait = pool.choose(known("a:4222", "b:4222"))
        clock.now += wait
        tried.append(server.uri.netloc)

    assert Counter(tried) == {"a:4222": 2, "b:4222": 2}


def test_servers_of_a_list_are_tried_in_turn(clock: Clock) -> None:
    """The next server is the one that was tried longest ago."""
    pool = pool_of("one:1", "two:2", "three:3")
    tried = []
    for _ in range(30):
        server, wait = pool.choose(known("one:1", "two:2", "three:3"))
        clock.now += wait
        tried.append(server.uri.netloc)

    assert set(Counter(tried).values()) == {10}
    assert sorted(str(server) for server in pool.round()) == ["nats://one:1", "nats://three:3", "nats://two:2"]
