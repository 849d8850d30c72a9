"""Large results, bulk data and batches: Hearth beside psql, in turns, with the broker's memory and processor time."""

import http.client
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import quote

from cpu import snapshot, usage
from link import Link
from report import word
from servers import Servers

TABLE = """CREATE UNLOGGED TABLE bulk AS SELECT n AS id, (n % 1000)::int4 AS kind, (n * 1.01)::numeric(12, 2) AS price,
  '2026-01-01'::timestamptz + n * interval '1 second' AS at, n % 2 = 0 AS ok, md5(n::text)::uuid AS ref,
  'name of number ' || n AS name, repeat('text ', 10) || n AS note, n / 7.0::float8 AS ratio,
  jsonb_build_object('n', n, 'tags', ARRAY['a', 'b']) AS data FROM generate_series(1, {rows}) n"""
# What one row of it takes in COPY's text format.
ROW_BYTES = 245
# Above idle, whatever is streamed.
MEMORY_MIB = 32
LINK_MS = 5
BATCH = 10


@dataclass(frozen=True)
class Target:
    """A ratio that is wanted."""

    title: str
    values: list[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def word(self) -> str:
        return word(self.median, self.at_least, self.at_most)


@dataclass
class Series:
    """Runs of one way to move the data."""

    seconds: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)
    backend_s: list[float] = field(default_factory=list)
    over_idle_mib: list[float] = field(default_factory=list)
    mib: float = 0.0


