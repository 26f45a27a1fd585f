"""What digests are made of: data sets in one encoding, Merkle trees, the tree of a series."""
