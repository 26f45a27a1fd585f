"""Whether the instances that were given are a whole series: each one there, once, and no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from provenance.checks import names
from provenance.checks.instance import InstanceFinding
from provenance.digesting.series_tree import SeriesTree
from provenance.report import Answer, Claim, no, summarise, unknown, yes
from provenance.statement import SignedClaims, StatedSeries


def summaries(findings: Iterable[InstanceFinding]) -> list[Claim]:
    """Return one claim for each claim about an instance."""
    by_name: dict[str, list[Claim]] = {name: [] for name in names.INSTANCE_CLAIMS}
    for finding in findings:
        for claim in finding.claims:
            by_name[claim.name].append(claim)
    return [summarise(name, members) for name, members in by_name.items()]


def check_complete(findings: Sequence[InstanceFinding], signed: SignedClaims | None) -> Answer:
    """Say whether each series of which an instance was given is whole; a series that was not given at all is told.

    Parameters
    ----------
    findings : sequence of InstanceFinding
    signed : SignedClaims or None
        The statement of the first instance.
    """
    if signed is None or any(not finding.jws for finding in findings):
        return unknown(names.NOT_SIGNED)
    wrong = _wrong_together(findings)
    if wrong:
        return no(wrong)
    given = [series for series in signed.all_series if any(finding.series_uid == series.series_uid for finding in findings)]
    given = given or [signed.series]
    wrongs = [_wrong_of(series, [one for one in findings if one.series_uid == series.series_uid]) for series in given]
    strangers = sum(finding.series_uid not in {series.series_uid for series in given} for finding in findings)
    wrongs.append(f"{strangers} instances are of a series that the statement does not name" if strangers else "")
    if any(wrongs):
        return no("; ".join(filter(None, wrongs)))
    others = [series.modality for series in signed.all_series if series not in given]
    beside = f"; not given: the series of {', '.join(others)}" if others else ""
    whole = sum(series.count for series in given)
    return yes(f"all {whole} instances of {len(given)} series of the statement are there, and no other{beside}")


def _wrong_together(findings: Sequence[InstanceFinding]) -> str:
    """What is wrong with instances that should be of one statement; empty where nothing is."""
    if len({finding.jws for finding in findings}) > 1:
        return "the instances carry different statements"
    if any(finding.proof is None for finding in findings):
        return "an instance is not in the tree of any series of the statement"
    if any(times > 1 for times in Counter(finding.sop_instance_uid for finding in findings).values()):
        return "an instance was given twice"
    return ""


def _wrong_of(series: StatedSeries, findings: Sequence[InstanceFinding]) -> str:
    """What is wrong with the instances of one series; empty where they are all of them."""
    proofs = {finding.proof.leaf: finding.proof for finding in findings if finding.proof}
    missing = series.count - len(proofs)
    if missing or len(findings) != series.count:
        return f"{missing} of {series.count} instances are missing, {len(findings) - len(proofs)} stand at the place of another"
    tree = SeriesTree([proofs[leaf].instance for leaf in sorted(proofs)])
    return "" if tree.root == series.root else "the instances together are not the series of the statement"
