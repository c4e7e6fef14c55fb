from depthface.cli import main

main()
