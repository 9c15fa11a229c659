"""Forms of the pages. They read input; `domain.specs` and `records` decide what is valid."""
