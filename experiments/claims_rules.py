"""How a claim is decided: from one value per independent minimum, beside those of surrogates. Used by claims.py.

RULES, fixed before the first run on the seeds that decide (scales.py: `claims_seeds`; the history shows it):

1. A value is the mean over the copies of one minimum. Minima of one data set have seeds of their own for training
   images, initial parameters, jump directions and batch order, none of which was used for any choice. Where two kinds
   are compared, the difference is taken within a seed, whose minima share images and directions.
2. Two protocols of retraining. "paper": each kind with its own weight decay and augmentation (the good minima have
   both, the others neither). "common": no weight decay and no augmentation for all. Around bad and memorization minima
   the two are the same runs, so a claim about these alone is decided once, and counts once.
3. The threshold of a claim is a number that means something by itself: 0 for returns, differences, cosines; 1/2 for a
   share of epochs; for a movement that cannot be negative, the margin.
4. Margins, the smallest differences that matter: 0.01 of the jump for distances and returns (as in valley.py; the
   smallest jump moves every filter by a quarter of its norm, so it is 1/400 of a filter); 0.02 for cosines, sines and
   shares of epochs (one epoch of 50); 0.05 for silhouettes and rank correlations of pictures, both of range 2 (by
   judgement: a smaller difference is not seen in a picture).
5. Surrogates, where each answers the question (docs/surrogates.md). "exchange": the movements of a copy that was
   pushed in another direction; does the loss act on this copy's own jump? For return, outward, monotone, lateral and
   the cosine. "decay": weight decay without a loss; how much needs no landscape? Under a protocol without decay it is
   a copy that stands still, which the threshold stands for already, so it is used by the paper's protocol alone (in a
   comparison of kinds: that of the good minima against a copy that stands still).
   "rotated": do the movements need any relation to the minimum to do this? For movement outward, which rotated
   movements make too, and for pictures. It is not used for returns and petals: it can only drift outward, so that to
   beat it proves nothing.
6. Verdicts are those of `jaxscape.judge_claim`: "does not hold" if Student's 95 % interval of the mean lies on the
   other side of the threshold or within the margin of it; "holds, but a surrogate does as much" if it lies beyond the
   threshold and for some surrogate the interval of the difference lies below the margin; "holds" if it lies beyond the
   threshold and each difference beyond 0; "unclear" otherwise.
7. Holm's correction over a family: all claims of the paper that one scale decides; all further claims of that scale;
   the claims about optimisers; those about embeddings. A verdict whose corrected p-value is above 0.05 is "unclear".
8. Checks of the protocol (do minima fit their data?) are not claims: they say for how many minima they pass, have no
   verdict, and are counted apart.
9. No further thresholds: the distribution over copies (median, 10th and 90th percentile) is shown beside those of the
   surrogates.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from claims_list import CHECKS, CLAIMS, Check, Claim, Term
from records import Record, markdown_table

from jaxscape import Verdict, holm, holm_verdicts, judge_claim
from jaxscape.generalization.inference import MeanInterval
from jaxscape.generalization.verdicts import HOLDS, SURROGATE


class Decided(NamedTuple):
    """A claim's record with its verdict; both are None for a claim whose runs are missing."""

    record: Record
    found: Verdict | None
    p: float | None  # corrected by Holm
    verdict: str | None  # after Holm's correction


def decide(records: Sequence[Record]) -> list[Decided]:
    """Return the verdicts on records, in their order; those of one family are corrected together (rules 6 and 7)."""
    found = [judge_record(each) if "values" in each else None for each in records]
    decided: list[Decided] = [Decided(each, None, None, None) for each in records]
    for family in {each["family"] for each in records}:
        members = [
            (place, judged)
            for place, (record, judged) in enumerate(zip(records, found, strict=True))
            if judged is not None and record["family"] == family
        ]
        if not members:
            continue
        judged_ones = [judged for _, judged in members]
        corrected = holm([judged.p_value for judged in judged_ones])
        words = holm_verdicts(judged_ones)
        for (place, judged), p, word in zip(members, corrected, words, strict=True):
            decided[place] = Decided(records[place], judged, float(p), word)
    return decided


def judge_record(record: Record) -> Verdict:
    """Return the verdict on a claim's record before Holm's correction.

    Args:
        record: source, text, statistic, values (one per seed), surrogates (name -> values), threshold, margin (None if
            there is neither a surrogate nor a margin), above, family; and threshold_margin if it differs from margin.

    Raises:
        ValueError: if a key is missing, or as `judge_claim`.
    """
    missing = {"text", "values", "surrogates", "threshold", "margin", "above", "family"} - record.keys()
    if missing:
        raise ValueError(f"the record of the claim {record.get('text')!r} has no {', '.join(sorted(missing))}")
    margin = record["margin"]
    near = record.get("threshold_margin", margin)
    return judge_claim(
        record["values"],
        record["surrogates"],
        threshold=record["threshold"],
        margin=margin,
        threshold_margin=near or 0.0,
        above=record["above"],
    )


def interval_text(found: MeanInterval) -> str:
    """Return a mean with its interval, as the pages show it."""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def verdict_text(decided: Decided) -> str:
    """Return a verdict, with the surrogates that do as much, as the pages show it."""
    if decided.found is None:
        return "not run"
    as_much = decided.found.as_much if decided.verdict == SURROGATE else ()
    return f"**{decided.verdict}**" + (f" ({', '.join(as_much)})" if as_much else "")


