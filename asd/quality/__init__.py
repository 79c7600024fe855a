"""Quality of an answer: reply against reference -> [0, 1], one kind of reference a module.

    choice    the letter a reply chooses
    number    the number a reply ends in
    exact     equality after normalisation, with aliases
    code      the program in a reply; `sandbox` runs it against tests

The border: what is compared here is text and numbers; which metric decides is the workload's business.
"""
