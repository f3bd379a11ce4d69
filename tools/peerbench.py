"""Reads what peerbench measured (its JSON files) and says how banditroute did: `python tools/peerbench.py FILE...`.

Per scenario the share of random's regret that is saved, over the data sets; per cell the mean and the 90th percentile over
seeds; and every cell where a peer lost less, with the paired difference over the seeds that both have and its
two-sided p-value times the number of comparisons (Bonferroni).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr

OURS = "banditroute"
NOT_PEERS = ("random", "fixed-oracle", "category-oracle")
LEVEL = 0.05

Cell = tuple[str, str]
Runs = dict[str, dict[Cell, dict[int, Mapping[str, float]]]]


def load(paths: Sequence[Path]) -> Runs:
    """Learner -> (data set, scenario) -> seed -> its figures; later files win."""
    runs: Runs = {}
    for path in paths:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["runs"]
        for data, scenarios in found.items():
            for scenario, learners in scenarios.items():
                for learner, cell in learners.items():
                    if cell["seeds"]:
                        seeds = {int(seed): figures for seed, figures in cell["seeds"].items()}
                        runs.setdefault(learner, {})[data, scenario] = seeds
    return runs


def saved(seeds: Mapping[int, Mapping[str, float]]) -> float:
    """Percent of random's regret that was not lost."""
    return 100.0 * (1.0 - sum(run["regret"] for run in seeds.values()) / sum(run["regret_random"] for run in seeds.values()))


def excess(ours: Mapping[int, Mapping[str, float]], peers: Mapping[int, Mapping[str, float]]) -> tuple[float, float, int]:
    """What we lost more than a peer: the mean over common seeds, its two-sided p-value (paired t), how many seeds."""
    gaps = [ours[seed]["regret"] - peers[seed]["regret"] for seed in sorted(ours.keys() & peers.keys())]
    if len(gaps) < 2:
        return (gaps[0] if gaps else 0.0), math.nan, len(gaps)
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    mean = statistics.fmean(gaps)
    return mean, float(2.0 * stdtr(len(gaps) - 1, -abs(mean) / error)) if error > 0.0 else float(mean == 0.0), len(gaps)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python tools/peerbench.py", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="JSON files of peerbench")
    runs = load(parser.parse_args(arguments).files)
    if OURS not in runs:
        print(f"no runs of {OURS} in these files", file=sys.stderr)
        return 1
    ours = runs[OURS]
    scenarios = list(dict.fromkeys(scenario for _, scenario in ours))
    means = []
    for scenario in scenarios:
        cells = {data: seeds for (data, its), seeds in sorted(ours.items()) if its == scenario}
        means.append(statistics.fmean(map(saved, cells.values())))
        print(f"{scenario}: {means[-1]:.1f} % of random's regret saved")
        for data, seeds in cells.items():
            regrets = [run["regret"] for run in seeds.values()]
            spread = f"p90 {np.quantile(regrets, 0.9):.1f}, {len(seeds)} seeds"
            print(f"  {data}: {saved(seeds):.1f} %, regret {statistics.fmean(regrets):.1f}, {spread}")
    print(f"mean over {len(scenarios)} scenarios: {statistics.fmean(means):.2f} %")
    peers = sorted(set(runs) - {OURS, *NOT_PEERS})
    pairs = [(peer, cell) for peer in peers for cell in sorted(ours.keys() & runs[peer].keys())]
    print(f"{len(pairs)} comparisons with {', '.join(peers) or 'no peer'}; a peer lost less in:")
    worse = 0
    for peer, cell in pairs:
        gap, p, count = excess(ours[cell], runs[peer][cell])
        if gap > 0.0:
            corrected = min(1.0, p * len(pairs))
            worse += corrected < LEVEL
            print(f"  {cell[0]} {cell[1]} {peer}: we lose {gap:.1f} more, p {p:.3f}, corrected {corrected:.3f}, {count} seeds")
    print(f"cells where a peer is lower at {LEVEL:g} after correction: {worse}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
