"""The DICOM node: what a PACS sees of us, and what we ask of a PACS.

- Calls that come in: `scp` listens, `services` answers, `association` says who may call and moves the octets.
- Calls that we make: `scu` associates, `calling` sends, finds and pulls.
- What is held: `archive`, made of `holding`, safe before anyone is told so; `query` and `querying` match it; `web` serves it.
- From instances to a volume: `reading` and `volumes`. From a volume to instances: `writing` and `objects`.
- Who promised to keep what: `commitment`. What all of this claims, made from its own tables: `conformance`.
"""
