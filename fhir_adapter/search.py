"""Search expressions and the walk over Bundles. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from domain.errors import PeerAnswerInvalid, RequestInvalid
from domain.identifiers import PatientIdentifier
from fhir_adapter.store import RawResource, Search

# FHIR R4 datatypes: id; references.html: literal references, with an optional version.
_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_RESOURCE_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")

# Parameters whose values name a person: they go into a request body, never into a URL that proxies and servers log.
IDENTIFYING = frozenset({"identifier", "name", "family", "given", "birthdate", "phone", "email", "address", "telecom"})

# The page size that we ask for; servers give less where they cap it.
PAGE_SIZE = 500


def escape(value: str) -> str:
    r"""Return a value with the characters escaped that mean something in a search parameter.

    References
    ----------
    FHIR R4 search, section 3.1.1.3.1 "Escaping Search Parameters".

    Examples
    --------
    >>> escape("A,1|x")
    'A\\,1\\|x'
    """
    return re.sub(r"([\\,|$])", r"\\\1", value)


def split_escaped(value: str, separator: str) -> list[str]:
    r"""Return the parts of a search value between unescaped separators, each with its escapes kept.

    Examples
    --------
    >>> split_escaped("a\\,b,c", ",")
    ['a\\,b', 'c']
    """
    parts = [""]
    for character in re.findall(r"(?s)\\.|.", value):
        if character == separator:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def unescape(value: str) -> str:
    r"""Return a value as `escape` was given it.

    Examples
    --------
    >>> unescape("A\\,1\\|x")
    'A,1|x'
    """
    return re.sub(r"\\(.)", r"\1", value)


def identifier_token(identifier: PatientIdentifier) -> str:
    """Return the token of an identifier: ``system|value``, or the value alone where no system is known.

    Examples
    --------
    >>> identifier_token(PatientIdentifier("1", "urn:oid:1.2"))
    'urn:oid:1.2|1'
    """
    value = escape(identifier.value)
    return f"{escape(identifier.system)}|{value}" if identifier.system else value


def of_patient(resource_type: str, patient_reference: str) -> Search:
    """Return the search for all resources of a type that belong to a patient.

    Examples
    --------
    >>> of_patient("Condition", "Patient/a").parameters
    {'patient': 'Patient/a', '_count': '500'}
    """
    return Search(resource_type, {"patient": patient_reference, "_count": str(PAGE_SIZE)})


def split_reference(reference: str) -> tuple[str, str]:
    """Return type and id of a relative literal reference.

    Raises
    ------
    RequestInvalid
        If it is no ``Type/id``; the reference itself is not repeated.

    Examples
    --------
    >>> split_reference("Patient/a/_history/2")
    ('Patient', 'a')
    """
    matched = _REFERENCE.fullmatch(reference)
    if matched is None:
        raise RequestInvalid(
            found=f"a reference of {len(reference)} characters that is no Type/id",
            allowed="a relative literal reference such as Patient/abc",
            action="give the resource type and the id",
        )
    return matched[1], matched[2]


def require_resource_type(name: str) -> str:
    """Return `name` if it can be the name of a resource type.

    Raises
    ------
    RequestInvalid
        If it cannot.
    """
    if not _RESOURCE_TYPE.fullmatch(name):
        raise RequestInvalid(
            found="no name of a resource type", allowed="a name such as Patient", action="name the resource type in full"
        )
    return name


def own_reference(reference: object, base_url: str = "") -> str | None:
    """Return ``Type/id`` of a reference to a resource of the server at `base_url`, any version; None for every other.

    An absolute reference is the server's own only below its base URL: ``Patient/1`` of another server is another person.

    Examples
    --------
    >>> own_reference("http://server/fhir/Patient/a/_history/2", "http://server/fhir")
    'Patient/a'
    >>> own_reference("http://elsewhere/fhir/Patient/a", "http://server/fhir")
    """
    if not isinstance(reference, str):
        return None
    matched = _REFERENCE.fullmatch(reference.removeprefix(f"{base_url}/") if base_url else reference)
    return f"{matched[1]}/{matched[2]}" if matched else None


def refers_to(reference: object, wanted: str, base_url: str = "") -> bool:
    """Tell whether a reference names the resource `wanted` (``Type/id``) of the server at `base_url`, any version.

    Examples
    --------
    >>> refers_to("Patient/a/_history/3", "Patient/a"), refers_to("http://elsewhere/fhir/Patient/a", "Patient/a")
    (True, False)
    """
    return own_reference(reference, base_url) == wanted


def matches(bundle: Mapping[str, Any]) -> Iterator[RawResource]:
    """Yield the resources of a searchset that matched; outcomes and included resources are passed over.

    Raises
    ------
    PeerAnswerInvalid
        If an entry holds no resource.

    Examples
    --------
    >>> [r.reference for r in matches({"entry": [{"resource": {"resourceType": "Patient", "id": "a"}}]})]
    ['Patient/a']
    """
    for entry in entries(bundle):
        resource = entry.get("resource")
        if not isinstance(resource, Mapping) or not isinstance(resource.get("resourceType"), str):
            raise _invalid_bundle("an entry without a resource")
        mode = entry["search"].get("mode") if isinstance(entry.get("search"), Mapping) else None
        if mode in ("outcome", "include") or resource["resourceType"] == "OperationOutcome":
            continue
        yield RawResource(resource)


def entries(bundle: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of a Bundle.

    Raises
    ------
    PeerAnswerInvalid
        If ``entry`` is no list of objects.
    """
    found = bundle.get("entry", [])
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise _invalid_bundle("an entry that is no object")
    return found


def next_link(bundle: Mapping[str, Any]) -> str | None:
    """Return the URL of the next page, or None on the last one.

    Examples
    --------
    >>> next_link({"link": [{"relation": "next", "url": "http://server/fhir?page=2"}]})
    'http://server/fhir?page=2'
    """
    links = bundle.get("link", [])
    if not isinstance(links, list):
        raise _invalid_bundle("links that are no list")
    for link in links:
        if isinstance(link, Mapping) and link.get("relation") == "next":
            if not isinstance(link.get("url"), str):
                raise _invalid_bundle("a next link without a URL")
            return str(link["url"])
    return None


def _invalid_bundle(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=f"a Bundle with {found}",
        allowed="a Bundle as FHIR R4 defines it",
        action="look at the FHIR server, then retry the job",
    )
