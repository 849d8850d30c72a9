"""What is measured, in the order of a round, and which of it is compared.

A scenario is anything with a `name`, a `title` and `measure(servers, plan) -> Run`; most are a `LoadScenario`. One that needs
more (a stream of a gigabyte, TLS, overload) is its own class here, and one more line in `scenarios`.
"""

import os
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass

import cpu
from load import Load, LoadError, Outcome, Pgbench, Wrk
from servers import ROWS, Servers


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
    backends: int | None
    others: float
    stolen: float


@dataclass(frozen=True)
class LoadScenario:
    """One load generator against one server, and the processor time of both and of the database behind."""

    name: str
    title: str
    load: Load
    # Whose time is the peer's, and whose the backend's: names of `Servers`.
    peer: str | None
    backend: str | None

    def measure(self, servers: Servers, plan: Plan) -> Run:
        self._run(plan.warm_seconds, check=True)
        roles = {"hearth": "hearth", "pgbouncer": "pgbouncer", None: "bench"}
        reads_rows = self.backend == "postgres"
        counting = servers.postgres.count_backends(roles[self.peer]) if reads_rows else nullcontext([])
        with counting as backends:
            outcome, used = self._run(plan.seconds, pids=servers.pids(), lead_seconds=plan.lead_seconds)

        def each(family: str | None) -> float | None:
            return 1e6 * used.families[family] / (outcome.per_second * used.seconds) if family else None

        return Run(
            outcome, each(self.peer), each(self.backend), each("load"), max(backends, default=None),
            used.others, used.stolen,
        )  # fmt: skip

    def _run(
        self, seconds: float, *, check: bool = False, pids: dict[str, int] | None = None, lead_seconds: float = 0.0
    ) -> tuple[Outcome, cpu.Usage]:
        with tempfile.TemporaryFile("w+") as out, subprocess.Popen(
            self.load.command(seconds), env=self.load.environment(check), stdin=subprocess.DEVNULL, stdout=out,
            stderr=out, start_new_session=True,
        ) as process:  # fmt: skip
            roots = (pids or {}) | {"load": process.pid}
            try:
                time.sleep(lead_seconds)
                before = cpu.snapshot(roots)
                # The ended process is not waited for before its time was read.
                until = time.monotonic() + seconds + 30
                while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    if time.monotonic() > until:
                        raise LoadError(f"{self.title}: the load generator did not end")
                    time.sleep(0.01)
                after = cpu.snapshot(roots)
            finally:
                if process.poll() is None:
                    process.kill()
            out.seek(0)
            text = out.read()
        if process.returncode != 0:
            raise LoadError(f"{self.title}: exit {process.returncode}\n{text[-2000:]}")
        return self.load.read(text), cpu.usage(before, after)


@dataclass(frozen=True)
class Ratio:
    """One number divided by another of the same round. `at_least` is the target, where there is one."""

    title: str
    above: str
    below: str
    field: str = "req/s"
    at_least: float | None = None


def scenarios(servers: Servers) -> list[LoadScenario]:
    """One round."""
    hearth, postgres, pgbouncer = servers.hearth, servers.postgres, servers.pgbouncer
    query, one_row = f"{hearth.url}/v1/db/app/query", '"row_count":1'

    def http(script: str, url: str, expect: str, **more) -> Wrk:
        return Wrk(script, url, expect, key=hearth.key, rows=ROWS, **more)

    def pgbench(port: int, **more) -> Pgbench:
        return Pgbench(postgres.pgbench, port, postgres.password, **more)

    bouncer_prepared = LoadScenario(
        "pgbouncer-prepared", "PgBouncer, prepared, 64 conn.", pgbench(pgbouncer.port, mode="prepared"),
        "pgbouncer", "postgres",
    )  # fmt: skip
    return [
        LoadScenario("hearth", "Hearth, 64 conn.", http("read.lua", query, one_row), "hearth", "postgres"),
        LoadScenario(
            "pgbouncer-simple", "PgBouncer, simple, 64 conn.", pgbench(pgbouncer.port), "pgbouncer", "postgres"
        ),
        *([bouncer_prepared] if pgbouncer.serves_prepared else []),
        LoadScenario("constant", "Hearth, constant (/healthz), 64 conn.",
                     Wrk("get.lua", f"{hearth.url}/healthz", "ok"), "hearth", None),
        LoadScenario("direct-prepared", "direct, prepared, 64 conn.",
                     pgbench(postgres.port, mode="prepared"), None, "postgres"),
        LoadScenario("direct-simple", "direct, simple, 64 conn.", pgbench(postgres.port), None, "postgres"),
        LoadScenario("hearth-connect", "Hearth, new TCP connection each, 8 clients",
                     http("read.lua", query, one_row, connections=8, connect_each=True), "hearth", "postgres"),
        LoadScenario("direct-connect", "direct, new TLS + SCRAM connection each, 8 clients",
                     pgbench(postgres.port, clients=8, connect_each=True, tls=True), None, "postgres"),
        LoadScenario("pgbouncer-connect", "PgBouncer, new connection each (password in clear), 8 clients",
                     pgbench(pgbouncer.port, clients=8, connect_each=True), "pgbouncer", "postgres"),
        LoadScenario("hearth-redis", "Hearth, Redis GET, 64 conn.",
                     http("redis.lua", f"{hearth.url}/v1/redis/main", '{"result":"bar"}'), "hearth", "redis"),
        LoadScenario("webdis", "Webdis, Redis GET, 64 conn.",
                     Wrk("get.lua", f"{servers.webdis.url}/GET/foo", '{"GET":"bar"}'), "webdis", "redis"),
    ]  # fmt: skip


def ratios(best_pgbouncer: str) -> list[Ratio]:
    """What is compared."""
    return [
        Ratio(f"Hearth ÷ PgBouncer ({best_pgbouncer.removeprefix('pgbouncer-')}, its best)", "hearth", best_pgbouncer,
              at_least=0.8),
        Ratio("Hearth ÷ connect per invocation, direct", "hearth", "direct-connect", at_least=30),
        Ratio("… with a new TCP connection each", "hearth-connect", "direct-connect", at_least=30),
        Ratio("Hearth ÷ connect per invocation, PgBouncer", "hearth", "pgbouncer-connect"),
        Ratio("… with a new TCP connection each", "hearth-connect", "pgbouncer-connect"),
        Ratio("Hearth ÷ direct, prepared", "hearth", "direct-prepared"),
        Ratio("Hearth ÷ constant", "hearth", "constant"),
        Ratio("Hearth's own CPU a request ÷ constant's", "hearth", "constant", field="peer µs"),
        Ratio("Hearth's own CPU a request ÷ PgBouncer's", "hearth", best_pgbouncer, field="peer µs"),
        Ratio("PostgreSQL's CPU a request, Hearth ÷ PgBouncer", "hearth", best_pgbouncer, field="backend µs"),
        Ratio("Redis: Hearth ÷ Webdis", "hearth-redis", "webdis"),
        Ratio("Redis: Hearth ÷ constant", "hearth-redis", "constant"),
        Ratio("Redis: Hearth's own CPU a request ÷ Webdis'", "hearth-redis", "webdis", field="peer µs"),
    ]  # fmt: skip
