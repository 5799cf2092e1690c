"""`gcnrec tune`: trains one job with many settings, each judged by its own validation, and proposes the next from the last."""
