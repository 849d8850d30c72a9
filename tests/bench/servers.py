"""The private servers: PostgreSQL, PgBouncer, Redis, Webdis and the brokers."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker import POOL, Database, Hearth
from ground import Ground, ServerError, dial, first_match, free_port, get

SCALE = 10
ROWS = SCALE * 100_000
# A role for each way in, so that their connections can be told apart.
ROLES = ("hearth", "pgbouncer", "lanes", "leases", "loud", "tls")
# Three brokers divide the server's room, and one of them has a tenant with `SLEEPERS` connections.
MAX_CONNECTIONS = 1000
# Connections of each broker in the scenarios with slow statements: more than are busy with those at any time.
MIXED_POOL = 40
# As many statements of one tenant sleep while another's are measured.
SLEEPERS = 200


@dataclass
class Backends:
    """What was seen of a role's connections."""

    # The most at one time.
    open: int = 0
    # Those on which a statement began or ended meanwhile, by their process ids.
    used: set[str] = field(default_factory=set)


class Postgres:
    """PostgreSQL with SCRAM, TLS offered, and pgbench's tables; no fsync, since only reads are measured."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.port, self.password = ground, free_port(), secrets.token_hex(12)
        self.bin = _postgres_programs()
        self.pgbench = str(self.bin / "pgbench")
        folder = ground.folder
        password_file = ground.write("password", self.password)
        ground.run(
            self.bin / "initdb", "-D", "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password_file,
            "-E", "UTF8", "--locale=C", "-N",
        )  # fmt: skip
        ground.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-keyout", "server.key", "-out", "server.crt",
        )  # fmt: skip
        (folder / "server.key").chmod(0o600)
        ground.write("data/pg_hba.conf", "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n")
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": folder,
            "max_connections": MAX_CONNECTIONS, "shared_buffers": "512MB", "autovacuum": "off",
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "ssl": "on", "ssl_cert_file": folder / "server.crt", "ssl_key_file": folder / "server.key",
        }  # fmt: skip
        with (folder / "data/postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients.
        self.pid = ground.start(
            "postgres", self.bin / "postgres", "-D", folder / "data", ready=lambda: self.sql("SELECT 1"),
            stop=signal.SIGINT,
        )  # fmt: skip
        self.version = self.sql("SHOW server_version").split()[0]
        for role in ("bench", *ROLES):
            self.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{self.password}'")
        self.sql("CREATE DATABASE bench OWNER bench")
        ground.run(
            self.pgbench, "-h", "127.0.0.1", "-p", str(self.port), "-U", "bench", "-i", "-q", "-s", str(SCALE), "bench",
            env=self._login(),
        )  # fmt: skip
        self.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {', '.join(ROLES)}", "bench")

    def sql(self, statement: str, database: str = "postgres") -> str:
        return self.ground.run(*self._psql(database), "-c", statement, env=self._login()).strip()

    @contextmanager
    def watch_backends(self, role: str) -> Iterator["Backends"]:
        """While it is open, looks at the connections of a role four times a second."""
        seen = Backends()
        out = self.ground.folder / "backends"
        used = f"greatest(query_start, state_change) > to_timestamp({time.time():.6f})"
        with out.open("w") as file, subprocess.Popen(
            self._psql("postgres"), stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL, text=True,
            env=self._login(), start_new_session=True,
        ) as psql:  # fmt: skip
            try:
                psql.stdin.write(
                    f"SELECT count(*), string_agg(pid::text, ' ') FILTER (WHERE {used}) FROM pg_stat_activity "
                    f"WHERE usename = '{role}' \\watch 0.25\n"
                )
                psql.stdin.flush()
                yield seen
            finally:
                psql.kill()
        for line in out.read_text().splitlines():
            # Between the looks, psql writes when they were.
            if look := re.fullmatch(r"(\d+)\|([\d ]*)", line):
                seen.open = max(seen.open, int(look[1]))
                seen.used |= set(look[2].split())

    def sleeping(self, role: str) -> int:
        """Statements of a role that sleep in the server now."""
        where = f"usename = '{role}' AND state = 'active' AND wait_event = 'PgSleep'"
        return int(self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}"))

    def _psql(self, database: str) -> list[str]:
        return [str(self.bin / "psql"), "-XAtq", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", database]

    def _login(self) -> dict[str, str]:
        return os.environ | {"PGPASSWORD": self.password, "PGSSLMODE": "disable"}


class PgBouncer:
    """Transaction mode, as many server connections as Hearth; clients send a password in clear, the cheapest sign-in."""

    def __init__(self, ground: Ground, postgres: Postgres, program: str) -> None:
        self.port = free_port()
        self.version = first_match(r"PgBouncer (\S+)", ground.run(program, "--version"))
        major, minor = (int(part) for part in self.version.split(".")[:2])
        # Since 1.21 prepared statements work in transaction mode.
        self.serves_prepared = (major, minor) >= (1, 21)
        users = ground.write("users.txt", f'"bench" "{postgres.password}"\n')
        settings = ground.write(
            "pgbouncer.ini",
            f"[databases]\nbench = host=127.0.0.1 port={postgres.port} dbname=bench "
            f"user=pgbouncer password={postgres.password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir = {ground.folder}\n"
            f"auth_type = plain\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = {POOL}\n"
            "server_tls_sslmode = disable\nmax_client_conn = 1000\nlog_connections = 0\nlog_disconnections = 0\n"
            + ("max_prepared_statements = 200\n" if self.serves_prepared else ""),
        )
        self.pid = ground.start("pgbouncer", program, settings, ready=lambda: dial(self.port), stop=signal.SIGINT)


class Redis:
    """Redis without persistence, and the key that is read."""

    def __init__(self, ground: Ground) -> None:
        self.port = free_port()
        self.version = first_match(r"v=(\S+)", ground.run("redis-server", "--version"))
        self.pid = ground.start(
            "redis", "redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no",
            ready=lambda: self._set("foo", "bar"),
        )  # fmt: skip

    def _set(self, key: str, value: str) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(f"SET {key} {value}\r\n".encode())
            if connection.recv(64) != b"+OK\r\n":
                raise ServerError("Redis does not answer")


class Webdis:
    """Webdis with as many Redis connections as its peers have PostgreSQL connections."""

    def __init__(self, ground: Ground, redis: Redis) -> None:
        self.port = free_port()
        settings = {
            "redis_host": "127.0.0.1", "redis_port": redis.port, "http_host": "127.0.0.1", "http_port": self.port,
            "threads": 2, "pool_size": POOL, "daemonize": False, "database": 0, "verbosity": 1,
            "logfile": str(ground.folder / "webdis-own.log"),
        }  # fmt: skip
        file = ground.write("webdis.json", json.dumps(settings))
        self.url = f"http://127.0.0.1:{self.port}"
        self.pid = ground.start("webdis", "webdis", file, ready=lambda: get(f"{self.url}/PING"))
        self.version = _package_version("webdis")


class Servers:
    """All of them."""

    def __init__(self, ground: Ground, program: Path, pgbouncer: str) -> None:
        self.ground, self.program = ground, program
        self.postgres = Postgres(ground)
        self.pgbouncer = PgBouncer(ground, self.postgres, pgbouncer)
        self.redis = Redis(ground)
        self.webdis = Webdis(ground, self.redis)
        self.hearth = self._broker("hearth", Database("hearth", self.postgres.port))

    @contextmanager
    def far_hearth(self, database_port: int) -> Iterator[Hearth]:
        """A broker whose way to PostgreSQL leads through another port."""
        far = self._broker("far", Database("hearth", database_port))
        try:
            yield far
        finally:
            self.ground.stop(far.pid)

    def start_mixed(self) -> None:
        """Two brokers that differ in their lanes alone, for statements of which some are slow. One has a loud tenant too."""
        port, size = self.postgres.port, {"pool_min": MIXED_POOL, "pool_max": MIXED_POOL}
        loud = Database("loud", port, name="loud", pool_min=0, pool_max=SLEEPERS)
        self.lanes = self._broker("lanes", Database("lanes", port, **size), loud)
        self.leases = self._broker("leases", Database("leases", port, lanes=0, **size))

    def start_tls(self) -> None:
        """A broker that speaks TLS, with a certificate of the usual kind."""
        self.ground.run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext",
            "basicConstraints=critical,CA:FALSE", "-keyout", "tls.key", "-out", "tls.crt",
        )  # fmt: skip
        self.certificate = self.ground.folder / "tls.crt"
        self.tls = self._broker("tls", Database("tls", self.postgres.port), tls=self.certificate)

    def _broker(self, name: str, *databases: Database, tls: Path | None = None) -> Hearth:
        password, redis_port = self.postgres.password, self.redis.port
        return Hearth(self.ground, self.program, name, list(databases), password, redis_port, tls)

    def pids(self) -> dict[str, int]:
        return {name: server.pid for name, server in self._servers()}

    def versions(self) -> dict[str, str]:
        return {name: server.version for name, server in self._servers() if name not in ("lanes", "leases", "tls")}

    def _servers(self) -> list[tuple[str, object]]:
        return [(name, server) for name, server in vars(self).items() if hasattr(server, "pid")]


def _postgres_programs() -> Path:
    """The newest Debian version, else what is on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    path = found[-1] if found else shutil.which("initdb")
    if not path:
        raise ServerError("initdb was not found: install postgresql")
    return Path(path).parent


def _package_version(name: str) -> str:
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True)
    return done.stdout.split("+")[0] or "unknown"
