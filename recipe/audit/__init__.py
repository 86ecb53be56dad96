"""Whether each trick did what it says, checked while a run trains."""
