"""The endpoint on Ray Serve, and HAProxy before it."""
