from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = ("torch", "monai", "transformers")


@pytest.mark.parametrize(
    "what",
    [
        "import veraicon.server, veraicon.doctor, veraicon.verifying.targets, veraicon.demo",
        "import sys; sys.argv = ['veraicon', '--help']; import runpy; runpy.run_module('veraicon', run_name='__main__')",
        "import sys; sys.argv = ['veraicon', 'doctor', '--json']; import runpy; runpy.run_module('veraicon', run_name='__main__')",
        "import sys; sys.argv = ['veraicon', 'models', 'list']; import runpy; runpy.run_module('veraicon', run_name='__main__')",
    ],
)
def test_no_torch_where_none_is_needed(what: str, tmp_path: object) -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('HEAVY', sorted(set({_HEAVY!r}) & set(sys.modules)), file=sys.stderr))\n"
        f"{what}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=str(tmp_path))
    assert "HEAVY []" in done.stderr, done.stderr[-2000:]
