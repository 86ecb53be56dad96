"""How the jobs of a sweep are started, and in which processes."""
