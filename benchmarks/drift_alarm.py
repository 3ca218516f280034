"""How often the drift alarm of ``anomscan watch`` is false, and after how many images a true one comes.

    python benchmarks/drift_alarm.py

Scores are drawn from normal distributions; a shift is in standard deviations. The first table counts, of
1,000 streams of 300 scores that are like their held-out normals, those with an alarm at a level of 0.05. The
second gives the median of 20 streams at a level of 0.01, and how many had no alarm within 3,000 images.
"""

from __future__ import annotations

import numpy as np

from anomscan.stats.martingale import DriftTest, Ranks

HELD_OUT = (16, 50, 200, 1000)
SHIFTS = (0.5, 1.0, 2.0, 4.0, -1.0)


def alarm(reference: np.ndarray, stream: np.ndarray, level: float, source: np.random.Generator) -> int:
    """After how many scores there is an alarm; 0 for none."""
    test = DriftTest(Ranks(reference, source))
    scores = stream.astype(np.float32)
    return next((i + 1 for i in range(len(scores)) if test.add(scores[i : i + 1], level)), 0)


def main() -> None:
    """Print the tables."""
    source = np.random.default_rng(0)
    print("held out  false alarms of 1000 streams, at 0.05")
    for count in HELD_OUT[:2]:
        alarms = 0
        for _ in range(1000):
            scores = source.normal(source.normal(), source.gamma(2), count + 300)
            alarms += alarm(scores[:count], scores[count:], 0.05, source) > 0
        print(f"{count:8}  {alarms}", flush=True)
    print("held out  shift  images until the alarm  of 20 without one")
    for count in HELD_OUT:
        for shift in SHIFTS:
            found = [
                alarm(source.normal(size=count), source.normal(shift, 1, 3000), 0.01, source)
                for _ in range(20)
            ]
            true = [images for images in found if images]
            median = f"{np.median(true):.0f}" if true else "-"
            print(f"{count:8}  {shift:5}  {median:>22}  {found.count(0)}", flush=True)
    print("quiet images  shift  images until the alarm, of 200 held out")
    for quiet in (1000, 100_000):
        for shift in (1.0, 5.0):
            stream = np.concatenate([source.normal(size=quiet), source.normal(shift, 1, 3000)])
            print(f"{quiet:12}  {shift:5}  {alarm(source.normal(size=200), stream, 0.01, source) - quiet}")


if __name__ == "__main__":
    main()
