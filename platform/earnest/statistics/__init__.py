"""How sure we are: intervals of single scores, and paired comparisons on the same samples."""
