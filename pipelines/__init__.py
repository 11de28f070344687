"""The jobs: thin wiring of the library into Ray, and the `audiocnn` command."""
