"""The DICOM node: what a PACS sees of us, and what we ask of a PACS.

    scp, services      calls that come in, one service a module         association   who may call, and octets in and out
    scu, calling       calls that we make: echo, find, send, pull       presentation, statuses   what both sides speak
    archive, holding   what is held, safe before anyone is told so      query, querying   what of it matches a question
    reading, volumes   instances of a series as a volume                writing, objects  a volume as instances
    commitment         who promised to keep what                        web           the same archive over HTTP
    conformance        what all of this claims, made from its own tables
"""
