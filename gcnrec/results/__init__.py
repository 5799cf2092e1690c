"""What a finished run gives: metrics, comparisons, lists, exports."""
