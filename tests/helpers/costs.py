"""Write the cost of each file of tests to the table tests/costs.md, or compare a run with it.

    python tests/helpers/costs.py [--write]

Both read the JUnit files that `make test`, `make test-slow` and `make test-browser` leave in
build/tests. Without --write, the exit code is 1 if the tests cost more than 1.25 times the total
of the table.
"""

import argparse
import datetime
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "costs.md"
RUNS = ("test", "test-slow", "test-browser")
MOST = 1.25
"""A run may cost so many times the table's total, on a machine as fast as the table's."""
_FEWEST = 10
"""Files that a run needs for a slowdown of its own."""

_HEAD = """# What the tests cost

`make costs` writes this table from the last runs of `make test`, `make test-slow` and
`make test-browser`: here of {date}, on {machine}. Seconds are those of
one process of the test runner, and two of them run side by side. Clusters are the Ray clusters that
were started.

`.ci/run` fails when the total has grown by a quarter. A slower machine is not growth: the median of
the files shows how much slower it is (see `slowdown` in tests/helpers/costs.py). So growth of all
files alike is not seen.

| file | tests | seconds | clusters |
|---|--:|--:|--:|
"""


@dataclass
class Cost:
    """Cost of the tests of a file."""

    tests: int = 0
    seconds: float = 0.0
    clusters: int = 0


Costs = dict[str, Cost]
"""Costs by file, such as unit/audio/test_audio.py."""


def read_run(junit: Path) -> Costs:
    """The costs in a JUnit file, by the tests' file."""
    costs: Costs = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        if not case.attrib["classname"]:  # a file that was skipped as a whole
            continue
        name = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
        cost = costs.setdefault(name, Cost())
        cost.tests += 1
        cost.seconds += float(case.attrib["time"])
        for noted in case.iter("property"):
            if noted.attrib["name"] == "clusters":
                cost.clusters += int(noted.attrib["value"])
    return costs


def together(runs: list[Costs]) -> Costs:
    """The costs of several runs, added up by file."""
    costs: Costs = {}
    for name, one in (item for run in runs for item in run.items()):
        cost = costs.get(name, Cost())
        costs[name] = Cost(
            cost.tests + one.tests, cost.seconds + one.seconds, cost.clusters + one.clusters
        )
    return costs


def read_table(text: str) -> Costs:
    """The costs in the text of a table."""
    rows = re.findall(r"^\| ([\w/]+\.py) \| (\d+) \| ([\d.]+) \| (\d+) \|$", text, re.MULTILINE)
    return {name: Cost(int(tests), float(s), int(started)) for name, tests, s, started in rows}


def write_table(costs: Costs, machine: str) -> str:
    """The text of the table, with the slowest file first."""
    lines = [
        f"| {name} | {cost.tests} | {cost.seconds:.1f} | {cost.clusters} |"
        for name, cost in sorted(costs.items(), key=lambda item: (-item[1].seconds, item[0]))
    ]
    tests, clusters = (sum(getattr(c, k) for c in costs.values()) for k in ("tests", "clusters"))
    lines.append(f"| **all** | {tests} | {total(costs):.1f} | {clusters} |")
    head = _HEAD.format(date=datetime.date.today().isoformat(), machine=machine)
    return head + "\n".join(lines) + "\n"


def total(costs: Costs) -> float:
    """The seconds of all files."""
    return sum(cost.seconds for cost in costs.values())


def slowdown(now: Costs, before: Costs) -> float:
    """How many times slower this machine is than the table's machine; at least 1.

    It is the median of the ratios of all files that took at least a second. A slower machine
    changes all ratios. A few files with more or slower tests do not change the median.
    """
    known = [name for name in before if name in now and before[name].seconds >= 1]
    ratios = [now[name].seconds / before[name].seconds for name in known]
    return max(1.0, median(ratios)) if ratios else 1.0


def as_before(runs: list[Costs], before: Costs) -> Costs:
    """The costs of the runs, as they would be on the table's machine.

    Each run is divided by a slowdown of its own, because other work on the machine may slow down
    one run alone. A run of few files has no median that means anything: it gets that of all runs.
    """
    every = together(runs)
    scaled = []
    for run in runs:
        whole = {name: cost for name, cost in run.items() if cost == every[name]}
        own = whole if len(whole) >= _FEWEST else every
        by = slowdown(own, before)
        scaled.append({n: Cost(c.tests, c.seconds / by, c.clusters) for n, c in run.items()})
    return together(scaled)


def growth(runs: list[Costs], before: Costs) -> tuple[float, list[str]]:
    """The ratio of the runs' cost to the table's total, and lines on the files that grew most.

    The cost is that of `as_before`.
    """
    now = as_before(runs, before)
    grown = {name: cost.seconds - before.get(name, Cost()).seconds for name, cost in now.items()}
    most = sorted(grown, key=lambda name: -grown[name])[:5]
    lines = [f"{name}: {grown[name]:+.0f} s" for name in most if grown[name] > 0]
    return total(now) / total(before), lines


def this_machine() -> str:
    """The number of CPU cores of this machine and their model."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{os.cpu_count()} cores of {found[1] if found else 'an unknown kind'}"


def main() -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--write", action="store_true", help="write the table anew")
    write = parser.parse_args().write
    runs = [read_run(ROOT / "build" / "tests" / f"{run}.xml") for run in RUNS]
    now = together(runs)
    if write:
        TABLE.write_text(write_table(now, this_machine()))
        return 0
    before = read_table(TABLE.read_text())
    times, lines = growth(runs, before)
    print(
        f"tests cost {total(now):.0f} s here, on a machine {slowdown(now, before):.2f} times slower"
        f" than that of tests/costs.md: {times:.2f} times its total"
    )
    if times <= MOST:
        return 0
    print(
        f"that is more than {MOST}: make the tests cheaper, or, where it must be, renew the table "
        "with `make costs` and say why in the commit. What grew most:\n  " + "\n  ".join(lines)
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
