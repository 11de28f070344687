"""One file a claim, peers side by side; `make bench-NAME` writes `results/NAME.json`."""
