"""Brokers, each with the configuration that a scenario asks for."""

import hashlib
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ground import Ground, first_match, free_port, get

# As many PostgreSQL connections as PgBouncer has, and Webdis to Redis.
POOL = 16


@dataclass(frozen=True)
class Database:
    """A database of a broker, and the one tenant that may use it."""

    # The login role, by which its backends are told apart.
    role: str
    port: int
    name: str = "app"
    pool_min: int = POOL
    pool_max: int = POOL
    # `None`: as the broker has it when nothing is said.
    lanes: int | None = None


class Hearth:
    """A broker whose tenants' keys, rates and requests in flight are checked on every request, metrics and spans included."""

    def __init__(
        self, ground: Ground, program: Path, name: str, databases: list[Database], password: str, redis_port: int,
        tls: Path | None = None,
    ) -> None:
        """`tls`: a certificate; its key has the same name."""
        port, admin_port = free_port(), free_port()
        keys = {database.name: secrets.token_urlsafe(32) for database in databases}
        self.keys = {name: f"hk_{name}.{secret}" for name, secret in keys.items()}
        # Of the first database's tenant, who has the cache as well.
        self.key = self.keys[databases[0].name]
        settings = ground.folder / f"{name}.toml"
        settings.touch(mode=0o600)
        settings.write_text(
            f'[server]\nlisten = "127.0.0.1:{port}"\nadmin_listen = "127.0.0.1:{admin_port}"\n'
            # All callers have one address here.
            "connections_per_second = 1000000\nmax_connections_per_address = 10000\n"
            + (f'tls = {{ certificate = "{tls}", key = "{tls.with_suffix(".key")}" }}\n' if tls else "")
            + '[log]\nfilter = "info"\n'
            f'[caches.main]\nurl = "redis://127.0.0.1:{redis_port}"\n'
            + "".join(_database(each, password) + _tenant(each, keys[each.name]) for each in databases)
        )
        self.address = f"127.0.0.1:{port}"
        self.url, self.admin_url = f"{'https' if tls else 'http'}://{self.address}", f"http://127.0.0.1:{admin_port}"
        self.version = first_match(r"hearth (\S+)", subprocess.check_output([program, "--version"], text=True))
        # As the user who runs the benchmark: the build folder may be closed to others.
        self.pid = ground.start(
            name, program, "serve", "--config", settings, ready=lambda: get(f"{self.admin_url}/readyz"), own_user=True
        )


def _database(database: Database, password: str) -> str:
    lanes = "" if database.lanes is None else f", lanes = {database.lanes}"
    url = f"postgres://{database.role}@127.0.0.1:{database.port}/bench?sslmode=disable"
    return (
        f'[databases.{database.name}]\nurl = "{url}"\npassword = "{password}"\n'
        f"pool = {{ min = {database.pool_min}, max = {database.pool_max}{lanes} }}\n"
    )


def _tenant(database: Database, secret: str) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return (
        f'[tenants.{database.name}]\ndatabases = ["{database.name}"]\ncaches = ["main"]\n'
        f'keys = [{{ id = "hk_{database.name}", sha256 = "{digest}", scopes = ["sql:read", "sql:write", "redis"] }}]\n'
        "limits = { requests_per_second = 1000000, in_flight = 10000 }\n"
    )
