"""Talk to models: a conversation, and models that answer it piece by piece."""
