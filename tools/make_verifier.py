"""Makes the verifier as one file: a zip of our code that Python runs, for whoever wants to hold what he trusts in one hand.

It needs the libraries of `pip install 'veraicon[verify]'`, and nothing else of ours. The same sources give the same bytes.

Run: python tools/make_verifier.py [dist/veraicon-verify.pyz]
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
# What `veraicon verify` imports of ours; the other packages are the server's.
_PACKAGES = ("domain", "provenance", "fhir_adapter", "veraicon")
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = "import sys\nfrom veraicon.cli import main\nsys.exit(main())\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip holds no earlier time, and a build's time would change its bytes


def main() -> None:
    """Write the file and tell where."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else _ROOT / "dist" / "veraicon-verify.pyz"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        stream.write(_SHEBANG)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo("__main__.py", _LONG_AGO), _MAIN)
            for path in sorted(path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py")):
                entry = zipfile.ZipInfo(path.relative_to(_ROOT).as_posix(), _LONG_AGO)
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    target.chmod(0o755)
    print(target)


if __name__ == "__main__":
    main()
