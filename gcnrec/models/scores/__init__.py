"""From rows of a batch's nodes to one loss: which rows a loss takes, and what the host prepares for it beforehand."""
