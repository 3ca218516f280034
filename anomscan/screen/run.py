"""The one way to score a set of images: a job in, an outcome out.

What few runs need, pictures, parts and processes that decode, is imported where it is needed: a script scores
every few minutes, and half of a short run is its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

import anomscan
from anomscan.errors import NoImages, UnreadableImage
from anomscan.images.decode import decode_all
from anomscan.images.find import Found, Search, Unreadable
from anomscan.images.part import covered
from anomscan.model.model import Model
from anomscan.pipeline import available_cores, counted
from anomscan.report.summary import Summary
from anomscan.screen.decide import check, decide, review
from anomscan.screen.journal import Journal, Settings
from anomscan.screen.ranking import Before, Ranking
from anomscan.screen.remarks import RemarkCounts
from anomscan.screen.sample import Sample
from anomscan.screen.screener import Scored, Screener
from anomscan.stats.calibration import Calibration
from anomscan.stats.decision import UNDECIDED, Decision
from anomscan.stats.drift import FEWEST, LARGEST_SAMPLE, Drift, drift
from anomscan.text import now
from anomscan.types import Box, Features, Outputs, Preprocessing, Progress

if TYPE_CHECKING:
    from anomscan.images.workpiece import PartRule
    from anomscan.report.evidence import Evidence
    from anomscan.report.heatmaps import Scale
    from anomscan.screen.parts import Parts

MOST_HEATMAPS = 10_000
"""Pictures that are written where no number was asked for."""
_FIRST = "first image"
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class ScoreJob:
    """What to score, by which model, and what to call anomalous.

    ``sources`` are read lazily: memory does not grow with their number. ``k`` None takes the model's
    neighbours. ``threads`` decode; the model's extractor has its own. The rows do not depend on them. The
    features of the ``keep`` most anomalous images are kept for a report. ``search`` is what finds the
    sources, and counts what it passes over; ``max_pixels`` replaces the model's limit. ``part_by`` says
    which images are views of one part, to be judged together; ``normals`` are folders in which a report may
    look for the normals. With ``isolate`` images are decoded in processes of their own, each in at most so
    many seconds. ``engine`` looks at the images, on this machine or elsewhere.
    """

    sources: Iterable[Found]
    model: Model
    decision: Decision = UNDECIDED
    k: int | None = None
    threads: int = field(default_factory=available_cores)
    keep: int = 0
    search: Search = field(default_factory=Search)
    max_pixels: int | None = None
    part_by: PartRule | None = None
    normals: Sequence[str] = ()
    isolate: float | None = None
    engine: Engine | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images are read: as the normals were, but for the limit."""
        own = self.model.manifest.preprocessing
        if self.max_pixels is None:
            return own
        return replace(own, reading=replace(own.reading, max_pixels=self.max_pixels))

    @property
    def settings(self) -> Settings:
        """What the scores, the decisions and what is kept for pictures depend on, beside the images."""
        decision = self.decision
        return {
            "version of anomscan": anomscan.__version__,
            "model": self.model.manifest.id,
            "--k": self.k,
            "--max-pixels": self.max_pixels,
            "--fpr": decision.fpr,
            "--fdr": decision.fdr,
            "--threshold": decision.threshold,
            "--review": None if decision.review is None else [*astuple(decision.review)],
            "--part-by": self.part_by and self.part_by.text,
            "--top, --report or --heatmaps": self.keep,
        }


Judged = tuple[Scored, "list[list[Box] | None] | None"] | Unreadable
"""Images that were scored together, with where each is odd if that is known; or one that is unreadable."""
Engine = Callable[["ScoreJob", Screener, Iterable[Found], Progress], Iterator[Judged]]
"""Scores the sources that it is given, for a job, in their order, by a screener or by others like it."""


def here(job: ScoreJob, screener: Screener, sources: Iterable[Found], progress: Progress) -> Iterator[Judged]:
    """The engine of this machine."""
    if job.isolate is None:
        images = decode_all(sources, job.preprocessing, job.threads)
    else:
        from anomscan.images.isolate import decode_all_apart

        images = decode_all_apart(sources, job.preprocessing, job.threads, job.isolate)
    for scored in screener.stream(counted("scoring", images, None, progress)):
        yield scored if isinstance(scored, Unreadable) else (scored, regions_of(scored, job.model))


