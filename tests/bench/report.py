"""From runs to tables: medians, ratios within a round, targets."""

from dataclasses import asdict, dataclass
from statistics import median

from cpu import CORES
from scenarios import Ratio, Run, ratios

Round = dict[str, Run]


@dataclass(frozen=True)
class Verdict:
    """A ratio over all rounds."""

    ratio: Ratio
    median: float
    low: float
    high: float

    @property
    def word(self) -> str:
        if self.ratio.at_least is None:
            return ""
        return "met" if self.median >= self.ratio.at_least else "missed"


def best_pgbouncer(rounds: list[Round]) -> str:
    """PgBouncer's faster mode."""
    names = [name for name in rounds[0] if name in ("pgbouncer-simple", "pgbouncer-prepared")]
    return max(names, key=lambda name: median(_values(rounds, name, "req/s")))


def verdicts(rounds: list[Round]) -> list[Verdict]:
    """Each ratio's median over the rounds."""
    found = []
    for ratio in ratios(best_pgbouncer(rounds)):
        above, below = (_values(rounds, name, ratio.field) for name in (ratio.above, ratio.below))
        each = [a / b for a, b in zip(above, below, strict=True) if b]
        if each:
            found.append(Verdict(ratio, median(each), min(each), max(each)))
    return found


def table(rounds: list[Round], titles: dict[str, str]) -> str:
    """One line a target."""
    head = ["target", "req/s", "min–max", "p50 ms", "p99 ms", "peer µs", "backend µs", "load µs", "backends"]
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
            str(max((each[name].backends or 0 for each in rounds), default=0) or "–"),
        ])  # fmt: skip
    return _aligned(head, lines)


def bulk(rows: list[list[str]], targets: list) -> str:
    """Large results and batches: one line a way to move them, then one a target."""
    head = ["large results and bulk data", "MiB/s", "seconds", "broker s/GiB", "backend s/GiB", "MiB over idle"]
    lines = []
    for target in targets:
        wanted = [f"≥ {target.at_least:g}"] if target.at_least is not None else []
        wanted += [f"≤ {target.at_most:g}"] if target.at_most is not None else []
        spread = f"{min(target.values):.2f}–{max(target.values):.2f}"
        lines.append([target.title, f"{target.median:.2f}", spread, " ".join(wanted), target.word])
    return _aligned(head, rows) + "\n\n" + _aligned(["target", "median", "min–max", "wanted", ""], lines)


def comparison(found: list[Verdict]) -> str:
    """One line a ratio."""
    head = ["ratio (median of the rounds' ratios)", "value", "min–max", "target", ""]
    lines = [
        [
            verdict.ratio.title,
            f"{verdict.median:.2f}",
            f"{verdict.low:.2f}–{verdict.high:.2f}",
            f"≥ {verdict.ratio.at_least:g}" if verdict.ratio.at_least is not None else "",
            verdict.word,
        ]
        for verdict in found
    ]
    return _aligned(head, lines)


def notes(rounds: list[Round], versions: dict[str, str], memory_gib: float, repeated: int) -> str:
    """What a reader must know to trust the numbers."""
    shares = [run.others for each in rounds for run in each.values()]
    others, disturbed, runs = max(shares), sum(share > 0.1 for share in shares), len(shares)
    stolen = max(run.stolen for each in rounds for run in each.values())
    return "\n".join([
        f"{CORES} cores, {memory_gib:.0f} GiB; generator, peer and database share them, over loopback. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "µs: processor time for one request. peer: broker, pooler or Webdis; backend: PostgreSQL or Redis.",
        "Direct connect per invocation: TLS 1.3, RSA-2048, SCRAM-SHA-256. PgBouncer: transaction mode, clients sign in with a",
        "password in clear (auth_type = plain). Everything else: no TLS. Hearth checks key, rate and requests in flight each time.",
        f"{len(rounds)} rounds; {repeated} runs were repeated since other programs used more than a tenth of the machine. In those",
        f"counted others used at most {others:.0%} ({disturbed} of {runs} runs over a tenth), the host took at most {stolen:.0%}.",
        "Machines are shared and drift by a third within minutes: trust the ratios, not the absolute numbers.",
    ])  # fmt: skip


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
    }[field]
    return [take(each[name]) for each in rounds]


def _median(values) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


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
