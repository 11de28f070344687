"""Compare the jobs with limits and peers; `make bench-NAME` writes `results/NAME.json`."""
