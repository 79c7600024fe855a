"""Figures and one self-contained page from the results of a study; reads results, computes nothing new."""
