"""From traces to a policy: the fit, its problem, and the versioned file it is kept in."""
