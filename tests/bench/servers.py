"""The private servers: in one temporary folder, on free loopback ports, gone when the benchmark ends."""

import ctypes
import hashlib
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SCALE = 10
ROWS = SCALE * 100_000
POOL = 16
START_SECONDS = 30
STOP_SECONDS = 10


class ServerError(Exception):
    """A server did not start."""


class Ground:
    """The folder, the unprivileged user and every process started; closing it leaves nothing behind."""

    def __init__(self) -> None:
        self.user = _unprivileged()
        self.processes: list[tuple[subprocess.Popen, signal.Signals]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="hearth-bench-"))
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.folder.chmod(0o711)

    def close(self) -> None:
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for process, stop in reversed(self.processes):
            for attempt in (stop, signal.SIGQUIT, signal.SIGKILL):
                if process.poll() is None:
                    process.send_signal(attempt)
                    try:
                        process.wait(STOP_SECONDS)
                    except subprocess.TimeoutExpired:
                        continue
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name: str, text: str) -> Path:
        """A file that the servers may read, and nobody else."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def run(self, *command: str | Path, **more) -> str:
        """Runs a program to its end, as the unprivileged user."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=120, **self._identity(), **more
        )
        if done.returncode != 0:
            raise ServerError(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(
        self, name: str, *command: str | Path, ready: Callable[[], object], stop=signal.SIGTERM, own_user=False
    ) -> int:
        """Starts a server and waits until `ready` raises no more. Answers its process id."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                # Ctrl-C is for us alone: the servers end in our order. They end as well if we are killed.
                start_new_session=True, preexec_fn=lambda: _end_with_parent(stop),
                **({} if own_user else self._identity()),
            )  # fmt: skip
        self.processes.append((process, stop))
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                ready()
                return process.pid
            except Exception as error:
                if process.poll() is not None or time.monotonic() > until:
                    last = log.read_text(errors="replace")[-2000:]
                    raise ServerError(f"{name} did not start: {error}\n{last}") from error
                time.sleep(0.05)

    def _identity(self) -> dict:
        if not self.user:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}


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
            "max_connections": 200, "shared_buffers": "512MB", "autovacuum": "off",
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
        # A role for each way in, so that their connections can be told apart.
        for role in ("bench", "hearth", "pgbouncer"):
            self.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{self.password}'")
        self.sql("CREATE DATABASE bench OWNER bench")
        ground.run(
            self.pgbench, "-h", "127.0.0.1", "-p", str(self.port), "-U", "bench", "-i", "-q", "-s", str(SCALE), "bench",
            env=self._login(),
        )  # fmt: skip
        self.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO hearth, pgbouncer", "bench")

    def sql(self, statement: str, database: str = "postgres") -> str:
        return self.ground.run(*self._psql(database), "-c", statement, env=self._login()).strip()

    @contextmanager
    def count_backends(self, role: str) -> Iterator[list[int]]:
        """While it is open, counts the connections of a role four times a second."""
        seen: list[int] = []
        out = self.ground.folder / "backends"
        with out.open("w") as file, subprocess.Popen(
            self._psql("postgres"), stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL, text=True,
            env=self._login(), start_new_session=True,
        ) as psql:  # fmt: skip
            try:
                psql.stdin.write(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' \\watch 0.25\n")
                psql.stdin.flush()
                yield seen
            finally:
                psql.kill()
        seen += [int(line) for line in out.read_text().splitlines() if line.isdigit()]

    def _psql(self, database: str) -> list[str]:
        return [str(self.bin / "psql"), "-XAtq", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", database]

    def _login(self) -> dict[str, str]:
        return os.environ | {"PGPASSWORD": self.password, "PGSSLMODE": "disable"}


class PgBouncer:
    """Transaction mode, as many server connections as Hearth; clients send a password in clear, the cheapest sign-in."""

    def __init__(self, ground: Ground, postgres: Postgres, program: str) -> None:
        self.port = free_port()
        self.version = _first_match(r"PgBouncer (\S+)", ground.run(program, "--version"))
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
        self.pid = ground.start("pgbouncer", program, settings, ready=lambda: _dial(self.port), stop=signal.SIGINT)


class Redis:
    """Redis without persistence, and the key that is read."""

    def __init__(self, ground: Ground) -> None:
        self.port = free_port()
        self.version = _first_match(r"v=(\S+)", ground.run("redis-server", "--version"))
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
        self.pid = ground.start("webdis", "webdis", file, ready=lambda: _get(f"{self.url}/PING"))
        self.version = _package_version("webdis")


class Hearth:
    """The broker, with one tenant whose key, rate and requests in flight are checked on every request."""

    def __init__(
        self, ground: Ground, postgres: Postgres, redis: Redis, program: Path, name: str = "hearth",
        database_port: int | None = None,
    ) -> None:  # fmt: skip
        port, admin_port = free_port(), free_port()
        secret = secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        self.key = f"hk_bench.{secret}"
        settings = ground.folder / f"{name}.toml"
        settings.touch(mode=0o600)
        settings.write_text(
            f'[server]\nlisten = "127.0.0.1:{port}"\nadmin_listen = "127.0.0.1:{admin_port}"\n'
            f'[databases.app]\nurl = "postgres://hearth@127.0.0.1:{database_port or postgres.port}/bench?sslmode=disable"\n'
            f'password = "{postgres.password}"\npool = {{ min = {POOL}, max = {POOL} }}\n'
            f'[caches.main]\nurl = "redis://127.0.0.1:{redis.port}"\n'
            '[tenants.bench]\ndatabases = ["app"]\ncaches = ["main"]\n'
            f'keys = [{{ id = "hk_bench", sha256 = "{digest}", scopes = ["sql:read", "sql:write", "redis"] }}]\n'
            "limits = { requests_per_second = 1000000, in_flight = 10000 }\n"
        )
        self.url = f"http://127.0.0.1:{port}"
        self.version = _first_match(r"hearth (\S+)", subprocess.check_output([program, "--version"], text=True))
        # As the user who runs the benchmark: the build folder may be closed to others.
        self.pid = ground.start(
            name, program, "serve", "--config", settings, ready=lambda: _get(f"{self.url}/readyz"), own_user=True
        )


class Servers:
    """All of them."""

    def __init__(self, ground: Ground, hearth: Path, pgbouncer: str) -> None:
        self.postgres = Postgres(ground)
        self.pgbouncer = PgBouncer(ground, self.postgres, pgbouncer)
        self.redis = Redis(ground)
        self.webdis = Webdis(ground, self.redis)
        self.ground, self.program = ground, hearth
        self.hearth = Hearth(ground, self.postgres, self.redis, hearth)

    def another_hearth(self, database_port: int) -> "Hearth":
        """A second broker, whose way to PostgreSQL leads through another port."""
        return Hearth(self.ground, self.postgres, self.redis, self.program, "far", database_port)

    def pids(self) -> dict[str, int]:
        return {name: server.pid for name, server in self._servers()}

    def versions(self) -> dict[str, str]:
        return {name: server.version for name, server in self._servers()}

    def _servers(self) -> list[tuple[str, object]]:
        return [(name, server) for name, server in vars(self).items() if hasattr(server, "pid")]


def free_port() -> int:
    """A free port below the range that outgoing connections take theirs from."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise ServerError("no free port")


def _dial(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def _get(url: str) -> None:
    # Loopback never goes through a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, timeout=2).close()


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the servers that refuse root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError("there is neither a user postgres nor nobody")


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


def _first_match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "unknown"


def _end_with_parent(stop: signal.Signals) -> None:
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(stop))
