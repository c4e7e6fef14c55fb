"""Other services' wire contracts on one depthface server."""
