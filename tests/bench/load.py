"""The load generators: how each is called, and how its report is read."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

LUA = Path(__file__).parent / "lua"


class LoadError(Exception):
    """A generator failed, or a server answered wrongly."""


@dataclass(frozen=True)
class Outcome:
    """What one run has done. Where slow statements are mixed in, all of it but `slow` is of the fast ones alone."""

    requests: int
    per_second: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    slow: int = 0

    @property
    def slow_per_second(self) -> float:
        return self.slow * self.per_second / self.requests


@dataclass(frozen=True)
class Wrk:
    """HTTP requests from one thread."""

    script: str
    url: str
    # Text that every right answer holds.
    expect: str
    connections: int = 64
    key: str | None = None
    rows: int = 0
    # A new TCP connection for each request.
    connect_each: bool = False
    # Which statements of mixed.lua are slow.
    slow: str = ""
    timeout_seconds: int = 2

    def command(self, seconds: float) -> list[str]:
        # wrk takes whole seconds.
        call = ["wrk", "-t1", f"-c{self.connections}", f"-d{max(1, round(seconds))}s", "-s", f"{LUA}/{self.script}"]
        call += ["--timeout", f"{self.timeout_seconds}s"]
        return call + (["-H", "Connection: close"] if self.connect_each else []) + [self.url]

    def environment(self, check: bool) -> dict[str, str]:
        given = {
            "HEARTH_BENCH_LUA": str(LUA), "HEARTH_BENCH_ROWS": str(self.rows), "HEARTH_BENCH_SLOW": self.slow,
            "HEARTH_BENCH_CONNECTIONS": str(self.connections),
        }  # fmt: skip
        if self.key:
            given["HEARTH_BENCH_KEY"] = self.key
        if check:
            given["HEARTH_BENCH_EXPECT"] = self.expect
        return os.environ | given

    def read(self, text: str) -> Outcome:
        lines = [line for line in text.splitlines() if line.startswith('{"requests"')]
        if not lines:
            raise LoadError(f"wrk gave no report:\n{text}")
        report = json.loads(lines[-1])
        if report["requests"] == 0 or any(report["errors"].values()):
            raise LoadError(f"{self.url}: of {report['requests']} answers not all were right: {report['errors']}")
        fast, slow = report["fast"], report["requests"] - report["fast"]
        return Outcome(fast, fast / report["seconds"], report["p50_ms"], report["p99_ms"], slow=slow)


@dataclass(frozen=True)
class Pgbench:
    """pgbench's own primary-key read (-S) from one thread."""

    program: str
    port: int
    password: str
    mode: str = "simple"
    clients: int = 64
    # A new connection for each transaction.
    connect_each: bool = False
    tls: bool = False
    user: str = field(default="bench")

    def command(self, seconds: float) -> list[str]:
        call = [self.program, "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-S", "-n", "-M", self.mode]
        # 64 sign-ins count, and take most of a second.
        call += ["-c", str(self.clients), "-j", "1", "-T", str(max(2, round(seconds)))]
        return call + (["-C"] if self.connect_each else []) + ["bench"]

    def environment(self, check: bool) -> dict[str, str]:
        del check  # pgbench looks at every answer anyway.
        return os.environ | {"PGPASSWORD": self.password, "PGSSLMODE": "require" if self.tls else "disable"}

    def read(self, text: str) -> Outcome:
        if re.search(r"^number of transactions actually processed: 0", text, re.MULTILINE) and "aborted" not in text:
            raise LoadError("pgbench did not get past its sign-ins in time: is the machine busy with something else?")
        done = re.search(r"^number of transactions actually processed: (\d+)", text, re.MULTILINE)
        rate = re.search(r"^tps = ([\d.]+)", text, re.MULTILINE)
        mean = re.search(r"^latency average = ([\d.]+) ms", text, re.MULTILINE)
        failed = re.search(r"^number of failed transactions: (\d+)", text, re.MULTILINE)
        if not (done and rate) or (failed and failed[1] != "0") or "aborted" in text:
            raise LoadError(f"pgbench failed:\n{text}")
        return Outcome(int(done[1]), float(rate[1]), mean_ms=float(mean[1]) if mean else None)


@dataclass(frozen=True)
class Handshakes:
    """TLS handshakes from one thread, one after the other, each with one small request."""

    program: str
    address: str
    root: str
    group: str
    resumed: bool = False

    def command(self, seconds: float) -> list[str]:
        kind = "resumed" if self.resumed else "full"
        return [self.program, self.address, self.root, self.group, kind, str(seconds)]

    def environment(self, check: bool) -> dict[str, str]:
        del check  # It looks at every answer anyway.
        return dict(os.environ)

    def read(self, text: str) -> Outcome:
        report = json.loads(text.splitlines()[-1])
        rate = report["requests"] / report["seconds"]
        return Outcome(report["requests"], rate, report["p50_ms"], report["p99_ms"])


Load = Wrk | Pgbench | Handshakes
