"""Quality of an answer: reply against reference -> [0, 1], one kind of reference a module.

    choice    the letter a reply chooses
    number    the number a reply ends in
    exact     equality after normalisation, with aliases
    code      the program in a reply; `sandbox` runs it against tests
    overlap   words in common: BLEU, ROUGE
    semantic  likeness of meaning: BERTScore, coherence with the prompt
    style     length, repetition, form
    aggregate the published weighted mean of the last three, for free text

Scope: what is compared here is text and numbers; which metric decides is the workload's business.
"""
