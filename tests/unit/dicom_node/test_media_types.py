from __future__ import annotations

import pytest
from pydicom.uid import (
    MPEG4HP41,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from dicom_node.web.media_types import choose_syntax, image_type, is_lossy, parse_accept, parse_media_type

_DICOM = 'multipart/related; type="application/dicom"'


@pytest.mark.requirement("DICOM-WEB-003")
@pytest.mark.parametrize(
    ("accept", "held", "given"),
    [
        ("", JPEGLosslessSV1, JPEGLosslessSV1),
        ("*/*", ImplicitVRLittleEndian, ImplicitVRLittleEndian),
        (f"{_DICOM}; transfer-syntax=*", JPEGLosslessSV1, JPEGLosslessSV1),
        ("multipart/related", JPEGLSLossless, JPEGLSLossless),
        (_DICOM, ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (_DICOM, JPEGLSLossless, ExplicitVRLittleEndian),
        (_DICOM, JPEGBaseline8Bit, ExplicitVRLittleEndian),
        (_DICOM, MPEG4HP41, MPEG4HP41),
        (f"{_DICOM}; transfer-syntax={JPEG2000Lossless}", ExplicitVRLittleEndian, JPEG2000Lossless),
        (f"{_DICOM}; transfer-syntax={JPEGBaseline8Bit}", ExplicitVRLittleEndian, None),
        (f"{_DICOM}; transfer-syntax={JPEGBaseline8Bit}, {_DICOM};q=0.5", ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        ("image/png", ExplicitVRLittleEndian, None),
        (f"{_DICOM};q=0", ExplicitVRLittleEndian, None),
    ],
)
def test_an_instance_is_given_as_held_unless_the_caller_names_another_syntax(accept: str, held: str, given: str | None) -> None:
    assert choose_syntax(parse_accept(accept), held) == given


def test_the_most_wanted_comes_first_and_quotes_hide_commas() -> None:
    wanted = parse_accept('image/png;q=0.2, multipart/related; type="image/jls"; x="a,b\\"c"; transfer-syntax=1.2')
    assert [(one.media_type, one.transfer_syntax, one.multipart) for one in wanted] == [
        ("image/jls", "1.2", True),
        ("image/png", "", False),
    ]


@pytest.mark.parametrize("text", ["", "text", "a/b/c", 'a/b; c="d', "a/b; c", "/;;"])
def test_refuses_what_is_no_media_type(text: str) -> None:
    assert parse_media_type(text) is None


def test_an_unknown_syntax_counts_as_compressed_and_lossy() -> None:
    assert is_lossy("1.2.3.4")
    assert image_type("1.2.3.4") == "application/octet-stream"
    assert not is_lossy(ImplicitVRLittleEndian)
