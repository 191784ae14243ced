"""Judges: who they are, what they are asked, how their replies are read, and what all of them said."""
