"""`python -m depthface`."""

from depthface.cli import main

main()
