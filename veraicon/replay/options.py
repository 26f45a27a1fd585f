"""What a replay is given beside its target, and the settings that it runs under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from domain.clinical import ClinicalFact
from domain.errors import ReplayImpossible, RequestInvalid
from veraicon.replay.bundles import bundle_of
from veraicon.replay.subject import Subject
from veraicon.sections import GenerationSettings
from veraicon.settings import Settings


@dataclass(frozen=True)
class ReplayOptions:
    """What a replay is given beside its target.

    Attributes
    ----------
    keys : Path or None
        JWK Set of the keys to trust; None: the site's own.
    published : Path or None
        Folder with the published instances, to say by how much a replay differs that is not bit-exact.
    dicom, fhir : Path or None
        Source series and EHR Bundle, given again; None: the site's archive, and the snapshot that its job kept, or its EHR.
    asked : tuple of ClinicalFact
        Values that were asked for, where no job keeps them.
    model : str or None
        Bundle to use, whatever its digest; None: the one with the attested digest.
    threads, device, seed : int, str, int or None
        Other ones than attested (threads, seed) or configured (device).
    """

    keys: Path | None = None
    published: Path | None = None
    dicom: Path | None = None
    fhir: Path | None = None
    asked: tuple[ClinicalFact, ...] = ()
    model: str | None = None
    threads: int | None = None
    device: str | None = None
    seed: int | None = None


def settings_of(subject: Subject, settings: Settings, options: ReplayOptions) -> Settings:
    """Return the site's settings with the attested model and threads, or those that were asked for.

    Raises
    ------
    RequestInvalid
        If a device or a number of threads is none that the settings of a site may name.
    ReplayImpossible
        If the device is not in this machine, or no bundle has the attested weights.
    """
    changed: dict[str, object] = {"threads": options.threads or int(subject.claim("environment", "threads"))}
    if options.device is not None:
        changed["device"] = options.device
    try:
        generation = GenerationSettings.model_validate(settings.generation.model_dump() | changed)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise RequestInvalid(
            found=f"{'.'.join(map(str, wrong['loc']))} {str(wrong['input'])[:20]!r}: {wrong['msg']}",
            allowed="1 to 256 threads; the device cpu, cuda, or cuda: and a number",
            action="correct --threads or --device, or leave them out",
        ) from None
    _require_device(generation.device)
    model = bundle_of(subject, settings, options.model)
    return settings.model_copy(update={"generation": generation.model_copy(update={"model": model})})


def _require_device(device: str) -> None:
    if device == "cpu":
        return
    import torch  # slow to load, and a replay on the CPU asks for it later

    number = int(device.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise ReplayImpossible(
            found=f"no device {device} in this machine ({torch.cuda.device_count()} of CUDA)",
            allowed="a device that is here",
            action="use --device cpu: what differs by it is named",
        )