class Outcome:
    """What a job came to; a context manager, since the ranking lives in a temporary file.

    ``ranking`` has a row for every source; ``sample`` features of a few; ``calibration`` is where p-values
    come from; ``limit`` the score that the decision comes to, ``review_limit`` the p-value up to which a
    person should look; ``parts`` judged parts, where that was asked for; ``seconds`` how long it took. The
    ranking of a run with a ``journal`` lives there; ``scored_before`` counts the images of a run before.
    """

    def __init__(self, job: ScoreJob, journal: Journal | None = None) -> None:
        self.job = job
        part_of = job.part_by.of if job.part_by else None
        self.ranking = Ranking(journal, part_of)
        self.journal = self.ranking.journal
        self.sample = Sample(job.keep, part_of)
        first = self.journal.noted(_FIRST)
        self.remarks = RemarkCounts(None if first is None else np.array(first, np.float32))
        self.scored_before = 0
        self.parts: Parts | None = None
        self.review_limit: float | None = None
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
            held_out=self._judging.groups if self._judging else 0,
            quantiles={f"{share:g}": ranking.quantile(share) for share in SHARES} if ranking.ranked else {},
            drift=moved,
            seconds=round(self.seconds, 3),
            images_per_second=round((ranking.total - self.scored_before) / self.seconds, 2),
            not_looked_at=dict(self.job.search.other_files),
            passed_over=dict(self.job.search.passed_over),
            remarks=dict(self.remarks.counts),
            notes=[*self._on_the_decision(), *self.remarks.messages(), *self.job.search.messages()],
            review=None if self.review_limit is None else ranking.to_review,
            review_limit=self.review_limit,
            parts=ranking.parts,
        )

    @property
    def _judging(self) -> Calibration | None:
        """What the rows' p-values come from: held-out images, or parts."""
        return (self.parts and self.parts.calibration) or self.calibration

    def _on_the_decision(self) -> list[str]:
        fpr, asked = self.job.decision.fpr, self.job.decision.review
        lines = self.parts.messages(fpr) if self.parts else []
        if asked is None or fpr is None or self._judging is None or not asked.budget:
            return lines
        groups, images = self._judging.groups, self.ranking.ranked
        if asked.per_day is None:
            lines.append(f"the {images} of this run are taken for a day's; --per-day says otherwise")
        if asked.steps(fpr, groups, images) < 1:
            least = (asked.per_day or images) / (groups + 1)
            lines.append(
                f"--review {asked.budget:g}/day chooses nothing: with {groups} calibrating normals, each "
                f"step is {least:.3g} a day; calibrate with more, or allow as many"
            )
        return lines

    def evidence(self, top: int, summary: Summary) -> Evidence:
        """What the report shows of the ``top`` most anomalous images, at most ``job.keep``."""
        from anomscan.model.whereabouts import Whereabouts
        from anomscan.report.evidence import MOST_UNREADABLE, Evidence

        rows = (row for row in self.ranking.rows(top) if row.rank is not None)
        patches, features = self.job.model.patches, self.sample.features()
        return Evidence(
            rows=[row for row in islice(rows, top) if row.path in features],
            unreadable=list(islice(self.ranking.rows(0), MOST_UNREADABLE)),
            features=features,
            histogram=self.ranking.histogram,
            summary=summary,
            model=self.job.model,
            calibration=self._judging,
            maps=self.sample.maps(),
            patch_source=self.job.model.scorer.origin if patches else None,
            scale=scale_of(self.job.model),
            reading=self.job.preprocessing.reading,
            normals=Whereabouts(self.job.model.manifest.data.root, self.job.normals),
        )

    def write_heatmaps(self, folder: str, top: int, progress: Progress) -> int:
        """Write pictures of the ``top`` images; where it was decided, of the anomalous ones. How many."""
        from anomscan.report.heatmaps import write_heatmaps

        maps, scale = self.sample.maps(), scale_of(self.job.model)
        if scale is None:
            return 0
        decided = self.job.decision != UNDECIDED
        rows = [row for row in self.ranking.rows(top) if row.path in maps and (row.anomalous or not decided)]
        images = [(row.path, maps[row.path].distances[0]) for row in rows]
        return write_heatmaps(folder, images, scale, self.job.preprocessing.reading, progress)


