from __future__ import annotations

import subprocess
import sys


def test_no_value_of_a_dataset_reaches_the_log_through_a_library() -> None:
    code = (
        "from veraicon import logs\n"
        "logs.configure(level='debug', json_lines=True)\n"
        "import logging, warnings\n"
        "from pydicom.dataset import Dataset\n"
        "ds = Dataset()\n"
        "ds.PatientBirthDate = 'CANARY'\n"
        "warnings.warn('CANARY')\n"
        "logging.getLogger('pynetdicom.acse').error('CANARY')\n"
        "logging.getLogger('some.library').warning('CANARY')\n"
        "logging.getLogger('some.library').error('CANARY')\n"
        "import structlog\n"
        "structlog.get_logger().info('own line', action='test')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "CANARY" not in done.stderr + done.stdout
    assert '"event": "own line"' in done.stderr
    assert "some.library: ERROR" in done.stderr
