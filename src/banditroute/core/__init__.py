"""The pure core: what is learned, how it is learned, and how a model is chosen.

Nothing here reads a clock, an environment variable, a file or a socket. To follow one decision read
`policy.py`; to follow one feedback read `fold.py`.
"""
