"""The routes of the endpoint. Routes that belong together share a file."""

from serve.api.routes import labels, model, pages, predict, stream

ROUTES = (predict, model, labels, pages, stream)
"""Modules with a function `add(api, context)`. The OpenAPI document lists them in this order."""
