"""One attestation, many renderers, and how anybody checks them. No torch, no database, no network.

- What is claimed: `statement` before publication, `attest` after it; `lineage` is the value behind every rendering.
- Where it stands: `as_dicom`, `as_fhir`, `as_prov`, the sidecar (`attest`), the model card (`cards`).
- What holds it together: `digests` and `digesting`, `signing` and `signatures`, `log_proof` for the transparency log.
- What is said later: `recall_notice` and `recall_as_fhir`; `dataset_manifest` and `export_list` for data sets.
- How it is checked: `verification`, made of `checks`, tells a `report`.
"""
