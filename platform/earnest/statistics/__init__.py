"""How sure we are: intervals, paired tests, families of tests, matching shown or not, noise floors, when to stop."""
