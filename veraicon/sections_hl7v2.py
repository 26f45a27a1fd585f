"""The sections of the settings that concern HL7 v2."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Literal

from pydantic import Field, field_validator, model_validator

from domain.errors import BodyUnsupported
from fhir_adapter.hl7v2.identities import OF_A_PATIENT
from fhir_adapter.hl7v2.texts import codec_of
from veraicon.sections import LOOPBACK, Port, _Section


class Hl7v2Settings(_Section):
    """HL7 v2 over MLLP from integration engines: orders and merges. See docs/hl7v2.md."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback hosts or tls_client_ca is required")
    port: int = Field(0, ge=0, le=65535, description="port for MLLP without TLS, 2575 by custom; 0: none")
    tls_port: int = Field(0, ge=0, le=65535, description="port for MLLP over TLS; 0: none")
    tls_certificate: str = Field("", description="our certificate (PEM, its chain may follow), to senders and to destinations")
    tls_key: str = Field("", description="its key (PEM, not encrypted)")
    tls_client_ca: str = Field("", description="authorities (PEM) of senders' certificates; empty: senders need none")
    hosts: tuple[str, ...] = Field((), description="addresses or networks that may send, such as 10.0.0.0/24; empty: any")
    senders: tuple[str, ...] = Field((), description='senders as MSH-3|MSH-4 that may send, such as "RIS|NORTH"; empty: any')
    application: str = Field("VERAICON", description="our name in MSH-3", max_length=180)
    facility: str = Field("", description="our facility in MSH-4", max_length=180)
    processing: tuple[Literal["P", "T", "D"], ...] = Field(("P",), description="processing ids of MSH-11 that are taken")
    versions: tuple[str, ...] = Field(("2.3", "2.3.1", "2.4", "2.5", "2.5.1"), description="versions of MSH-12 that are taken")
    character_set: str = Field("", description="of messages whose MSH-18 is empty, such as 8859/1; empty: ASCII, as HL7 has it")
    identifier_types: tuple[str, ...] = Field(
        OF_A_PATIENT, description="types in CX-5 that are identifiers of a patient; one without a type is too"
    )
    accession_fields: tuple[str, ...] = Field(
        ("IPC-1", "OBR-18"), description="where an order says the accession number; the first that is filled counts"
    )
    maximum_message_mib: int = Field(8, ge=1, le=256, description="longest message")
    maximum_connections: int = Field(64, ge=1, le=1024, description="at once, on each port")
    idle_timeout_s: float = Field(600.0, gt=0, description="a connection without traffic is closed after this long")
    message_timeout_s: float = Field(60.0, gt=0, description="from the first byte of a message to its last, and for TLS")

    @model_validator(mode="after")
    def _ports_and_certificates(self) -> Hl7v2Settings:
        if self.tls_port and not (self.tls_certificate and self.tls_key):
            raise ValueError("tls_port needs tls_certificate and tls_key")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.port and self.port == self.tls_port:
            raise ValueError("port and tls_port are the same")
        plain_needs = self.port and not self.hosts
        tls_needs = self.tls_port and not self.hosts and not self.tls_client_ca
        if self.host not in LOOPBACK and (plain_needs or tls_needs):
            raise ValueError("beyond loopback a port needs hosts, and a tls_port hosts or tls_client_ca")
        return self

    @field_validator("character_set")
    @classmethod
    def _character_set_is_read(cls, name: str) -> str:
        try:
            codec_of(name)
        except BodyUnsupported as error:
            raise ValueError(f"it is none of {error.allowed}") from error
        return name

    @field_validator("hosts")
    @classmethod
    def _hosts_are_networks(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            ip_network(host)
        return hosts

    @field_validator("accession_fields")
    @classmethod
    def _fields_have_numbers(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"(ORC|OBR|IPC|ZDS)-[1-9][0-9]?", field) for field in fields):
            raise ValueError("fields are written as OBR-18, of ORC, OBR, IPC or ZDS")
        return fields


class Hl7v2DestinationSettings(_Section):
    """An integration engine that is told by HL7 v2 what became of orders that came by HL7 v2."""

    name: str = Field(description="how we call it", min_length=1, max_length=64)
    host: str = Field(description="its address")
    port: Port = Field(description="its port")
    tls: bool = Field(False, description="it is called over TLS, with the certificate of [hl7v2]")
    tls_ca: str = Field("", description="authorities (PEM) of its certificate; empty: the system's")
    tls_check_host: bool = Field(True, description="its certificate must name its host")
    timeout_s: float = Field(30.0, gt=0, description="for the connection, and for the acknowledgement")
    application: str = Field("", description="MSH-5", max_length=180)
    facility: str = Field("", description="MSH-6", max_length=180)
    character_set: Literal["UNICODE UTF-8", "8859/1", "ASCII"] = Field("UNICODE UTF-8", description="MSH-18")
    messages: tuple[Literal["ORU^R01", "MDM^T02"], ...] = Field(("ORU^R01",), description="what it gets: ORU^R01, MDM^T02")
    sender: str = Field("", description="only of orders of this sender (MSH-3|MSH-4); empty: of any")
    link: str = Field("", description="web address of a viewer with {study} for the Study Instance UID; empty: none is sent")
