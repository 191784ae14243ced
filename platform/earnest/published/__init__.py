"""Figures that papers published, as data, to stand beside what is measured here."""
