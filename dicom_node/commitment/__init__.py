"""Storage Commitment: requests and reports, kept until they are answered."""
