"""What is kept: objects, blobs, artifact records, leases and the ledger of runs."""
