"""What is measured, in the order of a round, and what of it is compared with what, by area.

A scenario is anything with a `name`, a `title` and `measure(servers, plan) -> Run`; most are a `LoadScenario`. One that needs
more is its own class (`slow.py`), and one more line in its area.
"""

from dataclasses import dataclass

from broker import Hearth
from load import Handshakes, Pgbench, Wrk
from runs import LoadScenario
from servers import ROWS, SLEEPERS, Servers
from slow import Beside, alone, beside, mixed

# What `--only` can name; `bulk` is in `bulk.py`.
AREAS = ("load", "bulk", "slow", "redis", "tls")


@dataclass(frozen=True)
class Ratio:
    """One number divided by another of the same round, or one number alone; and the target, where there is one."""

    title: str
    above: str
    below: str | None
    field: str = "req/s"
    at_least: float | None = None
    at_most: float | None = None


def scenarios(servers: Servers, areas: set[str]) -> list[LoadScenario | Beside]:
    """One round."""
    found = []
    if areas & {"load", "redis"}:
        healthz = Wrk("get.lua", f"{servers.hearth.url}/healthz", "ok")
        found.append(LoadScenario("constant", "Hearth, constant (/healthz), 64 conn.", healthz, "hearth", None))
    for area, its in (("load", _load), ("redis", _redis), ("slow", _slow), ("tls", _tls)):
        found += its(servers) if area in areas else []
    return found


def _tls(servers: Servers) -> list[LoadScenario]:
    program, tls = str(servers.program.parent / "examples" / "handshakes"), servers.tls

    def read(broker: Hearth) -> Wrk:
        return Wrk("read.lua", f"{broker.url}/v1/db/app/query", '"row_count":1', key=broker.key, rows=ROWS)

    def handshakes(name: str, title: str, group: str, **more) -> LoadScenario:
        load = Handshakes(program, tls.address, str(servers.certificate), group, **more)
        return LoadScenario(name, f"handshake and one request, {title}", load, "tls", None)

    return [
        LoadScenario("read-clear", "read, 64 keep-alive conn., in clear", read(servers.hearth), "hearth", "postgres"),
        LoadScenario("read-tls", "read, 64 keep-alive conn., TLS 1.3", read(tls), "tls", "postgres"),
        handshakes("shake-pq", "full, X25519MLKEM768", "X25519MLKEM768"),
        handshakes("shake-x25519", "full, X25519", "X25519"),
        handshakes("shake-resumed", "resumed, X25519MLKEM768", "X25519MLKEM768", resumed=True),
    ]


def _load(servers: Servers) -> list[LoadScenario]:
    hearth, postgres, pgbouncer = servers.hearth, servers.postgres, servers.pgbouncer

    def read(**more) -> Wrk:
        return Wrk("read.lua", f"{hearth.url}/v1/db/app/query", '"row_count":1', key=hearth.key, rows=ROWS, **more)

    def pgbench(port: int, **more) -> Pgbench:
        return Pgbench(postgres.pgbench, port, postgres.password, **more)

    bouncer_prepared = LoadScenario(
        "pgbouncer-prepared", "PgBouncer, prepared, 64 conn.", pgbench(pgbouncer.port, mode="prepared"),
        "pgbouncer", "postgres",
    )  # fmt: skip
    return [
        LoadScenario("hearth", "Hearth, 64 conn.", read(), "hearth", "postgres"),
        LoadScenario("pgbouncer-simple", "PgBouncer, simple, 64 conn.", pgbench(pgbouncer.port), "pgbouncer", "postgres"),
        *([bouncer_prepared] if pgbouncer.serves_prepared else []),
        LoadScenario("direct-prepared", "direct, prepared, 64 conn.",
                     pgbench(postgres.port, mode="prepared"), None, "postgres"),
        LoadScenario("direct-simple", "direct, simple, 64 conn.", pgbench(postgres.port), None, "postgres"),
        LoadScenario("hearth-connect", "Hearth, new TCP connection each, 8 clients",
                     read(connections=8, connect_each=True), "hearth", "postgres"),
        LoadScenario("direct-connect", "direct, new TLS + SCRAM connection each, 8 clients",
                     pgbench(postgres.port, clients=8, connect_each=True, tls=True), None, "postgres"),
        LoadScenario("pgbouncer-connect", "PgBouncer, new connection each (password in clear), 8 clients",
                     pgbench(pgbouncer.port, clients=8, connect_each=True), "pgbouncer", "postgres"),
    ]  # fmt: skip


