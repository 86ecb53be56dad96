"""Which trick helped, how sure is that, and what did it cost?"""
