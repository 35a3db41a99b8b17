"""`/v1/realtime`: a spoken conversation over a WebSocket, in OpenAI's events.

route         the socket: limits, idle time, draining
session       one client's session: each of its events to what happens
schema        what clients may send
settings      how a session is configured
input_buffer  sound that came in, and the turns in it
conversation  what was said, by whom
writer        an answer's events, in order (pure)
mini          vLLM's smaller protocol
"""
