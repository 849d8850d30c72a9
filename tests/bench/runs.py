"""One measured run: a load generator against a server, and the processor time of all that takes part."""

import os
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass

import cpu
from load import Load, LoadError, Outcome
from servers import ROLES, Backends, Servers

# After a warm-up, before what its connections left behind is told from what the run uses.
SETTLE_SECONDS = 0.1


@dataclass(frozen=True)
class Plan:
    """How long one run takes."""

    seconds: float
    warm_seconds: float

    @property
    def lead_seconds(self) -> float:
        """Processor time counts from then on, so that 64 sign-ins at the start are not charged to the requests."""
        return min(1.0, self.seconds / 3)


@dataclass(frozen=True)
class Run:
    """One measured run. Microseconds are of processor time, for one request."""

    outcome: Outcome
    peer_us: float | None
    backend_us: float | None
    load_us: float
    # Connections to PostgreSQL: the most that were open, and how many of them ran anything.
    backends: int | None
    backends_used: int | None
    # Share of one core that the load generator took; it has one thread.
    load_share: float
    others: float
    stolen: float
    # The fewest statements seen asleep beside it, where some were meant to be.
    asleep: int | None = None

    @property
    def total_us(self) -> float:
        return (self.peer_us or 0) + (self.backend_us or 0) + self.load_us


@dataclass(frozen=True)
class LoadScenario:
    """One load generator against one server, and the processor time of both and of the database behind."""

    name: str
    title: str
    load: Load
    # Whose time is the peer's, and whose the backend's: names of `Servers`.
    peer: str | None
    backend: str | None

    def measure(self, servers: Servers, plan: Plan, beside: dict[str, int] | None = None) -> Run:
        """`beside` names processes that run anyway: they are no strangers."""
        self._run(plan.warm_seconds, check=True)
        time.sleep(SETTLE_SECONDS)
        role = self.peer if self.peer in ROLES else "bench"
        reads_rows = self.backend == "postgres"
        watching = servers.postgres.watch_backends(role) if reads_rows else nullcontext(Backends())
        with watching as backends:
            outcome, used = self._run(plan.seconds, pids=servers.pids() | (beside or {}), lead_seconds=plan.lead_seconds)

        def each(family: str | None) -> float | None:
            return 1e6 * used.families[family] / (outcome.per_second * used.seconds) if family else None

        return Run(
            outcome, each(self.peer), each(self.backend), each("load"), backends.open or None,
            len(backends.used) if reads_rows else None, used.families["load"] / used.seconds, used.others, used.stolen,
        )  # fmt: skip

    def _run(
        self, seconds: float, *, check: bool = False, pids: dict[str, int] | None = None, lead_seconds: float = 0.0
    ) -> tuple[Outcome, cpu.Usage]:
        with Generator(self.title, self.load, seconds, check=check) as generator:
            roots = (pids or {}) | {"load": generator.pid}
            time.sleep(lead_seconds)
            before = cpu.snapshot(roots)
            until = time.monotonic() + seconds + 30
            while not generator.has_ended():
                if time.monotonic() > until:
                    raise LoadError(f"{self.title}: the load generator did not end")
                time.sleep(0.01)
            after = cpu.snapshot(roots)
            return generator.outcome(), cpu.usage(before, after)


class Generator:
    """A load generator that runs; with the context it ends at the latest."""

    def __init__(self, title: str, load: Load, seconds: float, *, check: bool = False) -> None:
        self.title, self.load = title, load
        self.out = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            load.command(seconds), env=load.environment(check), stdin=subprocess.DEVNULL, stdout=self.out,
            stderr=self.out, start_new_session=True,
        )  # fmt: skip
        self.pid = self.process.pid

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()

    def has_ended(self) -> bool:
        """It is not waited for: its time can still be read."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def outcome(self) -> Outcome:
        """What it has done, when it ends."""
        code = self.process.wait(30)
        self.out.seek(0)
        text = self.out.read()
        if code != 0:
            raise LoadError(f"{self.title}: exit {code}\n{text[-2000:]}")
        return self.load.read(text)
