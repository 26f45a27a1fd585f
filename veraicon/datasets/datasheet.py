"""The datasheet of a data set version, for people: filled from manifest and model cards; the rest is said to be not known.

References
----------
Gebru et al., Datasheets for Datasets, Communications of the ACM 64(12), 2021: the seven sections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from domain.dataset import DatasetManifest, Member, MemberKind
from domain.model_card import ModelCard, with_unit
from provenance.canonical import instant
from veraicon.datasets.layout import licences

NOT_KNOWN = "Not known: nobody has stated it."


def to_datasheet(manifest: DatasetManifest, digest: str, cards: Mapping[str, ModelCard]) -> str:
    """Return the datasheet as Markdown.

    Parameters
    ----------
    digest : str
        Identity of the version.
    cards : mapping
        Model cards by their digest; of a model whose card is not among them only its name is told.
    """
    sections = [
        f"# Datasheet of {manifest.title}",
        f"Version {manifest.number}, made on {instant(manifest.created_at)} by Veraicon {manifest.software_version}, "
        f"identity `{digest}`.",
        "## Motivation\n\n" + _motivation(manifest, cards),
        "## Composition\n\n" + _composition(manifest),
        "## Collection\n\n" + _collection(manifest),
        "## Preprocessing\n\n" + _preprocessing(manifest),
        "## Uses\n\n" + _uses(manifest, cards),
        "## Distribution\n\n" + _bullets(f"Licence: {one}" for one in licences(manifest)),
        "## Maintenance\n\n"
        "A version is never changed. What is added or removed makes the next version; `veraicon dataset diff` tells the "
        "difference. Members that are recalled later are named by `veraicon dataset show` and `veraicon dataset verify`.\n\n"
        f"Contact: {NOT_KNOWN}",
    ]
    return "\n\n".join(sections) + "\n"


def _motivation(manifest: DatasetManifest, cards: Mapping[str, ModelCard]) -> str:
    purposes = [f"{card.name} {card.version}: {card.intended_use.strip()}" for card in _used(manifest, cards)]
    return f"Purpose of the data set: {NOT_KNOWN}\n\nIntended use of the models in it:\n\n{_bullets(purposes)}"


def _composition(manifest: DatasetManifest) -> str:
    rows = [
        ("volumes", len(manifest.members)),
        ("generated", len(manifest.of_kind(MemberKind.GENERATED))),
        ("source (real people)", len(manifest.of_kind(MemberKind.SOURCE))),
        ("subjects", len(manifest.subjects)),
        ("DICOM instances", sum(member.count for member in manifest.members)),
    ]
    lines = [_table(("What", "Number"), [(name, str(count)) for name, count in rows])]
    modalities = Counter(one.modality for member in manifest.members for one in member.series)
    lines.append(_table(("Modality", "Series"), [(name, str(count)) for name, count in sorted(modalities.items())]))
    if manifest.split:
        lines.append(_split_table(manifest))
    else:
        lines.append("The version has no split.")
    lines.append(
        "A subject is a salted token of the person whose images these are, or were made from. Two patient identifiers of one "
        "person count as one subject where their images share a study, else as two. Age, sex and disease of the people: "
        + NOT_KNOWN
    )
    return "\n\n".join(lines)


def _split_table(manifest: DatasetManifest) -> str:
    split = manifest.split
    if split is None:
        return ""
    rows = []
    for name, fraction in split.fractions:
        inside = [member for member in manifest.members if member.part == name]
        rows.append((name, f"{fraction:g}", str(len({member.subject for member in inside})), str(len(inside))))
    return f"Split by subject, seed {split.seed}:\n\n" + _table(("Part", "Share asked for", "Subjects", "Volumes"), rows)


def _collection(manifest: DatasetManifest) -> str:
    told = []
    for (name, version, weights), members in _by_model(manifest).items():
        told.append(
            f"{len(members)} volumes were drawn by {name} {version} (weights `{weights}`), each from one source series."
        )
    kinds = Counter(
        kind for member in manifest.of_kind(MemberKind.GENERATED) if member.origin for kind in member.origin.targets
    )
    told += [f"{count} volumes were told to obey a value of {kind}." for kind, count in sorted(kinds.items())]
    told.append("Each generated volume passed the site's quality gates and has a signed attestation, named in the manifest.")
    if sources := manifest.of_kind(MemberKind.SOURCE):
        told.append(f"{len(sources)} source series are held as they were received. How they were acquired: {NOT_KNOWN}")
    return _bullets(told)


def _preprocessing(manifest: DatasetManifest) -> str:
    return _bullets(
        [
            "DICOM files are given as they are held, byte for byte.",
            "NIfTI files hold the same grid: nothing is resampled, turned or cropped; rescale slope and intercept are applied.",
            f"Versions of this software that wrote the manifest: {manifest.software_version}.",
        ]
    )


def _uses(manifest: DatasetManifest, cards: Mapping[str, ModelCard]) -> str:
    told = []
    for card in _used(manifest, cards):
        told.append(f"Out of scope of {card.name} {card.version}: {card.out_of_scope.strip()}")
        told += [f"{card.name} {card.version}: {failure}" for failure in card.known_failures]
        told += [
            f"{card.name} {card.version}, measured: {one.name} {with_unit(f'{one.value:.4g}', one.unit)} "
            f"(n={one.n}, {one.split})"
            for one in card.measured
        ]
    return "Not for clinical use.\n\n" + _bullets(told)


def _used(manifest: DatasetManifest, cards: Mapping[str, ModelCard]) -> list[ModelCard]:
    digests = dict.fromkeys(member.origin.model.card_digest for member in manifest.members if member.origin)
    return [cards[digest] for digest in digests if digest in cards]


def _by_model(manifest: DatasetManifest) -> dict[tuple[str, str, str], list[Member]]:
    grouped: dict[tuple[str, str, str], list[Member]] = {}
    for member in manifest.members:
        if member.origin:
            model = member.origin.model
            grouped.setdefault((model.name, model.version, model.weights_digest), []).append(member)
    return grouped


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or NOT_KNOWN


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])
