"""What every command shares: typed options, one-line errors, outputs that are never half written, the tracker protocol.

Imports none of the other rooms.
"""
