"""What the archive is made of: files that are safe, headers, the index, and when a series is complete."""
