"""`veraicon verify`: what a target is, what belongs to it, and who is asked about it."""
