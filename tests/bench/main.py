"""Measures the broker against what people use today: `bin/bench`."""

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import report
from bulk import Bulk, Target
from ground import Ground, ServerError
from load import LoadError
from runs import LoadScenario, Plan, Run
from scenarios import AREAS, scenarios
from servers import Servers
from slow import Beside

ROOT = Path(__file__).resolve().parents[2]
# How often one run is repeated at most.
REPEATS = 4


def main() -> int:
    options = _options()
    # Settings of the caller's own brokers and databases are not meant for these.
    for name in [name for name in os.environ if name.startswith(("HEARTH_", "PG"))]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    plan = Plan(1, 1) if options.quick else Plan(options.seconds, 1)
    wanted = 1 if options.quick else options.rounds
    try:
        program = options.broker or _build()
        ground = Ground()
        try:
            _say("starting PostgreSQL, PgBouncer, Redis, Webdis and the broker")
            servers = Servers(ground, program, options.pgbouncer)
            reached = _bulk(options, servers) if "bulk" in options.only else []
            if "slow" in options.only:
                servers.start_mixed()
            if "tls" in options.only:
                servers.start_tls()
            targets = scenarios(servers, options.only)
            # So that the whole takes at most twice the time of a quiet machine.
            series = Rounds(servers, targets, plan, repeats=0 if options.quick else wanted * len(targets))
            rounds = series.go(wanted)
        finally:
            ground.close()
    except (LoadError, ServerError, subprocess.SubprocessError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started is gone", file=sys.stderr)
        return 130
    words = [target.word for target in reached]
    if targets:
        words += _tell(options, servers, series, rounds)
    return 2 if options.check and "missed" in words else 0


def _bulk(options: argparse.Namespace, servers: Servers) -> list[Target]:
    """Large results and batches; told at once."""
    mib, rounds = (16, 1) if options.quick else (options.mib, min(options.rounds, 3))
    bulk = Bulk(servers, mib, rounds, _say)
    reached = bulk.go()
    print(report.bulk(bulk.table(), reached))
    print()
    return reached


class Rounds:
    """All targets in turn, again and again. A disturbed run is repeated at once, as long as there are repeats left."""

    def __init__(self, servers: Servers, targets: list[LoadScenario | Beside], plan: Plan, repeats: int) -> None:
        self.servers, self.targets, self.plan, self.repeats = servers, targets, plan, repeats
        self.left_out: list[dict] = []

    def go(self, count: int) -> list[report.Round]:
        return [{target.name: self._one(number, target) for target in self.targets} for number in range(1, count + 1)]

    def _one(self, number: int, target: LoadScenario | Beside) -> Run:
        _say(f"round {number}: {target.title}")
        best = target.measure(self.servers, self.plan)
        for _ in range(REPEATS):
            if best.others <= report.DISTURBED or not self.repeats:
                break
            self.repeats -= 1
            _say(f"again: other programs used {best.others:.0%} of the machine")
            run = target.measure(self.servers, self.plan)
            best, worse = (run, best) if run.others < best.others else (best, run)
            self.left_out.append({"round": number, "name": target.name} | asdict(worse))
        return best


def _tell(options: argparse.Namespace, servers: Servers, series: Rounds, rounds: list[report.Round]) -> list[str]:
    """Prints all, and answers which targets are met and missed."""
    found = report.verdicts(rounds)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    titles = {target.name: target.title for target in series.targets}
    print(report.table(rounds, titles))
    print()
    print(report.comparison(found))
    print()
    print(report.notes(rounds, titles, servers.versions(), memory_gib, len(series.left_out)))
    if options.json:
        facts = {"cores": os.cpu_count(), "memory_gib": round(memory_gib, 1), "versions": servers.versions()}
        document = report.document(rounds, found, facts) | {"runs_left_out": series.left_out}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return [verdict.word for verdict in found]


def _build() -> Path:
    """Builds the release broker, where CARGO_TARGET_DIR says, else in `target`."""
    _say("building the broker (release); the first time takes some minutes")
    what = ["-p", "hearth-broker", "-p", "hearth-tests", "--bin", "hearth", "--example", "handshakes"]
    subprocess.run(["cargo", "build", "--release", "--locked", *what], cwd=ROOT, check=True)
    metadata = subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT)
    return Path(json.loads(metadata)["target_directory"]) / "release" / "hearth"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often all targets are measured in turn (5)")
    parser.add_argument("--seconds", type=float, default=4, help="length of one run, whole seconds (4)")
    parser.add_argument("--quick", action="store_true", help="one round of short runs: does it work, not how fast")
    parser.add_argument(
        "--only", action="append", choices=AREAS,
        help="an area alone (may be given again): many small requests, large results and batches, slow statements "
        "among fast ones, Redis, TLS",
    )  # fmt: skip
    parser.add_argument("--mib", type=int, default=1024, help="size of the large result, as COPY writes it (1024)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to a file")
    parser.add_argument("--check", action="store_true", help="exit with 2 if a target is missed")
    parser.add_argument("--broker", type=_absolute, metavar="FILE", help="a broker that is built already")
    parser.add_argument("--pgbouncer", default="pgbouncer", metavar="FILE", help="another PgBouncer")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("at least one round of one second")
    options.only = set(options.only or AREAS)
    return options


def _absolute(path: str) -> Path:
    return Path(path).resolve()


def _interrupt(number: int, _frame: object) -> None:
    del number
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
