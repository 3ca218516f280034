"""The one way to score a set of images: a job in, an outcome out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic
from types import TracebackType

import numpy as np

import anomscan
from anomscan.errors import NoImages, UnreadableImage
from anomscan.images.decode import decode_all
from anomscan.images.find import Found, Search, Unreadable
from anomscan.images.isolate import decode_all_apart
from anomscan.images.overlay import source_size
from anomscan.images.part import covered
from anomscan.model.model import Model
from anomscan.model.whereabouts import Whereabouts
from anomscan.pipeline import available_cores, counted
from anomscan.report.evidence import MOST_UNREADABLE, Evidence
from anomscan.report.heatmaps import Scale, regions, write_heatmaps
from anomscan.report.summary import Summary
from anomscan.screen.decide import check, decide
from anomscan.screen.ranking import Ranking
from anomscan.screen.remarks import RemarkCounts
from anomscan.screen.sample import Sample
from anomscan.screen.screener import Scored, Screener
from anomscan.stats.calibration import Calibration
from anomscan.stats.decision import UNDECIDED, Decision
from anomscan.stats.drift import FEWEST, LARGEST_SAMPLE, Drift, drift
from anomscan.text import now
from anomscan.types import Box, Features, Outputs, Preprocessing, Progress

MOST_HEATMAPS = 10_000
"""Pictures that are written where no number was asked for."""
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class ScoreJob:
    """What to score, by which model, and what to call anomalous.

    ``sources`` are read lazily: memory does not grow with their number. ``k`` None takes the model's
    neighbours. ``threads`` decode; the model's extractor has its own. The rows do not depend on them. The
    features of the ``keep`` most anomalous images are kept for a report. ``search`` is what finds the
    sources, and counts what it passes over; ``max_pixels`` replaces the model's limit; ``normals`` are
    folders in which a report may look for the normals. With ``isolate`` images are decoded in processes of
    their own, each in at most so many seconds.
    """

    sources: Iterable[Found]
    model: Model
    decision: Decision = UNDECIDED
    k: int | None = None
    threads: int = field(default_factory=available_cores)
    keep: int = 0
    search: Search = field(default_factory=Search)
    max_pixels: int | None = None
    normals: Sequence[str] = ()
    isolate: float | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images are read: as the normals were, but for the limit."""
        own = self.model.manifest.preprocessing
        if self.max_pixels is None:
            return own
        return replace(own, reading=replace(own.reading, max_pixels=self.max_pixels))


class Outcome:
    """What a job came to; a context manager, since the ranking lives in a temporary file.

    ``ranking`` has a row for every source; ``sample`` features of a few; ``calibration`` is where p-values
    come from; ``limit`` the score that the decision comes to; ``seconds`` how long it took.
    """

    def __init__(self, job: ScoreJob) -> None:
        self.job = job
        self.ranking = Ranking()
        self.sample = Sample(job.keep)
        self.remarks = RemarkCounts()
        self.calibration: Calibration | None = None
        self.limit: float | None = None
        self.seconds = 0.0

    def __enter__(self) -> Outcome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ranking.close()

    def summary(self) -> Summary:
        """The whole in a few numbers; drift is tested here."""
        ranking, decision, calibration = self.ranking, self.job.decision, self.calibration
        moved, features = None, self.sample.others()
        if calibration is not None and ranking.scored >= FEWEST and len(features):
            moved = drift_of(self.job.model, calibration, features)
        return Summary(
            anomscan=anomscan.__version__,
            model=self.job.model.manifest.id,
            created=now(),
            images=ranking.total,
            unreadable=ranking.unreadable,
            anomalous=None if decision == UNDECIDED else ranking.anomalous,
            decision=decision,
            limit=self.limit,
            held_out=calibration.groups if calibration else 0,
            quantiles={f"{share:g}": ranking.quantile(share) for share in SHARES} if ranking.scored else {},
            drift=moved,
            seconds=round(self.seconds, 3),
            images_per_second=round(ranking.total / self.seconds, 2),
            not_looked_at=dict(self.job.search.other_files),
            passed_over=dict(self.job.search.passed_over),
            remarks=dict(self.remarks.counts),
            notes=[*self.remarks.messages(), *self.job.search.messages()],
        )

    def evidence(self, top: int, summary: Summary) -> Evidence:
        """What the report shows of the ``top`` most anomalous images, at most ``job.keep``."""
        rows = (row for row in self.ranking.rows(top) if row.rank is not None)
        patches = self.job.model.patches
        return Evidence(
            rows=list(islice(rows, top)),
            unreadable=list(islice(self.ranking.rows(0), MOST_UNREADABLE)),
            features=self.sample.features(),
            histogram=self.ranking.histogram,
            summary=summary,
            model=self.job.model,
            calibration=self.calibration,
            maps=self.sample.maps(),
            patch_source=patches.origin if patches else None,
            scale=scale_of(self.job.model),
            reading=self.job.preprocessing.reading,
            normals=Whereabouts(self.job.model.manifest.data.root, self.job.normals),
        )

    def write_heatmaps(self, folder: str, top: int, progress: Progress) -> int:
        """Write pictures of the ``top`` images; where it was decided, of the anomalous ones. How many."""
        maps, scale = self.sample.maps(), scale_of(self.job.model)
        if scale is None:
            return 0
        decided = self.job.decision != UNDECIDED
        rows = [row for row in self.ranking.rows(top) if row.path in maps and (row.anomalous or not decided)]
        images = [(row.path, maps[row.path].distances[0]) for row in rows]
        return write_heatmaps(folder, images, scale, self.job.preprocessing.reading, progress)


