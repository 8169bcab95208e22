"""Searches over workflows: what to try next, who is stopped early, which result is best, and the trials in the run."""
