"""Tools that break real servers on purpose, and the checker that says whether anything was lost."""
