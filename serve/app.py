"""The application that Ray Serve imports by the path `serve.app:build`."""

from serve.deploy.application import build

__all__ = ["build"]
