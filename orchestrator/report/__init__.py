"""What is shown: tables and lines made from the ledger and the records."""
