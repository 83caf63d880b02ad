"""From bytes on disk to a float batch."""
