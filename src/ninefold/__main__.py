"""`python -m ninefold` is the command `ninefold`."""

from __future__ import annotations

from ninefold.cli import main

if __name__ == "__main__":
    main()
