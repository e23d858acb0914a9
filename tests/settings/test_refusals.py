"""Unusable settings, by mistake or malice: each is refused with its place, value and remedy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from consumers.cli.options import open_labelled
from tests.settings.files import CANARY, refusal, write

if TYPE_CHECKING:
    from pathlib import Path

WRONG = {
    "misspelt table": ("[projektor]\n", "projektor: no such setting; did you mean projector?"),
    "misspelt key": (
        "[projector]\nbatchsize = 1",
        "projector.batchsize: no such setting; did you mean projector.batch",
    ),
    "wrong table": ("[nats]\nbatch_size = 1", "nats.batch_size: no such setting; did you mean projector.batch_size?"),
    "no table": ("batch_size = 1", "batch_size: no such setting; did you mean projector.batch_size?"),
    "name of a variable": ("NOETL_LISTEN = 'x'", "NOETL_LISTEN: no such setting; did you mean projector.listen?"),
    "nothing like it": ("[log]\nqqqqqqq = 1", "log.qqqqqqq: no such setting; known: log.format, log.level"),
    "key with a secret": (f'"postgresql://u:{CANARY}@h" = 1', "no such setting; known: daemon, dead_letters,"),
    "table as value": ("projector = 3", "projector: not a table; write [projector]"),
    "text for a number": (
        "[projector]\nbatch_size = '5'",
        "projector.batch_size: '5': Expected `int`, got `str`; give",
    ),
    "truth for a number": ("[projector]\nbatch_size = true", "projector.batch_size: true: Expected `int`, got `bool`"),
    "too small": (
        "[projector]\nbatch_size = 0",
        "projector.batch_size: 0: Expected `int` >= 1; give a whole number of",
    ),
    "too large": ("[stream]\nmax_bytes = 9223372036854775808", "stream.max_bytes: 9223372036854775808: "),
    "no number": ("[projector]\nack_wait = nan", "projector.ack_wait: nan: "),
    "infinite": ("[daemon]\nstop_deadline = inf", "daemon.stop_deadline: inf: "),
    "no choice": ("[log]\nlevel = 'loud'", "log.level: 'loud': not allowed; give one of debug, info, warning"),
    "age no server takes": (
        "[stream]\nmax_age = 0.05",
        "stream.max_age: 0.05: no NATS server accepts it; give a number of seconds, 0 or at least 0.1 and at most",
    ),
    "size no server takes": (
        "[dead_letters]\nmax_bytes = 0",
        "dead_letters.max_bytes: 0: no NATS server accepts it; give a whole number of bytes, -1 or at least 1 and at",
    ),
    "window no server takes": ("[stream]\nduplicate_window = 0", "stream.duplicate_window: 0: Expected `float` >= 0.1"),
    "subject with a wildcard": (
        "[stream]\nsubject = 'a.*'",
        "stream.subject: 'a.*': not allowed; give tokens of letters",
    ),
    "name": ("[stream]\nname = 'a.b; DROP'", "stream.name: 'a.b; DROP': not allowed; give letters, digits, _ and -"),
    "text for a list": (f"[projector]\nto = 'postgresql://u:{CANARY}@h/d'", "projector.to: 'postgresql://***@h/d': "),
    "number in a list": (f"[projector]\nto = ['http://u:{CANARY}@h/d', 3]", "projector.to: ['http://***@h/d', 3]: "),
    "NATS URL": (f"[nats]\nservers = 'u:{CANARY}@h'", "nats.servers: '***@h' is not a NATS URL such as"),
    "NATS port": (f"[nats]\nservers = 'nats://u:{CANARY}@h:99999'", "'nats://***@h:99999' is not a NATS URL such as"),
    "secret of a wrong type": (
        "[nats]\npassword = 12345",
        "nats.password: ***: Expected `str`, got `int`; give a text",
    ),
    "secret with a NUL": (f'[nats]\ntoken = "{CANARY}\\u0000"', "nats.token: ***: contains a control character"),
    "half of mutual TLS": ("[nats]\ntls_cert = 'x'", "nats.tls_cert, nats.tls_key (NATS_TLS_KEY): mutual TLS needs"),
    "NUL": (
        "[projector]\nlisten = 'a\0'",
        "listen: Found invalid character '\\x00' (at line 2, column 12); correct the TOML there",
    ),
    "escaped NUL": ('[projector]\nlisten = "a\\u0000"', "projector.listen: 'a\\x00': contains a control character"),
    "key twice": (f"[nats]\ntoken = '{CANARY}'\ntoken = '{CANARY}'", "token: Cannot overwrite a value (at "),
    "table twice": ("[nats]\n[nats]", "Cannot declare ('nats',) twice (at line 2"),
    "not TOML": (f"nats: {CANARY}", "Expected '=' after a key in a key/value pair (at line 1"),
    "open text": (f'[nats]\npassword = "{CANARY}', "password: "),
    "endless number": (f"a = {'9' * 5_000}", "Exceeds the limit (4300 digits)"),
    "deep list": (f"a = {'[' * 60_000}", "nested too deep; a setting is at most a list in a table"),
    "deep table": (f"nats.{'.'.join('a' * 20_000)} = 1", "nested too deep; a setting"),
    "deep value": (f"[nats]\nuser.{'.'.join('a' * 200)} = 1", "nats.user: {'...': '...'}: Expected `str`, got"),
    "deep header": (f"[nats.{'.'.join('a' * 20_000)}]", "nested too deep; a setting"),
    "many tables": ("[[nats]]\n" * 7_000, "nats: not a table"),
    "long value": (f"[log]\nlevel = '{'x' * 60_000}'", "log.level: 'xxxxx"),
    "long list": (f"[log]\nlevel = [{'1,' * 20_000}]", "log.level: [1, 1, "),
    "long key": (f"{'x' * 60_000} = 1", "no such setting; known: "),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_wrong_file(text: str, words: str, tmp_path: Path) -> None:
    """A wrong file is refused with path, key, value and remedy, without a secret, in a short text."""
    path = write(tmp_path / "settings.toml", text)

    assert refusal(path).startswith(f"{path}: ")
    assert words in refusal(path)


TOGETHER = {
    "window above age": (
        {"NOETL_EVENT_STREAM_RETENTION_SECS": "60"},
        "NOETL_EVENT_STREAM_RETENTION_SECS, stream.duplicate_window (NOETL_EVENT_STREAM_DEDUP_SECS): a stream that",
    ),
    "one name for two streams": (
        {"NOETL_TRIALS_STREAM": "noetl_events"},
        "stream.name (NOETL_EVENT_STREAM), NOETL_TRIALS_STREAM: both are 'noetl_events'; give each stream a",
    ),
    "subjects that overlap": (
        {"NOETL_EVENT_STREAM_SUBJECT": "noetl"},
        "NOETL_EVENT_STREAM_SUBJECT, dead_letters.subject (NOETL_DEAD_STREAM_SUBJECT): 'noetl' and 'noetl.dead'",
    ),
}


@pytest.mark.parametrize(("environ", "words"), TOGETHER.values(), ids=TOGETHER)
def test_wrong_together(environ: dict[str, str], words: str) -> None:
    """Settings that are valid alone and not together are refused by name, because no server accepts them."""
    assert refusal(environ=environ).startswith(words)


def test_no_file(tmp_path: Path) -> None:
    """A file that is unreadable or too large is refused, and reading it never blocks."""
    huge = tmp_path / "huge.toml"
    with huge.open("wb") as file:
        file.truncate(100 * 2**20)
    latin = tmp_path / "latin.toml"
    latin.write_bytes("[nats]\nuser = 'Jürgen'\n".encode("latin-1"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    assert "cannot be read: No such file or directory; name a TOML file" in refusal(tmp_path / "none.toml")
    assert "not a file; name a TOML file with --config or NOETL_CONFIG" in refusal(tmp_path)
    assert "not a file" in refusal(fifo)
    assert "larger than 65536 bytes" in refusal(huge)
    assert "not UTF-8 at byte 16; save it as UTF-8" in refusal(latin)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        pytest.param(
            {"NOETL_EVENT_STREAM_BATCH": "many"}, "NOETL_EVENT_STREAM_BATCH: 'many': Expected `int`", id="text"
        ),
        pytest.param({"NOETL_STALL_SECS": "nan"}, "NOETL_STALL_SECS: 'nan': ", id="no number"),
        pytest.param({"NOETL_PROJECTOR_STANDBY": "yes"}, "NOETL_PROJECTOR_STANDBY: 'yes': Expected `bool`", id="truth"),
        pytest.param({"NATS_URL": f"http://u:{CANARY}@h"}, "NATS_URL: 'http://***@h' is not a", id="URL"),
        pytest.param({"NATS_USER": "\udcff"}, "NATS_USER: '\\udcff': not UTF-8", id="bytes"),
        pytest.param({"NATS_USER": "u"}, "nats.password (NATS_PASSWORD): missing for user 'u'", id="password missing"),
        pytest.param({"NATS_TOKEN": "t", "NATS_TOKEN_FILE": "/x"}, "NATS_TOKEN, NATS_TOKEN_FILE: both", id="both"),
    ],
)
def test_wrong_variable(environ: dict[str, str], words: str) -> None:
    """A wrong variable is refused with name, value and remedy."""
    assert words in refusal(environ=environ)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:canary@h/db?table=a;drop", "'a;drop' is not schema.table, of letters, digits and underscores"),
        ("postgresql://u:canary@h/db?table=a.%22b", "'a.\"b' is not schema.table"),
        ("postgresql://u:canary@[::1/db", "Invalid IPv6 URL; write it as postgresql://host/db"),
        ("nowhere://u:canary@h", "'nowhere' is not a known scheme"),
        ("canary@h", "is not a known scheme; known: fanout, http"),
        ("sqlite://u:canary@h/x", "'sqlite://***@h/x' is not sqlite:///relative.db"),
    ],
)
def test_wrong_destination(url: str, words: str) -> None:
    """An invalid destination is refused with its place and without its password."""
    with pytest.raises(ValueError, match=r"^NOETL_PROJECTOR_TO: '") as refused:
        open_labelled("NOETL_PROJECTOR_TO", url)

    assert words in str(refused.value)
    assert "canary" not in str(refused.value)
