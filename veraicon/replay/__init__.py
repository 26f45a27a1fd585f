"""Parts of `veraicon.replay.replaying`: what is replayed, with which weights, how it compares, what differs."""
