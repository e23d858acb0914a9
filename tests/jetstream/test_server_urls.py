"""The single parser of NATS URLs: valid forms, refused forms, and no secret in any refusal."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl_events.jetstream.connect.servers import read_servers
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.nats import NatsSink

SECRET = "can4ry"


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        pytest.param("nats://h", ["nats://h:4222"], id="default port"),
        pytest.param("tls://h:1, nats://g", ["tls://h:1", "nats://g:4222"], id="two URLs"),
        pytest.param("nats://h:1,g,[::1]:7", ["nats://h:1", "nats://g:4222", "nats://[::1]:7"], id="hosts"),
        pytest.param("nats://[fe80::1%eth0]:4", ["nats://[fe80::1%eth0]:4"], id="IPv6 with a zone"),
        pytest.param("nats://h:4222/", ["nats://h:4222"], id="slash at the end"),
        pytest.param("wss://h/nats", ["wss://h:443/nats"], id="websocket with a path"),
        pytest.param("ws://h", ["ws://h:80"], id="websocket"),
    ],
)
def test_where(text: str, servers: list[str]) -> None:
    """Scheme, host, port and path of each server are read in order."""
    assert [str(server) for server in read_servers(text)] == servers


@pytest.mark.parametrize(
    ("text", "who"),
    [
        pytest.param("nats://u:p@h", ("u", "p", None), id="user and password"),
        pytest.param("nats://t@h", (None, None, "t"), id="token"),
        pytest.param("nats://u:@h", ("u", "", None), id="empty password"),
        pytest.param("nats://u%40x:p%2F%3F%23%25@h", ("u@x", "p/?#%", None), id="percent-encoded"),
        pytest.param("nats://u:p@ss@h", ("u", "p@ss", None), id="a bare @, which can be read in one way only"),
        pytest.param("nats://u:a:b@h", ("u", "a:b", None), id="a colon in the password"),
    ],
)
def test_who(text: str, who: tuple[str | None, str | None, str | None]) -> None:
    """User, password and token are read and percent-decoded, in NATS_URL and in a sink URL."""
    for options in (ConnectOptions(servers=text), NatsSink.from_url(f"{text}?subject=a")._connection.options):
        (server,) = options.urls
        assert (server.user, server.password, server.token) == who


@given(user=st.text(min_size=1), password=st.text())
def test_any_password_can_be_said(user: str, password: str) -> None:
    """Any user and password, percent-encoded, reach the server unchanged."""
    if any("\ud800" <= char <= "\udfff" for char in user + password):
        return
    text = f"nats://{quote(user, safe='')}:{quote(password, safe='')}@h:4222"
    arguments = ConnectOptions(servers=text).client_arguments(lambda: "h:4222")

    assert (arguments["user"](), arguments["password"]()) == (user, password)


def test_each_server_has_its_user() -> None:
    """Each server gets its own user; a server without one, and a discovered one, gets the first server's."""
    options = ConnectOptions(servers="nats://a:1@one,nats://two,nats://c:3@three")
    address = ""
    arguments = options.client_arguments(lambda: address)
    told = {}
    for address in ("one:4222", "two:4222", "three:4222", "10.0.0.9:4222"):
        told[address] = (arguments["user"](), arguments["password"]())

    assert told == {
        "one:4222": ("a", "1"),
        "two:4222": ("a", "1"),
        "three:4222": ("c", "3"),
        "10.0.0.9:4222": ("a", "1"),
    }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"nats://u:{SECRET}/x@h:4222", id="slash"),
        pytest.param(f"nats://u:{SECRET}#x@h:4222", id="hash"),
        pytest.param(f"nats://u:{SECRET}%x@h:4222", id="percent"),
        pytest.param(f"nats://u:{SECRET}%@h:4222", id="percent at the end"),
        pytest.param(f"nats://u:{SECRET},x@h:4222", id="comma"),
        pytest.param(f"nats://u:{SECRET} x@h:4222", id="blank"),
        pytest.param(f"nats://u:%ff{SECRET}@h:4222", id="no text"),
        pytest.param(f"nats://u:{SECRET}@h:99999", id="port"),
        pytest.param(f"nats://u:{SECRET}@", id="no host"),
        pytest.param(f"{SECRET}@h", id="no scheme"),
        pytest.param(f"nats://{SECRET}@h,nats://u:p@g", id="a token and a user"),
        pytest.param(f"postgres://u:{SECRET}@h", id="another scheme"),
        pytest.param(f"ws://u:{SECRET}@h,nats://g", id="websocket and TCP"),
    ],
)
def test_refusal_shows_no_secret(text: str) -> None:
    """A URL that cannot be read is refused with a hint on percent-encoding, without its text."""
    with pytest.raises(ValueError, match="servers: ") as refusal:
        ConnectOptions(servers=text)
    with pytest.raises(ValueError, match="sink URL: ") as sink_refusal:
        NatsSink.from_url(text)

    for said in (str(refusal.value), str(sink_refusal.value)):
        assert SECRET not in said


@pytest.mark.parametrize("sign", ["/", "#", "%", ",", " "])
def test_refusal_says_how_a_password_is_written(sign: str) -> None:
    """A password that breaks the URL is refused with the encoding of each special character."""
    with pytest.raises(ValueError, match="in a user or password write % as %25"):
        ConnectOptions(servers=f"nats://u:pass{sign}word@h:4222")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "is not a NATS URL", id="empty"),
        pytest.param("nats://::1:4222", r"brackets, as nats://\[::1\]:4222", id="IPv6 without brackets"),
        pytest.param("nats://h:4222/x", "is not a NATS URL", id="path"),
        pytest.param("nats://h:0", "0 is not a port number", id="port"),
        pytest.param("nats://h,,nats://g", "is not a NATS URL", id="nothing between commas"),
        pytest.param("tls://h,wss://g", "mixes tls, wss", id="websocket and TCP"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    """A URL without a server is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        read_servers(text)


@pytest.mark.parametrize(
    ("options", "is_encrypted"),
    [
        pytest.param({"servers": "nats://h"}, False, id="nats"),
        pytest.param({"servers": "nats://h,tls://g"}, True, id="one of two with tls"),
        pytest.param({"servers": "wss://h"}, True, id="wss"),
        pytest.param({"tls_first": True}, True, id="tls_first"),
        pytest.param({"tls_ca": "ca.pem"}, True, id="an authority"),
        pytest.param({"tls_cert": "c.pem", "tls_key": "k.pem"}, True, id="a certificate"),
    ],
)
def test_tls_is_wanted(options: dict[str, object], is_encrypted: bool) -> None:  # noqa: FBT001  (an expectation)
    """A single URL or option for TLS requires TLS of every server."""
    assert ConnectOptions(**options).is_encrypted is is_encrypted  # type: ignore[arg-type]


def test_websocket_without_tls_is_refused_with_a_tls_option() -> None:
    """A TLS option with ws://, which is never encrypted, is refused."""
    with pytest.raises(ValueError, match="write wss://"):
        ConnectOptions(servers="ws://h", tls_ca="ca.pem")