def run(job: ScoreJob, progress: Progress, journal: Journal | None = None) -> Outcome:
    """Score every source of the job and decide; the caller closes the outcome, and the journal.

    Of a run before, whose ``journal`` is gone on with, images that have not changed keep their scores. Where
    its outputs were written, the images are what they were then.

    Raises:
        CalibrationTooSmall: the model cannot make the decision; before any work.
        GalleryTooSmall, UsageError: see ``Screener``.
        NoImages: there are no sources, not even such as are too young yet.
    """
    with ExitStack() as running:
        outcome = running.enter_context(Outcome(job, journal))
        check(job.decision, job.model.calibration)
        began = monotonic()
        screener = Screener(job.model, job.k)
        if outcome.journal.written:
            for before in outcome.ranking.all_again():
                _add_again(outcome, before)
        else:
            _fill(outcome, screener, progress)
        outcome.calibration = screener.calibration
        if job.part_by is not None:
            from anomscan.screen.parts import Parts

            outcome.parts = Parts(job.part_by, job.model, screener.calibration)
            outcome.ranking.gather(outcome.parts.judge)
            for rate, option in job.decision.rates:
                outcome.parts.require(rate, option)
        outcome.limit = decide(job.decision, outcome.ranking, outcome._judging)
        if outcome.parts and outcome.parts.calibration is None and job.decision.threshold is None:
            outcome.limit = None  # parts with other numbers of views have other limits
        outcome.review_limit = review(job.decision, outcome.ranking, outcome._judging)
        outcome.seconds = monotonic() - began
        running.pop_all()
    return outcome


def _fill(outcome: Outcome, screener: Screener, progress: Progress) -> None:
    job, ranking, journal = outcome.job, outcome.ranking, outcome.journal
    if journal.resumed:
        ranking.forget_places()
    sources = _to_look_at(outcome) if journal.resumed else job.sources
    for judged in (job.engine or here)(job, screener, sources, progress):
        if isinstance(judged, Unreadable):
            ranking.add_unreadable(judged)
            continue
        scored, boxes = judged
        marks = outcome.remarks.add(scored)
        if journal.is_kept and not ranking.scored and outcome.remarks.first is not None:
            journal.note(_FIRST, outcome.remarks.first.tolist())
        sampled = outcome.sample.add(scored)
        ranking.add(scored, boxes, marks, sampled if journal.is_kept else ())
        journal.commit()
    if journal.resumed:
        ranking.drop_the_rest()
        journal.commit()
    if not ranking.total and not job.search.passed_over["young"]:
        raise NoImages(f"no images to score: {job.search.why_nothing()}")


def _to_look_at(outcome: Outcome) -> Iterator[Found]:
    """The sources that no run before has scored; those that one has are added at once."""
    for source in outcome.job.sources:
        before = outcome.ranking.again(source)
        if before is None:
            yield source
        else:
            _add_again(outcome, before)


def _add_again(outcome: Outcome, before: Before) -> None:
    outcome.scored_before += 1
    outcome.remarks.again(before.mark)
    if before.features is not None:
        outcome.sample.offer(
            before.path, before.score, *before.features, before.maps, known=before.known, odd=before.odd
        )


def drift_of(model: Model, calibration: Calibration, features: Features) -> Drift | None:
    """Whether images, (m, D) features, have moved away from the held-out normals; see ``stats.drift``.

    Both are ranked as whole images, as they are compared: patches score higher where all of a batch is
    darker, and the highest scores are left out.
    """
    if calibration.gallery is not None:
        drawn = np.random.default_rng(0).permutation(len(calibration.paths))[:LARGEST_SAMPLE]
        calibration = calibration.at(drawn.tolist())
    scorer, own = model.scorer.whole, model.scorer.mean(calibration.features)
    k, normals = scorer.info.k, model.gallery.some(LARGEST_SAMPLE)
    if calibration.gallery is None:
        among = scorer.score(Outputs(own), k)
    else:
        among = scorer.apart(Outputs(own), k, calibration.apart(model.normals))
        normals = np.concatenate([own, features])  # alike for both: the gallery knows one side alone
    scores = scorer.score(Outputs(features), k).astype(np.float64)
    return drift(replace(calibration, features=own, scores=among), normals, features, scores)


def scale_of(model: Model) -> Scale | None:
    """How hot distances look in pictures; None without patches."""
    info = model.manifest.patches
    if info is None:
        return None
    from anomscan.report.heatmaps import Scale

    return Scale(info.dark, info.bright)


def regions_of(scored: Scored, model: Model) -> list[list[Box] | None] | None:
    """Where each image is odd, in pixels of its file; None without patches."""
    maps, scale, reading = scored.outputs.maps, scale_of(model), model.manifest.preprocessing.reading
    if maps is None or scale is None:
        return None
    from anomscan.images.overlay import source_size
    from anomscan.report.heatmaps import regions

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