def _redis(servers: Servers) -> list[LoadScenario]:
    hearth = servers.hearth
    get = Wrk("redis.lua", f"{hearth.url}/v1/redis/main", '{"result":"bar"}', key=hearth.key)
    webdis = Wrk("get.lua", f"{servers.webdis.url}/GET/foo", '{"GET":"bar"}')
    return [
        LoadScenario("hearth-redis", "Hearth, Redis GET, 64 conn.", get, "hearth", "redis"),
        LoadScenario("webdis", "Webdis, Redis GET, 64 conn.", webdis, "webdis", "redis"),
    ]


def _slow(servers: Servers) -> list[LoadScenario | Beside]:
    return [
        mixed(servers, "lanes", "other"),
        mixed(servers, "leases", "other"),
        mixed(servers, "lanes", "same"),
        mixed(servers, "leases", "same"),
        alone(servers),
        beside(servers),
    ]


def ratios(best_pgbouncer: str) -> list[Ratio]:
    """What is compared; what was not measured is left out."""
    return [
        Ratio(f"Hearth ÷ PgBouncer ({best_pgbouncer.removeprefix('pgbouncer-')}, its best)", "hearth", best_pgbouncer,
              at_least=1.5),
        Ratio("Hearth ÷ direct, prepared", "hearth", "direct-prepared", at_least=1.2),
        Ratio("Hearth ÷ connect per invocation, direct", "hearth", "direct-connect", at_least=100),
        Ratio("… with a new TCP connection each", "hearth-connect", "direct-connect", at_least=30),
        Ratio("Hearth ÷ connect per invocation, PgBouncer", "hearth", "pgbouncer-connect"),
        Ratio("… with a new TCP connection each", "hearth-connect", "pgbouncer-connect"),
        Ratio("Hearth ÷ constant", "hearth", "constant"),
        Ratio("Hearth's own CPU a request ÷ constant's", "hearth", "constant", field="peer µs", at_most=2.0),
        Ratio("Hearth's own CPU a request ÷ PgBouncer's", "hearth", best_pgbouncer, field="peer µs"),
        Ratio("PostgreSQL's CPU a request, Hearth ÷ PgBouncer", "hearth", best_pgbouncer, field="backend µs"),
        Ratio("all CPU a request, Hearth ÷ PgBouncer", "hearth", best_pgbouncer, field="total µs"),
        Ratio("Hearth: backends that ran anything", "hearth", None, field="used", at_most=4),
        Ratio("Redis: Hearth ÷ Webdis", "hearth-redis", "webdis", at_least=1.2),
        Ratio("Redis: Hearth ÷ constant", "hearth-redis", "constant", at_least=0.85),
        Ratio("Redis: Hearth's own CPU a request ÷ Webdis'", "hearth-redis", "webdis", field="peer µs"),
        Ratio("reads over TLS ÷ in clear", "read-tls", "read-clear", at_least=0.8),
        Ratio("Hearth's own CPU a read, TLS ÷ clear", "read-tls", "read-clear", field="peer µs"),
        Ratio("CPU of a full handshake, post-quantum ÷ X25519", "shake-pq", "shake-x25519", field="peer µs"),
        Ratio("CPU of a handshake, resumed ÷ full", "shake-resumed", "shake-pq", field="peer µs", at_most=1.0),
        *(
            Ratio(f"{what} slow 1 % of the time: fast ones' {of}, lanes ÷ leases", f"{kind}-lanes", f"{kind}-leases",
                  field=field, **target)
            for kind, what in (("other", "another statement,"), ("same", "the same statement,"))
            for of, field, target in (("p99", "p99 ms", {"at_most": 1.2}), ("req/s", "req/s", {"at_least": 1.0}))
        ),
        Ratio(f"p99 beside {SLEEPERS} sleeping statements of another tenant ÷ alone", "beside", "alone",
              field="p99 ms", at_most=5),
    ]  # fmt: skip
