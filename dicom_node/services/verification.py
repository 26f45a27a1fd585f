"""Verification as SCP (PS3.4 Annex A)."""

from __future__ import annotations

from collections.abc import Sequence

from pynetdicom import evt
from pynetdicom.presentation import PresentationContext

from dicom_node.association.policy import AuditTrail
from dicom_node.presentation import verification_contexts
from dicom_node.services.service import Handler
from dicom_node.statuses import Status


class VerificationService:
    """Answers C-ECHO."""

    def __init__(self, audit: AuditTrail) -> None:
        self._audit = audit

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the Verification context."""
        return verification_contexts()

    def handlers(self) -> Sequence[Handler]:
        """Return the handler of C-ECHO."""
        return [(evt.EVT_C_ECHO, self._echo)]

    def _echo(self, event: evt.Event) -> int:
        """C-ECHO (PS3.4 A.4): Success (0x0000)."""
        self._audit.record(event.assoc).count("echoes")
        return Status.SUCCESS
