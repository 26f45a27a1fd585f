from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.web.multipart import MultipartReader, PartBegan, PartData, write_multipart
from domain.errors import BodyTooLarge, RequestInvalid

# What a boundary is made of, so that content comes as near to one as it can.
_CONTENT = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"b", b"\r\n--", b"x", b"\0"]), max_size=12).map(
    b"".join
)


def _read(body: bytes, *, step: int = 1 << 16, boundary: str = "b", limit: int = 1 << 20) -> list[tuple[dict[str, str], bytes]]:
    reader = MultipartReader(boundary, max_part_bytes=limit, max_parts=10)
    parts: list[tuple[dict[str, str], bytearray]] = []
    for start in range(0, len(body), step):
        for event in reader.feed(body[start : start + step]):
            if isinstance(event, PartBegan):
                parts.append((dict(event.headers), bytearray()))
            elif isinstance(event, PartData):
                parts[-1][1].extend(event.data)
    reader.finish()
    return [(headers, bytes(content)) for headers, content in parts]


@pytest.mark.requirement("DICOM-WEB-002")
@given(st.lists(_CONTENT, min_size=1, max_size=4), st.integers(1, 40), st.booleans())
def test_what_is_written_is_read_back_in_pieces_of_any_length(contents: list[bytes], step: int, cut: bool) -> None:
    contents = [content for content in contents if b"\r\n--b" not in b"\r\n" + content]
    body = b"".join(write_multipart("b", [({"Content-Type": "a/b"}, [content]) for content in contents]))
    if contents:
        body = body[2:] if cut else body
        assert _read(body, step=step) == [({"content-type": "a/b"}, content) for content in contents]


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_preamble_padding_folded_headers_and_epilogue_are_no_content(step: int) -> None:
    body = b"before\r\n--b \t\r\nX-Long: one\r\n two\r\ncontent-type: a/b\r\n\r\nOK\r\n--b\r\n\r\n\r\n--b--\r\nafter\r\n--b\r\n"
    assert _read(body, step=step) == [({"x-long": "one two", "content-type": "a/b"}, b"OK"), ({}, b"")]


def test_a_nested_multipart_whose_boundary_begins_like_ours_is_content() -> None:
    inner = b"".join(write_multipart("bb", [({}, [b"in"])]))
    assert _read(b"".join(write_multipart("b", [({}, [inner])])), step=3) == [({}, inner)]


@pytest.mark.requirement("DICOM-WEB-008")
@pytest.mark.parametrize(
    "body",
    [b"", b"--b", b"--b\r\n", b"--b\r\nA: 1\r\n\r\n", b"--b\r\nA: 1\r\n\r\ncontent", b"--b\r\n\r\ncontent\r\n--b-", b"--c--"],
)
def test_a_truncated_body_is_told_from_a_whole_one(body: bytes) -> None:
    with pytest.raises(RequestInvalid, match="ends before"):
        _read(body)


@pytest.mark.requirement("DICOM-WEB-008")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"--b\r\n" + b"a" * 20000, BodyTooLarge),
        (b"--b\r\nno header\r\n\r\n", RequestInvalid),
        (b"noise" * 20000, RequestInvalid),
        (b"--b\r\n\r\n" + b"a" * 2000, BodyTooLarge),
        (b"--b\r\n\r\n" + b"a" * 2000 + b"\r\n--b--", BodyTooLarge),
        (b"\r\n--b\r\n\r\n" * 12, BodyTooLarge),
    ],
    ids=["endless headers", "a header that is none", "no boundary", "long part", "long whole part", "many parts"],
)
@pytest.mark.parametrize("step", [11, 1 << 20])
def test_a_hostile_body_meets_a_limit(body: bytes, error: type[RequestInvalid], step: int) -> None:
    with pytest.raises(error):
        _read(body, step=step, limit=1000)


def test_refuses_a_boundary_that_is_none() -> None:
    for boundary in ("", "a\r\nb", "a" * 300, "ä"):
        with pytest.raises(RequestInvalid):
            MultipartReader(boundary, max_part_bytes=1, max_parts=1)


@pytest.mark.requirement("DICOM-WEB-008")
def test_the_buffer_stays_small_however_long_the_part() -> None:
    reader = MultipartReader("b", max_part_bytes=1 << 40, max_parts=1)
    list(reader.feed(b"--b\r\n\r\n"))
    piece = b"\r\n--a" * 10000
    tracemalloc.start()
    for _ in range(400):
        for event in reader.feed(piece):
            assert isinstance(event, PartData)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(piece)