def inside_margin(decided: Sequence[Decided]) -> list[str]:
    """Return a paragraph on the verdicts that a claim holds though its mean lies within the margin of the threshold."""
    found = []
    for record, judged, _, verdict in decided:
        near = record.get("threshold_margin", record["margin"])
        if judged is None or verdict not in (HOLDS, SURROGATE) or not near:
            continue
        if abs(judged.value.mean - record["threshold"]) < near:
            about = f", {record['retraining']}" if record.get("retraining") else ""
            found.append(f'"{record["text"].rstrip(".")}" ({interval_text(judged.value)}, margin {near:g}{about})')
    if not found:
        return []
    return [
        "",
        "Small numbers: a claim is decided by its interval, so that it can hold though its mean lies within the margin "
        "of the threshold. It does not hold only if the whole interval lies within the margin, or on the other side. "
        f"Here: {'; '.join(found)}.",
    ]


def side_by_side(columns: Mapping[str, Sequence[Decided]], label: Callable[[Record], str]) -> list[str]:
    """Return a table with a row for each claim, by its label: in each column its number with the verdict."""
    found: dict[str, dict[str, str]] = {}
    for column, decided in columns.items():
        for each in decided:
            value = "" if each.found is None else f"{interval_text(each.found.value)}: "
            found.setdefault(label(each.record), {})[column] = value + verdict_text(each)
    rows = ([text, *(cells.get(column, "not decided") for column in columns)] for text, cells in found.items())
    return markdown_table(("claim", *columns), rows)


def bound_text(above: bool, threshold: float) -> str:
    """Return the side of a threshold on which a claim or a check holds, as the pages show it."""
    return f"{'>' if above else '<'} {threshold:g}"


# From the numbers of minima to records.


def records_of(cells: Sequence[Record]) -> list[Record]:
    """Return a record for each claim; it has no values if these runs do not have the number."""
    return [record_of(claim, cells) for claim in CLAIMS]


def record_of(claim: Claim, cells: Sequence[Record]) -> Record:
    """Return the record of a claim from the numbers of all minima of a scale."""
    record = {
        "source": claim.source,
        "text": claim.text,
        "retraining": claim.protocol,
        "statistic": claim.statistic,
        "threshold": claim.threshold,
        "margin": claim.margin,
        "threshold_margin": claim.threshold_margin,
        "above": claim.above,
        "family": claim.family,
    }
    values = over_seeds(claim.terms, cells)
    if values is None:
        return record
    surrogates = {name: over_seeds(claim.terms, cells, name) for name in claim.surrogates}
    if any(each is None for each in surrogates.values()):
        return record
    return record | {"values": values, "surrogates": surrogates}


def over_seeds(terms: Sequence[Term], cells: Sequence[Record], surrogate: str | None = None) -> list[float] | None:
    """Return the sum of terms for each seed; None if a run, a step size or a finite number is missing."""
    seeds = dict.fromkeys(cell["seed"] for cell in cells)
    try:
        values = [
            sum(term.sign * number(cell_of(cells, term, seed), term, surrogate) for term in terms) for seed in seeds
        ]
    except LookupError:
        return None
    return values if len(values) > 1 and all(map(math.isfinite, values)) else None


def cell_of(cells: Iterable[Record], term: Term, seed: int) -> Record:
    """Return the numbers of the minimum that a term is about.

    Raises:
        LookupError: if there is none.
    """
    for cell in cells:
        if cell["kind"] == term.kind and term.protocol in cell["protocols"] and cell["seed"] == seed:
            return cell
    raise LookupError(f"no {term.kind} minimum of seed {seed} retrained by the {term.protocol} protocol")


def number(cell: Mapping[str, Any], term: Term, surrogate: str | None = None) -> float:
    """Return a number of a minimum or of its surrogate: the mean over its copies (rule 1).

    Raises:
        LookupError: if the runs have no such surrogate, number or step size.
    """
    values = np.asarray((cell["values"] if surrogate is None else cell["surrogates"][surrogate])[term.name], float)
    if values.ndim == 0:  # of the minimum, not of its copies
        return float(values)
    if term.step_size is not None:
        values = values[np.asarray(cell["values"]["step_size"]) == term.step_size]
        if not len(values):
            raise LookupError(f"no copies of step size {term.step_size}")
    return float(values.mean())


# Checks of the protocol, and distributions.


class Checked(NamedTuple):
    """A check of the protocol: how many minima pass it (rule 8)."""

    check: Check
    values: list[float] | None

    @property
    def passed(self) -> int:
        """Number of minima that pass."""
        check = self.check
        return sum((value > check.threshold) == check.above for value in self.values or () if value != check.threshold)


def run_checks(cells: Sequence[Record]) -> list[Checked]:
    """Return each check with its values; None where a run is missing."""
    return [Checked(check, over_seeds(check.terms, cells)) for check in CHECKS]


def percentiles(cells: Sequence[Record], term: Term, surrogate: str | None = None) -> tuple[float, float, float] | None:
    """Return the 10th, 50th and 90th percentile over the copies of all minima of a kind (rule 9); None if undefined."""
    pooled: list[float] = []
    for cell in cells:
        if cell["kind"] != term.kind or term.protocol not in cell["protocols"]:
            continue
        found = (cell["values"] if surrogate is None else cell["surrogates"].get(surrogate, {})).get(term.name, ())
        pooled += [float(value) for value in found if value is not None and math.isfinite(value)]
    if not pooled:
        return None
    low, middle, high = np.percentile(pooled, (10, 50, 90))
    return float(low), float(middle), float(high)
