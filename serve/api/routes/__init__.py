"""The routes of the endpoint: a file each, or a file for those that belong together."""

from serve.api.routes import labels, model, pages, predict, stream

ROUTES = (predict, model, labels, pages, stream)
"""Each has `add(api, context)`. The OpenAPI document lists them in this order."""
