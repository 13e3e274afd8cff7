"""The online half: LSTM inference over HTTP, batched, with a trace of every layer on request."""
