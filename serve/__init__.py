"""The endpoint on Ray Serve: predictions, feature maps and evidence over HTTP."""
