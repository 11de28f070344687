"""A bucket of recordings -> labels, events and exports."""
