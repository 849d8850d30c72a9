"""Fast statements while others are slow: on the lanes' own sessions, and in another tenant's pool."""

import signal
import time
from dataclasses import dataclass, replace

from load import LoadError, Wrk
from runs import Generator, LoadScenario, Plan, Run
from servers import ROWS, SLEEPERS, Servers

# How long the loud tenant's pool may take to grow, and to calm down afterwards.
GROW_SECONDS = 30
# Longer than any run; it is ended by a signal.
BESIDE_SECONDS = 600
# Between two sleeps of a connection lies a round trip on a busy machine, so not all of them are asleep at a look.
ASLEEP = round(SLEEPERS * 0.75)


def mixed(servers: Servers, broker: str, slow: str) -> LoadScenario:
    """One statement in a hundred is slow, over one broker with lanes or one without. The fast ones count."""
    hearth = getattr(servers, broker)
    what = {"other": "1 % another, slow one", "same": "1 % the same, slow"}[slow]
    load = Wrk("mixed.lua", f"{hearth.url}/v1/db/app/query", '"row_count":1', key=hearth.key, rows=ROWS, slow=slow)
    return LoadScenario(f"{slow}-{broker}", f"Hearth, {broker}, {what}, 64 conn.", load, broker, "postgres")


def alone(servers: Servers) -> LoadScenario:
    """Reads of one tenant, and nothing else."""
    return _reads(servers, "alone", "Hearth, lanes, 64 conn.")


def beside(servers: Servers) -> "Beside":
    """The same while another tenant's statements sleep, each on a connection of its own."""
    hearth = servers.lanes
    loud = Wrk(
        "sleep.lua", f"{hearth.url}/v1/db/loud/query", '"row_count":1', connections=SLEEPERS, key=hearth.keys["loud"],
        timeout_seconds=30,
    )  # fmt: skip
    return Beside(_reads(servers, "beside", f"… beside {SLEEPERS} pg_sleep(1) of another tenant"), loud)


@dataclass(frozen=True)
class Beside:
    """A scenario beside a load that sleeps."""

    reads: LoadScenario
    loud: Wrk

    @property
    def name(self) -> str:
        return self.reads.name

    @property
    def title(self) -> str:
        return self.reads.title

    def measure(self, servers: Servers, plan: Plan) -> Run:
        with Generator(self.title, self.loud, BESIDE_SECONDS) as sleepers:
            self._until(servers, lambda asleep: asleep >= ASLEEP)
            run = self.reads.measure(servers, plan, beside={"beside": sleepers.pid})
            asleep = servers.postgres.sleeping("loud")
            if asleep < ASLEEP:
                raise LoadError(f"{self.title}: at the end {asleep} were asleep")
            sleepers.process.send_signal(signal.SIGINT)
            sleepers.outcome()
        # What is cancelled now must not be charged to the next scenario.
        self._until(servers, lambda asleep: asleep == 0)
        return replace(run, asleep=asleep)

    def _until(self, servers: Servers, holds) -> None:
        until = time.monotonic() + GROW_SECONDS
        while not holds(asleep := servers.postgres.sleeping("loud")):
            if time.monotonic() > until:
                raise LoadError(f"{self.title}: after {GROW_SECONDS} s {asleep} were asleep")
            time.sleep(0.1)


def _reads(servers: Servers, name: str, title: str) -> LoadScenario:
    hearth = servers.lanes
    load = Wrk("read.lua", f"{hearth.url}/v1/db/app/query", '"row_count":1', key=hearth.key, rows=ROWS)
    return LoadScenario(name, title, load, "lanes", "postgres")
