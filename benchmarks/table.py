"""Tables of figures: printed as Markdown, written as JSON, drawn as bars. No measuring lives here."""

from __future__ import annotations

import json
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGES: Final = (
    "cardprod",
    "aiohttp",
    "attrs",
    "cattrs",
    "tenacity",
    "stamina",
    "azure-core",
    "wise-sdk",
    "httpx",
    "openapi-python-client",
    "uvloop",
    "aiofastnet",
)
_OURS: Final = "#1b7f4d"
_THEIRS: Final = "#8a94a3"
_COLUMNS: Final = 3


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a Markdown table; columns after the first are right-aligned."""
    lines = [f"| {' | '.join(head)} |", f"| --- {'| ---: ' * (len(head) - 1)}|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


@attrs.frozen
class Series:
    """What was measured of one of the peers, round by round.

    Args:
        name: Who.
        values: One for each round.
    """

    name: str
    values: list[float]

    @property
    def median(self) -> float:
        """The round in the middle."""
        return statistics.median(self.values)

    def ratio_to(self, other: Series) -> float:
        """Give the median of the ratios round by round: what slows the machine for a while slows both sides of one."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))


@attrs.frozen(kw_only=True)
class Table:
    """One figure of several peers.

    Args:
        title: What was measured, and of what.
        unit: In what.
        series: The peers; the first is what the others are compared with.
        more: Further columns: their heads, and for each peer what stands there.
        digits: How many after the point.
    """

    title: str
    unit: str
    series: list[Series]
    more: dict[str, list[str]] = attrs.field(factory=dict[str, list[str]])
    digits: int = 0

    def __str__(self) -> str:
        first = self.series[0]
        head = ["", f"{self.unit} (median)", "spread", f"times {first.name}", *self.more]
        rows = [
            [
                one.name,
                self._shown(one.median),
                f"{self._shown(min(one.values))} to {self._shown(max(one.values))}",
                f"{one.ratio_to(first):.2f}",
                *(column[number] for column in self.more.values()),
            ]
            for number, one in enumerate(self.series)
        ]
        return f"**{self.title}**\n\n{markdown(head, rows)}"

    def _shown(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


def machine() -> dict[str, str]:
    """Give the facts of this machine and of what is installed."""
    facts = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    facts["cpu"] = f"{len(models)} x {models[0]}" if models else "unknown"
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "absent"
    return facts


def write_json(tables: Sequence[Table], path: Path) -> None:
    """Write every figure of every round, and the machine's facts."""
    document = {"machine": machine(), "tables": [attrs.asdict(table) for table in tables]}
    path.write_text(json.dumps(document, indent=2) + "\n")


def draw(tables: Sequence[Table], path: Path) -> None:
    """Draw a panel of bars for each table, from the least round to the greatest with a line."""
    import matplotlib as mpl  # noqa: PLC0415 - only for a picture

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    columns = min(len(tables), _COLUMNS)
    rows = -(-len(tables) // columns)
    height = 0.9 + 0.3 * max(len(table.series) for table in tables)
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns, height * rows), squeeze=False)
    for panel in panels.flat[len(tables) :]:
        panel.set_visible(False)
    for panel, table in zip(panels.flat, tables, strict=False):
        medians = [one.median for one in table.series]
        spread = [
            [one.median - min(one.values) for one in table.series],
            [max(one.values) - one.median for one in table.series],
        ]
        colours = [_OURS if one.name.startswith("cardprod") else _THEIRS for one in table.series]
        bars = panel.barh([one.name for one in table.series], medians, xerr=spread, color=colours, ecolor="#444")
        panel.bar_label(bars, labels=[f"{value:,.{table.digits}f}" for value in medians], padding=4, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.25)
        panel.set_title(f"{table.title}\n{table.unit}", fontsize=9)
        panel.tick_params(labelsize=8)
    figure.tight_layout()
    saved: Any = figure
    saved.savefig(path, dpi=90)
    plt.close(figure)
