"""Entry point of the command line."""

from __future__ import annotations

from veraicon.cli import main

if __name__ == "__main__":
    main()
