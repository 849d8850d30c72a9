"""From runs to tables: medians, ratios within a round, targets."""

from dataclasses import asdict, dataclass
from statistics import median

from cpu import CORES
from runs import Run
from scenarios import Ratio, ratios
from servers import MIXED_POOL, SLEEPERS

Round = dict[str, Run]

# A generator with one thread that took more of a core than this was the limit, and not what it measured.
WHOLE_CORE = 0.95
# A run during which other programs used more of the machine than this was disturbed.
DISTURBED = 0.10


@dataclass(frozen=True)
class Verdict:
    """A ratio over all rounds."""

    ratio: Ratio
    median: float
    low: float
    high: float

    @property
    def wanted(self) -> str:
        return bounds(self.ratio.at_least, self.ratio.at_most)

    @property
    def word(self) -> str:
        return word(self.median, self.ratio.at_least, self.ratio.at_most)


def bounds(at_least: float | None, at_most: float | None) -> str:
    """A target, as it is printed."""
    wanted = [f"≥ {at_least:g}"] if at_least is not None else []
    return " ".join(wanted + ([f"≤ {at_most:g}"] if at_most is not None else []))


def word(value: float, at_least: float | None, at_most: float | None) -> str:
    """Whether a target is met, where there is one."""
    if at_least is None and at_most is None:
        return ""
    return "met" if (at_least is None or value >= at_least) and (at_most is None or value <= at_most) else "missed"


def best_pgbouncer(rounds: list[Round]) -> str:
    """PgBouncer's faster mode."""
    names = [name for name in rounds[0] if name in ("pgbouncer-simple", "pgbouncer-prepared")]
    return max(names, key=lambda name: median(_values(rounds, name, "req/s")), default="pgbouncer-simple")


def verdicts(rounds: list[Round]) -> list[Verdict]:
    """Each ratio's median over the rounds."""
    found = []
    for ratio in ratios(best_pgbouncer(rounds)):
        if not {ratio.above, ratio.below or ratio.above} <= rounds[0].keys():
            continue
        above = _values(rounds, ratio.above, ratio.field)
        below = _values(rounds, ratio.below, ratio.field) if ratio.below else [1.0] * len(rounds)
        each = [a / b for a, b in zip(above, below, strict=True) if b]
        if each:
            found.append(Verdict(ratio, median(each), min(each), max(each)))
    return found


def table(rounds: list[Round], titles: dict[str, str]) -> str:
    """One line a target."""
    head = ["target", "req/s", "min–max", "p50 ms", "p99 ms", "peer µs", "backend µs", "load µs",
            "all µs", "load core", "backends"]  # fmt: skip
    lines = []
    for name in rounds[0]:
        rates = _values(rounds, name, "req/s")
        outcomes = [each[name].outcome for each in rounds]
        mean = _median(outcome.mean_ms for outcome in outcomes)
        p50 = _median(outcome.p50_ms for outcome in outcomes)
        lines.append([
            titles[name],
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f}–{max(rates):,.0f}",
            f"mean {mean:.2f}" if mean is not None else _number(p50, 2),
            _number(_median(outcome.p99_ms for outcome in outcomes), 2),
            _number(_median(each[name].peer_us for each in rounds), 1),
            _number(_median(each[name].backend_us for each in rounds), 1),
            _number(_median(each[name].load_us for each in rounds), 1),
            _number(_median(each[name].total_us for each in rounds), 1),
            f"{median(each[name].load_share for each in rounds):.0%}",
            _backends([each[name] for each in rounds]),
        ])  # fmt: skip
    return _aligned(head, lines)


def bulk(rows: list[list[str]], targets: list) -> str:
    """Large results and batches: one line a way to move them, then one a target."""
    head = ["large results and bulk data", "MiB/s", "seconds", "broker s/GiB", "backend s/GiB", "MiB over idle"]
    lines = []
    for target in targets:
        wanted = bounds(target.at_least, target.at_most)
        spread = f"{min(target.values):.2f}–{max(target.values):.2f}"
        lines.append([target.title, f"{target.median:.2f}", spread, wanted, target.word])
    return _aligned(head, rows) + "\n\n" + _aligned(["target", "median", "min–max", "wanted", ""], lines)


def comparison(found: list[Verdict]) -> str:
    """One line a ratio."""
    head = ["ratio (median of the rounds' ratios)", "value", "min–max", "target", ""]
    lines = [
        [
            verdict.ratio.title,
            f"{verdict.median:.2f}",
            f"{verdict.low:.2f}–{verdict.high:.2f}",
            verdict.wanted,
            verdict.word,
        ]
        for verdict in found
    ]
    return _aligned(head, lines)


