"""Operations: how a cascade behaves under load, and how to steer it there.

A discrete-event simulator of batching stages (`simulator`), fed with recorded outcomes (`population`) and
arrivals (`arrivals`), in which the live policy classes decide. Everything it prints is `simulated`.
"""
