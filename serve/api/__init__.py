"""The HTTP interface of the endpoint."""