class Bulk:
    """All of it, over servers that run."""

    def __init__(self, servers: Servers, mib: int, rounds: int, say) -> None:
        self.servers, self.rounds, self.say = servers, rounds, say
        self.rows = mib * 2**20 // ROW_BYTES
        self.runs: dict[str, Series] = {}
        self.file = servers.postgres.ground.folder / "bulk.txt"

    def go(self) -> list[Target]:
        self.say(f"bulk: making {self.rows:,} rows")
        postgres = self.servers.postgres
        postgres.sql(TABLE.format(rows=self.rows), "bench")
        for statement in ("GRANT SELECT ON bulk TO hearth, bench", "VACUUM ANALYZE bulk",
                          "CREATE UNLOGGED TABLE bulk_in (LIKE bulk)", "GRANT ALL ON bulk_in TO hearth, bench"):  # fmt: skip
            postgres.sql(statement, "bench")
        with self.file.open("wb") as out:
            self._psql(r"\copy bulk to stdout", stdout=out)
        self._query("SELECT 1")
        idle = self._rss()
        for number in range(1, self.rounds + 1):
            for name, move in self._ways().items():
                self.say(f"bulk, round {number}: {name}")
                self._one(name, move, idle)
        return [*self._streams(), *self._batches()]

    def _ways(self) -> dict:
        copy_out, copy_in = quote("COPY bulk TO STDOUT"), quote("COPY bulk_in FROM STDIN")
        url, sql = f"{self.servers.hearth.url}/v1/db/app", json.dumps({"sql": "SELECT * FROM bulk"})
        return {
            "psql out": lambda: self._psql(r"\copy bulk to stdout", stdout=subprocess.DEVNULL),
            "hearth ndjson": lambda: self._curl("-H", "accept: application/x-ndjson", "-d", sql, f"{url}/query"),
            "hearth csv": lambda: self._curl("-H", "accept: text/csv", "-d", sql, f"{url}/query"),
            "hearth copy out": lambda: self._curl(f"{url}/copy?sql={copy_out}"),
            "psql in": lambda: self._psql(rf"\copy bulk_in from '{self.file}'"),
            "hearth copy in": lambda: self._curl("-X", "POST", "-T", self.file, f"{url}/copy?sql={copy_in}"),
        }

    def _one(self, name: str, move, idle: float) -> None:
        self.servers.postgres.sql("TRUNCATE bulk_in", "bench")
        roots = {key: pid for key, pid in self.servers.pids().items() if key in ("postgres", "hearth")}
        memory = Memory(self.servers.hearth.pid)
        before = snapshot(roots)
        with memory:
            move()
        used = usage(before, snapshot(roots))
        if name.endswith(" in"):
            loaded = int(self.servers.postgres.sql("SELECT count(*) FROM bulk_in", "bench"))
            assert loaded == self.rows, f"{name} loaded {loaded} of {self.rows} rows"
        run = self.runs.setdefault(name, Series(mib=self.file.stat().st_size / 2**20))
        run.seconds.append(used.seconds)
        run.peer_s.append(used.families["hearth"])
        run.backend_s.append(used.families["postgres"])
        run.over_idle_mib.append(memory.peak_mib - idle)

    def _streams(self) -> list[Target]:
        found = []
        for name, beside in [("hearth ndjson", "psql out"), ("hearth csv", "psql out"), ("hearth copy out", "psql out"),
                             ("hearth copy in", "psql in")]:  # fmt: skip
            ours, theirs = self.runs[name], self.runs[beside]
            ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
            found.append(Target(f"{name} ÷ {beside}: speed", ratios, at_least=0.5))
            found.append(Target(f"{name}: MiB over idle", ours.over_idle_mib, at_most=MEMORY_MIB))
        return found

    def _batches(self) -> list[Target]:
        link = Link(self.servers.postgres.port, LINK_MS / 1000)
        try:
            with self.servers.far_hearth(link.port) as far:
                single, batch = self._over_link(Keep(far))
        finally:
            link.close()
        ratios = [a / b for a, b in zip(single, batch, strict=True)]
        trips = [b / (2 * LINK_MS / 1000) for b in batch]
        return [
            Target(f"{BATCH} single requests ÷ one batch of {BATCH}, {LINK_MS} ms from the database", ratios, at_least=4),
            Target("the batch, in round trips to the database", trips, at_most=1.5),
        ]

    def _over_link(self, connection: "Keep") -> tuple[list[float], list[float]]:
        """Seconds of single requests and of batches."""
        statements = [{"sql": "SELECT abalance FROM pgbench_accounts WHERE aid = $1", "params": [n]} for n in range(1, BATCH + 1)]
        single, batch = [], []
        for number in range(12 * self.rounds):
            start = time.monotonic()
            for statement in statements:
                connection.post("/v1/db/app/query", statement)
            middle = time.monotonic()
            connection.post("/v1/db/app/batch", {"statements": statements})
            # The first ones prepare on each session.
            if number >= 4:
                single.append(middle - start)
                batch.append(time.monotonic() - middle)
        return single, batch

    def table(self) -> list[list[str]]:
        rows = []
        for name, run in self.runs.items():
            gib = run.mib / 1024
            rows.append([
                name, f"{run.mib / median(run.seconds):,.0f}", f"{median(run.seconds):.2f}",
                f"{median(run.peer_s) / gib:.2f}" if name.startswith("hearth") else "–",
                f"{median(run.backend_s) / gib:.2f}",
                f"{max(run.over_idle_mib):.1f}" if name.startswith("hearth") else "–",
            ])  # fmt: skip
        return rows

    def _psql(self, command: str, **more) -> None:
        postgres = self.servers.postgres
        subprocess.run(
            [str(postgres.bin / "psql"), "-XAtq", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "bench", "bench",
             "-c", command], check=True, timeout=600, env=postgres._login(), **more,
        )  # fmt: skip

    def _curl(self, *arguments: str | Path) -> None:
        command = ["curl", "-sS", "--fail-with-body", "-o", "/dev/null", "-H", f"authorization: Bearer {self.servers.hearth.key}"]
        subprocess.run([*command, *arguments], check=True, timeout=600)

    def _query(self, sql: str) -> None:
        Keep(self.servers.hearth).post("/v1/db/app/query", {"sql": sql})

    def _rss(self) -> float:
        return rss_mib(self.servers.hearth.pid)


class Keep:
    """A connection to the broker that is kept."""

    def __init__(self, hearth) -> None:
        self.connection = http.client.HTTPConnection(hearth.url.removeprefix("http://"), timeout=30)
        self.headers = {"authorization": f"Bearer {hearth.key}", "content-type": "application/json"}

    def post(self, path: str, body: dict) -> dict:
        self.connection.request("POST", path, json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        read = json.loads(answer.read())
        assert answer.status == 200, read
        return read


class Memory:
    """The most that a process has in memory while this is open, looked at fifty times a second."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak_mib, self.over = pid, 0.0, threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, rss_mib(self.pid))
            if self.over.wait(0.02):
                return


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
