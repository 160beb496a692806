#!/usr/bin/env python
"""The command line in a checkout. Where vbs is installed, the command is `vbs`."""

from vbs.__main__ import main

if __name__ == "__main__":
    main()
