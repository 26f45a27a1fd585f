"""Results of finished steps, kept as files below the job's folder: written whole or not at all, never pickled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import numpy as np
from pydantic import TypeAdapter

from domain.generation import GeneratedVolume
from domain.volume import Volume

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Codec(Generic[Kind]):
    """How values of one kind become a file and come back."""

    suffix: str
    write: Callable[[Kind, Path], None]
    read: Callable[[Path], Kind]


def json_codec(kind: type[Kind]) -> Codec[Kind]:
    """Return the codec of a domain dataclass without arrays."""
    adapter = TypeAdapter(kind)
    return Codec(
        ".json",
        lambda value, path: _write_bytes(adapter.dump_json(value, indent=1), path),
        lambda path: adapter.validate_json(path.read_bytes()),
    )


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


BYTES: Codec[bytes] = Codec("", _write_bytes, Path.read_bytes)


class ArtifactFolder:
    """The files of one job.

    Parameters
    ----------
    folder : Path
        Made with mode 0700: what lies in it is derived from patients.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder

    def once(self, name: str, codec: Codec[Kind], produce: Callable[[], Kind]) -> Kind:
        """Return the value kept under `name`; produce and keep it first where there is none.

        A process that dies in between leaves either no file or a whole one.
        """
        path = self.folder / f"{name}{codec.suffix}"
        if not path.exists():
            save(path, codec, produce())
        return codec.read(path)


def save(path: Path, codec: Codec[Kind], value: Kind) -> None:
    """Write a value durably: temporary file, fsync, rename, fsync of the folder."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=codec.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        codec.write(value, temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _without(kind: type, *left_out: str) -> type[Any]:
    """Return a dataclass with the fields of `kind` but those named: the part that is no array."""
    hints = get_type_hints(kind)
    kept = [(field.name, hints[field.name]) for field in fields(kind) if field.name not in left_out]
    return make_dataclass(f"{kind.__name__}Facts", kept, frozen=True)


_VOLUME_ARRAYS = ("array", "affine_lps")
_VolumeFacts = TypeAdapter(_without(Volume, *_VOLUME_ARRAYS))
_GeneratedFacts = TypeAdapter(_without(GeneratedVolume, "volume", "label_map"))


def _facts(value: object, adapter: TypeAdapter[Any], *left_out: str) -> np.ndarray[Any, Any]:
    kept = {field.name: getattr(value, field.name) for field in fields(value) if field.name not in left_out}  # type: ignore[arg-type]
    return np.frombuffer(adapter.dump_json(adapter._type(**kept)), np.uint8)


def _write_generated(generated: GeneratedVolume, path: Path) -> None:
    volume = generated.volume
    arrays: dict[str, Any] = {"array": volume.array, "affine_lps": volume.affine_lps}
    if generated.label_map is not None:
        arrays["label_map"] = generated.label_map
    with path.open("wb") as stream:
        np.savez(
            stream,
            volume_facts=_facts(volume, _VolumeFacts, *_VOLUME_ARRAYS),
            generated_facts=_facts(generated, _GeneratedFacts, "volume", "label_map"),
            **arrays,
        )


def _read_generated(path: Path) -> GeneratedVolume:
    with np.load(path, allow_pickle=False) as stored:
        about_volume = _VolumeFacts.validate_json(stored["volume_facts"].tobytes())
        about_all = _GeneratedFacts.validate_json(stored["generated_facts"].tobytes())
        return GeneratedVolume(
            volume=Volume(array=stored["array"], affine_lps=stored["affine_lps"], **vars(about_volume)),
            label_map=stored.get("label_map"),
            **vars(about_all),
        )


GENERATED_VOLUME: Codec[GeneratedVolume] = Codec(".npz", _write_generated, _read_generated)
