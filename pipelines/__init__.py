"""The jobs, which run the library on Ray, and the `audiocnn` command line."""
