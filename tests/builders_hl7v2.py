"""HL7 v2 messages of nobody, as engines send them."""

from __future__ import annotations

STUDY = "1.2.826.0.1.3680043.8.498.1"


def msh(kind: str, control_id: str = "1", *, version: str = "2.5.1", sender: str = "RIS|NORTH", rest: str = "") -> str:
    """Return a header; `rest` is what follows MSH-12."""
    return f"MSH|^~\\&|{sender}|VERAICON|SITE|20260102030405||{kind}|{control_id}|P|{version}{rest}"


def orm(
    control_id: str = "1",
    *,
    placer: str = "4711^RIS",
    control: str = "NW",
    patient: str = "P1^^^HOSP^MR",
    study: str = STUDY,
    code: str = "generate^Synthetic volume^99VERAICON",
    accession: str = "",
    more: tuple[str, ...] = (),
    rest: str = "",
    sender: str = "RIS|NORTH",
) -> bytes:
    """Return an ORM^O01 with one order."""
    obr = ["OBR", "1", placer, "", code, *[""] * 13, accession]
    segments = [
        msh("ORM^O01", control_id, rest=rest, sender=sender),
        f"PID|1||{patient}||NOBODY^TEST||19700101|O",
        f"ORC|{control}|{placer}",
        "|".join(obr),
        *more,
        *([f"ZDS|{study}^VERAICON^Application^DICOM"] if study else []),
    ]
    return ("\r".join(segments) + "\r").encode("utf-8")


def adt(event: str, survivor: str, retired: str, control_id: str = "A1") -> bytes:
    """Return an ADT that merges."""
    segments = [msh(f"ADT^{event}", control_id), f"EVN|{event}|20260102", f"PID|1||{survivor}||NOBODY^TEST", f"MRG|{retired}"]
    return ("\r".join(segments) + "\r").encode("ascii")
