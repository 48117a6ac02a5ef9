"""What simulated containers print: a pool of lines, written once per seed; a tick only picks from it.

Faker writes the pool. It costs about 100 us a line, so it never runs during a run. Its words may change with its
version: the pool has a digest, and the ledger carries it.
"""

import json
from hashlib import sha256
from typing import NamedTuple

from faker import Faker

from server.protocol.canonical import LOG_TEXT_BYTES
from server.protocol.messages import LogStream
from simulator.signals import noise

_COMMON = 320
_RARE_ONE_IN = 512
_LONG_TEXT_BYTES = LOG_TEXT_BYTES + 1500

_UNICODE = (
    "größe geändert: 3 Dateien übersprungen",
    "ジョブが完了しました (42 件)",
    "задача поставлена в очередь",
    "deploy 🚀 finished, 0 ⚠ warnings",
    "مهمة مكتملة",
    "naïve café déjà vu: coöperate",
)


class Line(NamedTuple):
    """A line of the pool."""

    stream: LogStream
    text: str
    partial: bool = False


class LogLines:
    """The pool of one seed.

    Attributes:
        common: what is printed all the time.
        rare: what a reader must survive: a line past the limit, one with NUL, a partial one.
        digest: hexadecimal; equal digests mean equal pools.
    """

    __slots__ = ("common", "digest", "rare")

    def __init__(self, seed: int) -> None:
        fake = Faker("en_US")
        fake.seed_instance(seed)
        makers = (_access, _access, _json, _json, _warning, _trace, _plain, _plain)
        self.common = tuple(makers[i % len(makers)](fake, i) for i in range(_COMMON))
        self.common += tuple(Line("stdout", text) for text in _UNICODE)
        long = " ".join(fake.words(_LONG_TEXT_BYTES // 4))
        self.rare = (
            Line("stdout", f"dump é{long}"[:_LONG_TEXT_BYTES]),
            Line("stderr", f"read 4 bytes: \x00\x7fELF from {fake.file_path()}"),
            Line("stdout", f"progress {fake.random_int(1, 99)} %", partial=True),
        )
        self.digest = sha256(repr((self.common, self.rare)).encode()).hexdigest()

    def pick(self, key: int, counter: int) -> Line:
        """The line that a hash of (key, counter) chooses; one in 512 is a rare one."""
        bits = noise(key, counter)
        if bits % _RARE_ONE_IN == 0:
            return self.rare[(bits >> 32) % len(self.rare)]
        return self.common[(bits >> 32) % len(self.common)]


def _access(fake: Faker, _: int) -> Line:
    method = fake.random_element(("GET", "GET", "GET", "POST", "PUT", "DELETE"))
    status = fake.random_element((200, 200, 200, 201, 204, 304, 400, 404, 500))
    agent = fake.random_element(("curl/8.5.0", "Go-http-client/2.0", "Mozilla/5.0 (X11; Linux x86_64)"))
    path = f"/{fake.uri_path()}?page={fake.random_int(1, 40)}"
    return Line(
        "stdout", f'{fake.ipv4()} - - "{method} {path} HTTP/1.1" {status} {fake.random_int(64, 90_000)} "{agent}"'
    )


def _json(fake: Faker, number: int) -> Line:
    event = {
        "level": fake.random_element(("debug", "info", "info", "error")),
        "msg": fake.sentence(6),
        "user": fake.user_name(),
        "trace": f"{number:08x}{fake.random_int(0, 2**31):08x}",
        "took_ms": fake.random_int(1, 4000) / 10,
    }
    return Line("stdout", json.dumps(event))


def _warning(fake: Faker, _: int) -> Line:
    name = fake.random_element(("pool", "cache", "scheduler", "mailer"))
    return Line("stderr", f"WARN  [{name}] {fake.sentence(8)} (attempt {fake.random_int(1, 5)} of 5)")


def _trace(fake: Faker, number: int) -> Line:
    if number % 3 == 0:
        return Line("stderr", "Traceback (most recent call last):")
    if number % 3 == 1:
        return Line("stderr", f'  File "/srv/app/{fake.word()}.py", line {fake.random_int(1, 900)}, in {fake.word()}')
    return Line("stderr", f"ValueError: {fake.word()} = {fake.random_int(0, 999)}: expected <{fake.word()}>")


def _plain(fake: Faker, _: int) -> Line:
    return Line("stdout", f"{fake.company()}: {fake.bs()}")
