"""Logs of other gateways as data of the lab: who answered, how well, at what cost.

A log knows one model's outcome per request. So it cannot be replayed: it gives priors, and calibrated environments.
"""
