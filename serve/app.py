"""The application that Ray Serve is given by its import path, `serve.app:build`."""

from serve.deploy.application import build

__all__ = ["build"]
