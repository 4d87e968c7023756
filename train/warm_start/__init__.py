"""Start a training from the weights of a model (--init), from published weights (--pretrained), or at random."""
