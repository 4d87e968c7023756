"""Reading of torch.save's archives that may come from strangers: bounded, and without executing or allocating what they claim."""