def notes(
    rounds: list[Round], titles: dict[str, str], versions: dict[str, str], memory_gib: float, repeated: int
) -> str:
    """What a reader must know to trust the numbers."""
    runs = [run for each in rounds for run in each.values()]
    others, disturbed = max(run.others for run in runs), sum(run.others > DISTURBED for run in runs)
    stolen = max(run.stolen for run in runs)
    return "\n".join([
        f"{CORES} cores, {memory_gib:.0f} GiB; generator, peer and database share them, over loopback. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "µs: processor time for one request. peer: broker, pooler or Webdis; backend: PostgreSQL or Redis; load: the generator,",
        "which has one thread; load core: its share of a core. backends: on how many anything ran / the most that were open.",
        "Latencies are as measured: what wrk adds to them against coordinated omission is taken out again.",
        *_limited(rounds, titles),
        *_load_notes(rounds),
        *_slow_notes(rounds),
        f"{len(rounds)} rounds; {repeated} runs were repeated since other programs used more than a tenth of the machine. In those",
        f"counted others used at most {others:.0%} ({disturbed} of {len(runs)} runs over a tenth), the host took at most {stolen:.0%}.",
        "Machines are shared and drift by a third within minutes: trust the ratios, not the absolute numbers.",
    ])  # fmt: skip


def _limited(rounds: list[Round], titles: dict[str, str]) -> list[str]:
    """Where the generator was the limit."""
    shares = {name: median(each[name].load_share for each in rounds) for name in rounds[0]}
    found = [f"{titles[name]} ({share:.0%})" for name, share in shares.items() if share >= WHOLE_CORE]
    if not found:
        return [f"No load generator used {WHOLE_CORE:.0%} of its core: none was the limit."]
    return [f"The load generator was the limit (it used {WHOLE_CORE:.0%} of its core or more), the server could do more: "
            + "; ".join(found) + "."]  # fmt: skip


def _load_notes(rounds: list[Round]) -> list[str]:
    if "hearth" not in rounds[0]:
        return []
    return [
        "Direct connect per invocation: TLS 1.3, RSA-2048, SCRAM-SHA-256. PgBouncer: transaction mode, clients sign in with a",
        "password in clear (auth_type = plain). Everything else: no TLS. Hearth checks key, rate and requests in flight each time.",
    ]


def _slow_notes(rounds: list[Round]) -> list[str]:
    mixed = [run for each in rounds for name, run in each.items() if name.startswith(("other-", "same-")) and run.outcome.slow]
    if not mixed:
        return []
    shares = [run.outcome.slow / (run.outcome.slow + run.outcome.requests) for run in mixed]
    asleep = [run.asleep for each in rounds for run in each.values() if run.asleep is not None]
    busy = max(run.outcome.slow_per_second for run in mixed) * 0.1
    hidden = sum(run.outcome.p99_ms >= 100 for run in mixed)
    return [
        f"Slow ones sleep for 100 ms in the database; req/s, latency and µs are of the fast ones alone. {min(shares):.1%} to {max(shares):.1%} of",
        f"the answers were slow, so that at most {busy:.0f} connections were busy with them on average. Both brokers have {MIXED_POOL}; one has",
        "lanes, as by default, the other none.",
        *([f"In {hidden} runs the p99 of the fast ones is 100 ms or more: a lower bound."] if hidden else []),
        *([f"The tenant that sleeps has a login role and {SLEEPERS} connections of its own; at the least {min(asleep)} were asleep at a look."]
          if asleep else []),
    ]  # fmt: skip


def document(rounds: list[Round], found: list[Verdict], facts: dict) -> dict:
    """Everything, for a file."""
    return facts | {
        "ratios": [asdict(v.ratio) | {"median": v.median, "min": v.low, "max": v.high, "verdict": v.word} for v in found],
        "rounds": [{name: asdict(run) for name, run in each.items()} for each in rounds],
    }


def _values(rounds: list[Round], name: str, field: str) -> list[float]:
    take = {
        "req/s": lambda run: run.outcome.per_second,
        "peer µs": lambda run: run.peer_us,
        "backend µs": lambda run: run.backend_us,
        "total µs": lambda run: run.total_us,
        "p99 ms": lambda run: run.outcome.p99_ms,
        "used": lambda run: run.backends_used,
    }[field]
    return [take(each[name]) for each in rounds]


def _median(values) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _backends(runs: list[Run]) -> str:
    most = max((run.backends or 0 for run in runs), default=0)
    used = max((run.backends_used or 0 for run in runs), default=0)
    # Where each request connects anew, more are seen than were ever open at one time.
    return (f"{used}/{most}" if used <= most else f"{most}") if most else "–"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _aligned(head: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def row(cells: list[str]) -> str:
        first, *rest = (cell.ljust(width) if n == 0 else cell.rjust(width)
                        for n, (cell, width) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip
        return f"| {' | '.join([first, *rest])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([row(head), row(rule), *(row(line) for line in lines)])
