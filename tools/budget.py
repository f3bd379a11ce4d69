"""How long a fall goes unseen, by budget of false alarms: the tables of docs/explanation/degradation.md, from `core/drift.py`.

One model in one category and one source; nothing else is going on. `python tools/budget.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.core.drift import LAG, QUALIFYING, Pair, Reference, Stream, evidence, joined, observed, threshold

BUDGETS = (1.0, 5.0, 20.0, 100.0, 1000.0)
LONGEST, RUNS = 5000, 200
FALLS = (
    (0.75, 0.0, 500),
    (0.75, 0.0, 5000),
    (0.70, 0.0, 500),
    (0.70, 0.0, 5000),
    (0.55, 0.0, 500),
    (0.80, 0.1, 500),
    (0.80, 0.1, 5000),
    (0.70, 0.1, 500),
)
"""The mean that .85 falls to, the standard deviation of one value (0: it is 0 or 1), the values in the reference."""
BEFORE = 0.85


SLOW = tuple((total, sd, length) for sd in (0.0, 0.1) for total in (0.1, 0.2) for length in (500, 2000, 8000))
"""How far .85 falls in equal steps, the standard deviation of one value, the values that it takes."""
SLOW_KNOWN, SLOW_RUNS = 500, 100


def draws(rng: np.random.Generator, means: NDArray[np.float64], sd: float) -> list[float]:
    """Scores of 0 or 1, or, with an sd, from the Beta distribution that has it."""
    if sd == 0.0:
        return [float(each) for each in rng.random(len(means)) < means]
    strength = means * (1.0 - means) / (sd * sd) - 1.0
    return [float(each) for each in rng.beta(means * strength, (1.0 - means) * strength)]


def delays(after: NDArray[np.float64], sd: float, known: int, budgets: Sequence[float], seed: int) -> list[float]:
    """Values from the first of those with means `after` to the alarm, for each budget; infinite where there is none."""
    fall = QUALIFYING + LAG + known
    values = draws(np.random.default_rng(seed), np.concatenate([np.full(fall, BEFORE), after]), sd)
    stream, reference = Stream(), Reference()
    needed = [threshold(budget) for budget in budgets]
    found = [math.inf] * len(needed)
    for since, value in enumerate(values, start=1 - fall):
        if since == 1:  # what had added up by chance is no part of the question
            stream, reference = stream._replace(tests=Pair()), reference._replace(tests=Pair())
        stream, reference = observed(stream, reference, "c", value)
        if len(stream.waiting) > LAG:
            stream, reference = joined(stream, reference)
        if since > 0:
            high = max(evidence({"": each.tests.down}, min_sources=1) for each in (stream, reference))
            found = [min(at, since) if high > least else at for at, least in zip(found, needed, strict=True)]
            if max(found) < math.inf:
                break
    return found


def cell(found: Sequence[float]) -> str:
    """Median (95th percentile); where not even half are seen, or not 95 %, the share that is."""
    seen = f"{100 * np.isfinite(found).mean():.0f} % seen"
    middle, late = np.quantile(found, [0.5, 0.95], method="higher")
    return f"{middle:.0f} ({late:.0f})" if np.isfinite(late) else f"{middle:.0f} ({seen})" if np.isfinite(middle) else seen


def kind(sd: float) -> str:
    return f"marks, sd {sd:g}" if sd else "0/1"


def main() -> None:
    print("| scores | from .85 to | values in the reference | " + " | ".join(f"{budget:g}" for budget in BUDGETS) + " |")
    print("|---" * (3 + len(BUDGETS)) + "|")
    for after, sd, known in FALLS:
        found = [delays(np.full(LONGEST, after), sd, known, BUDGETS, seed) for seed in range(RUNS)]
        columns = map(cell, np.array(found).T.tolist())
        print(f"| {kind(sd)} | {after:.2f} | {known:,} | " + " | ".join(columns) + " |", flush=True)
    print("\n| scores | falls by | over values | seen | after values | fallen by then |\n|---|---|---|---|---|---|")
    for total, sd, length in SLOW:
        means = BEFORE - total * np.minimum(1.0, np.arange(1, length + LONGEST + 1) / length)
        late = np.array([delays(means, sd, SLOW_KNOWN, [BUDGETS[2]], seed) for seed in range(SLOW_RUNS)])[:, 0]
        middle = float(np.median(late))
        told = f"{100 * np.isfinite(late).mean():.0f} % | {middle:,.0f} | {total * min(1.0, middle / length):.3f}"
        print(f"| {kind(sd)} | {total:.1f} | {length:,} | {told} |", flush=True)


if __name__ == "__main__":
    main()
