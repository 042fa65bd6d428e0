"""Forms that have any activation inside: gated, biased, behind linear layers."""
