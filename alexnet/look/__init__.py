"""What a person looks at: the figures of a run, drawn from its folder."""
