"""Readers of the containers of recordings, one module each; `registry` lists them."""
