"""The critique-out-loud reward model: a causal LM that writes a critique, and a reward head read at its end."""
