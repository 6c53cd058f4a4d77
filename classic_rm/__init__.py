"""Classic Bradley–Terry reward models: data, training, rewards."""
