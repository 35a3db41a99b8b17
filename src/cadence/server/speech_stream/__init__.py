"""`/v1/audio/speech/stream`: text in as it is written, sound out as it is made, over one WebSocket.

route     the socket
session   its messages, and what each does
speaker   reads sentences aloud, one after the other, until told to stop
splitter  text to sentences or clauses (pure)
schema    what a client may configure
"""
