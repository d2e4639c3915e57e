"""SQL of users: what it may do, what it may cost, and how one statement is run."""
