"""How long `veraicon demo` takes from its start to its verdict, as a whole process on this machine.

Run: python benchmarks/demo_time.py [N]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run the demo N times and print the median and the range, in seconds."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            command = [sys.executable, "-m", "veraicon", "demo", "--out", str(Path(folder) / str(number))]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
    print(f"veraicon demo: median {statistics.median(seconds):.1f} s, {spread} s, n = {runs}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