def run(job: ScoreJob, progress: Progress) -> Outcome:
    """Score every source of the job and decide; the caller closes the outcome.

    Raises:
        CalibrationTooSmall: the model cannot make the decision; before any work.
        GalleryTooSmall, UsageError: see ``Screener``.
        NoImages: there are no sources, not even such as are too young yet.
    """
    check(job.decision, job.model.calibration)
    began = monotonic()
    screener = Screener(job.model, job.k)
    outcome = Outcome(job)
    try:
        _fill(outcome, screener, progress)
        outcome.calibration = screener.calibration
        outcome.limit = decide(job.decision, outcome.ranking, screener.calibration)
        outcome.seconds = monotonic() - began
    except BaseException:
        outcome.ranking.close()
        raise
    return outcome


def _fill(outcome: Outcome, screener: Screener, progress: Progress) -> None:
    job, ranking = outcome.job, outcome.ranking
    if job.isolate is None:
        images = decode_all(job.sources, job.preprocessing, job.threads)
    else:
        images = decode_all_apart(job.sources, job.preprocessing, job.threads, job.isolate)
    for scored in screener.stream(counted("scoring", images, None, progress)):
        if isinstance(scored, Unreadable):
            ranking.add_unreadable(scored)
        else:
            ranking.add(scored, _regions(scored, job.model))
            outcome.sample.add(scored)
            outcome.remarks.add(scored)
    if not ranking.total and not job.search.passed_over["young"]:
        raise NoImages(f"no images to score: {job.search.why_nothing()}")


def drift_of(model: Model, calibration: Calibration, features: Features) -> Drift | None:
    """Whether images, (m, D) features, have moved away from the held-out normals; see ``stats.drift``.

    Both are ranked as whole images, as they are compared: patches score higher where all of a batch is
    darker, and the highest scores are left out.
    """
    scorer = model.scorer.whole
    held_out = calibration.rescored(scorer.score(Outputs(calibration.features), scorer.info.k))
    scores = scorer.score(Outputs(features), scorer.info.k).astype(np.float64)
    return drift(held_out, model.gallery.some(LARGEST_SAMPLE), features, scores)


def scale_of(model: Model) -> Scale | None:
    """How hot distances look in pictures; None without patches."""
    info = model.manifest.patches
    return Scale(info.dark, info.bright) if info else None


def _regions(scored: Scored, model: Model) -> list[list[Box] | None] | None:
    """Where each image is odd, in pixels of its file; None without patches."""
    maps, scale, reading = scored.outputs.maps, scale_of(model), model.manifest.preprocessing.reading
    if maps is None or scale is None:
        return None
    found: list[list[Box] | None] = []
    for image, distances in zip(scored.images, maps.distances, strict=True):
        boxes: list[Box] | None = []
        if distances.max() > scale.dark:
            try:
                boxes = regions(distances, scale.dark, covered(reading, source_size(image.path)))
            except UnreadableImage:  # it is gone by now
                boxes = None
        found.append(boxes)
    return found
