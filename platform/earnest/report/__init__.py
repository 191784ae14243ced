"""What a sweep found, for people: the terminal table, exports, figures and one self-contained page."""
