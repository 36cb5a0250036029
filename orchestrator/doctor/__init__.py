"""Looks over a cluster, or one machine, before anybody trains on it: facts from every node, judged to findings."""
