"""Other people's wire contracts on depthface's client: no inference here, one app and one port a contract."""
