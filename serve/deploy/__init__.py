"""The endpoint on Ray Serve, with HAProxy in front of it."""
